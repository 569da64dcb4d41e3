"""Where everything lies in a store. No other module joins paths."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import platformdirs

from tistore.schemas.site import Component

HEADER = "tistore.json"
COMMITS = "commits"
SEGMENTS = "segments"
SCORES = "scores"
LEASES = "leases"
TRASH = "trash"
EVENTS = "events.jsonl"
ANALYSES = "analyses.jsonl"

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""

_COMMIT_NAME = re.compile(r"(\d{20})\.json")


def commit_path(number: int) -> str:
    """Path of commit `number`."""
    return f"{COMMITS}/{number:020d}.json"


def commit_number(name: str) -> int | None:
    """Number of the commit a file name stands for; None for anything else in the folder."""
    match = _COMMIT_NAME.fullmatch(name)
    return int(match[1]) if match else None


def temporary_path(name: str) -> str:
    """Path of a file that is no commit, beside them."""
    return f"{COMMITS}/{TEMPORARY}{name}"


def lease_path(writer: str) -> str:
    """Path of a writer's lease."""
    return f"{LEASES}/{writer}.json"


def lease_writer(path: str) -> str | None:
    """Whose lease lies at a path; None for anything else in the folder."""
    folder, _, name = path.rpartition("/")
    is_lease = folder == LEASES and name.endswith(".json")
    return name.removesuffix(".json") if is_lease else None


def trash_path(batch: str, path: str) -> str:
    """Where a file lies that was taken out of the store with a batch; without one, the batch."""
    return f"{TRASH}/{batch}/{path}" if path else f"{TRASH}/{batch}"


def split_trash_path(where: str) -> tuple[str, str]:
    """Tell the batch and the former path of something in the trash."""
    _, batch, path = f"{where}/".split("/", 2)
    return batch, path.removesuffix("/")


def segment_of(path: str) -> str | None:
    """The segment whose folder a path lies in, or is; None for paths elsewhere."""
    parts = path.split("/")
    return parts[1] if len(parts) > 1 and parts[0] == SEGMENTS else None


def segment_folder(segment: str) -> str:
    """Folder of a segment."""
    return f"{SEGMENTS}/{segment}"


def table_path(segment: str, table: str) -> str:
    """Path of a table in a segment."""
    return f"{SEGMENTS}/{segment}/{table}.parquet"


def array_folder(segment: str, array: str) -> str:
    """Folder of an array in a segment."""
    return f"{SEGMENTS}/{segment}/{array}.zarr"


def bundled_score_path(segment: str, direction: str) -> str:
    """Path of a direction's scores that are part of a segment."""
    return f"{SEGMENTS}/{segment}/{SCORES}/{direction}.parquet"


def folder_of(path: str) -> str:
    """Folder a file lies in."""
    return path.rpartition("/")[0]


def norm_array(component: Component) -> str:
    """Name of the array of a component's norms."""
    return f"{component}_norm"


def mean_array(component: Component) -> str:
    """Name of the array of a component's response means."""
    return f"{component}_mean"


def verification_file(store: Path) -> Path:
    """Where it is kept how a store was verified: in the user's cache, by where it lies."""
    place = hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:32]
    return cache_folder() / "verified" / f"{place}.json"


def cache_folder() -> Path:
    """The user's cache directory for tistore; `TISTORE_CACHE_DIR` overrides it."""
    if chosen := os.environ.get("TISTORE_CACHE_DIR"):
        return Path(chosen)
    return platformdirs.user_cache_path("tistore")
