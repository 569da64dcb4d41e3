"""What tistore finds on this machine: Python, packages, a GPU, memory, limits, folders."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tistore.store.layout import cache_folder
from tistore.store.place import measure_room
from tistore.store.verifying.health import Check
from tistore.version import __version__

_PACKAGE = "tistore"
_FEW_FILES = 512
_LITTLE_MEMORY_BYTES = 2 << 30
_LITTLE_ROOM_BYTES = 1 << 30
_ASKED_FOR_BY_MACHINES = "dev"
_UNSAFE = {
    "torch": "weights from others can run code as they are loaded (CVE-2025-32434 below 2.6, "
    "CVE-2026-24747 below 2.10)",
}
"""Why a version of a package that is too old matters beyond what does not work with it."""

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def check_environment() -> list[Check]:
    """Look at everything outside a store that tistore needs. Loads no model library."""
    return [
        Check("python", "ok", f"{platform.python_version()}, {sys.executable}"),
        Check("tistore", "ok", f"{__version__}, {Path(__file__).parents[1]}"),
        *_check_packages(),
        *_check_gpu(),
        _check_memory(),
        _check_open_files(),
        _check_folder("cache folder", cache_folder()),
        *_check_hub(),
    ]


def _check_packages() -> Iterator[Check]:
    """Compare what is installed with what tistore asks for, and each of its extras."""
    try:
        asked = [Requirement(text) for text in distribution(_PACKAGE).requires or ()]
        extras = distribution(_PACKAGE).metadata.get_all("Provides-Extra") or []
    except PackageNotFoundError:
        yield Check(
            "packages", "warning", "tistore runs from its source, and is not installed",
            "pip install tistore",
        )  # fmt: skip
        return
    yield from _compare(list(_select(asked, "")), is_required=True)
    needed = {requirement.name for requirement in _select(asked, "")}
    for extra in extras:
        wanted = [one for one in _select(asked, extra) if one.name not in needed]
        if extra == _ASKED_FOR_BY_MACHINES or not wanted:
            continue
        if any(_find_version(one.name) for one in wanted):
            yield from _compare(wanted, is_required=False, extra=extra)
        else:
            mend = f"pip install 'tistore[{extra}]', where it is wanted"
            yield Check(f"tistore[{extra}]", "ok", "not installed", mend)


def _select(asked: Iterable[Requirement], extra: str) -> Iterator[Requirement]:
    """Pick what is asked for by an extra; with none, what is asked for always."""
    for requirement in asked:
        marker = requirement.marker
        if marker is None:
            is_wanted = not extra
        else:
            is_always = marker.evaluate({"extra": ""})
            is_wanted = is_always if not extra else marker.evaluate({"extra": extra})
            is_wanted = is_wanted and (not extra or not is_always)
        if is_wanted:
            yield requirement


def _compare(
    asked: Iterable[Requirement], *, is_required: bool, extra: str | None = None
) -> Iterator[Check]:
    install = f"pip install --upgrade '{_PACKAGE}[{extra}]'" if extra else None
    for requirement in asked:
        name, wanted = requirement.name, str(requirement.specifier)
        found = _find_version(name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            yield Check(name, "ok", f"{found} ({wanted})")
            continue
        detail = f"{found or 'missing'}, and {wanted or 'any version'} is asked for"
        if name in _UNSAFE and found is not None:
            detail = f"{detail}: {_UNSAFE[name]}"
        mend = install or f"pip install --upgrade '{name}{wanted}'"
        yield Check(name, "problem" if is_required else "warning", detail, mend)


def _find_version(package: str) -> Version | None:
    try:
        return Version(distribution(package).version)
    except PackageNotFoundError:
        return None


def _check_gpu() -> Iterator[Check]:
    """Ask the driver, not torch: importing it takes seconds. Nothing without torch."""
    torch = _find_version("torch")
    if torch is None:
        return
    command = shutil.which("nvidia-smi")
    if command is None:
        yield Check("GPU", "ok", "no NVIDIA driver here: models run on the CPU")
        return
    asked = ["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run([command, *asked], capture_output=True, text=True, timeout=20)
        said = (done.stdout + done.stderr).strip()
        is_well = done.returncode == 0 and bool(said)
    except (OSError, subprocess.TimeoutExpired) as error:
        said, is_well = str(error), False
    if not is_well:
        yield Check(
            "GPU", "warning", f"nvidia-smi fails: {said.partition(chr(10))[0]}",
            "mend the driver, or run on the CPU",
        )  # fmt: skip
    elif torch.local == "cpu":
        yield Check(
            "GPU", "warning", f"torch {torch} is built for CPUs, but there is {said}",
            "install torch with CUDA: see its site for the command",
        )  # fmt: skip
    else:
        for line in said.splitlines():
            yield Check("GPU", "ok", f"{line.strip()}; torch {torch}")


def _check_memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _read_available_memory()
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"))
    detail = f"{total / 2**30:.1f} GiB"
    if available is not None:
        detail += f", {available / 2**30:.1f} GiB available"
    if limit is not None and limit < total:
        detail += f"; this process may use {limit / 2**30:.1f} GiB"
    least = min(one for one in (total, available, limit) if one is not None)
    if least >= _LITTLE_MEMORY_BYTES:
        return Check("memory", "ok", detail)
    return Check("memory", "warning", detail, "close something, or capture in smaller batches")


def _read_available_memory() -> int | None:
    """Read what the kernel thinks can still be used, in bytes; Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith("MemAvailable:"))
    return next((int(words[1]) * 1024 for words in found), None)


def _read_number(path: Path) -> int | None:
    """Read a control group's limit; None where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or the word "max"
        return None


def _check_open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        return Check("open files", "ok", f"{soft} at once, up to {hard}")
    return Check(
        "open files", "warning", f"{soft} at once, up to {hard}: large stores need some hundreds",
        f"ulimit -n {hard if hard != resource.RLIM_INFINITY else 4096}",
    )  # fmt: skip


def _check_folder(name: str, folder: Path) -> Check:
    """Look at a folder that is made when it is first needed."""
    there = folder.expanduser().absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check(
            name, "warning", f"{folder} cannot be written",
            "set TISTORE_CACHE_DIR to a folder that can",
        )  # fmt: skip
    held = sum(path.lstat().st_size for path in folder.rglob("*")) if there == folder else 0
    free = measure_room(folder)
    detail = f"{folder}, {held / 1e6:.1f} MB, {free / 1e9:.1f} GB free"
    if free >= _LITTLE_ROOM_BYTES:
        return Check(name, "ok", detail)
    return Check(name, "warning", detail, "free some space: `tistore cache clear STORE`")


def _check_hub() -> Iterator[Check]:
    """Say where models are looked for, and whether they can be fetched."""
    if _find_version("huggingface-hub") is None:
        return
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    free = f"{measure_room(folder) / 1e9:.1f} GB free"
    there = "" if folder.is_dir() else " (not there yet)"
    yield Check("models", "ok", f"{folder}{there}, {free}")
    offline = [name for name in _OFFLINE if os.environ.get(name, "0").upper() in _TRUE]
    if offline:
        yield Check("hub", "ok", f"offline, by {', '.join(offline)}: only models that lie here")


_TRUE = {"1", "ON", "YES", "TRUE"}
