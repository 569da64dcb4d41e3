"""A repaired store: sound, with everything that was whole, and nothing that was not."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pyarrow.compute as pc
import pytest

import tistore
from example_readings import HIDDEN, make_reading
from lens_store import write_lens_store
from tistore.errors import (
    IntegrityError,
    RewriteConflictError,
    StoreError,
    StoreNotFoundError,
    TooManyFilesError,
)
from tistore.exchange.stores.score_bundle import export_scores
from tistore.schemas.site import Site
from tistore.store import segment_writer
from tistore.store.base import BaseStore
from tistore.store.chunks import ShardLayout
from tistore.store.layout import HEADER, commit_path
from tistore.store.repairing import flipped_bit
from tistore.store.repairing import repair as repairing
from tistore.store.rewriting.rewrite import Rewritten
from tistore.store.shards import encode_metadata
from tistore.store.system import System

READERS = ("flattery", "instruct")


@pytest.fixture
def damaged(tmp_path):
    """Two segments of four readings each, several chunks high, and tables. As yet undamaged."""
    store = BaseStore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for seed in range(4):
            for offset, reader in enumerate(READERS):
                rng = np.random.default_rng([seed, offset])
                values = {"residual": rng.standard_normal((405, 2, HIDDEN))}
                ids = [*range(400 + seed), 3, 4, 5, 6, 7][:405]
                writer.add(
                    **make_reading(
                        seed,
                        reader=reader,
                        token_ids=ids,
                        tokens=[" so", ".", " I"] * 134 + [" a"],
                        activations=values,
                    )
                )
            if seed == 1:
                writer.commit()
    store.add_vector("tone/flattery", np.arange(1, HIDDEN + 1), layer=5)
    store.add_vector("tone/hedging", np.arange(2, HIDDEN + 2), layer=5)
    return store


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Trying every bit of every file takes time, and nobody pulls the plug here."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(flipped_bit, "_MOST_BYTES", 2048)


def spoil(path, at):
    """Damage more than a bit."""
    data = bytearray(path.read_bytes())
    data[at : at + 8] = b"\xa5" * 8
    path.write_bytes(data)


def read_all(store):
    found = {}
    for segment in store.snapshot.segments:
        for row in segment.table("responses").to_pylist():
            place, rows = (
                _place(segment, row),
                slice(row["row_start"], row["row_start"] + row["n_rows"]),
            )
            found[row["prompt_id"], row["reader"]] = [
                segment.table("tokens").slice(rows.start, row["n_rows"])["token_id"].to_pylist(),
                segment.table("clauses")
                .filter(pc.equal(segment.table("clauses")["reading"], place))["text"]
                .to_pylist(),
                *(segment.read(site, rows.start, rows.stop).tobytes() for site in _sites(segment)),
                *(segment.norms(site)[rows].tobytes() for site in _sites(segment)),
                *(segment.means(site)[place].tobytes() for site in _sites(segment)),
            ]
    return found


def _place(segment, row):
    return segment.table("responses")["reading_key"].to_pylist().index(row["reading_key"])


def _sites(segment):
    return [Site(name, layer) for name in segment.components for layer in segment.layers]


def flip(path, at, mask=0x10):
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def shard(store, place, array="residual"):
    (found,) = (
        store.path / file.path
        for file in store.snapshot.segments[place].files
        if f"/{array}.zarr/c/" in file.path
    )
    return found


def table(store, place, name):
    return store.path / f"segments/{store.snapshot.segments[place].uuid}/{name}.parquet"


def log_table(store, name, place=0):
    return store.path / store.snapshot.table_files(name)[place].record.path


def repaired(store):
    """Repair, and check what holds after every repair."""
    foretold = BaseStore.repair(store.path)
    report = BaseStore.repair(store.path, dry_run=False)
    assert (foretold.mends, foretold.groups) == (report.mends, report.groups)
    assert foretold.lost_readings == report.lost_readings
    after = BaseStore.open(store.path)
    assert after.verify().ok
    assert BaseStore.repair(store.path).is_sound
    assert after.info().readings == report.kept_readings
    with after.writer() as writer:
        writer.add(**make_reading(99))
    return after, report


def test_a_sound_store_is_left_alone(damaged):
    number = damaged.snapshot.number

    report = BaseStore.repair(damaged.path, dry_run=False)

    assert report.is_sound
    assert (report.lost_readings, report.kept_readings, report.commits) == (0, 8, 0)
    assert BaseStore.open(damaged.path).snapshot.number == number


def test_a_dry_run_changes_nothing(damaged, tmp_path):
    spoil(shard(damaged, 0), 100)
    flip(damaged.path / commit_path(1), 50)
    shutil.copytree(damaged.path, tmp_path / "before")

    assert not BaseStore.repair(damaged.path).is_sound

    for path in (tmp_path / "before").rglob("*"):
        if path.is_file():
            assert (damaged.path / path.relative_to(tmp_path / "before")).read_bytes() == (
                path.read_bytes()
            )


@pytest.mark.parametrize(
    "find",
    [
        lambda store: table(store, 0, "clauses"),
        lambda store: shard(store, 0).parents[3] / "zarr.json",
        lambda store: shard(store, 0, "residual_norm"),
        lambda store: shard(store, 0, "residual_mean"),
    ],
    ids=["clauses", "metadata", "norms", "means"],
)
@pytest.mark.parametrize("how", ["deleted", "garbage"])
def test_what_follows_from_the_rest_is_restored_to_the_byte(damaged, find, how):
    before, number = read_all(damaged), damaged.snapshot.number
    path = find(damaged)
    original = path.read_bytes()
    path.unlink() if how == "deleted" else path.write_bytes(b"\x00" * len(original))

    after, report = repaired(damaged)

    assert path.read_bytes() == original
    assert report.commits == 0
    assert {key: read_all(after)[key] for key in before} == before
    assert BaseStore.open(damaged.path, at=number)


@pytest.mark.parametrize("name", ["tokens", "residual"])
def test_one_flipped_bit_of_a_small_file_is_found(store, name, monkeypatch):
    monkeypatch.setattr(flipped_bit, "_MOST_BYTES", 8192)
    with store.writer() as writer:
        writer.add(**make_reading(0))
    path = shard(store, 0) if name == "residual" else table(store, 0, name)
    original = path.read_bytes()
    flip(path, len(original) // 4)

    repaired(store)

    assert path.read_bytes() == original


def test_the_index_of_a_shard_is_rebuilt(damaged):
    path = shard(damaged, 0)
    original = path.read_bytes()
    path.write_bytes(original[:-40])

    repaired(damaged)

    assert path.read_bytes() == original


def test_files_moved_to_the_trash_by_mistake_are_given_back(damaged):
    folder = damaged.path / f"segments/{damaged.snapshot.segments[0].uuid}"
    away = damaged.path / "trash" / "20260101T000000Z-00000000" / "segments" / folder.name
    away.parent.mkdir(parents=True)
    folder.rename(away)

    _, report = repaired(damaged)

    assert {mend.action for mend in report.mends} == {"given back from the trash"}
    assert report.lost_readings == 0


def test_readings_in_a_damaged_chunk_go_and_all_others_stay(damaged):
    """Chunks of 512 rows: the first holds readings 0 and 1."""
    before = read_all(damaged)
    order = list(before)
    spoil(shard(damaged, 0), 100)

    after, report = repaired(damaged)

    assert report.lost_readings == 2
    assert [(group.organism, group.readings) for group in report.groups] == [
        ("flattery", 1),
        ("flattery", 1),
    ]
    found = read_all(after)
    assert {key: found[key] for key in order[2:]} == {key: before[key] for key in order[2:]}
    assert not found.keys() & set(order[:2])
    batches = list((damaged.path / "trash").rglob("c/0/0/0"))
    assert len(batches) == 1  # the damaged one is there for who wants to look


def test_a_lost_reading_can_be_committed_again(damaged):
    keys = damaged.snapshot.keys
    spoil(shard(damaged, 0), 100)

    after, _ = repaired(damaged)

    gone = keys["readings"].keys() - after.snapshot.keys["readings"].keys()
    assert len(gone) == 2
    assert len(keys["slots"].keys() - after.snapshot.keys["slots"].keys()) == 1


@pytest.mark.parametrize("name", ["tokens", "responses"])
def test_a_segment_without_its_tables_goes_whole(damaged, name):
    before = read_all(damaged)
    table(damaged, 0, name).write_bytes(b"nothing of it")

    after, report = repaired(damaged)

    assert (report.lost_readings, report.kept_readings) == (4, 4)
    assert {key: read_all(after)[key] for key in list(before)[4:]} == {
        key: before[key] for key in list(before)[4:]
    }


def test_a_lost_table_file_costs_its_rows(damaged):
    path = log_table(damaged, "vectors")
    path.write_bytes(b"nothing of it")

    after, report = repaired(damaged)

    assert report.lost_readings == 0
    assert [mend.action for mend in report.mends] == ["lost, with its 1 rows of vectors"]
    assert [vector.trait for vector in after.snapshot.vectors()] == ["tone/hedging"]
    after.add_vector("tone/flattery", np.arange(3, HIDDEN + 3), layer=5)


def test_damage_that_only_earlier_commits_see_gives_them_up(damaged):
    number = damaged.snapshot.number
    old = shard(damaged, 0)
    damaged.compact()
    spoil(old, 100)

    after, report = repaired(damaged)

    assert report.lost_readings == 0
    assert after.snapshot.contents.oldest > number


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("part", ["body", "break", "trailer"])
def test_a_flipped_bit_in_the_log_is_found(damaged, number, part, monkeypatch):
    monkeypatch.setattr(flipped_bit, "_MOST_BYTES", 8192)
    path = damaged.path / commit_path(number)
    original = path.read_bytes()
    at = {"body": 40, "break": original.index(b"\n"), "trailer": len(original) - 20}[part]
    flip(path, at)

    _, report = repaired(damaged)

    assert path.read_bytes() == original
    assert report.lost_readings == 0


@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_a_lost_commit_leaves_a_placeholder_and_all_after_it_stays(damaged, how):
    before = read_all(damaged)
    path = damaged.path / commit_path(1)
    path.unlink() if how == "missing" else path.write_bytes(b"{}")

    after, report = repaired(damaged)

    assert after.snapshot.commits[0].body["operation"] == "lost"
    assert "placeholder" in report.mends[0].action
    found = read_all(after)
    assert {key: found[key] for key in list(before)[4:]} == {
        key: before[key] for key in list(before)[4:]
    }
    assert not found.keys() & set(list(before)[:4])


def test_several_commits_in_a_row_can_be_lost(damaged):
    for number in (1, 2):
        (damaged.path / commit_path(number)).unlink()

    after, _ = repaired(damaged)

    assert [commit.body["operation"] for commit in after.snapshot.commits[:3]] == [
        "lost", "lost", "append",
    ]  # fmt: skip
    assert len(after.snapshot.vectors()) == 2


def test_commits_that_were_swapped_are_put_back(damaged):
    one, two = (damaged.path / commit_path(number) for number in (1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)

    repaired(damaged)

    assert (one.read_bytes(), two.read_bytes()) == (first, second)


def test_a_last_commit_beyond_repair_goes_to_the_trash(damaged):
    number = damaged.snapshot.number
    damaged.verify()
    (damaged.path / commit_path(number)).write_bytes(b"{}")

    after, report = repaired(damaged)

    assert "trash" in report.mends[0].action
    assert [vector.trait for vector in after.snapshot.vectors()] == ["tone/flattery"]


def test_a_commit_cut_short_in_its_second_line_is_restored(damaged):
    path = damaged.path / commit_path(damaged.snapshot.number)
    original = path.read_bytes()
    path.write_bytes(original[:-30])

    repaired(damaged)

    assert path.read_bytes() == original


def test_a_lost_compaction_shows_no_reading_twice(damaged):
    before = read_all(damaged)
    damaged.compact()
    number = damaged.snapshot.number
    with damaged.writer() as writer:
        writer.add(**make_reading(50))
    for place in range(1, 4):
        damaged.add_vector(f"tone/v{place}", np.arange(place, place + HIDDEN), layer=5)
    (damaged.path / commit_path(number)).unlink()

    after, report = repaired(damaged)

    assert report.lost_readings == 0
    found = read_all(after)
    assert {key: found[key] for key in before} == before


def test_a_flipped_bit_in_the_header_is_found_and_a_lost_one_is_told(damaged):
    path = damaged.path / HEADER
    original = path.read_bytes()
    flip(path, 30)

    repaired(damaged)

    assert path.read_bytes() == original
    path.write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"tistore\.json .* nothing else says"):
        BaseStore.repair(damaged.path)


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it is done."""


