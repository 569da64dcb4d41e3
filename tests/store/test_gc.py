"""What `gc` takes away, what it leaves, and that nothing that is needed is ever lost by it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from example_readings import make_reading
from tistore.errors import ConfigError, IntegrityError, NotStoredError, ReadOnlyError, StoreError
from tistore.schemas.site import Site
from tistore.store import leases
from tistore.store.base import BaseStore
from tistore.store.collecting import collect as collecting
from tistore.store.collecting.collect import GcReport
from tistore.store.leases import Machine, read_leases
from tistore.store.log import append_commit
from tistore.store.posix import PosixFiles
from tistore.store.system import System

DAY = 86_400.0


def add(store: BaseStore, *seeds: int) -> None:
    """Commit a reading for each seed, a commit each."""
    for seed in seeds:
        with store.writer() as writer:
            writer.add(**make_reading(seed))


def begin(store: BaseStore, seed: int):
    """Open a writer that has written its files and is about to commit them."""
    writer = store.writer()
    writer.add(**make_reading(seed))
    committer = writer._committer
    folder = committer.new_segment()
    additions = writer._batch.write(store._files, [folder])
    return writer, folder, additions


def leave_unfinished(store: BaseStore, seed: int) -> str:
    """Leave what a writer of this machine leaves that is killed before its commit; names it."""
    writer, folder, _ = begin(store, seed)
    lease = store.path / "leases" / f"{writer._committer.writer}.json"
    content = lease.read_bytes()
    writer._committer.close()
    lease.write_bytes(content)  # nobody holds it any more: what a process holds goes with it
    return folder


def list_tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its length and the time it was last touched."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(root))] = (status.st_size, status.st_ctime_ns)
    return found


def actions(report: GcReport) -> dict[str, str]:
    return {find.path: find.action for find in report.finds}


def read_all(store: BaseStore) -> list[bytes]:
    """Every value, segment by segment."""
    return [
        repr(segment.table("tokens").to_pydict()).encode()
        + segment.read(Site("residual", layer)).tobytes()
        for segment in store.snapshot.segments
        for layer in segment.layers
    ]


def test_looking_touches_nothing(store):
    add(store, 0, 1)
    store.compact()
    folder = leave_unfinished(store, 2)
    before = list_tree(store.path)

    report = store.gc(keep_days=0, trash_days=0)

    assert report.dry_run
    assert report.gives_up_before == 3
    assert actions(report)[f"segments/{folder}"] == "move to trash"
    assert list_tree(store.path) == before


def test_what_a_dead_writer_left_goes_to_the_trash_and_a_week_later_for_good(store):
    add(store, 0)
    folder = leave_unfinished(store, 1)
    unfinished = store.path / "segments" / folder

    report = store.gc(dry_run=False)

    assert actions(report)[f"segments/{folder}"] == "move to trash"
    assert not unfinished.exists()
    assert not any((store.path / "leases").iterdir())
    (batch,) = (store.path / "trash").iterdir()
    assert (batch / "segments" / folder / "tokens.parquet").is_file()
    assert store.gc(dry_run=False, now=time.time() + 6 * DAY).is_clean
    assert batch.exists()
    store.gc(dry_run=False, now=time.time() + 8 * DAY)
    assert not batch.exists()
    assert store.verify().ok
    assert store.snapshot.number == 1, "nothing was given up, so nothing was committed"


def test_what_a_writer_at_work_has_not_committed_is_left_and_can_be_committed(store):
    writer, folder, additions = begin(store, 0)

    report = store.gc(dry_run=False, now=time.time() + 365 * DAY)

    (find,) = (find for find in report.finds if find.path == f"segments/{folder}")
    assert (find.action, find.until) == ("leave", None)
    assert "at work" in find.why
    writer._committer.append(store.snapshot, additions, lambda newer: True)
    assert BaseStore.open(store.path).verify().ok


STOPPED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from test_gc import BaseStore, begin
writer, _, additions = begin(BaseStore.open(sys.argv[1]), 0)
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
_, is_committed = writer._committer.append(writer._batch.known, additions, lambda newer: True)
sys.exit(not is_committed)
"""


