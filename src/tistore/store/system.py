"""
The calls by which a store changes the disk, one method each.

`PosixFiles` makes every change through a `System`, so that a test can record the calls, refuse
one of them, or stop in between; reading needs no such thing.
"""

from __future__ import annotations

import os


class System:
    """The operating system's own calls. Paths are absolute, or relative to the process."""

    def create(self, path: str) -> int:
        """Create a file that must not exist, and open it for writing; gives its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data; gives how much."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes and length durable."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)

    def make_folder(self, path: str) -> None:
        """Make a folder whose parent exists."""
        os.mkdir(path)  # noqa: PTH102 - one call, to be recorded as one

    def sync_folder(self, path: str) -> None:
        """Make the entries of a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, which must not be taken."""
        os.link(source, target)  # noqa: PTH200

    def rename(self, source: str, target: str) -> None:
        """Give a file or a folder another name, which must not be taken."""
        os.rename(source, target)  # noqa: PTH104

    def unlink(self, path: str) -> None:
        """Remove a file's name."""
        os.unlink(path)  # noqa: PTH108

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)  # noqa: PTH106


POSIX = System()
"""The real one."""
