"""Heads are kept whole or not at all, piece by piece, and damage is found."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tistore
from lens_store import VOCABULARY, add_head, cut, make_head
from tistore.errors import IntegrityError, InvalidRecordError, NoRoomError, NotStoredError
from tistore.schemas.head import Head, VocabularyBlock
from tistore.store.posix import PosixFiles

RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal((VOCABULARY, 8)).astype(np.float32)
HEAD = make_head("h", RNG)


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s")


def read_values(store, head_hash: str = "h") -> np.ndarray:
    return np.concatenate([b.values for b in store.snapshot.unembedding(head_hash).blocks()])


def test_a_head_is_read_back_bit_by_bit_by_this_and_by_any_reader(store):
    bias = RNG.standard_normal(VOCABULARY).astype(np.float32)
    add_head(store, replace(HEAD, has_bias=True), VALUES, bias)

    (path,) = store.path.rglob("unembedding.parquet")
    plain = pq.read_table(path)
    np.testing.assert_array_equal(read_values(store), VALUES)
    np.testing.assert_array_equal(np.stack(plain["values"].to_numpy()), VALUES)
    np.testing.assert_array_equal(plain["bias"].to_numpy(), bias)
    assert plain["token_id"].to_pylist() == list(range(VOCABULARY))
    assert plain["token"].to_pylist() == store.snapshot.unembedding("h").tokens
    stored = store.snapshot.heads["h"]
    np.testing.assert_array_equal(stored.norm_weight, HEAD.norm_weight)
    assert replace(stored, norm_weight=HEAD.norm_weight) != HEAD  # arrays: by identity
    assert store.verify().ok


def test_only_row_groups_that_hold_wanted_tokens_are_read(store):
    add_head(store, HEAD, VALUES, rows=100)

    blocks = list(store.snapshot.unembedding("h").blocks(np.array([5, 310, 399, 949])))

    assert [block.first for block in blocks] == [0, 300, 900]
    np.testing.assert_array_equal(blocks[1].values, VALUES[300:400])


def test_what_waits_is_committed_before_a_head(store):
    with store.writer() as writer:
        writer.add_rows("reader_heads", [{"reader": "a", "head_hash": "h"}])
        writer.add_head(HEAD, lambda: cut(VALUES, None, 100))
        assert store.snapshot.number == 2
        assert writer.reader_heads == store.snapshot.reader_heads == {"a": "h"}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda: cut(VALUES[:-1], None, 100), "949 rows were given for a vocabulary of 950"),
        (lambda: cut(VALUES, None, 100)[1:], "row 0 is missing"),
        (lambda: cut(VALUES[:, :7], None, 100), "are not 8 finite numbers"),
        (lambda: cut(np.where(VALUES > 2, np.nan, VALUES), None, 100), "are not 8 finite numbers"),
    ],
)
def test_a_head_that_is_not_whole_leaves_nothing(store, blocks, message):
    with store.writer() as writer:
        with pytest.raises(InvalidRecordError, match=message):
            writer.add_head(HEAD, blocks)
        writer.add_rows("reader_heads", [{"reader": "a", "head_hash": "other"}])

    assert store.snapshot.heads == {}
    assert not list(store.path.rglob("unembedding.parquet"))
    assert store.snapshot.reader_heads == {"a": "other"}
    assert store.verify().uncommitted_segments == ()


def test_an_error_of_the_models_comes_through_and_leaves_nothing(store):
    def blocks():
        yield cut(VALUES, None, 100)[0]
        raise ZeroDivisionError

    with store.writer() as writer, pytest.raises(ZeroDivisionError):
        writer.add_head(HEAD, blocks)

    assert store.snapshot.number == 0


def test_a_row_of_heads_needs_its_unembedding(store):
    with store.writer() as writer, pytest.raises(InvalidRecordError, match="its unembedding"):
        writer.add_rows("heads", [HEAD.to_row()])


def test_two_writers_that_bring_the_same_head_keep_one(store):
    """The second takes the number first, while the first is at its rows."""
    other = tistore.open(store.path)

    def blocks():
        if "h" not in tistore.open(store.path).snapshot.heads:
            add_head(other, HEAD, VALUES)
        return cut(VALUES, None, 100)

    with store.writer() as writer:
        writer.add_head(HEAD, blocks)

    store.refresh()
    assert store.snapshot.table("heads").num_rows == 1
    assert len(list(store.path.rglob("unembedding.parquet"))) == 1
    np.testing.assert_array_equal(read_values(store), VALUES)


def test_a_head_for_which_there_is_no_room_is_refused_before_it_is_written(store, monkeypatch):
    monkeypatch.setattr(PosixFiles, "free_bytes", lambda self: 64 * 1024 * 1024 + 20_000)

    with store.writer() as writer:
        with pytest.raises(NoRoomError):
            writer.add_head(HEAD, lambda: cut(VALUES, None, 100))
        writer.add_head(HEAD, lambda: cut(VALUES, None, 100), weight_bytes=2)

    assert list(store.snapshot.heads) == ["h"]


@pytest.mark.parametrize("at", [10, 5000, -10])
def test_a_flipped_byte_is_an_error_and_not_a_number(store, at):
    add_head(store, HEAD, VALUES)
    (path,) = store.path.rglob("unembedding.parquet")
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    with pytest.raises(IntegrityError, match="unembedding.parquet is damaged"):
        read_values(tistore.open(store.path))
    assert [p.path for p in store.verify(strict=False).problems] == [
        str(path.relative_to(store.path))
    ]


def test_the_table_is_not_read_whole_by_accident(store):
    with pytest.raises(NotStoredError, match="too large to be read whole"):
        store.snapshot.table("unembedding")
    with pytest.raises(NotStoredError, match="no head 'x'"):
        store.snapshot.unembedding("x")


def test_memory_does_not_grow_with_the_vocabulary(store):
    """Written and read a block at a time: 40 MB of weights in less than a quarter of that."""
    head = make_head("big", RNG, hidden=512, n_vocabulary=20_000, norm_weight=np.ones(512, "f4"))
    rows = 500

    def blocks():
        for start in range(0, head.n_vocabulary, rows):
            values = np.full((rows, head.hidden), start, dtype=np.float32)
            yield VocabularyBlock(start, values, None, ["x"] * rows)

    pool = pa.default_memory_pool()
    tracemalloc.start()
    before = pool.bytes_allocated()
    peaks = []
    with store.writer() as writer:
        writer.add_head(head, blocks)
    for block in store.snapshot.unembedding("big").blocks():
        assert (block.values == block.first).all()
        peaks.append(pool.bytes_allocated() - before)
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert max(peaks) < 10e6
    assert traced < 10e6


def test_a_norm_of_an_unknown_kind_or_width_is_refused():
    with pytest.raises(InvalidRecordError, match="rms or layer, not 'group'"):
        make_head("x", RNG, norm="group")
    with pytest.raises(InvalidRecordError, match="the stream is 4 wide"):
        make_head("x", RNG, hidden=4)


def test_blocks_are_a_few_dozen_megabytes_whatever_the_width():
    def rows(hidden: int) -> int:
        return make_head("x", RNG, hidden=hidden, norm_weight=np.ones(hidden, "f4")).block_rows

    assert rows(32) == 4096
    assert rows(8192) == 1024
    assert isinstance(HEAD, Head)
