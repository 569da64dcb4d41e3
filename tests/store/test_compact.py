"""Compacting: fewer files, the same rows in the same order, and nothing lost on the way."""

from __future__ import annotations

import numpy as np
import pytest

from before_the_commit import before_the_commit
from example_readings import HIDDEN, make_reading
from tistore.errors import IntegrityError, NoRoomError, RewriteConflictError
from tistore.schemas.vector import Vector
from tistore.store.base import BaseStore
from tistore.store.layout import segment_folder
from tistore.store.score_files import ScoreFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nobody pulls the plug here."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def add(store, *seeds, **changes):
    with store.writer() as writer:
        for seed in seeds:
            writer.add(**make_reading(seed, **changes))


def read_all(store):
    """Every row of every segment, in order, with its activations, norms and means."""
    rows = []
    for segment in store.snapshot.segments:
        for row in segment.table("responses").to_pylist():
            start, stop = row["row_start"], row["row_start"] + row["n_rows"]
            place = len(rows)
            tokens = segment.table("tokens").slice(start, row["n_rows"]).drop_columns(["reading"])
            values = [
                segment.read(site, start, stop).tobytes()
                + segment.norms(site)[start:stop].tobytes()
                for site in _sites(segment)
            ]
            rows.append([place, row | {"row_start": None}, tokens.to_pylist(), values])
    return rows


def _sites(segment):
    from tistore.schemas.site import Site

    return [Site(name, layer) for name in segment.components for layer in segment.layers]


def tables(store):
    names = ("models", "prompts", "vectors", "annotations", "runs")
    return {name: store.snapshot.table(name).to_pylist() for name in names}


def note(store, label):
    store.add_rows(
        "annotations",
        [{"response_id": "r", "token_start": 0, "token_end": 1, "label": label}],
    )


@pytest.fixture
def scattered(store):
    """Four segments of one shape, and many small files of tables."""
    for seed in range(4):
        add(store, seed)
        note(store, f"label {seed}")
    store.add_vector("tone/flattery", np.arange(1, HIDDEN + 1), layer=5)
    store.add_vector("tone/hedging", np.arange(2, HIDDEN + 2), layer=5)
    return store


def test_small_segments_and_table_files_become_one(scattered):
    before, rows, there = scattered.snapshot, read_all(scattered), tables(scattered)

    report = scattered.compact()

    assert (report.segments_before, report.segments_after) == (4, 1)
    assert report.files_after < report.files_before
    assert report.files_after == len(scattered.snapshot.files) + scattered.snapshot.number + 1
    assert report.commits == scattered.snapshot.number - before.number == 2
    assert read_all(scattered) == rows
    assert tables(scattered) == there
    assert {len(files) for files in scattered.snapshot.contents.tables.values()} == {1}
    assert BaseStore.open(scattered.path).verify().ok


def test_what_is_compact_is_left_alone(scattered):
    scattered.compact()
    number = scattered.snapshot.number

    assert scattered.compact().commits == 0
    assert scattered.snapshot.number == number


def test_a_dry_run_tells_what_would_be_and_changes_nothing(scattered):
    number = scattered.snapshot.number

    foretold = scattered.compact(dry_run=True)

    assert scattered.snapshot.number == number
    assert scattered.compact() == foretold


def test_only_neighbours_of_one_shape_are_merged(store):
    """Width, layers and exponents are a segment's; the order of rows is the store's."""
    add(store, 1)
    add(store, 2)
    large = 1e6 * make_reading(3)["activations"]["residual"]
    add(store, 3, activations={"residual": large})
    add(store, 4)
    add(store, 5, layers=(2,), activations={"residual": np.ones((5, 1, HIDDEN))})
    add(store, 6)
    add(store, 7)
    rows = read_all(store)

    report = store.compact()

    assert (report.segments_before, report.segments_after) == (7, 5)
    assert read_all(store) == rows


def test_a_merged_segment_is_no_larger_than_asked_for(scattered):
    entry = next(iter(scattered.snapshot.contents.segments.values()))
    size = sum(
        file["bytes"] for array in entry["arrays"].values() for file in array["files"]
    ) + sum(table["bytes"] for table in entry["tables"].values())

    assert scattered.compact(size - 1, dry_run=True).segments_after == 4
    assert scattered.compact(int(2.5 * size), dry_run=True).segments_after == 2


