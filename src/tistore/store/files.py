"""
The file operations a store is made of.

Everything above speaks `Files`; `posix` has the one for a folder. The order in which they are
called is the commit protocol; see `docs/format.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from blake3 import blake3

from tistore.errors import IntegrityError
from tistore.store.layout import TEMPORARY as TEMPORARY

BLOCK_BYTES = 1 << 20
"""What is read of a file at once: it stays in the processor's cache while it is hashed."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """
    A committed file as the log declares it.

    Attributes:
        path: Relative to the store, with "/".
        size_bytes: Length.
        blake3: Hash of the content, hex.
    """

    path: str
    size_bytes: int
    blake3: str

    def to_json(self) -> dict[str, Any]:
        """Lay the record out for a commit."""
        return {"path": self.path, "bytes": self.size_bytes, "blake3": self.blake3}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FileRecord:
        """Read the record from a commit."""
        return cls(value["path"], value["bytes"], value["blake3"])


@dataclass(frozen=True, slots=True)
class FileStatus:
    """
    A file or folder as it lies there.

    Attributes:
        path: Relative to the store, with "/".
        size_bytes: Length; 0 for what is no plain file.
        modified_at: When it was last written, or said to be so, in seconds since 1970, by the
            clock of the place. Copies take this over.
        changed_at: When anything about it last changed: it was written, copied, renamed. Nobody
            can set it.
        kind: What it is.
        version: Another text once the file was written or replaced, as far as that can be told
            without reading it.
    """

    path: str
    size_bytes: int
    modified_at: float
    changed_at: float
    kind: Literal["file", "folder", "other"]
    version: str = ""


class Hold(Protocol):
    """A file that is locked for as long as its holder lives."""

    def renew(self) -> bool:
        """Note that the holder lives; False when the file was taken away."""

    def release(self) -> None:
        """Remove the file and give the lock up; once is enough."""


class Files(Protocol):
    """What a store needs of the place it lies in. Paths are relative to the store, with "/"."""

    def read(self, path: str) -> bytes:
        """Read a whole file."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start`; fewer only at the file's end."""

    def read_blocks(self, path: str, buffer: bytearray) -> Iterator[memoryview]:
        """Read a whole file through `buffer`: each block is good until the next is asked for."""

    def expect_range(self, path: str, start: int, length: int) -> None:
        """Hint that these bytes are about to be read; where it means nothing, nothing is done."""

    def write_new(self, path: str, pieces: Iterable[bytes]) -> FileRecord:
        """Write a file that must not exist yet, durably, hashing it piece by piece."""

    def put_if_absent(
        self, path: str, data: bytes, seen: Callable[[], object] = lambda: None
    ) -> bool:
        """
        Make a whole file appear at once, durably; False when one is there already.

        `seen` is called as soon as others see the file, before it is known to be durable.
        """

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Make the entries of these folders durable, and of those above them, deepest first."""

    def move(self, source: str, target: str) -> None:
        """Give a file or a folder a name that is not taken, durably."""

    def rename(self, source: str, target: str) -> bool:
        """Give it a name that is not taken, durable only later; False when it is gone."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is as good as removed."""

    def status(self, path: str) -> FileStatus | None:
        """Look at what lies at a path, a link itself too; None when nothing does."""

    def walk(self, folder: str) -> list[FileStatus]:
        """List everything below a folder, sorted by path; links are not followed."""

    def hold(self, path: str, data: bytes) -> Hold:
        """Create a file that must not exist, and lock it. It need not outlast a power cut."""

    def is_held(self, path: str) -> bool | None:
        """Whether its holder lives; None where the place cannot tell."""

    def turn(
        self, folder: str, patience_seconds: float
    ) -> AbstractContextManager[Callable[[], None]]:
        """Wait for others who write to a folder, so long at most; gives what ends the turn."""

    def require_exclusive_creates(self) -> None:
        """
        Refuse a place on which one writer could replace what another has written.

        Raises:
            UnsafePlaceError: It is such a place.
        """

    def list_names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it does not exist."""

    def size(self, path: str) -> int | None:
        """Length of a file; None when it does not exist."""

    def free_bytes(self) -> int | None:
        """Room left, where the place has such a limit."""

    def is_writable(self) -> bool:
        """Whether anything can be written here."""

    def remove_folder(self, folder: str) -> None:
        """Remove what an unacknowledged write left behind."""

    def remove_empty_folder(self, folder: str) -> bool:
        """Remove a folder that holds nothing; False when it holds something, or is gone."""

    def key_value_store(self, folder: str) -> dict[str, Any]:
        """Where TensorStore finds this folder."""


def hash_file(
    files: Files,
    path: str,
    buffer: bytearray | None = None,
    hear: Callable[[int], object] = lambda n_bytes: None,
) -> str:
    """
    Hash a file in blocks, so that its size does not matter: BLAKE3, hex.

    Args:
        files: The store's files.
        path: Which of them.
        buffer: What to read through; a new one when left out.
        hear: Told the bytes of each block.
    """
    hasher = blake3()
    for block in files.read_blocks(path, bytearray(BLOCK_BYTES) if buffer is None else buffer):
        hasher.update(block)
        hear(len(block))
    return hasher.hexdigest()


def read_checked(files: Files, record: FileRecord) -> bytes:
    """
    Read a committed file and compare it with the log.

    Raises:
        IntegrityError: The file is missing or its bytes are not the committed ones.
    """
    data = files.read(record.path)
    if len(data) != record.size_bytes or blake3(data).hexdigest() != record.blake3:
        raise IntegrityError(
            f"{record.path} is damaged: its bytes are not the ones that were committed",
            mend="run `tistore verify` to see what else is; restore the file from a copy",
        )
    return data
