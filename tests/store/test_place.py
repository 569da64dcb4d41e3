"""Where a store lies, and whether writers are kept apart there."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

import tistore.store.place as place
from example_readings import make_reading
from tistore.errors import ReadOnlyError, UnsafePlaceError
from tistore.store.base import BaseStore
from tistore.store.place import (
    Mount,
    Place,
    describe_place,
    find_mount,
    parse_mount_command,
    parse_mountinfo,
    require_exclusive_creates,
)
from tistore.store.posix import PosixFiles
from tistore.store.system import System

MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 0 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:40 / /data rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /data/my\040bucket rw,nosuid - fuse.s3fs s3fs rw
42 27 0:42 / /data/over rw - ext4 /dev/vdb rw
43 42 0:43 / /data/over rw - xfs /dev/vdc rw
""".strip()


class Lenient(System):
    """A file system that lets one writer replace what another has made."""

    def __init__(self, *, creates: bool = False, links: bool = False) -> None:
        self.creates = creates
        self.links = links

    def create(self, path: str) -> int:
        if self.creates:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return super().create(path)

    def link(self, source: str, target: str) -> None:
        if self.links:
            Path(target).unlink(missing_ok=True)
        super().link(source, target)


class Linkless(System):
    """A file system without hard links, such as exFAT and some of FUSE's."""

    def __init__(self, number: int) -> None:
        self.number = number

    def link(self, source: str, target: str) -> None:
        raise OSError(self.number, os.strerror(self.number))


class Repeating(System):
    """NFS, when the answer to a link was lost and the request was sent again."""

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def test_a_place_that_keeps_writers_apart_is_accepted_and_left_as_it_was(tmp_path):
    require_exclusive_creates(tmp_path)
    require_exclusive_creates(tmp_path, Repeating())

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("system", "fault"),
    [
        (Lenient(creates=True), "creates a file that exists"),
        (Lenient(links=True), "links over a file"),
        (Linkless(errno.EPERM), "no hard links"),
        (Linkless(errno.EOPNOTSUPP), "no hard links"),
    ],
)
def test_a_place_where_one_writer_could_replace_anothers_commit_is_refused(tmp_path, system, fault):
    with pytest.raises(UnsafePlaceError, match=f"(?s){fault}.*local disk"):
        require_exclusive_creates(tmp_path, system)

    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_tried_is_not_called_unsafe(tmp_path):
    with pytest.raises(FileNotFoundError):
        require_exclusive_creates(tmp_path / "none")
    with pytest.raises(OSError, match="Input/output"):
        require_exclusive_creates(tmp_path, Linkless(errno.EIO))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("system", [Lenient(creates=True), Lenient(links=True)])
def test_nothing_is_written_to_an_unsafe_place(tmp_path, system):
    store = BaseStore.create(tmp_path / "s.tistore", system=system)
    with pytest.raises(UnsafePlaceError), store.writer() as writer:
        writer.add(**make_reading())

    assert list((store.path / "commits").iterdir()) == []
    assert list((store.path / "segments").iterdir()) == []


def test_a_place_that_refuses_says_so_in_its_own_words(store, monkeypatch):
    class Refusing(System):
        def create(self, path: str) -> int:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(ReadOnlyError):
        PosixFiles(store.path, Refusing()).require_exclusive_creates()


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/home/me/s.tistore", Mount("/", "ext4")),
        ("/data/s.tistore", Mount("/data", "nfs4")),
        ("/data/my bucket/s.tistore", Mount("/data/my bucket", "fuse.s3fs")),
        ("/data/my bucketful/s.tistore", Mount("/data", "nfs4")),
        ("/data/over/s", Mount("/data/over", "xfs")),
    ],
)
def test_a_path_lies_on_the_deepest_mount_above_it_and_the_last_of_those(path, mount):
    assert find_mount(parse_mountinfo(MOUNTINFO), Path(path)) == mount


def test_the_mounts_of_macos_are_read_too():
    text = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "//me@nas/lab on /Volumes/my lab (smbfs, nodev, nosuid, mounted by me)\n"
    )

    mounts = parse_mount_command(text)

    assert mounts == [Mount("/", "apfs"), Mount("/Volumes/my lab", "smbfs")]


def test_mounts_are_asked_for_as_each_system_tells_them(monkeypatch, tmp_path):
    monkeypatch.setattr(place, "_MOUNTS", tmp_path / "none")
    monkeypatch.setattr(place.sys, "platform", "linux")
    assert place.list_mounts() == []

    def run(command, **options):
        return subprocess.CompletedProcess(command, 0, "/dev/disk1 on / (apfs, local)\n", "")

    monkeypatch.setattr(place.sys, "platform", "darwin")
    monkeypatch.setattr(place.subprocess, "run", run)
    assert place.list_mounts() == [Mount("/", "apfs")]


def test_where_nothing_is_known_the_file_system_is_unknown():
    assert find_mount([], Path("/data")) == Mount("/", "unknown")


@pytest.mark.parametrize(
    ("kind", "is_network", "is_object_mount"),
    [
        ("ext4", False, False),
        ("fuseblk", False, False),
        ("fuse.mergerfs", False, False),
        ("nfs", True, False),
        ("lustre", True, False),
        ("fuse.sshfs", True, False),
        ("fuse.juicefs", True, False),
        ("fuse.s3fs", True, True),
        ("fuse.gcsfuse", True, True),
        ("fuse.mount-s3", True, True),
        ("fuse.rclone", True, True),
        ("fuse.blobfuse2", True, True),
        ("fuse.geesefs", True, True),
    ],
)
def test_networks_and_object_storage_are_told_from_disks(kind, is_network, is_object_mount):
    found = Place(kind, "/data", False, 10**9, None)

    assert (found.is_network, found.is_object_mount) == (is_network, is_object_mount)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="no table of mounts here")
def test_a_place_is_described_as_the_system_itself_does(tmp_path):
    found = describe_place(tmp_path)

    said = subprocess.run(
        ["stat", "-f", "-c", "%a %S %d", tmp_path], capture_output=True, text=True, check=True
    )
    blocks, size, inodes = map(int, said.stdout.split())
    assert abs(found.free_bytes - blocks * size) < 2**30
    assert (found.free_inodes is None) == (inodes == 0)
    assert tmp_path.resolve().is_relative_to(found.mount_point)
    assert describe_place(Path("/proc")).file_system == "proc"


def test_room_is_measured_where_a_folder_would_be_made(tmp_path):
    would, there = place.measure_room(tmp_path / "a" / "b"), place.measure_room(tmp_path)

    assert abs(would - there) < 2**30