def test_removed_vectors_stay_removed_and_new_ones_of_their_name_stay(scattered):
    def vector(seed):
        return Vector("tone/warm", np.random.default_rng(seed).standard_normal(HIDDEN), 5)

    first, second = vector(1), vector(2)
    scattered.add_rows("vectors", [first.to_row()])
    with scattered.writer() as writer:
        writer.remove_vectors([first])
        writer.add_rows("vectors", [])
    scattered.add_rows("vectors", [second.to_row()])
    before = [one.content_hash for one in scattered.snapshot.vectors()]

    scattered.compact()

    assert [one.content_hash for one in scattered.snapshot.vectors()] == before
    with scattered.writer() as writer:
        writer.remove_vectors([second])
    scattered.add_rows("vectors", [first.to_row()])
    assert first.content_hash in [one.content_hash for one in scattered.snapshot.vectors()]


def test_readings_appended_meanwhile_come_after(scattered):
    other = BaseStore.open(scattered.path)
    rows = len(read_all(scattered))

    with before_the_commit(scattered, lambda: add(other, 9), times=2):
        report = scattered.compact()

    assert report.segments_after == 1
    found = read_all(scattered)
    assert len(found) == rows + 1
    assert found[-1][1]["prompt_id"] == "9"
    assert scattered.verify().ok


def test_a_reading_removed_meanwhile_does_not_come_back(scattered):
    other = BaseStore.open(scattered.path)
    going = read_all(scattered)[1][1]["reading_key"]

    with before_the_commit(scattered, lambda: other.remove_readings([going])):
        scattered.compact()

    assert going not in [row["reading_key"] for _, row, *_ in read_all(scattered)]
    assert len(scattered.snapshot.segments) == 1
    assert scattered.verify().ok


def test_it_gives_up_when_others_go_on_removing(scattered):
    for seed in range(10, 30):
        scattered.add_vector(f"tone/v{seed}", np.arange(seed, seed + HIDDEN), layer=5)
    other = BaseStore.open(scattered.path)

    def remove_one():
        other.refresh()
        with other.writer() as writer:
            writer.remove_vectors([other.snapshot.vectors()[-1]])

    number = scattered.snapshot.number
    with (
        before_the_commit(scattered, remove_one, times=9),
        pytest.raises(RewriteConflictError),
    ):
        scattered.compact()

    assert {commit.body["operation"] for commit in scattered.snapshot.commits[number:]} == {
        "append"
    }
    assert not scattered.verify().uncommitted_segments


def test_what_is_merged_when_it_is_interrupted_stays_merged(scattered):
    rows = read_all(scattered)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scattered.compact(progress=interrupt)

    assert scattered.snapshot.commits[-1].body["operation"] == "compact"
    scattered.compact()
    assert read_all(scattered) == rows
    assert len(scattered.snapshot.segments) == 1


def test_too_little_room_is_told_before_anything_is_written(scattered, monkeypatch):
    monkeypatch.setattr(scattered._files, "free_bytes", lambda: 1000)
    number = scattered.snapshot.number

    with pytest.raises(NoRoomError, match="needs 67 MB, but only 0 MB"):
        scattered.compact()

    assert scattered.snapshot.number == number
    assert not scattered.verify().uncommitted_segments


def test_a_damaged_segment_is_not_merged(scattered):
    folder = scattered.path / segment_folder(scattered.snapshot.segments[2].uuid)
    (shard,) = folder.glob("residual.zarr/c/*/*/*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)

    with pytest.raises(IntegrityError):
        scattered.compact()

    assert len(BaseStore.open(scattered.path).snapshot.segments) == 4
    assert not scattered.verify(strict=False).uncommitted_segments


def test_scores_that_are_cached_are_taken_over(scattered):
    """Unless one of the segments has none, or what it has is damaged."""
    scores = ScoreFolder(scattered.score_folder)
    before = scattered.snapshot.segments
    whole, half, damaged = "a" * 32, "b" * 32, "c" * 32
    values = [np.arange(one.n_rows, dtype=np.float32) + place for place, one in enumerate(before)]
    for direction in (whole, half, damaged):
        for segment, own in zip(before, values, strict=True):
            scores.write(direction, segment.uuid, own)
    scores.file(half, before[1].uuid).unlink()
    scores.file(damaged, before[1].uuid).write_bytes(b"nothing of it")

    scattered.compact()

    (segment,) = scattered.snapshot.segments
    found = scores.read(whole, segment.uuid, segment.n_rows)
    np.testing.assert_array_equal(found, np.concatenate(values))
    assert not scores.has(half, segment.uuid)
    assert not scores.has(damaged, segment.uuid)
