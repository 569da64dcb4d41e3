"""The file being read: opened as plain data, its ranges checked, its name in every refusal."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tistore.errors import ForeignFileError

MOST_BYTES_A_READ = 1 << 30
"""Linux reads at most 2 GiB a call."""


_LEAVE_OUT = "leave the file out, or write it anew with torch.save"


class Refused(Exception):
    """
    Something in the file is not to be read; `naming` adds the file's name.

    Args:
        reason: What is wrong, as the rest of the sentence "cannot read <file>: …".
        mend: What to do about it.
    """

    def __init__(self, reason: str, mend: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mend = mend


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """
    Give what goes wrong inside the block the name of the file.

    Raises:
        ForeignFileError: The block refused the file, or the system could not read it.
    """
    try:
        yield
    except Refused as refused:
        message = f"cannot read {path}: {refused.reason}"
        raise ForeignFileError(message, mend=refused.mend or _LEAVE_OUT) from refused
    except OSError as error:
        raise ForeignFileError(
            f"cannot read {path}: {error.strerror or error}",
            mend="check the path and its permissions",
        ) from error


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file while it is open; every read is of a stated range, or refused."""

    descriptor: int
    size: int

    def bytes_at(self, start: int, n_bytes: int) -> bytes:
        """Read exactly a range, of at most 1 GiB."""
        # Checked before anything is allocated: a length in a file is a claim.
        self._check_range(start, n_bytes)
        content = os.pread(self.descriptor, n_bytes, start)
        if len(content) != n_bytes:
            raise Refused("it became shorter while it was read", "read it again")
        return content

    def fill(self, start: int, buffer: memoryview) -> None:
        """Read a range as long as the buffer into it."""
        self._check_range(start, len(buffer))
        done = 0
        while done < len(buffer):
            piece = buffer[done : done + MOST_BYTES_A_READ]
            n_read = os.preadv(self.descriptor, [piece], start + done)
            if n_read == 0:
                raise Refused("it became shorter while it was read", "read it again")
            done += n_read

    def _check_range(self, start: int, n_bytes: int) -> None:
        if start < 0 or n_bytes < 0 or start + n_bytes > self.size:
            raise Refused(
                f"it is cut short: bytes {start} to {start + n_bytes} are named, "
                f"but it has {self.size}",
                "copy or download the file again",
            )


@dataclass(frozen=True, slots=True)
class SourceFile:
    """
    A regular file, as it was when first looked at.

    Attributes:
        path: Where it lies.
        size: Length in bytes.
        stamp: Device, inode and modification time; a later read refuses another file there.
    """

    path: Path
    size: int
    stamp: tuple[int, int, int]

    @classmethod
    def identify(cls, path: Path) -> SourceFile:
        """Look at a file; a directory, pipe or device is refused."""
        with _descriptor(path) as descriptor:
            status = os.fstat(descriptor)
        return cls(path, status.st_size, _stamp(status))

    @contextmanager
    def open(self) -> Iterator[OpenFile]:
        """Open the file, if it is still the one that was identified."""
        with _descriptor(self.path) as descriptor:
            status = os.fstat(descriptor)
            if (status.st_size, _stamp(status)) != (self.size, self.stamp):
                raise Refused("it was changed or replaced while it was read", "read it again")
            yield OpenFile(descriptor, self.size)


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    # Opening a pipe would otherwise wait for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise Refused("it is a directory", "name the files in it")
        if not stat.S_ISREG(mode):
            raise Refused("it is a pipe, socket or device, not a file", "copy it to a file first")
        yield descriptor
    finally:
        os.close(descriptor)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
