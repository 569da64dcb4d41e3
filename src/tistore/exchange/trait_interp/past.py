"""What earlier imports of an experiment recorded of its files."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tistore.errors import ForeignFileError
from tistore.store.snapshot import Snapshot

SOURCE_FORMAT = "trait-interp"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileStamp:
    """
    A file as it was when it was read.

    Attributes:
        size_bytes: Length.
        modified_ns: Last change, nanoseconds since 1970.
        sha256: Of its content.
    """

    size_bytes: int
    modified_ns: int
    sha256: str


def stamp_file(path: Path) -> FileStamp:
    """
    Hash a file, a block at a time.

    Raises:
        ForeignFileError: It cannot be read.
    """
    hasher = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            status = path.stat()
            buffer = memoryview(bytearray(_BLOCK_BYTES))
            while n_read := file.readinto(buffer):
                hasher.update(buffer[:n_read])
    except OSError as error:
        raise ForeignFileError(
            f"cannot read {path}: {error.strerror}", mend="check the path and its permissions"
        ) from error
    return FileStamp(status.st_size, status.st_mtime_ns, hasher.hexdigest())


class Past:
    """
    Tells the files that an earlier import has stored.

    A file counts as stored when an import of an experiment of this name recorded its path with
    the same length and time of change, or else any import recorded it with the same content. A row
    of `sources` is committed with what was read of its file or after it, so none speaks of
    something missing.

    Args:
        snapshot: The store's newest state; None for a store that is not made yet.
        experiment: Name of the experiment.
        rehash: Whether lengths and times do not suffice.
    """

    def __init__(self, snapshot: Snapshot | None, experiment: str, rehash: bool) -> None:
        self._rehash = rehash
        self._rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._runs: set[str] = set()
        if snapshot is None:
            return
        self._runs = {
            row["run_id"]
            for row in snapshot.table("runs").to_pylist()
            if row["kind"] == "import" and _names_experiment(row["config"], experiment)
        }
        for batch in snapshot.table("sources").to_batches():
            for row in batch.to_pylist():
                if row["source_format"] == SOURCE_FORMAT:
                    self._rows[row["path"]].append(row)

    def find(self, name: str, path: Path) -> Mapping[str, Any] | None:
        """
        Find the row of `sources` for a file as it is now; None where it is new or has changed.

        Args:
            name: Its path as `sources` has it.
            path: Where it lies.
        """
        rows = self._rows.get(name, [])
        if not rows:
            return None
        status = path.stat()
        for row in rows:
            seen = (row["size_bytes"], row["modified_ns"])
            is_own = row["run_id"] in self._runs
            if is_own and not self._rehash and seen == (status.st_size, status.st_mtime_ns):
                return row
        if all(row["size_bytes"] != status.st_size for row in rows):
            return None
        sha256 = stamp_file(path).sha256
        return next((row for row in rows if row["sha256"] == sha256), None)

    def knows(self, name: str) -> bool:
        """Whether this experiment's file of this path was imported, as it is now or as it was."""
        return any(row["run_id"] in self._runs for row in self._rows.get(name, ()))


def _names_experiment(config: str, experiment: str) -> bool:
    held = json.loads(config)
    return isinstance(held, dict) and held.get("experiment") == experiment
