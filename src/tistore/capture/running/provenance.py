"""What a run is recorded with: its configuration, and everything it ran on."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from tistore.capture.config import RunConfig
from tistore.version import __version__

LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def describe_run(run_id: str, config: RunConfig, kind: str = "ingest") -> dict[str, Any]:
    """Lay a run out as a row of the `runs` table."""
    return {
        "run_id": run_id,
        "kind": kind,
        "config": config.model_dump_json(),
        "versions": json.dumps(list_versions(), sort_keys=True),
        "started_at": datetime.now(UTC),
    }


def list_versions() -> dict[str, str]:
    """List the versions of what a run's numbers depend on, and the devices there are."""
    versions = {library: version(library) for library in LIBRARIES}
    versions |= {"tistore": __version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        names = (torch.cuda.get_device_properties(number).name for number in devices)
        versions |= {"cuda": str(torch.version.cuda), "device": ", ".join(names)}
    else:
        versions["device"] = platform.processor() or platform.machine()
    return versions