class KilledSystem(System):
    """Does so many calls that change the disk, and then nothing any more."""

    def __init__(self, calls):
        self.left = calls

    def __getattribute__(self, name):
        if name in _CALLS:
            if self.left <= 0:
                raise Killed
            self.left -= 1
        return super().__getattribute__(name)


_CALLS = {"create", "write", "sync", "make_folder", "sync_folder", "link", "rename", "unlink",
          "remove_folder"}  # fmt: skip


def test_a_repair_that_is_killed_goes_on_when_it_is_run_again(damaged, tmp_path):
    """At every ninth call that changes the disk; each time another way to be half done."""
    before = read_all(damaged)
    flip(damaged.path / commit_path(2), -20)
    flip(damaged.path / HEADER, 30)
    path = shard(damaged, 1)
    path.write_bytes(path.read_bytes()[:-40])
    spoil(shard(damaged, 0), 100)
    spoil(log_table(damaged, "vectors"), 100)
    whole = KilledSystem(10_000)
    shutil.copytree(damaged.path, tmp_path / "whole")
    BaseStore.repair(tmp_path / "whole", dry_run=False, system=whole)

    for calls in range(1, 10_000 - whole.left, 9):
        killed = tmp_path / f"killed {calls}"
        shutil.copytree(damaged.path, killed)
        with pytest.raises(Killed):
            BaseStore.repair(killed, dry_run=False, system=KilledSystem(calls))

        BaseStore.repair(killed, dry_run=False)

        after = BaseStore.open(killed)
        assert after.verify().ok
        assert list(read_all(after).items()) == list(before.items())[2:]
        assert [vector.trait for vector in after.snapshot.vectors()] == ["tone/hedging"]
        shutil.rmtree(killed)


