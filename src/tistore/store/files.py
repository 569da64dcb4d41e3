"""
The file operations a store is made of.

Everything above this module speaks `Files`: POSIX here, a fault-injecting one in the tests.
The order in which they are called is the commit protocol; see `docs/format.md`.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from tistore.errors import IntegrityError, NoRoomError, StoreError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_BLOCK_BYTES = 1 << 22

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""


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


class Files(Protocol):
    """What a store needs of the place it lies in. Paths are relative to the store, with "/"."""

    def read(self, path: str) -> bytes:
        """Read a whole file."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start`; fewer only at the file's end."""

    def expect_range(self, path: str, start: int, length: int) -> None:
        """Hint that these bytes are about to be read; where it means nothing, nothing is done."""

    def write_new(self, path: str, pieces: Iterable[bytes]) -> FileRecord:
        """Write a file that must not exist yet, durably, hashing it piece by piece."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Make a whole file appear at once, durably; False when one is there already."""

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Make the entries of these folders durable, deepest first."""

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

    def key_value_store(self, folder: str) -> dict[str, Any]:
        """Where TensorStore finds this folder."""


class PosixFiles:
    """A folder on a POSIX file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        with self._translated(path):
            return self._locate(path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start`; fewer only at the file's end."""
        with self._translated(path), _opened(self._locate(path)) as descriptor:
            data = os.pread(descriptor, length, start)
            while 0 < len(data) < length:
                more = os.pread(descriptor, length - len(data), start + len(data))
                if not more:
                    break
                data += more
            return data

    def expect_range(self, path: str, start: int, length: int) -> None:
        """Ask the kernel to read ahead, all of it at once."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with self._translated(path), _opened(self._locate(path)) as descriptor:
                os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)

    def write_new(self, path: str, pieces: Iterable[bytes]) -> FileRecord:
        """Write a file that must not exist yet, hashing it piece by piece, and fsync it."""
        target = self._locate(path)
        hasher = blake3()
        with self._translated(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            size_bytes = _write_exclusively(target, pieces, hasher.update)
        return FileRecord(path, size_bytes, hasher.hexdigest())

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """
        Make a whole file appear at once, durably.

        The file is written and fsynced under a temporary name and then linked: unlike a rename,
        a link never replaces what is there.
        """
        target = self._locate(path)
        temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        with self._translated(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_exclusively(temporary, [data])
                won = _link(temporary, target)
                _sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return won

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Fsync these folders and all between them and the store, deepest first."""
        paths = {self.root}
        for folder in folders:
            path = self._locate(folder)
            while path != self.root:
                paths.add(path)
                path = path.parent
        for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
            with self._translated(str(path)):
                _sync_folder(path)

    def list_names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it does not exist."""
        with self._translated(folder), suppress(FileNotFoundError):
            return sorted(path.name for path in self._locate(folder).iterdir())
        return []

    def size(self, path: str) -> int | None:
        """Length of a file; None when it does not exist."""
        with self._translated(path), suppress(FileNotFoundError):
            return self._locate(path).stat().st_size
        return None

    def free_bytes(self) -> int | None:
        """Room left for this user on the file system."""
        return shutil.disk_usage(self.root).free

    def is_writable(self) -> bool:
        """Whether this user may create files here."""
        return os.access(self.root, os.W_OK | os.X_OK)

    def remove_folder(self, folder: str) -> None:
        """Remove what an unacknowledged write left behind; a failure leaves it for later."""
        shutil.rmtree(self._locate(folder), ignore_errors=True)

    def key_value_store(self, folder: str) -> dict[str, Any]:
        """Where TensorStore finds this folder: it takes no path with ".." in it."""
        return {"driver": "file", "path": f"{self._locate(folder).resolve()}/"}

    def _locate(self, path: str) -> Path:
        return self.root / path

    @contextmanager
    def _translated(self, path: str) -> Any:
        try:
            yield
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{path} is missing from {self.root}",
                mend=f"run `tistore verify {self.root}` to see what else is",
            ) from error
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoRoomError(
                    f"no room left while writing {path} in {self.root}: {error.strerror}",
                    mend="free some space and run the same command again; "
                    "everything committed is intact",
                ) from error
            raise StoreError(f"{self.root}: {error.strerror or error} ({path})") from error


def hash_file(files: Files, path: str) -> str:
    """Hash a file in blocks, so that its size does not matter: BLAKE3, hex."""
    hasher = blake3()
    start = 0
    while block := files.read_range(path, start, _BLOCK_BYTES):
        hasher.update(block)
        start += len(block)
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


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_WRITTEN_BEHIND_BYTES = 16 << 20


def _write_exclusively(
    path: Path, pieces: Iterable[bytes], hear: Callable[[bytes], object] = len
) -> int:
    """Write a new file and fsync it; `hear` is given every piece. Returns the length."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    size_bytes = started = 0
    try:
        for piece in pieces:
            hear(piece)
            size_bytes += len(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]
            if size_bytes - started >= _WRITTEN_BEHIND_BYTES:
                _start_writing_back(descriptor, started, size_bytes - started)
                started = size_bytes
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size_bytes


def _start_writing_back(descriptor: int, start: int, n_bytes: int) -> None:
    """
    Have the disk begin while the rest is still being made, so that the fsync has less to wait for.

    Linux starts writing dirty pages it is told are not needed, and keeps them until they are
    written. Elsewhere this may do nothing.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, n_bytes, os.POSIX_FADV_DONTNEED)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        # Over NFS a repeated request reports a link as existing that this very call has made.
        return source.stat().st_nlink == 2
    return True


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
