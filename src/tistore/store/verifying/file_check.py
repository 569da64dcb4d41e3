"""Reading many committed files at once, and comparing each with what the log says of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, local

from tistore.errors import (
    IntegrityError,
    InterruptedRunError,
    NoMemoryError,
    StoreError,
    TooManyFilesError,
)
from tistore.store.files import BLOCK_BYTES, FileRecord, Files, hash_file
from tistore.store.layout import folder_of
from tistore.store.threads import Threads
from tistore.store.verifying.examined_log import Trouble
from tistore.store.verifying.verified import Checked

_TOLD_EVERY_SECONDS = 0.2
_NO_FILE = {"folder": "a folder, not a file", "other": "a link or a device, not a file"}


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """
    How far a pass over a store's files is.

    Attributes:
        done_bytes: Bytes of files that were read, or need not be read again.
        read_bytes: Bytes that were read.
        total_bytes: Bytes of all files.
        seconds: Time since it began.
    """

    done_bytes: int
    read_bytes: int
    total_bytes: int
    seconds: float

    def __str__(self) -> str:
        """Say it in a few words."""
        share = self.done_bytes / self.total_bytes if self.total_bytes else 1.0
        rate = self.read_bytes / max(self.seconds, 1e-9)
        left = (self.total_bytes - self.done_bytes) / rate if rate else float("inf")
        rest = f"{left:.0f} s left" if left < 1_000_000 else "starting"
        total = f"{self.total_bytes / 1e9:.1f} GB"
        return f"verifying: {share:4.0%} of {total}, {rate / 1e9:.2f} GB/s, {rest}"


class FileCheck:
    """
    One pass over some files.

    Args:
        root: Where the store lies, for messages.
        files: The store's files.
        checked: What an earlier pass has found; what this one finds is noted there.
        progress: Told a few times a second how far it is.

    Attributes:
        skipped: Files that were found sound before, and are still the same.
    """

    def __init__(
        self,
        root: Path,
        files: Files,
        checked: Checked,
        progress: Callable[[VerifyProgress], object],
    ) -> None:
        self.skipped = 0
        self._root = root
        self._files = files
        self._checked = checked
        self._progress = progress
        self._started = time.monotonic()
        self._told_at = self._started
        self._done_bytes = self._read_bytes = self._total_bytes = 0
        self._is_over = Event()
        self._lock = Lock()
        self._own = local()

    def read(self, records: Sequence[FileRecord], jobs: int) -> list[Trouble]:
        """
        Read files whole, the largest first, so that the threads end together.

        Args:
            records: What the log says of them.
            jobs: How many are read at once.

        Returns:
            Those that are not as committed, and why.

        Raises:
            InterruptedRunError: Ctrl-C. What was found so far is written down.
        """
        self._total_bytes = sum(record.size_bytes for record in records)
        largest_first = sorted(records, key=lambda record: -record.size_bytes)
        try:
            found = self._read_all(largest_first, jobs)
        except KeyboardInterrupt:
            raise self._interrupted() from None
        self._checked.forget()
        return [(record.path, trouble) for record, trouble in found if trouble is not None]

    def _read_all(
        self, records: Sequence[FileRecord], jobs: int
    ) -> list[tuple[FileRecord, str | None]]:
        with Threads(jobs, "verify") as pool:
            try:
                troubles = list(pool.map(self._check, records))
            except BaseException:
                self._is_over.set()  # the threads stop after the block they are reading
                raise
        return list(zip(records, troubles, strict=True))

    def _interrupted(self) -> InterruptedRunError:
        is_kept = self._checked.keep()
        share = self._done_bytes / max(self._total_bytes, 1)
        return InterruptedRunError(
            f"interrupted after {share:.0%} of {self._total_bytes / 1e9:.1f} GB; nothing is known "
            "of the rest",
            mend=f"`tistore verify {self._root} --resume` goes on from there"
            if is_kept
            else "the cache folder cannot be written, so that the next pass starts anew: set "
            "TISTORE_CACHE_DIR to a folder with room",
        )

    def _check(self, record: FileRecord) -> str | None:
        """Compare a file with the log; what is wrong where something is."""
        try:
            return self._find_trouble(record)
        except (NoMemoryError, TooManyFilesError):  # says nothing about the file
            raise
        except (IntegrityError, StoreError) as error:
            return f"cannot be read: {error.message}"

    def _find_trouble(self, record: FileRecord) -> str | None:
        status = self._files.status(record.path)
        if status is None:
            return "missing"
        if status.kind != "file":
            return _NO_FILE[status.kind]
        if linked := self._find_link(record.path):
            return f"{linked} is a link, not a folder"
        if status.size_bytes != record.size_bytes:
            return f"{status.size_bytes} bytes long, committed with {record.size_bytes}"
        if (record, status) in self._checked:
            with self._lock:
                self.skipped += 1
                self._done_bytes += record.size_bytes
            return None
        if hash_file(self._files, record.path, self._buffer(), self._hear) != record.blake3:
            return "altered: its hash is not the committed one"
        with self._lock:
            self._checked.note(record, status)
        return None

    def _find_link(self, path: str) -> str | None:
        """Find the folder above a file that is a link to elsewhere."""
        folder = folder_of(path)
        while folder:
            if folder not in self._folders:
                status = self._files.status(folder)
                self._folders[folder] = status is not None and status.kind == "folder"
            if not self._folders[folder]:
                return folder
            folder = folder_of(folder)
        return None

    @property
    def _folders(self) -> dict[str, bool]:
        """Folders above files, and whether they are folders: each thread looks for itself."""
        folders: dict[str, bool] = self._own.__dict__.setdefault("folders", {})
        return folders

    def _buffer(self) -> bytearray:
        """What this thread reads through: a new one each time would have to be filled."""
        if "buffer" not in self._own.__dict__:
            self._own.buffer = bytearray(BLOCK_BYTES)
        buffer: bytearray = self._own.buffer
        return buffer

    def _hear(self, n_bytes: int) -> None:
        if self._is_over.is_set():
            raise _StoppedError
        with self._lock:
            self._done_bytes += n_bytes
            self._read_bytes += n_bytes
            now = time.monotonic()
            if now - self._told_at < _TOLD_EVERY_SECONDS and self._done_bytes < self._total_bytes:
                return
            self._told_at = now
            told = VerifyProgress(
                self._done_bytes, self._read_bytes, self._total_bytes, now - self._started
            )
            self._progress(told)


class _StoppedError(Exception):
    """Somebody has asked for an end; nothing is wrong with the file."""


def count_cores() -> int:
    """Count the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - macOS does not tell
