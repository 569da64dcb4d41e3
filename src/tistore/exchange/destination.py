"""The folder an export fills: one export's alone, file by file, each whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from tistore.errors import ConfigError, NoRoomError, TistoreError

MARKER = "tistore-export.json"
"""File that says which export a folder holds, written before any other."""

_TEMPORARY = ".tmp-"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_SPARE_BYTES = 16 * 2**20


class Destination:
    """
    A folder that holds one export, or a part of it.

    Use `open`. Files are written under another name and renamed once they are whole, so that an
    export that was stopped can go on.

    Attributes:
        folder: The folder.
        n_files: Files written by this object.
        size_bytes: Their bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_files = 0
        self.size_bytes = 0

    @classmethod
    def open(cls, folder: Path, content: bytes, marker: str = MARKER) -> Self:
        """
        Take a folder that is empty, is not there yet, or holds the same export.

        Args:
            folder: Where to write.
            content: What tells this export from others.
            marker: File that holds it.

        Raises:
            ConfigError: The folder holds something else, or cannot be written.
            NoRoomError: The disk is full.
        """
        destination = cls(folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file", mend="choose a folder that is free")
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in folder.iterdir()}
        if marker in names:
            if (folder / marker).read_bytes() != content:
                raise ConfigError(
                    f"{folder} holds another export, or one of a store that has changed since",
                    mend="choose a folder that is free",
                )
            destination._remove_leftovers()
        elif all(name.startswith(_TEMPORARY) for name in names):
            with destination.write(marker) as file:
                file.write(content)
        else:
            raise ConfigError(f"{folder} is not empty", mend="choose a folder that is free")
        return destination

    def holds(self, name: str) -> bool:
        """Whether a file is there, and so is whole; an empty one is what a power cut can leave."""
        path = self.folder / name
        return path.exists() and path.stat().st_size > 0

    def measure(self) -> int:
        """Bytes of all files that are there."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def check_room(self, needed_bytes: int) -> None:
        """
        Refuse to start what cannot be finished.

        Raises:
            NoRoomError: There is less room than that.
        """
        free = shutil.disk_usage(self.folder).free
        if free < needed_bytes + _SPARE_BYTES:
            raise NoRoomError(
                f"this export needs {needed_bytes / 1e6:.0f} MB in {self.folder}, "
                f"where {free / 1e6:.0f} MB are free",
                mend="free some space, or narrow it with --where or --layers",
            )

    @contextmanager
    def write(self, name: str, *, durable: bool = True) -> Iterator[BinaryIO]:
        """
        Write a file that appears under its name, folders included, when the block ends well.

        Args:
            name: Path in the folder, with "/".
            durable: Whether it is on the disk before it has its name. For one of very many small
                files that takes longer than all else; without, a power cut may leave it empty.

        Raises:
            NoRoomError: The disk is full; files that have their names are whole.
            ConfigError: The file cannot be written.
        """
        path = self.folder / name
        temporary = self.folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                size_bytes = temporary.stat().st_size
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        self.n_files += 1
        self.size_bytes += size_bytes

    def _remove_leftovers(self) -> None:
        """Remove what a run that was killed left half-written."""
        with _translated(self.folder):
            for path in self.folder.glob(f"{_TEMPORARY}*"):
                path.unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except TistoreError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise NoRoomError(
                f"no room left while writing {path}: {error.strerror}",
                mend="free some space and run the same command again; it goes on where it stopped",
            ) from error
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}", mend="choose another folder"
        ) from error