def test_a_writer_that_is_stopped_for_long_is_not_dead(store):
    """As long as its process is there, its lock is."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", STOPPED, store.path, here, here.parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.waitpid(writer.pid, os.WUNTRACED)
        a_year_on = time.time() + 365 * DAY
        report = store.gc(dry_run=False, keep_days=0, trash_days=0, now=a_year_on)
        os.kill(writer.pid, signal.SIGCONT)

    assert writer.returncode == 0
    assert {find.action for find in report.finds} == {"leave"}
    newest = BaseStore.open(store.path)
    assert newest.verify().ok
    assert newest.snapshot.number == 1


@pytest.fixture
def elsewhere(monkeypatch):
    """Writers of this process seem to be on a machine of which nothing can be told."""
    monkeypatch.setattr(leases, "this_machine", lambda: Machine("far", "m", "b"))
    monkeypatch.setattr(PosixFiles, "is_held", lambda self, path: None)

    def be_here():
        monkeypatch.setattr(leases, "this_machine", lambda: Machine("near", "n", "c"))

    return be_here


def test_a_writer_elsewhere_keeps_its_files_for_a_week_of_silence(store, elsewhere):
    writer, folder, _ = begin(store, 0)
    elsewhere()

    report = store.gc(dry_run=False, now=time.time() + 6 * DAY)

    assert writer._committer._has_lease()

    (find,) = (find for find in report.finds if find.path == f"segments/{folder}")
    assert find.action == "leave"
    assert "far" in find.why
    assert find.until is not None
    assert find.until > "2"
    assert (store.path / "segments" / folder).exists()


def test_a_writer_elsewhere_that_was_silent_for_longer_writes_anew(store, elsewhere):
    """Its lease and its files are gone; it notices before its commit, and nothing is lost."""
    writer, folder, _ = begin(store, 0)
    first = writer._committer.writer
    there = BaseStore.open(store.path)
    elsewhere()

    report = there.gc(dry_run=False, now=time.time() + 8 * DAY)
    elsewhere()
    writer.close()

    assert actions(report)[f"segments/{folder}"] == "move to trash"
    assert writer._committer.writer != first
    newest = BaseStore.open(store.path)
    assert newest.verify().ok
    assert newest.snapshot.contents.segments.keys().isdisjoint({folder})
    assert [segment.n_readings for segment in newest.snapshot.segments] == [1]


def test_a_writer_that_speaks_just_before_its_lease_is_taken_keeps_everything(
    store, elsewhere, monkeypatch
):
    writer, folder, additions = begin(store, 0)
    there = BaseStore.open(store.path)
    elsewhere()
    plain = PosixFiles.rename

    def rename(self, source, target):
        if source.startswith("leases/"):
            assert writer._committer._has_lease()
        return plain(self, source, target)

    monkeypatch.setattr(PosixFiles, "rename", rename)
    report = there.gc(dry_run=False, now=time.time() + 8 * DAY)

    assert actions(report)[f"segments/{folder}"] == "leave"
    _, is_committed = writer._committer.append(writer._batch.known, additions, lambda newer: True)
    assert is_committed
    assert BaseStore.open(store.path).verify().ok


def commit_regardless(store: BaseStore, additions) -> None:
    """Commit as a writer does that was stopped between its last look and its link."""
    last = store.snapshot.commits[-1] if store.snapshot.commits else None
    append_commit(
        store._files, parent=last, header_hash=store.header.sha256, writer="w",
        commit_uuid="c", additions=additions,
    )  # fmt: skip


def test_files_that_a_commit_names_after_all_come_back_at_once(store, monkeypatch):
    writer, folder, additions = begin(store, 0)
    writer._committer.close()
    plain = collecting.set_aside

    def set_aside(files, paths):
        assert f"segments/{folder}" in paths
        plain(files, paths)
        commit_regardless(store, additions)

    monkeypatch.setattr(collecting, "set_aside", set_aside)
    report = store.gc(dry_run=False, now=time.time() + 8 * DAY)

    assert f"segments/{folder}/tokens.parquet" in {
        find.path for find in report.finds if find.action == "give back"
    }
    assert store.verify().ok
    assert store.snapshot.number == 1


def test_files_that_a_commit_names_after_all_come_back_with_the_next_gc(store):
    """Also where the first one was killed before it could look again, and all trash is due."""
    writer, _, additions = begin(store, 0)
    writer._committer.close()
    store.gc(dry_run=False, now=time.time() + 8 * DAY)
    commit_regardless(store, additions)
    damaged = not BaseStore.open(store.path).verify(strict=False).ok

    told = store.gc(trash_days=0)
    store.gc(dry_run=False, trash_days=0)

    assert damaged
    assert "give back" in actions(told).values()
    assert BaseStore.open(store.path).verify().ok


@pytest.mark.parametrize("end", [-1, -2])
def test_only_the_committed_bytes_come_back(store, end):
    """A repair puts what is damaged into the trash, too."""
    add(store, 0)
    path = store.path / store.snapshot.files[0].path
    kept = store.path / "trash" / "20260101T000000Z-aa" / store.snapshot.files[0].path
    kept.parent.mkdir(parents=True)
    data = path.read_bytes()
    kept.write_bytes(data[:end] + bytes([data[-1] ^ 1]))
    path.unlink()

    report = store.gc(dry_run=False)

    assert "give back" not in actions(report).values()
    assert not path.exists()


@pytest.mark.parametrize("is_faster", [True, False])
def test_who_gives_back_does_not_mind_another_who_does(store, monkeypatch, is_faster):
    """But it minds a file that is in neither place."""
    writer, _, additions = begin(store, 0)
    writer._committer.close()
    store.gc(dry_run=False, now=time.time() + 8 * DAY)
    commit_regardless(store, additions)
    plain = PosixFiles.move

    def move(self, source, target):
        if is_faster:
            plain(self, source, target)
        else:
            self.remove(source)
        plain(self, source, target)

    monkeypatch.setattr(PosixFiles, "move", move)

    if is_faster:
        store.gc(dry_run=False)
        assert BaseStore.open(store.path).verify().ok
    else:
        with pytest.raises(IntegrityError, match="missing"):
            store.gc(dry_run=False)


def test_what_vanishes_from_the_trash_while_it_is_looked_at_is_not_there(store, monkeypatch):
    writer, _, additions = begin(store, 0)
    writer._committer.close()
    store.gc(dry_run=False, now=time.time() + 8 * DAY)
    commit_regardless(store, additions)
    plain = PosixFiles.read_blocks

    def read_blocks(self, path, buffer):
        self.remove(path)
        return plain(self, path, buffer)

    monkeypatch.setattr(PosixFiles, "read_blocks", read_blocks)

    assert "give back" not in actions(store.gc()).values()


def test_what_a_lost_commit_may_have_named_is_left(store):
    """A repair puts a placeholder where a commit cannot be read any more."""
    writer, folder, _ = begin(store, 0)
    writer._committer.close()
    commit_regardless(
        store, {"operation": "lost", "segments": [], "tables": [], "keys": {}, "needs": []}
    )

    report = store.gc(dry_run=False, now=time.time() + 365 * DAY)

    assert actions(report)[f"segments/{folder}"] == "leave"
    assert "commit 1" in report.finds[0].why


def test_files_of_nobody_known_are_left_for_a_week(store):
    """As versions of tistore without leases wrote them."""
    writer, folder, _ = begin(store, 0)
    writer._committer.close()

    young = actions(store.gc(dry_run=False, now=time.time() + 6 * DAY))
    old = actions(store.gc(dry_run=False, now=time.time() + 8 * DAY))

    assert young[f"segments/{folder}"] == "leave"
    assert old[f"segments/{folder}"] == "move to trash"


def test_their_age_is_the_time_they_lie_here_not_what_a_copy_says(store):
    writer, folder, _ = begin(store, 0)
    writer._committer.close()
    for path in (store.path / "segments" / folder, *(store.path / "segments").rglob("*")):
        os.utime(path, (0, 0))

    report = store.gc(dry_run=False)

    assert actions(report)[f"segments/{folder}"] == "leave"


def test_what_was_replaced_stays_for_a_week_and_then_its_commits_are_given_up(store):
    add(store, 0, 1, 2)
    before = read_all(store)
    store.compact()
    compacted = store.snapshot.number

    early = store.gc(dry_run=False, now=time.time() + 6 * DAY)
    still = read_all(BaseStore.open(store.path, at=3))
    late = store.gc(dry_run=False, now=time.time() + 8 * DAY)

    assert early.is_clean
    assert all(find.until for find in early.finds)
    assert still == before
    assert (early.gives_up_before, late.gives_up_before) == (None, compacted)
    assert store.snapshot.commits[-1].body["operation"] == "expire"
    with pytest.raises(NotStoredError, match=f"oldest that can be opened is {compacted}"):
        BaseStore.open(store.path, at=3)
    for number in (compacted, compacted + 1):
        assert b"".join(read_all(BaseStore.open(store.path, at=number)))
    assert store.verify().ok
    assert len(list((store.path / "segments").rglob("*.parquet"))) < 10


def test_what_either_rule_keeps_is_kept(store):
    """Days and commits: a state goes when neither asks for it."""
    add(store, 0, 1)
    store.compact()
    number = store.snapshot.number

    by_commits = store.gc(keep_days=0, keep_commits=2)
    by_days = store.gc(keep_commits=1)
    by_neither = store.gc(keep_days=0, keep_commits=1)

    assert by_commits.gives_up_before is None
    assert by_days.gives_up_before is None
    assert by_neither.gives_up_before == number


def test_giving_up_goes_by_the_order_of_commits_and_no_further_than_needed(store):
    add(store, 0, 1)
    store.compact()
    compacted = store.snapshot.number
    add(store, 2, 3)

    report = store.gc(dry_run=False, keep_days=0)

    assert report.gives_up_before == compacted
    assert BaseStore.open(store.path, at=compacted).snapshot.number == compacted
    assert store.gc(dry_run=False, keep_days=0).gives_up_before is None
    assert store.snapshot.number == compacted + 3


def test_everything_goes_at_once_where_nothing_is_to_be_kept(store):
    add(store, 0, 1)
    store.compact()
    leave_unfinished(store, 2)
    scores = store.path / "scores" / "d"
    scores.mkdir(parents=True)
    gone = store.snapshot.commits[0].body["segments"][0]["uuid"]
    (scores / f"{gone}.parquet").write_bytes(b"cached")
    (scores / f"{store.snapshot.segments[0].uuid}.parquet").write_bytes(b"cached")

    store.gc(dry_run=False, keep_days=0, trash_days=0)

    assert not any((store.path / "trash").iterdir())
    assert [path.stem for path in scores.iterdir()] == [store.snapshot.segments[0].uuid]
    kept = {record.path for record in store.snapshot.files}
    there = {str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file()}
    assert {path for path in there if path.startswith("segments/")} == kept
    assert not [path for path in store.path.rglob("segments/**/") if not any(path.iterdir())]
    assert store.gc(keep_days=0, trash_days=0).finds == ()


def test_temporary_files_go_after_a_day(store):
    for path in (store.path / "commits" / ".tmp-a", store.path / ".tmp-b"):
        path.write_bytes(b"x")

    young = actions(store.gc(dry_run=False))
    old = actions(store.gc(dry_run=False, now=time.time() + 2 * DAY))

    assert set(young.values()) == {"leave"}
    assert old == {"commits/.tmp-a": "delete", ".tmp-b": "delete"}
    assert not list(store.path.rglob(".tmp-*"))


def test_what_no_writer_has_put_there_is_told_of_and_left(store, tmp_path):
    add(store, 0)
    segments = store.path / "segments"
    (segments / "notes.txt").write_text("mine")
    (segments / "backup").mkdir()
    (segments / "backup" / "tokens.parquet").write_text("mine")
    (segments / store.snapshot.segments[0].uuid / "link").symlink_to(tmp_path)
    for folder in ("leases", "trash"):
        (store.path / folder).mkdir(exist_ok=True)
        (store.path / folder / "README").write_text("mine")
    before = list_tree(segments)

    report = store.gc(dry_run=False, now=time.time() + 365 * DAY)

    assert all((store.path / folder / "README").exists() for folder in ("leases", "trash"))
    assert {find.kind for find in report.finds} == {"alien"}
    assert len(report.finds) == 3
    assert list_tree(segments) == before


def test_a_damaged_log_stops_it(store):
    add(store, 0, 1)
    leave_unfinished(store, 2)
    path = store.path / "commits" / f"{1:020d}.json"
    path.write_bytes(path.read_bytes()[:-5])
    before = list_tree(store.path)

    with pytest.raises(Exception, match="damaged"):
        BaseStore.open(store.path).gc(dry_run=False)

    assert list_tree(store.path) == before


def test_two_at_once_do_not_hinder_each_other(store, monkeypatch):
    """The second runs whole between the first's look and its move."""
    add(store, 0, 1)
    store.compact()
    leave_unfinished(store, 2)
    plain = collecting.set_aside

    def set_aside(files, paths):
        monkeypatch.setattr(collecting, "set_aside", plain)
        BaseStore.open(store.path).gc(dry_run=False, keep_days=0)
        return plain(files, paths)

    monkeypatch.setattr(collecting, "set_aside", set_aside)
    store.gc(dry_run=False, keep_days=0)

    assert store.verify().ok
    assert store.gc(keep_days=0).is_clean


