"""Where everything lies in a store. No other module joins paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

from tistore.schemas.site import Component

HEADER = "tistore.json"
COMMITS = "commits"
SEGMENTS = "segments"
SCORES = "scores"
EVENTS = "events.jsonl"
ANALYSES = "analyses.jsonl"

_COMMIT_NAME = re.compile(r"(\d{20})\.json")


def commit_path(number: int) -> str:
    """Path of commit `number`."""
    return f"{COMMITS}/{number:020d}.json"


def commit_number(name: str) -> int | None:
    """Number of the commit a file name stands for; None for anything else in the folder."""
    match = _COMMIT_NAME.fullmatch(name)
    return int(match[1]) if match else None


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


def cache_folder() -> Path:
    """The user's cache directory for tistore; `TISTORE_CACHE_DIR` overrides it."""
    if chosen := os.environ.get("TISTORE_CACHE_DIR"):
        return Path(chosen)
    return platformdirs.user_cache_path("tistore")
