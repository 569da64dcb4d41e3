"""Weights quantized on load: by bitsandbytes, or rounded where they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from tistore.capture.config import Quantization

ROUNDED_BITS: dict[Quantization | None, int] = {"int4 (rounded)": 4, "int3 (rounded)": 3}
"""Of a weight, where it is rounded after it was loaded."""


def configure_quantization(quantization: Quantization | None) -> BitsAndBytesConfig | None:
    """Say how a model's weights are quantized on load; None loads them as stored."""
    if quantization is None or quantization in ROUNDED_BITS:
        return None
    options: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "4bit":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]


def keep_weights_unpacked(model: nn.Module) -> None:
    """
    Keep 4-bit weights as they were quantized; models without any are let be.

    On a CPU with AVX512-BF16 the first forward pass packs them for its own kernel, and
    `state_dict()`, which PEFT calls for every adapter, unpacks them without putting the scales
    back in order: afterwards the base computes something else. Measured with bitsandbytes 0.50.2:
    its logits move by 86 %. Unpacked, they are also the same numbers on every CPU.
    """
    # Slow to import, and needed for quantized models only.
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