def test_where_there_is_no_store_there_is_nothing_to_repair(tmp_path):
    with pytest.raises(StoreNotFoundError):
        BaseStore.repair(tmp_path / "nowhere")


def test_a_damaged_unembedding_costs_its_head_and_no_other(tmp_path):
    store, _, _ = write_lens_store(tmp_path / "lens")
    (lost, kept) = store.snapshot.table_files("unembedding")
    (store.path / lost.record.path).write_bytes(b"nothing of it")

    after, report = repaired(store)

    assert report.lost_readings == 0
    assert list(after.snapshot.heads) == ["other"]
    assert after.snapshot.reader_heads == {"hedge": "other"}
    assert after.snapshot.unembedding("other").record == kept.record
    asking = tistore.open(store.path)
    assert asking.sql("SELECT count(rank) FROM lens WHERE reader = 'hedge'").fetchall()[0][0]


def test_clauses_of_a_reading_without_text_are_restored_too(store):
    with store.writer() as writer:
        writer.add(**make_reading(0, tokens=None))
        writer.add(**make_reading(1))
    path = table(store, 0, "clauses")
    original = path.read_bytes()
    path.unlink()

    repaired(store)

    assert path.read_bytes() == original


@pytest.mark.parametrize("array", ["residual_norm", "residual_mean"])
def test_norms_and_means_are_worked_out_again_for_what_is_left(damaged, array):
    """Also where nothing proves them, since activations beside them are damaged."""
    before = read_all(damaged)
    spoil(shard(damaged, 0), 100)
    spoil(shard(damaged, 0, array), 100)

    after, report = repaired(damaged)

    assert report.lost_readings == 2
    found = read_all(after)
    assert {key: found[key] for key in list(before)[2:]} == dict(list(before.items())[2:])


