"""Silence for what model libraries print and no user can act on."""

from __future__ import annotations

import logging
import os
import warnings


def silence_libraries() -> None:
    """
    Turn off progress bars and notices of transformers, PEFT and bitsandbytes.

    For commands, before they import anything that loads models; a program that uses the library
    keeps its own settings. Errors are not touched.
    """
    # transformers draws a bar for each file it loads, and asks the hub's setting whether to.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Optional kernels that are not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Raised inside PEFT by attributes that transformers has renamed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")
