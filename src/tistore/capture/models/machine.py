"""What a machine has room for: in its GPUs' memory, in its own, and on its disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from tistore.errors import ConfigError, ModelLoadError


@dataclass(frozen=True, slots=True)
class Memory:
    """
    The memory a model would be loaded into.

    Attributes:
        is_gpu: Whether it is a GPU's, rather than the machine's own.
        total: Its bytes; None where the device is not on this machine.
    """

    is_gpu: bool
    total: int | None


def find_memory(device: str) -> Memory:
    """
    Find the memory that a config's device names; "auto" is every GPU there is, or the CPU.

    Raises:
        ConfigError: It names none.
    """
    kind = _find_kind(device)
    # Apple's GPUs share the machine's own.
    if kind in ("cpu", "mps") or (device == "auto" and not torch.cuda.is_available()):
        return Memory(False, measure_host())
    if kind != "cuda" or not torch.cuda.is_available():
        return Memory(True, None)
    index = torch.device(device).index if device != "auto" else None
    numbers = range(torch.cuda.device_count()) if device == "auto" else [index or 0]
    known = [number for number in numbers if number < torch.cuda.device_count()]
    if not known:
        return Memory(True, None)
    sizes = (torch.cuda.get_device_properties(number).total_memory for number in known)
    return Memory(True, sum(sizes))


def is_cpu(device: str) -> bool:
    """
    Whether a config's device is this machine's CPU, by name or because "auto" finds nothing else.

    Raises:
        ConfigError: It names none.
    """
    kind = _find_kind(device)
    return kind == "cpu" or (device == "auto" and not torch.cuda.is_available())


def _find_kind(device: str) -> str:
    try:
        return torch.device("cuda" if device == "auto" else device).type
    except RuntimeError as error:
        raise ConfigError(
            f"device is {device!r}, which is no name of a device",
            mend='write "auto", "cpu", "cuda" or "cuda:1"',
        ) from error


def check_device(device: str) -> None:
    """
    Refuse a device that is not on this machine, before anything is loaded.

    Raises:
        ModelLoadError: It is not, or cannot be used.
    """
    if device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        # Torch built without a kind of device fails an assertion of its own.
        said = str(error).partition("\n")[0]
        raise ModelLoadError(
            f"device {device!r} cannot be used on this machine: {said}",
            mend='set device = "auto" to use what there is, or run it where the device is',
        ) from error


def measure_host() -> int:
    """Measure this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure_free(path: Path) -> int:
    """Measure what is free on the disk where a path is, or would be, in bytes."""
    return shutil.disk_usage(find_existing(path)).free


def find_existing(path: Path) -> Path:
    """Find the nearest folder above a path that exists; the path itself where it does."""
    there = path.resolve()
    while not there.exists():
        there = there.parent
    return there