def write_another(path):
    other = BaseStore.create(path)
    for seed in range(4):
        with other.writer() as writer:
            writer.add(**make_reading(seed))
    return other


def test_a_commit_of_another_log_is_a_lost_one(damaged, tmp_path):
    other = write_another(tmp_path / "other")
    foreign = (other.path / commit_path(2)).read_bytes()
    (damaged.path / commit_path(2)).write_bytes(foreign)

    after, report = repaired(damaged)

    assert [mend.path for mend in report.mends] == [commit_path(2)]
    assert after.snapshot.commits[1].body["operation"] == "lost"


def test_a_log_put_together_of_two_is_not_mended(damaged, tmp_path):
    other = write_another(tmp_path / "other")
    for number in (3, 4):
        foreign = (other.path / commit_path(number)).read_bytes()
        (damaged.path / commit_path(number)).write_bytes(foreign)

    with pytest.raises(IntegrityError, match="put together of two"):
        BaseStore.repair(damaged.path)


def test_a_rewrite_that_another_process_overtakes_is_told(damaged, monkeypatch):
    spoil(shard(damaged, 0), 100)
    monkeypatch.setattr(
        repairing,
        "rewrite",
        lambda files, committer, snapshot, plan: Rewritten(snapshot, False, ()),
    )

    with pytest.raises(RewriteConflictError):
        BaseStore.repair(damaged.path, dry_run=False)


