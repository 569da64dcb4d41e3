"""
The folder of cached scores: for each direction and segment a file, row-aligned with its tokens.

They are never truth. A file that is missing, unreadable, of another length or whose bytes do not
match their checksum counts as absent; whoever wanted it computes it again. Processes share the
folder without locks: a file appears whole or not at all, and says itself what it is.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from numpy.typing import NDArray

_COLUMN = "score"
_SUFFIX = ".parquet"
_TEMPORARY = ".tmp"
_FORGOTTEN_SECONDS = 3600
"""Age from which on a temporary file has nobody left who writes it."""
_TOUCH_SECONDS = 60
"""A use is noted in the file's time, but not more often than this."""


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """
    A cached file.

    Attributes:
        direction: Key of the direction and the site it is applied to.
        segment: The segment's uuid.
        size_bytes: Length.
        used_at: When it was last written or read, in seconds since 1970.
        path: Where it is.
    """

    direction: str
    segment: str
    size_bytes: int
    used_at: float
    path: Path


class ScoreFolder:
    """
    A folder of score files.

    Args:
        path: Where it is; made when the first file is written.
        limit_bytes: What it may hold; the files used least recently go first. No limit when None.
    """

    def __init__(self, path: Path, limit_bytes: int | None = None) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self._size_bytes: int | None = None  # unknown until something is written
        self._lock = Lock()

    def file(self, direction: str, segment: str) -> Path:
        """Where the scores of a direction over a segment are cached."""
        return self.path / direction / f"{segment}{_SUFFIX}"

    def has(self, direction: str, segment: str) -> bool:
        """Whether there is a file; only `read` tells whether it is good."""
        return self.file(direction, segment).is_file()

    def read(self, direction: str, segment: str, n_rows: int) -> NDArray[np.float32] | None:
        """
        Read cached scores.

        Args:
            direction: Key of the direction and the site it is applied to.
            segment: The segment's uuid.
            n_rows: Rows of the segment.

        Returns:
            (n_rows,) float32; None when there is no file, or not a good one.
        """
        path = self.file(direction, segment)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        values = decode_scores(data, direction, segment, n_rows)
        if values is not None:
            _note_use(path)
        return values

    def write(self, direction: str, segment: str, values: NDArray[np.float32]) -> bool:
        """
        Cache scores, all at once or not at all.

        Returns:
            Whether they are cached now; a cache that is full or read-only is no reason to fail.
        """
        path = self.file(direction, segment)
        data = encode_scores(direction, segment, values)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
        try:
            descriptor = _create(temporary)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    file.write(data)
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except OSError:
            return False
        self._make_room(data.size)
        return True

    def directions(self) -> set[str]:
        """Keys of the directions that may have scores here."""
        try:
            with os.scandir(self.path) as entries:
                return {entry.name for entry in entries}
        except OSError:
            return set()

    def list(self) -> list[ScoreFile]:
        """List what is cached, the most recently used first."""
        found = [file for path in self._walk() if (file := _look_at(path)) is not None]
        return sorted(found, key=lambda file: -file.used_at)

    def remove(self, files: Sequence[ScoreFile]) -> int:
        """Remove files; gives the bytes freed. One that is gone already is as good as removed."""
        freed = 0
        for file in files:
            with suppress(OSError):
                file.path.unlink()
                freed += file.size_bytes
            with suppress(OSError):
                file.path.parent.rmdir()  # fails while others are in it
        with self._lock:
            self._size_bytes = None
        return freed

    def _walk(self) -> Iterator[Path]:
        if self.path.is_dir():
            yield from self.path.glob(f"*/*{_SUFFIX}")

    def _make_room(self, added_bytes: int) -> None:
        if self.limit_bytes is None:
            return
        with self._lock:
            if self._size_bytes is None:
                self._remove_forgotten()
                self._size_bytes = sum(file.size_bytes for file in self.list())
            else:
                self._size_bytes += added_bytes
            is_full = self._size_bytes > self.limit_bytes
        if is_full:
            self.remove(self._oldest())

    def _oldest(self) -> Sequence[ScoreFile]:
        """Choose what to remove so that a tenth of the room is free again."""
        files = self.list()
        assert self.limit_bytes is not None
        excess = sum(file.size_bytes for file in files) - self.limit_bytes * 9 // 10
        chosen = []
        for file in reversed(files):
            if excess <= 0:
                break
            chosen.append(file)
            excess -= file.size_bytes
        return chosen

    def _remove_forgotten(self) -> None:
        """Remove what writers left behind that were killed."""
        for path in self.path.glob(f"*/*{_TEMPORARY}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS:
                    path.unlink()


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def encode_scores(direction: str, segment: str, values: NDArray[np.float32]) -> pa.Buffer:
    """Encode a direction's scores over a segment as a file that says what it is."""
    description = _describe(direction, segment, values)
    schema = pa.schema([pa.field(_COLUMN, pa.float32(), nullable=False)], metadata=description)
    sink = pa.BufferOutputStream()
    # Scores hardly compress; reading them back is to be one copy.
    with pq.ParquetWriter(
        sink,
        schema,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    ) as writer:
        table = pa.Table.from_arrays([pa.array(values, pa.float32())], schema=schema)
        writer.write_table(table, row_group_size=122_880)
    return sink.getvalue()


def decode_scores(
    data: bytes, direction: str, segment: str, n_rows: int
) -> NDArray[np.float32] | None:
    """Decode what `encode_scores` made; None when it is another file, or not a good one."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table = file.read(use_threads=False)
        values: NDArray[np.float32] = table[_COLUMN].to_numpy()
    except (pa.ArrowException, OSError, KeyError, ValueError):
        # OSError: Arrow's, for Parquet cut short; ValueError: Python's, for a name that is no text.
        return None
    if values.dtype != np.float32 or len(values) != n_rows:
        return None
    found = table.schema.metadata or {}
    wanted = _describe(direction, segment, values)
    return values if all(found.get(key) == value for key, value in wanted.items()) else None


def _describe(direction: str, segment: str, values: NDArray[np.float32]) -> dict[bytes, bytes]:
    return {
        b"tistore.direction": direction.encode(),
        b"tistore.segment": segment.encode(),
        b"tistore.rows": str(len(values)).encode(),
        b"tistore.blake3": blake3(values.tobytes()).hexdigest().encode(),
    }


def _look_at(path: Path) -> ScoreFile | None:
    try:
        status = path.stat()
    except OSError:
        return None  # another process has just removed it
    return ScoreFile(path.parent.name, path.stem, status.st_size, status.st_mtime, path)


def _note_use(path: Path) -> None:
    # A read-only cache is as good to read from; then nothing is evicted either.
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > _TOUCH_SECONDS:
            os.utime(path)
