"""Calls that fail, and places that let nobody write: typed errors, nothing lost, and it goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tistore
from command_line import run
from durability.acknowledgements import check
from durability.crash_states import scratch_folder
from durability.forked import ask
from durability.injected import HELD, WORKS, choose_some, list_faults, make_template, try_fault
from durability.made import Made
from tistore.errors import (
    DeviceError,
    NoMemoryError,
    NoRoomError,
    ReadOnlyError,
    TooManyFilesError,
)
from tistore.store.base import BaseStore
from tistore.store.posix import PosixFiles
from tistore.store.system import System

FAULTS_A_WORK = 6

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder, in memory where there is such a place."""
    with scratch_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def template(scratch: Path) -> Path:
    """A small store."""
    make_template(scratch / "template")
    return scratch / "template"


@pytest.fixture
def store(template: Path, tmp_path: Path) -> BaseStore:
    """A copy of it."""
    return BaseStore.open(shutil.copytree(template, tmp_path / "s.tistore"))


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a test that failed may have left something open.
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", sorted(WORKS))
def test_a_call_that_fails_costs_nothing_that_was_acknowledged(name, template, scratch):
    """A typed error, nothing lost, nothing left open; and the same once more works."""
    faults = list_faults(template, name, scratch)

    for number, fault in enumerate(choose_some(faults, FAULTS_A_WORK / len(faults), seed=0)):
        try_fault(template, name, fault, scratch / f"{name}-{number}").raise_if_broken()


class DyingFolder(System):
    """Fails to make a folder durable, and counts how often it is asked to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dying = False
        self.asked = 0

    def sync_folder(self, path: str) -> None:
        """See `System`."""
        if self.is_dying and path.endswith(self.name):
            self.asked += 1
            raise OSError(errno.EIO, "Input/output error")
        super().sync_folder(path)


def test_a_fsync_of_the_log_that_fails_ends_its_writer(store):
    """Linux may say that a second one worked, though the first has dropped what it could not."""
    system = DyingFolder("/commits")
    writer = BaseStore.open(store.path, system=system).writer()
    writer.add(**Made("reading", 5).arguments())
    system.is_dying = True

    with pytest.raises(DeviceError, match="not confirmed to be durable"):
        writer.commit()
    with pytest.raises(DeviceError, match="this writer makes no more commits"):
        writer.commit()

    assert system.asked == 1
    assert writer.committed_readings == 0
    assert writer.pending_readings == 1
    check(store.path, HELD).raise_if_broken()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("EIO", DeviceError),
        ("EACCES", ReadOnlyError),
        ("EMFILE", TooManyFilesError),
        ("ENFILE", TooManyFilesError),
        ("ENOMEM", NoMemoryError),
    ],
)
def test_reading_says_what_is_wrong_with_the_machine(store, monkeypatch, code, kind):
    """And not that the store is damaged, which it is not."""
    opened = os.open

    def fail(path, *arguments, **options):
        if str(path).startswith(str(store.path / "segments")):
            number = getattr(errno, code)
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("tistore.store.posix.os.open", fail)
    fresh = BaseStore.open(store.path)

    with pytest.raises(kind):
        fresh.snapshot.segments[0].table("responses")
    with pytest.raises(kind):
        fresh.snapshot.table("models")
    monkeypatch.undo()
    assert fresh.snapshot.segments[0].table("responses").num_rows == 1


@needs_root
@pytest.mark.parametrize("options", ["nr_inodes=120", "size=400k"])
def test_a_full_file_system_is_seen_by_every_command_that_writes(
    tmp_path, template, monkeypatch, options
):
    """Of bytes or of files; exit code 5, nothing half done, and the rest still works."""
    with mounted(tmp_path / "small", options) as small:
        monkeypatch.setattr(PosixFiles, "free_bytes", lambda self: None)
        path = shutil.copytree(template, small / "s.tistore")
        writer = BaseStore.open(path).writer()
        added = []
        with pytest.raises(NoRoomError):
            for seed in range(5, 1000):
                writer.add(**Made("reading", seed).arguments())
                writer.commit()
                added.append(Made("reading", seed))

        check(path, {*HELD, *added}, go_on=False).raise_if_broken()
        assert BaseStore.open(path).verify().uncommitted_segments == ()
        refused = run("compact", path).exception
        assert isinstance(refused, NoRoomError)
        assert refused.exit_code == 5
        assert run("info", path).exit_code == 0
        subprocess.run(["mount", "-o", "remount,size=8m,nr_inodes=0", small], check=True)
        assert writer.commit() > 0
        writer.close()
        check(path, {*HELD, *added}).raise_if_broken()


@needs_root
def test_a_read_only_file_system_is_read_all_the_same(tmp_path, template, monkeypatch):
    """Scores are kept in the user's cache then; writing says what is wrong."""
    monkeypatch.setenv("TISTORE_CACHE_DIR", str(tmp_path / "cache"))
    with mounted(tmp_path / "fixed", "size=8m") as fixed:
        path = shutil.copytree(template, fixed / "s.tistore")
        subprocess.run(["mount", "-o", "remount,ro", fixed], check=True)

        query = "SELECT prompt_id, project('made/3', 5) FROM tokens"
        assert run("sql", path, query).exit_code == 0
        assert run("info", path).exit_code == 0
        assert run("verify", path).exit_code == 0
        assert run("gc", path).exit_code == 0
        for words in (["compact"], ["gc", "--yes"]):
            refused = run(words[0], path, *words[1:])
            assert isinstance(refused.exception, ReadOnlyError)
        with pytest.raises(ReadOnlyError, match="read-only"):
            BaseStore.open(path).writer()


