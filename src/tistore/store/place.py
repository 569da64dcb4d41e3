"""Where a store lies: the file system, its room, and whether it keeps writers apart."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tistore.errors import UnsafePlaceError
from tistore.store.files import TEMPORARY
from tistore.store.system import POSIX, System

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "glusterfs", "beegfs", "gpfs",
            "afs", "afpfs", "webdav", "9p"}  # fmt: skip
_LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.gocryptfs",
               "fuse.ntfs-3g", "fuse.exfat"}  # fmt: skip
_OBJECT_MOUNTS = {"fuse.s3fs", "fuse.goofys", "fuse.gcsfuse", "fuse.mount-s3",
                  "fuse.mountpoint-s3", "fuse.rclone", "fuse.blobfuse", "fuse.blobfuse2",
                  "fuse.geesefs"}  # fmt: skip
"""Mounts of object storage that promise neither exclusive creates nor hard links. JuiceFS, which
keeps its metadata in a database, promises both."""


@dataclass(frozen=True, slots=True)
class Place:
    """
    The file system a folder lies on.

    Attributes:
        file_system: Its type, such as "ext4" or "nfs4"; "unknown" where the system does not tell.
        mount_point: Where it is mounted.
        is_read_only: Whether it is mounted for reading only.
        free_bytes: Room left for this user.
        free_inodes: Files that may still be made; None where there is no such limit.
    """

    file_system: str
    mount_point: str
    is_read_only: bool
    free_bytes: int
    free_inodes: int | None

    @property
    def is_network(self) -> bool:
        """Whether other machines can have it mounted."""
        kind = self.file_system
        return kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)

    @property
    def is_object_mount(self) -> bool:
        """Whether it is object storage that looks like a folder: no place for writers."""
        return self.file_system in _OBJECT_MOUNTS

    @property
    def is_in_memory(self) -> bool:
        """Whether nothing on it outlives the machine's being switched off."""
        return self.file_system in ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: where, and of which type."""

    mount_point: str
    file_system: str


def describe_place(folder: Path) -> Place:
    """
    Look at the file system a folder lies on.

    Raises:
        OSError: The folder cannot be looked at.
    """
    mount = find_mount(list_mounts(), folder.resolve())
    room = os.statvfs(folder)
    return Place(
        file_system=mount.file_system,
        mount_point=mount.mount_point,
        is_read_only=bool(room.f_flag & os.ST_RDONLY),
        free_bytes=room.f_bavail * room.f_frsize,
        # Btrfs, XFS at times, and network file systems count none.
        free_inodes=room.f_favail if room.f_files else None,
    )


def measure_room(path: Path) -> int:
    """Measure the bytes free for this user where a path is, or would be made."""
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    room = os.statvfs(there)
    return room.f_bavail * room.f_frsize


def list_mounts() -> list[Mount]:
    """List what is mounted, in the order it was; none where the system does not tell."""
    if sys.platform == "darwin":
        done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False)
        return parse_mount_command(done.stdout)
    with suppress(OSError):
        return parse_mountinfo(_MOUNTS.read_text(errors="surrogateescape"))
    return []


def parse_mountinfo(text: str) -> list[Mount]:
    """Read Linux's table of mounts: `36 35 98:0 /root /mount options - type source options`."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        mounts.append(Mount(_unescape(before.split(" ")[4]), after.split(" ")[0]))
    return mounts


def parse_mount_command(text: str) -> list[Mount]:
    """Read what macOS's mount prints: `/dev/disk1s1 on /Volumes/data (apfs, local)`."""
    found = re.findall(r"^.+? on (/.*) \(([^,)]+)", text, re.MULTILINE)
    return [Mount(point, kind) for point, kind in found]


def find_mount(mounts: Iterable[Mount], path: Path) -> Mount:
    """Find the mount a path lies on: the deepest above it, and of those the last mounted."""
    found = Mount("/", "unknown")
    for mount in mounts:
        is_deeper = len(mount.mount_point) >= len(found.mount_point)
        if is_deeper and path.is_relative_to(mount.mount_point):
            found = mount
    return found


def _unescape(text: str) -> str:
    """Undo the octal escapes in which the table writes blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def require_exclusive_creates(folder: Path, system: System = POSIX) -> None:
    """
    Try whether a file that exists can be created again, or linked over.

    Two writers on such a place would replace each other's commits without either of them
    noticing. Takes a few calls and no fsync; leaves nothing behind.

    Args:
        folder: Where commits are to be made.
        system: The calls that change the disk.

    Raises:
        UnsafePlaceError: It can, or there are no hard links at all.
        OSError: Nothing can be created there.
    """
    name = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
    other = f"{name}-linked"
    made: list[str] = []
    try:
        _create(system, name)
        made.append(name)
        if _succeeds(lambda: _create(system, name)):
            raise _unsafe(folder, "creates a file that exists, as if it did not")
        if not _link(system, name, other):
            raise _unsafe(folder, "has no hard links")
        made.append(other)
        if _succeeds(lambda: system.link(name, other)):
            raise _unsafe(folder, "links over a file that exists")
    finally:
        for path in made:
            # What cannot be removed is empty, and `gc` knows it by its name.
            with suppress(OSError):
                system.unlink(path)


def _create(system: System, path: str) -> None:
    system.close(system.create(path))


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except FileExistsError:
        return False
    return True


def _link(system: System, source: str, target: str) -> bool:
    """Link; False where the file system cannot."""
    try:
        system.link(source, target)
    except FileExistsError:
        # Nobody else knows the name: over NFS, a repeated request finds its own first try.
        return True
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            return False
        raise
    return True


def _unsafe(folder: Path, fault: str) -> UnsafePlaceError:
    kind = find_mount(list_mounts(), folder.resolve()).file_system
    return UnsafePlaceError(
        f"{folder} cannot be written: its file system ({kind}) {fault}, so that one writer could "
        "replace what another has committed",
        mend="write to a local disk, NFS or Lustre, and copy the store there afterwards; reading "
        "it here is safe",
    )
