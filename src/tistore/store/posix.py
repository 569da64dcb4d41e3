"""A store's files in a folder of a POSIX file system."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from tistore.errors import (
    DeviceError,
    IntegrityError,
    NoMemoryError,
    NoRoomError,
    ReadOnlyError,
    StoreError,
    TooManyFilesError,
)
from tistore.store.files import TEMPORARY, FileRecord, FileStatus, Hold
from tistore.store.layout import COMMITS, folder_of
from tistore.store.system import POSIX, System
from tistore.store.turns import wait_for_turn

_WRITTEN_BEHIND_BYTES = 16 << 20
_INTACT = "everything committed is intact"

_Trouble = tuple[type[StoreError], str, str]
_TROUBLES: dict[int, _Trouble] = {
    errno.ENOSPC: (NoRoomError, "no room left", "free some space and run the same command again"),
    errno.EDQUOT: (NoRoomError, "the quota is used up", "free some space, or raise the quota"),
    errno.EFBIG: (NoRoomError, "a file is larger than allowed", "raise the limit: ulimit -f"),
    errno.EROFS: (ReadOnlyError, "the file system is read-only", "mount it for writing"),
    errno.EACCES: (ReadOnlyError, "permission denied", "mend the permissions"),
    errno.EPERM: (ReadOnlyError, "not permitted", "mend the permissions"),
    errno.EIO: (DeviceError, "the disk failed", "look after the disk, then run `tistore verify`"),
    errno.EMFILE: (TooManyFilesError, "too many open files", "raise the limit: ulimit -n"),
    errno.ENFILE: (TooManyFilesError, "too many open files on this machine", "close some"),
    errno.ENOMEM: (NoMemoryError, "memory ran out", "free some memory and run it again"),
}
"""What an error of the system means to the caller: which class, which words, what mends it."""

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_NOT_A_FILE = {errno.ELOOP, errno.EISDIR, errno.ENOTDIR}


class PosixFiles:
    """
    A folder on a POSIX file system.

    Args:
        root: The folder.
        system: The calls that change the disk.
    """

    def __init__(self, root: Path, system: System = POSIX) -> None:
        self.root = root
        self._system = system

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        with self._translated(path), _opened(self._locate(path)) as descriptor:
            return _read_all(descriptor, os.fstat(descriptor).st_size)

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

    def read_blocks(self, path: str, buffer: bytearray) -> Iterator[memoryview]:
        """
        Read a whole file through `buffer`: each block is good until the next is asked for.

        Not through a memory map: there, a disk that fails kills the process.
        """
        view = memoryview(buffer)
        with self._translated(path), _opened(self._locate(path)) as descriptor:
            while length := os.readv(descriptor, [buffer]):
                yield view[:length]

    def expect_range(self, path: str, start: int, length: int) -> None:
        """Ask the kernel to read ahead, all of it at once."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with self._translated(path), _opened(self._locate(path)) as descriptor:
                os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)

    def write_new(self, path: str, pieces: Iterable[bytes]) -> FileRecord:
        """Write a file that must not exist yet, hashing it piece by piece, and fsync it."""
        hasher = blake3()
        with self._translated(path):
            size_bytes = self._write_exclusively(self._locate(path), pieces, hasher.update)
        return FileRecord(path, size_bytes, hasher.hexdigest())

    def put_if_absent(
        self, path: str, data: bytes, seen: Callable[[], object] = lambda: None
    ) -> bool:
        """
        Make a whole file appear at once, durably.

        The file is written and fsynced under a temporary name and then linked: unlike a rename,
        a link never replaces what is there.
        """
        folder = self._locate(folder_of(path))
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        with self._translated(path):
            try:
                self._write_exclusively(temporary, [data])
                won = self._link(temporary, self._locate(path))
                if won:
                    seen()
                    self._system.sync_folder(folder)
            finally:
                # Nobody reads it, and `gc` removes what is left: no reason to call a commit
                # that is durable a failure.
                with suppress(OSError):
                    self._system.unlink(temporary)
        return won

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Fsync these folders and all between them and the store's own, deepest first."""
        paths = set()
        for folder in folders:
            paths.add(folder)
            while folder := folder_of(folder):
                paths.add(folder)
        for path in sorted(paths, key=lambda path: (-path.count("/"), path)):
            with self._translated(path):
                self._system.sync_folder(self._locate(path))

    def sync_root(self) -> None:
        """Fsync the store's own folder, and the one it lies in."""
        for path in (self.root, self.root.absolute().parent):
            with self._translated(str(path)):
                self._system.sync_folder(str(path))

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make folders of the store, and the store's own; those above it become durable."""
        with self._translated("the store"):
            missing = [path for path in (self.root, *self.root.absolute().parents)
                       if not path.exists()]  # fmt: skip
            for path in reversed(missing):
                self._make_folder(str(path))
                self._system.sync_folder(str(path.absolute().parent))
            for folder in folders:
                self._make_folder(self._locate(folder))

    def move(self, source: str, target: str) -> None:
        """Rename to a name that is not taken, and fsync both folders."""
        if not self.rename(source, target):
            with self._translated(source):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        # The new name first: between the two, a power cut leaves both, or the new one.
        self.sync_folders([folder_of(target)])
        self.sync_folders([folder_of(source)])

    def rename(self, source: str, target: str) -> bool:
        """Rename to a name that is not taken; durable only later. False when it is gone."""
        new = self._locate(target)
        with self._translated(source):
            if os.path.lexists(new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
            self._make_parents(new)
            try:
                self._system.rename(self._locate(source), new)
            except FileNotFoundError:
                return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is as good as removed."""
        with self._translated(path), suppress(FileNotFoundError):
            self._system.unlink(self._locate(path))

    def list_names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it does not exist."""
        with self._translated(folder), suppress(FileNotFoundError):
            return sorted(os.listdir(self._locate(folder)))  # noqa: PTH208 - names are all it needs
        return []

    def status(self, path: str) -> FileStatus | None:
        """Look at what lies at a path, a link itself too; None when nothing does."""
        with self._translated(path), suppress(FileNotFoundError, NotADirectoryError):
            return self._look_at(path)
        return None

    def walk(self, folder: str) -> list[FileStatus]:
        """List everything below a folder, sorted by path; links are not followed."""
        found: list[FileStatus] = []
        waiting = [folder]
        while waiting:
            parent = waiting.pop()
            # What a writer removes meanwhile is as good as never seen.
            with self._translated(parent), suppress(FileNotFoundError):
                for name in os.listdir(self._locate(parent)):  # noqa: PTH208
                    with suppress(FileNotFoundError):
                        found.append(self._look_at(f"{parent}/{name}"))
                        if found[-1].kind == "folder":
                            waiting.append(found[-1].path)
        return sorted(found, key=lambda status: status.path)

    def size(self, path: str) -> int | None:
        """Length of a file; None when it does not exist."""
        with self._translated(path), suppress(FileNotFoundError):
            return os.stat(self._locate(path), follow_symlinks=False).st_size  # noqa: PTH116
        return None

    def free_bytes(self) -> int | None:
        """Room left for this user on the file system."""
        return shutil.disk_usage(self.root).free

    def is_writable(self) -> bool:
        """Whether this user may create files here."""
        # As whom the process acts now, not as whom it was started.
        is_effective = os.access in os.supports_effective_ids
        return os.access(self.root, os.W_OK | os.X_OK, effective_ids=is_effective)

    def remove_folder(self, folder: str) -> None:
        """Remove what an unacknowledged write left behind; what cannot be is left to `gc`."""
        path = self._locate(folder)
        with suppress(OSError):
            for parent, folders, files in os.walk(path, topdown=False):
                for name in files:
                    self._system.unlink(f"{parent}/{name}")
                for name in folders:
                    self._system.remove_folder(f"{parent}/{name}")
            self._system.remove_folder(path)

    def remove_empty_folder(self, folder: str) -> bool:
        """Remove a folder that holds nothing; False when it holds something, or is gone."""
        with self._translated(folder), suppress(FileNotFoundError):
            try:
                self._system.remove_folder(self._locate(folder))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    raise
                return False
            return True
        return False

    def hold(self, path: str, data: bytes) -> Hold:
        """Create a file and lock it, until it is released or this process ends."""
        target = self._locate(path)
        with self._translated(path):
            self._make_parents(target)
            return _FileLock(self._system, target, data, partial(self._translated, path))

    def is_held(self, path: str) -> bool | None:
        """Whether some process holds the lock; None where there are no locks."""
        with self._translated(path), _opened(self._locate(path)) as descriptor:
            return _is_locked(descriptor)

    def turn(
        self, folder: str, patience_seconds: float
    ) -> AbstractContextManager[Callable[[], None]]:
        """Wait for the other writers of this machine; see `wait_for_turn`."""
        return wait_for_turn(self._locate(folder), patience_seconds)

    def require_exclusive_creates(self) -> None:
        """
        Refuse a place on which one writer could replace what another has written.

        Raises:
            UnsafePlaceError: It is such a place.
        """
        # Looked for when a writer opens, not when the store is read.
        from tistore.store.place import require_exclusive_creates

        with self._translated(COMMITS):
            require_exclusive_creates(self.root / COMMITS, self._system)

    def key_value_store(self, folder: str) -> dict[str, Any]:
        """Where TensorStore finds this folder: it takes no path with ".." in it."""
        return {"driver": "file", "path": f"{Path(self._locate(folder)).resolve()}/"}

    def _locate(self, path: str) -> str:
        return f"{self.root}/{path}" if path else str(self.root)

    def _look_at(self, path: str) -> FileStatus:
        status = os.stat(self._locate(path), follow_symlinks=False)  # noqa: PTH116
        times = status.st_mtime, status.st_ctime
        if stat.S_ISDIR(status.st_mode):
            return FileStatus(path, 0, *times, "folder")
        if stat.S_ISREG(status.st_mode):
            # The time of the last change of the inode cannot be set, as a copy sets the other.
            version = f"{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"
            return FileStatus(path, status.st_size, *times, "file", version)
        return FileStatus(path, 0, *times, "other")

    def _write_exclusively(
        self, path: str, pieces: Iterable[bytes], hear: Callable[[bytes], object] = len
    ) -> int:
        """Write a new file and fsync it; `hear` is given every piece. Returns the length."""
        descriptor = self._create(path)
        size_bytes = started = 0
        try:
            for piece in pieces:
                hear(piece)
                size_bytes += len(piece)
                view = memoryview(piece)
                while view:
                    view = view[self._system.write(descriptor, view) :]
                if size_bytes - started >= _WRITTEN_BEHIND_BYTES:
                    _start_writing_back(descriptor, started, size_bytes - started)
                    started = size_bytes
            self._system.sync(descriptor)
        finally:
            self._system.close(descriptor)
        return size_bytes

    def _create(self, path: str) -> int:
        try:
            return self._system.create(path)
        except FileNotFoundError:
            self._make_parents(path)
            return self._system.create(path)

    def _make_parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if not os.path.isdir(parent):  # noqa: PTH112
            self._make_parents(parent)
            self._make_folder(parent)

    def _make_folder(self, path: str) -> None:
        with suppress(FileExistsError):
            self._system.make_folder(path)

    def _link(self, source: str, target: str) -> bool:
        try:
            self._system.link(source, target)
        except FileExistsError:
            # Over NFS a repeated request reports a link as existing that this very call has made.
            return os.stat(source).st_nlink == 2  # noqa: PTH116
        return True

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{path} is missing from {self.root}",
                mend="open the store again, if `tistore gc` has run since it was opened; else run "
                f"`tistore verify {self.root}` to see what else is",
            ) from error
        except OSError as error:
            raise self._translate(error, path) from error
        except MemoryError as error:
            raise self._translate(OSError(errno.ENOMEM, str(error)), path) from error

    def _translate(self, error: OSError, path: str) -> StoreError | IntegrityError:
        if error.errno in _NOT_A_FILE:
            return IntegrityError(
                f"{path} of {self.root} is not a plain file: {error.strerror}",
                mend=f"run `tistore verify {self.root}` to see what else is",
            )
        where = f"{path} in {self.root}"
        if error.errno in _TROUBLES:
            kind, what, mend = _TROUBLES[error.errno]
            return kind(f"{what}: {where}", mend=f"{mend}; {_INTACT}")
        return StoreError(f"{error.strerror or error}: {where}")