def test_scores_and_norms_of_a_bundle_are_lost_with_what_holds_them(damaged, tmp_path):
    asking = tistore.open(damaged.path)
    export_scores(asking, tmp_path / "bundle", ["flattery", "hedging"])
    bundle = BaseStore.open(tmp_path / "bundle")
    readings = bundle.info().readings
    first = bundle.snapshot.segments[0]
    scores = next(file.path for file in first.files if "/scores/" in file.path)
    (bundle.path / scores).write_bytes(b"nothing of it")

    after, report = repaired(bundle)

    assert report.lost_readings == 0
    assert len(after.snapshot.segments[0].scored) == len(first.scored) - 1

    bundle = BaseStore.open(tmp_path / "bundle")
    spoil(shard(bundle, 0, "residual_mean"), 10)
    spoil(shard(bundle, 0, "residual_norm"), 10)
    _, report = repaired(bundle)
    assert report.lost_readings == len(list(first.column("responses", "row_start")))
    assert report.kept_readings < readings + 1


def test_a_header_with_more_than_a_flipped_bit_is_not_guessed(damaged):
    path = damaged.path / HEADER
    flip(path, 30)
    flip(path, 40)

    with pytest.raises(IntegrityError, match="restore tistore.json from a copy"):
        BaseStore.repair(damaged.path, dry_run=False)


def test_readers_of_a_lost_head_are_told_apart_file_by_file(tmp_path):
    """A file of readers that is lost itself goes; one whose head is there stays as it is."""
    store, _, heads = write_lens_store(tmp_path / "lens")
    (_, kept) = store.snapshot.table_files("unembedding")
    store.add_rows("reader_heads", [{"reader": "third", "head_hash": heads["hedge"][0].head_hash}])
    store.add_rows("reader_heads", [{"reader": "lost", "head_hash": heads["hedge"][0].head_hash}])
    (lost, _) = store.snapshot.table_files("unembedding")
    (store.path / lost.record.path).write_bytes(b"nothing of it")
    log_table(store, "reader_heads", 2).write_bytes(b"nothing of it")
    untouched = log_table(store, "reader_heads", 1)

    after, _ = repaired(store)

    assert after.snapshot.reader_heads == {"hedge": "other", "third": "other"}
    assert after.snapshot.unembedding("other").record == kept.record
    assert untouched in [
        after.path / file.record.path for file in after.snapshot.table_files("reader_heads")
    ]


def test_a_commit_that_another_process_puts_in_a_lost_ones_place_is_not_overwritten(
    damaged, monkeypatch
):
    path = damaged.path / commit_path(2)
    path.write_bytes(b"{}")
    real = repairing.set_aside

    def set_aside(files, paths):
        real(files, paths)
        path.write_bytes(b"from elsewhere")

    monkeypatch.setattr(repairing, "set_aside", set_aside)

    with pytest.raises(StoreError, match="was written by another process meanwhile"):
        BaseStore.repair(damaged.path, dry_run=False)

    assert path.read_bytes() == b"from elsewhere"