class Killed(BaseException):
    """Stands for SIGKILL: nothing that follows a call is done."""


class StopsAt(System):
    """Lets so many calls through, and none after them; the disk need not keep up."""

    def __init__(self, n_calls: int) -> None:
        self.left = n_calls

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def create(self, path):
        self._count()
        return super().create(path)

    def write(self, descriptor, data):
        self._count()
        return super().write(descriptor, data)

    def sync(self, descriptor):
        self._count()

    def make_folder(self, path):
        self._count()
        super().make_folder(path)

    def sync_folder(self, path):
        self._count()

    def link(self, source, target):
        self._count()
        super().link(source, target)

    def rename(self, source, target):
        self._count()
        super().rename(source, target)

    def unlink(self, path):
        self._count()
        super().unlink(path)

    def remove_folder(self, path):
        self._count()
        super().remove_folder(path)


def test_it_may_be_killed_at_every_call_and_the_next_one_finishes(store, tmp_path):
    """Each time, what is committed reads as before, and nothing is left over in the end."""
    add(store, 0, 1)
    store.compact()
    leave_unfinished(store, 2)
    values = read_all(store)
    n_calls, is_killed = 0, True
    while is_killed:
        copy = shutil.copytree(store.path, tmp_path / str(n_calls))
        try:
            doomed = BaseStore.open(copy, system=StopsAt(n_calls))
            doomed.gc(dry_run=False, keep_days=0, trash_days=0)
            is_killed = False
        except Killed:
            pass
        survivor = BaseStore.open(copy, system=StopsAt(10_000))
        assert survivor.verify().ok
        assert read_all(survivor) == values
        survivor.gc(dry_run=False, keep_days=0, trash_days=0)
        assert {find.kind for find in survivor.gc(keep_days=0).finds} <= {"temporary"}
        # Killed before it had said who it is: nobody can tell for a week, nor needs to.
        assert all(path.read_bytes() == b"" for path in (copy / "leases").iterdir())
        n_calls += 1

    assert n_calls > 20


def test_it_is_refused_where_it_makes_no_sense(store, monkeypatch):
    add(store, 0)
    for arguments in ({"keep_days": -1}, {"trash_days": float("nan")}, {"keep_commits": 0}):
        with pytest.raises(ConfigError):
            store.gc(**arguments)
    with pytest.raises(StoreError, match="without `at`"):
        BaseStore.open(store.path, at=1).gc()
    monkeypatch.setattr(PosixFiles, "is_writable", lambda self: False)
    with pytest.raises(ReadOnlyError):
        store.gc(dry_run=False)
    assert store.gc().is_clean


def test_the_log_says_who_writes_now(store):
    """What `read_leases` tells is what protects: this process is one of them."""
    writer, _, _ = begin(store, 0)

    (lease,) = read_leases(store._files)

    assert (lease.writer, lease.pid, lease.state) == (
        writer._committer.writer, os.getpid(), "live",
    )  # fmt: skip