@needs_root
def test_somebody_without_rights_reads_and_is_told_why_writing_fails(template, tmp_path):
    """A child becomes nobody; root may do everything."""
    folder = Path(template.parent) / "others"
    path = shutil.copytree(template, folder / "s.tistore")
    for above in (folder, template.parent):
        above.chmod(0o755)
    cache = template.parent / "cache-of-nobody"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)

    def as_nobody() -> tuple[int, bool, str]:
        os.environ["TISTORE_CACHE_DIR"] = str(cache)
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)  # and not `setuid`: what counts is as whom it acts
        rows = tistore.open(path).sql("SELECT project('made/3', 5) FROM tokens").fetchall()
        is_sound = BaseStore.open(path).verify().ok
        try:
            BaseStore.open(path).writer()
        except ReadOnlyError as error:
            return len(rows), is_sound, str(error)
        return len(rows), is_sound, ""

    n_rows, is_sound, said = ask(as_nobody)

    assert n_rows == 15
    assert is_sound
    assert "read-only" in said
    assert {status.name for status in path.iterdir()} == {
        "tistore.json", "commits", "segments", "leases",
    }  # fmt: skip


def test_a_process_out_of_descriptors_is_told_so_and_goes_on(store):
    """The limit is that of a child."""

    def starve() -> tuple[str, int]:
        writer = store.writer()
        writer.add(**Made("reading", 5).arguments())
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        n_open = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_open - 1, hard))
        try:
            writer.commit()
        except TooManyFilesError as error:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return str(error), writer.commit()
        return "", 0

    said, number = ask(starve)

    assert "ulimit -n" in said
    assert number == store.snapshot.number + 1
    check(store.path, [*HELD, Made("reading", 5)]).raise_if_broken()


def test_a_process_out_of_memory_loses_nothing(store, monkeypatch):
    """What waits still waits, and is committed once there is room."""

    def run_out(*arguments, **options):
        raise MemoryError

    writer = store.writer()
    writer.add(**Made("reading", 5).arguments())
    monkeypatch.setattr("tistore.store.segment_writer.measure", run_out)
    before = BaseStore.open(store.path).verify().uncommitted_segments

    with pytest.raises(NoMemoryError) as failure:
        writer.commit()

    assert failure.value.exit_code == 5
    assert BaseStore.open(store.path).verify().uncommitted_segments == before
    monkeypatch.undo()
    writer.commit()
    check(store.path, [*HELD, Made("reading", 5)]).raise_if_broken()


def test_compacting_without_memory_says_so(store, monkeypatch):
    """Whatever of it needed the memory."""

    def run_out(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("tistore.store.rewriting.rewrite.write_copy", run_out)

    with pytest.raises(NoMemoryError):
        store.compact()

    monkeypatch.undo()
    check(store.path, HELD, go_on=False).raise_if_broken()
    assert store.compact().segments_after == 2