@pytest.fixture
def older(tmp_path, monkeypatch):
    """Two segments of a reading each, whose arrays do not list the checksums of their chunks."""
    monkeypatch.setattr(
        segment_writer, "encode_metadata", lambda source, checksums: encode_metadata(source, ())
    )
    store = BaseStore.create(tmp_path / "s.tistore")
    for seed in range(2):
        with store.writer() as writer:
            writer.add(**make_reading(seed))
    monkeypatch.undo()
    return store


def test_metadata_of_arrays_written_before_chunks_were_listed_is_restored(older):
    path = shard(older, 0).parents[3] / "zarr.json"
    original = path.read_bytes()
    path.write_bytes(b"{}")

    repaired(older)

    assert path.read_bytes() == original


def test_an_array_in_anothers_place_is_not_believed_for_lack_of_a_list_of_its_chunks(older):
    """Every chunk of it is sound; but the file is not the one that was committed."""
    one, other = shard(older, 0), shard(older, 1)
    there = other.read_bytes()
    assert len(there) == one.stat().st_size
    one.write_bytes(there)

    after, report = repaired(older)

    assert report.lost_readings == 1
    assert ("0", "flattery") not in read_all(after)


def test_what_only_zarr_can_read_is_kept_too(damaged, tmp_path, monkeypatch):
    """Norms and means of a bundle that is written anew without a direction's scores."""
    export_scores(tistore.open(damaged.path), tmp_path / "bundle", ["flattery", "hedging"])
    bundle = BaseStore.open(tmp_path / "bundle")
    before = read_bundle(bundle)
    scores = next(file.path for file in bundle.snapshot.files if "/scores/" in file.path)
    (bundle.path / scores).write_bytes(b"nothing of it")
    monkeypatch.setattr(ShardLayout, "read", lambda metadata: None)

    after, report = repaired(bundle)

    assert report.lost_readings == 0
    assert read_bundle(after)[: len(before)] == before


def read_bundle(store):
    return [
        (segment.norms(site).tobytes(), segment.means(site).tobytes())
        for segment in store.snapshot.segments
        for site in _sites(segment)
    ]


def test_a_dry_run_works_norms_out_from_activations_that_it_has_only_restored_in_mind(damaged):
    """Their index is gone; it is rebuilt first, and so the norms can be, before anything is."""
    before = read_all(damaged)
    path = shard(damaged, 1)
    path.write_bytes(path.read_bytes()[:-40])
    spoil(shard(damaged, 1, "residual_norm"), 10)

    after, report = repaired(damaged)

    assert report.lost_readings == report.commits == 0
    found = read_all(after)
    assert {key: found[key] for key in before} == before


def test_a_shard_of_which_hardly_anything_is_left_costs_its_readings(damaged):
    path = shard(damaged, 0)
    path.write_bytes(path.read_bytes()[:10])

    _, report = repaired(damaged)

    assert (report.lost_readings, report.kept_readings) == (4, 4)


def test_nothing_says_what_the_header_of_an_empty_store_held(store):
    (store.path / HEADER).write_bytes(b"{}")

    with pytest.raises(IntegrityError, match="restore tistore.json from a copy"):
        BaseStore.repair(store.path, dry_run=False)


@pytest.mark.parametrize(
    ("name", "times"),
    [("header", 3), ("commit", 3), ("shard", 40), ("metadata", 6), ("table", 3)],
)
def test_what_cannot_be_opened_for_want_of_descriptors_is_not_taken_for_damaged(
    damaged, monkeypatch, name, times
):
    """Whichever time it happens."""
    path = {
        "header": damaged.path / HEADER,
        "commit": damaged.path / commit_path(1),
        "shard": shard(damaged, 0),
        "metadata": shard(damaged, 0).parents[3] / "zarr.json",
        "table": table(damaged, 0, "tokens"),
    }[name]
    flip(damaged.path / HEADER, 30)
    spoil(shard(damaged, 0), 100)
    real = os.open
    refused = 0
    for after in range(times):
        left = [True] * after

        def open_file(opened, *arguments, left=left, **options):
            if str(opened) == str(path) and not (left and left.pop()):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), opened)
            return real(opened, *arguments, **options)

        with monkeypatch.context() as short:
            short.setattr("tistore.store.posix.os.open", open_file)
            try:
                BaseStore.repair(damaged.path)
            except TooManyFilesError:
                refused += 1

    assert refused
