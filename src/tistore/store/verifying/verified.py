"""
What is remembered of verifying a store: how the last pass ended, and how far one got that did not.

It lies in the user's cache, not in the store, which may be read-only. Forgetting it costs nothing
but the time to read files again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tistore.store.files import FileRecord, FileStatus
from tistore.store.layout import verification_file

_KEPT_EVERY_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class FinishedPass:
    """
    How the last pass over a store ended.

    Attributes:
        store: Where the store lay.
        store_uuid: Which store it was.
        finished_at: UTC, ISO 8601.
        commit: The newest commit then; 0 for none.
        head: That commit's hash; empty for none.
        files: Files that were compared with the log.
        size_bytes: Their bytes.
        problems: How many files were not as committed.
    """

    store: str
    store_uuid: str
    finished_at: str
    commit: int
    head: str
    files: int
    size_bytes: int
    problems: int


def read_finished_pass(store: Path) -> FinishedPass | None:
    """Read how the last pass over a store ended, on this machine and by this user."""
    try:
        return FinishedPass(**json.loads(verification_file(store).read_bytes()))
    except (OSError, ValueError, TypeError):  # there was none, or nobody can read it any more
        return None


def keep_finished_pass(store: Path, finished: FinishedPass) -> None:
    """Remember how a pass ended."""
    path = verification_file(store)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    # A cache that is full or read-only is no reason to call a store that is whole a failure.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(finished)))
        temporary.replace(path)


def forget_finished_pass(store: Path) -> None:
    """Forget how the last pass ended: commits that it saw have been given up."""
    with suppress(OSError):  # there was none, or it is another user's
        verification_file(store).unlink()


class Checked:
    """
    The files an unfinished pass has found as committed.

    Those of damaged files are not noted: they are looked at again, and named again.

    Args:
        store: Where the store lies.
        resume: Go on with what an earlier pass has noted; it is forgotten otherwise.
    """

    def __init__(self, store: Path, *, resume: bool = False) -> None:
        self._path = verification_file(store).with_suffix(".unfinished")
        self._noted: set[str] = set(self._read()) if resume else set()
        self._new: list[str] = []
        self._new_bytes = 0
        if not resume:
            self.forget()

    def __contains__(self, file: tuple[FileRecord, FileStatus]) -> bool:
        """Whether a file was found sound, and is still the one that was."""
        return _spell(*file) in self._noted

    def __len__(self) -> int:
        """How many files an earlier pass has found sound."""
        return len(self._noted)

    def note(self, record: FileRecord, status: FileStatus) -> None:
        """Note that a file is as committed; it is written down once enough bytes are."""
        self._new.append(_spell(record, status))
        self._new_bytes += record.size_bytes
        if self._new_bytes >= _KEPT_EVERY_BYTES:
            self.keep()

    def keep(self) -> bool:
        """Write down what was noted; False where the cache cannot be written."""
        lines = "".join(f"{line}\n" for line in self._new)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(lines)
        except OSError:
            return False
        self._new, self._new_bytes = [], 0
        return True

    def forget(self) -> None:
        """Start from the beginning: the pass is over, or another begins."""
        self._new, self._new_bytes = [], 0
        with suppress(OSError):  # where nothing can be removed, nothing was written either
            self._path.unlink()

    def _read(self) -> Iterator[str]:
        with suppress(OSError):  # what cannot be read any more is as good as not noted
            yield from self._path.read_text(errors="replace").splitlines()


def _spell(record: FileRecord, status: FileStatus) -> str:
    return json.dumps([record.path, record.blake3, status.size_bytes, status.version])