class _FileLock:
    """A file that this process has created and locked."""

    def __init__(
        self,
        system: System,
        path: str,
        data: bytes,
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._path = path
        self._translated = translated
        descriptor = system.create(path)
        # Locked before it says anything: whoever finds it unlocked and empty waits.
        try:
            _try_lock(descriptor)
            system.write(descriptor, memoryview(data))
        except BaseException:
            _let_go(system, path, descriptor, os.getpid())
            raise
        # Also when it is forgotten, or the interpreter ends; but not in a forked child.
        self._finalizer = weakref.finalize(self, _let_go, system, path, descriptor, os.getpid())

    def renew(self) -> bool:
        """Note that the holder lives; False when the file was taken away."""
        with self._translated(), suppress(FileNotFoundError):
            os.utime(self._path)
            return True
        return False

    def release(self) -> None:
        """Remove the file and give the lock up; once is enough."""
        self._finalizer()


def _let_go(system: System, path: str, descriptor: int, process: int) -> None:
    if os.getpid() != process:
        return
    # A lease that cannot be removed now, as on a disk gone read-only, is removed by `gc`: what was
    # committed is no less so.
    try:
        with suppress(OSError):
            system.unlink(path)
    finally:
        with suppress(OSError):
            system.close(descriptor)


def _try_lock(descriptor: int) -> None:
    """Lock a file, where the file system has locks."""
    try:
        # Waits, but not for long: only somebody who is just looking whether it is locked.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_locked(descriptor: int) -> bool | None:
    try:
        # Shared: two that look at once do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return False


@contextmanager
def _opened(path: str) -> Iterator[int]:
    # A link in a file's place would have others' files read as the store's; a pipe would be waited
    # for without end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, size_bytes: int) -> bytes:
    # One more byte than there should be: the end is seen without another call.
    data = os.read(descriptor, size_bytes + 1)
    if len(data) == size_bytes:
        return data
    parts = [data]
    while piece := os.read(descriptor, 1 << 20):
        parts.append(piece)
    return b"".join(parts)


def _start_writing_back(descriptor: int, start: int, n_bytes: int) -> None:
    """
    Have the disk begin while the rest is still being made, so that the fsync has less to wait for.

    Linux starts writing dirty pages it is told are not needed, and keeps them until they are
    written. Elsewhere this may do nothing.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, n_bytes, os.POSIX_FADV_DONTNEED)
