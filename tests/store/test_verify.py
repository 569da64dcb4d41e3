"""What `verify` names, what it survives, and that an interrupted pass is not for nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

import tistore.store.verifying.damage as damage
import tistore.store.verifying.file_check as file_check
import tistore.store.verifying.verified as verified
from command_line import run
from example_readings import make_reading
from tistore.errors import (
    FormatVersionError,
    IntegrityError,
    InterruptedRunError,
    NotAStoreError,
    StoreNotFoundError,
    TooManyFilesError,
)
from tistore.store.base import BaseStore
from tistore.store.posix import PosixFiles
from tistore.store.verifying.verify import verify_store


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What is remembered of passes lies in a folder of the test's own."""
    monkeypatch.setenv("TISTORE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def logged(store: BaseStore) -> BaseStore:
    """A store of five commits with one reading each."""
    with store.writer() as writer:
        for seed in range(5):
            writer.add(**make_reading(seed))
            writer.commit()
    return store


def verify(path: Path, **options):
    """Verify as the command does: without opening the store."""
    return verify_store(path, PosixFiles(path), **options)


def named(report) -> list[str]:
    return [problem.path for problem in report.problems]


def commit_file(store: BaseStore, number: int) -> Path:
    return store.path / "commits" / f"{number:020d}.json"


def flip(path: Path, place: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("jobs", [1, 4])
def test_every_damaged_file_is_named_however_many_are_read_at_once(filled, jobs):
    paths = [record.path for record in filled.snapshot.files]
    for path in paths[::2]:
        flip(filled.path / path, place=-1)

    report = filled.verify(strict=False, jobs=jobs)

    assert sorted(named(report)) == sorted(paths[::2])


def test_damage_tells_which_readings_it_costs(filled):
    segment = filled.snapshot.segments[0].uuid
    shard = f"segments/{segment}/residual.zarr/c/0/0/0"
    (models,) = filled.snapshot.table_files("models")
    assert models.record.path.startswith(f"segments/{segment}/")
    flip(filled.path / shard)
    flip(filled.path / models.record.path)

    problems = {problem.path: problem for problem in filled.verify(strict=False).problems}

    assert problems[shard].readings == 6
    assert problems[shard].organisms == ("flattery",)
    assert problems[models.record.path].readings == 0
    with pytest.raises(IntegrityError, match=r"residual.zarr/c/0/0/0.*\(6 readings of flattery\)"):
        filled.verify()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_checked(
    filled, monkeypatch, number
):
    wanted = filled.snapshot.files[3]
    shard = next(file.path for file in filled.snapshot.files if file.path.endswith("c/0/0"))
    flip(filled.path / shard)
    bad = (filled.path / wanted.path).stat().st_ino
    read = os.readv

    def fail(descriptor, buffers):
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(number, os.strerror(number))
        return read(descriptor, buffers)

    monkeypatch.setattr("tistore.store.posix.os.readv", fail)

    report = filled.verify(strict=False)

    assert sorted(named(report)) == sorted([wanted.path, shard])
    assert any("cannot be read" in problem.problem for problem in report.problems)


def test_a_limit_of_the_process_is_no_damage(filled, monkeypatch):
    """Files that could not even be opened are not called damaged."""

    def fail(descriptor, buffers):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("tistore.store.posix.os.readv", fail)

    with pytest.raises(TooManyFilesError):
        filled.verify()


def test_whose_readings_they_were_is_left_out_where_it_cannot_be_read(filled, monkeypatch):
    def fail(files, record):
        raise IntegrityError("gone bad since")

    tokens = f"segments/{filled.snapshot.segments[0].uuid}/tokens.parquet"
    flip(filled.path / tokens)
    monkeypatch.setattr(damage, "read_checked", fail)

    problems = {problem.path: problem for problem in filled.verify(strict=False).problems}

    assert problems[tokens].readings == 6
    assert problems[tokens].organisms == ()
    assert str(problems[tokens]).endswith("(6 readings)")


def test_a_link_in_the_place_of_a_file_or_folder_is_a_problem(filled, tmp_path):
    """Even where it leads to the committed bytes: they may change, and belong to somebody else."""
    record = filled.snapshot.files[0]
    target = filled.path / record.path
    shutil.move(target, tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    array = filled.path / "segments" / filled.snapshot.segments[0].uuid / "residual_norm.zarr"
    shutil.move(array, tmp_path / "array")
    array.symlink_to(tmp_path / "array")

    report = filled.verify(strict=False)

    below = [file.path for file in filled.snapshot.files if "residual_norm" in file.path]
    assert sorted(named(report)) == sorted([record.path, *below])
    assert all("link" in problem.problem for problem in report.problems)


def test_a_handle_that_is_behind_checks_what_is_there_now(filled):
    behind = BaseStore.open(filled.path)
    filled.add_rows("annotations", [])
    with filled.writer() as writer:
        writer.add(**make_reading(7))
    newest = filled.snapshot.segments[-1].uuid
    flip(filled.path / "segments" / newest / "tokens.parquet")

    assert named(behind.verify(strict=False)) == [f"segments/{newest}/tokens.parquet"]


def test_a_store_open_at_a_commit_checks_what_that_commit_needs(logged):
    newest = logged.snapshot.segments[-1].uuid
    flip(logged.path / "segments" / newest / "tokens.parquet")

    report = BaseStore.open(logged.path, at=4).verify()

    assert report.ok
    assert report.commits == 5
    assert report.uncommitted_segments == ()


def test_a_damaged_log_is_named_and_what_it_still_says_is_checked(logged):
    """Opening refuses it; verifying goes on after it."""
    segment = logged.snapshot.segments[3].uuid
    flip(commit_file(logged, 2))
    flip(logged.path / "segments" / segment / "tokens.parquet")
    with pytest.raises(IntegrityError):
        BaseStore.open(logged.path)

    report = verify(logged.path)

    assert named(report) == [
        "commits/00000000000000000002.json",
        f"segments/{segment}/tokens.parquet",
    ]
    assert report.commits == 4
    with pytest.raises(IntegrityError, match="(?s)0002.json.*tistore repair.*4 commits are sound"):
        report.raise_if_damaged()


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize(
    "damage", ["flip", "cut one byte", "cut", "add", "empty", "swap", "folder"]
)
def test_every_damage_to_a_commit_is_named(logged, number, damage):
    path = commit_file(logged, number)
    data = path.read_bytes()
    if damage == "flip":
        flip(path, len(data) // 2)
    elif damage == "swap":
        path.write_bytes(commit_file(logged, 2).read_bytes())
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        changed = {"cut one byte": data[:-1], "cut": data[:80], "add": data + b"\n", "empty": b""}
        path.write_bytes(changed[damage])

    assert named(verify(logged.path)) == [f"commits/{path.name}"]


def test_every_altered_byte_of_the_header_is_named(logged):
    header = logged.path / "tistore.json"
    sound = header.read_bytes()
    for place in range(0, len(sound), 3):
        flip(header, place)

        assert named(verify(logged.path)) == ["tistore.json"]
        header.write_bytes(sound)
    header.unlink()
    assert named(verify(logged.path)) == ["tistore.json"]
    header.write_bytes(sound)
    assert verify(logged.path).ok


def test_a_log_of_which_the_middle_is_missing_is_named(logged):
    commit_file(logged, 3).unlink()

    assert named(verify(logged.path)) == ["commits/00000000000000000003.json"]


def test_a_commit_of_another_log_is_named(logged, tmp_path):
    """It is whole by itself, but follows nothing here."""
    other = BaseStore.create(tmp_path / "other.tistore")
    with other.writer() as writer:
        for seed in range(2):
            writer.add(**make_reading(seed + 50))
            writer.commit()
    shutil.copy(commit_file(other, 2), commit_file(logged, 2))

    assert "commits/00000000000000000002.json" in named(verify(logged.path))


def test_a_log_that_has_lost_its_end_is_found_by_who_has_seen_it(logged):
    """A chain of hashes says nothing about its own end."""
    last = logged.snapshot.segments[-1].uuid
    commit_file(logged, 5).unlink()

    unseen = verify(logged.path)
    seen = logged.verify(strict=False)

    assert unseen.ok
    assert unseen.uncommitted_segments == (last,)
    assert named(seen) == ["commits/00000000000000000005.json"]


def test_a_log_that_has_lost_its_end_since_it_was_verified_is_found(logged):
    verify(logged.path)
    gone = commit_file(logged, 5).rename(logged.path.parent / "kept")

    assert named(verify(logged.path)) == ["commits/00000000000000000005.json"]
    assert named(verify(logged.path)) == ["commits/00000000000000000005.json"]
    gone.rename(commit_file(logged, 5))
    assert verify(logged.path).ok


def test_another_store_in_the_same_place_is_not_held_against_the_first(logged):
    verify(logged.path)
    shutil.rmtree(logged.path)

    assert BaseStore.create(logged.path).verify().ok


def test_half_a_header_is_named_though_nothing_follows_it(store):
    header = store.path / "tistore.json"
    header.write_bytes(header.read_bytes()[:40])

    assert named(verify(store.path)) == ["tistore.json"]


def test_a_store_from_the_future_is_no_damage(store):
    header = store.path / "tistore.json"
    header.write_text(header.read_text().replace('"format_version": 1', '"format_version": 3'))

    with pytest.raises(FormatVersionError):
        verify(store.path)


def test_what_is_no_store_is_not_verified(tmp_path):
    with pytest.raises(StoreNotFoundError):
        verify(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotAStoreError):
        verify(tmp_path / "folder")


def interrupt_after(monkeypatch, n_files: int, error: type[BaseException] = KeyboardInterrupt):
    """Give a progress that ends the pass while it is told of the next file."""
    monkeypatch.setattr(file_check, "_TOLD_EVERY_SECONDS", 0.0)
    heard = []

    def progress(told):
        heard.append(told)
        if len(heard) > n_files:
            raise error

    return progress


def count_reads(monkeypatch) -> list[str]:
    read: list[str] = []
    hash_file = file_check.hash_file

    def noted(files, path, *rest):
        read.append(path)
        return hash_file(files, path, *rest)

    monkeypatch.setattr(file_check, "hash_file", noted)
    return read


def test_an_interrupted_pass_goes_on_where_it_was(filled, own_cache, monkeypatch):
    with pytest.raises(InterruptedRunError, match="(?s)interrupted after.*--resume") as failure:
        filled.verify(jobs=1, progress=interrupt_after(monkeypatch, 5))
    assert failure.value.exit_code == 130
    read = count_reads(monkeypatch)

    report = filled.verify(jobs=1, resume=True)

    assert report.ok
    assert report.skipped == 5
    assert report.files == len(filled.snapshot.files) == len(read) + 5
    assert [path.suffix for path in (own_cache / "verified").iterdir()] == [".json"]
    assert filled.verify(resume=True).skipped == 0


def test_a_pass_begun_anew_forgets_the_one_before(filled, monkeypatch):
    with pytest.raises(InterruptedRunError):
        filled.verify(jobs=1, progress=interrupt_after(monkeypatch, 5))
    with pytest.raises(InterruptedRunError):
        filled.verify(jobs=1, progress=interrupt_after(monkeypatch, 0))

    assert filled.verify(resume=True).skipped == 0


def test_a_pass_that_ends_without_a_word_has_kept_what_it_found(filled, monkeypatch):
    """As by SIGKILL: nothing is written down at the end."""
    monkeypatch.setattr(verified, "_KEPT_EVERY_BYTES", 1)
    with pytest.raises(ZeroDivisionError):
        filled.verify(jobs=1, progress=interrupt_after(monkeypatch, 4, ZeroDivisionError))
    (unfinished,) = (verified.verification_file(filled.path).parent).glob("*.unfinished")
    with unfinished.open("a") as file:
        file.write('["segments/half a li')

    assert filled.verify(resume=True).skipped == 4


def test_what_changed_since_the_interrupted_pass_is_read_again(filled, monkeypatch):
    """Though its length and its time are as they were."""
    with pytest.raises(InterruptedRunError):
        filled.verify(jobs=1, progress=interrupt_after(monkeypatch, 5))
    largest = max(filled.snapshot.files, key=lambda file: file.size_bytes)
    target = filled.path / largest.path
    before = target.stat()
    flip(target)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))

    report = filled.verify(strict=False, resume=True)

    assert named(report) == [largest.path]
    assert report.skipped == 4


def test_damage_found_before_an_interruption_is_named_after_it(filled, monkeypatch):
    largest = max(filled.snapshot.files, key=lambda file: file.size_bytes)
    flip(filled.path / largest.path)
    with pytest.raises(InterruptedRunError):
        filled.verify(strict=False, jobs=1, progress=interrupt_after(monkeypatch, 5))

    assert named(filled.verify(strict=False, resume=True)) == [largest.path]


def test_a_cache_that_cannot_be_written_costs_only_the_resuming(filled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TISTORE_CACHE_DIR", str(tmp_path / "file"))

    assert filled.verify().ok
    with pytest.raises(InterruptedRunError, match="next pass starts anew"):
        filled.verify(jobs=1, progress=interrupt_after(monkeypatch, 5))
    assert filled.verify(resume=True).skipped == 0


def test_a_damaged_cache_is_no_cache(filled, own_cache):
    filled.verify()
    (kept,) = (own_cache / "verified").iterdir()
    kept.write_bytes(b"{")

    assert verified.read_finished_pass(filled.path) is None
    assert filled.verify().ok


def test_progress_is_told_up_to_the_end(filled, monkeypatch):
    monkeypatch.setattr(file_check, "_TOLD_EVERY_SECONDS", 0.0)
    told = []

    report = filled.verify(progress=told.append)

    assert told[-1].done_bytes == told[-1].total_bytes == report.size_bytes
    assert "verifying: 100%" in str(told[-1])
    assert [one.done_bytes for one in told] == sorted(one.done_bytes for one in told)


def test_the_command_names_what_is_damaged_also_where_the_log_is(logged):
    flip(commit_file(logged, 2))

    done = run("verify", logged.path, "--json")

    assert isinstance(done.exception, IntegrityError)
    assert done.exception.exit_code == 4
    assert '"path": "commits/00000000000000000002.json"' in done.stdout


def test_the_command_prints_stable_keys(filled):
    done = run("verify", filled.path, "--json", "--jobs", "1", "--resume")

    assert done.exit_code == 0
    for key in ("ok", "commits", "files", "size_bytes", "problems", "uncommitted_segments"):
        assert f'"{key}"' in done.stdout
