"""Removed vectors: gone for readers and writers, but not for those who look back."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from example_readings import make_reading
from tistore.errors import InvalidRecordError, KeyConflictError, NotStoredError
from tistore.exchange.selection import Selection
from tistore.exchange.stores.sub_store import export_store
from tistore.query.store import Store
from tistore.schemas.choice import Choice
from tistore.schemas.vector import Vector
from tistore.store.base import BaseStore


def vector(seed=0, trait="tone/warm", layer=5, **changes):
    values = np.random.default_rng([seed, layer]).standard_normal(8)
    return Vector(trait, values, layer, method="probe", model="instruct", **changes)


def choice(of: Vector, **changes):
    facts = {
        "trait": of.trait,
        "model": of.model,
        "vector_hash": of.content_hash,
        "component": of.component,
        "layer": of.layer,
        "method": of.method,
        "position": of.position,
        "rule": "named",
        "reason": "named by hand",
        "n_candidates": 2,
        "selected_by": None,
        "selection_score": None,
        "auroc": None,
        "g": None,
        "g_low": None,
        "g_high": None,
        "chosen_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return Choice(**(facts | changes))


def add(store, *vectors):
    store.add_rows("vectors", [one.to_row() for one in vectors])


def remove(store, *vectors, reason=None):
    with store.writer() as writer:
        writer.remove_vectors(vectors, reason)


def refit(store, old, new):
    with store.writer() as writer:
        writer.remove_vectors([old], "fitted anew")
        writer.add_rows("vectors", [new.to_row()])


def hashes(store):
    return [one.content_hash for one in store.snapshot.vectors()]


def test_a_removed_vector_is_in_no_table_and_others_stay(store):
    first, second = vector(1), vector(2, layer=7)
    add(store, first, second)

    remove(store, first, reason="of no use")

    assert hashes(store) == [second.content_hash]
    assert store.snapshot.table("vectors")["vector_hash"].to_pylist() == [second.content_hash]
    (row,) = store.snapshot.table("removals").to_pylist()
    assert (row["table"], row["content"], row["reason"]) == (
        "vectors",
        first.content_hash,
        "of no use",
    )
    assert first.reference in row["name"]


def test_a_store_opened_anew_agrees_with_the_handle_that_removed(store):
    add(store, vector(1), vector(2, layer=7))
    remove(store, vector(1))

    again = BaseStore.open(store.path)

    assert hashes(again) == hashes(store)
    assert again.snapshot.keys == store.snapshot.keys


def test_the_past_keeps_what_was_removed_later(store):
    add(store, vector(1))
    before = store.snapshot.number
    remove(store, vector(1))

    past = BaseStore.open(store.path, at=before)

    assert hashes(past) == [vector(1).content_hash]
    assert past.snapshot.table("removals").num_rows == 0


def test_every_byte_of_what_was_removed_is_still_verified(store):
    add(store, vector(1))
    remove(store, vector(1))

    report = store.verify()

    assert report.files == len(store.snapshot.files)
    assert sum("vectors.parquet" in record.path for record in store.snapshot.files) == 1


def test_a_refit_takes_the_name_in_the_commit_that_frees_it(store):
    add(store, vector(1))
    number = store.snapshot.number

    refit(store, vector(1), vector(2))

    assert store.snapshot.number == number + 1
    assert hashes(store) == [vector(2).content_hash]
    assert BaseStore.open(store.path).snapshot.keys["vectors"] == {
        vector(2).key: vector(2).content_hash
    }


def test_the_same_values_may_come_back_with_other_figures(store):
    """What counts for the key is the direction; its figures change with a refit alone."""
    add(store, vector(1))

    refit(store, vector(1), vector(1, separation=2.5))

    assert [one.separation for one in store.snapshot.vectors()] == [2.5]
    assert [row["separation"] for row in store.snapshot.table("vectors").to_pylist()] == [2.5]


def test_what_was_removed_may_be_added_again_and_removed_again(store):
    for _ in range(2):
        add(store, vector(1))
        assert hashes(store) == [vector(1).content_hash]
        remove(store, vector(1))
        assert hashes(store) == []

    assert hashes(BaseStore.open(store.path)) == []
    assert store.snapshot.table("removals").num_rows == 2


def test_a_name_is_still_kept_from_another_direction_until_it_is_removed(store):
    add(store, vector(1))

    with pytest.raises(KeyConflictError):
        add(store, vector(2))

    assert hashes(store) == [vector(1).content_hash]


def test_what_is_not_there_cannot_be_removed_and_nothing_else_is(store):
    add(store, vector(1))

    with pytest.raises(NotStoredError, match="tone/warm:probe@7"):
        remove(store, vector(1), vector(2, layer=7))

    assert hashes(store) == [vector(1).content_hash]
    assert store.snapshot.table("removals").num_rows == 0


def test_tombstones_cannot_be_written_by_hand(store):
    row = {"table": "vectors", "name": "x", "content": "x", "removed_at": datetime.now(UTC)}

    with pytest.raises(InvalidRecordError, match="removes"):
        store.add_rows("removals", [row])


def test_readings_wait_in_the_same_commit_as_a_removal(store):
    add(store, vector(1))
    number = store.snapshot.number

    with store.writer() as writer:
        writer.add(**make_reading())
        writer.remove_vectors([vector(1)])

    assert store.snapshot.number == number + 1
    assert len(store.snapshot.segments) == 1
    assert hashes(store) == []


def test_two_writers_may_remove_the_same_vector_once(store):
    """The one that comes second has nothing left to do, and writes no second tombstone."""
    add(store, vector(1))
    other = BaseStore.open(store.path)
    late = other.writer()
    late.remove_vectors([vector(1)])
    remove(store, vector(1))

    late.close()

    assert hashes(other) == []
    assert other.snapshot.number == store.snapshot.number
    assert other.snapshot.table("removals").num_rows == 1


def test_of_two_refits_at_once_the_first_stands(store):
    """The second is told, and its tombstone is not written: it removed nothing."""
    add(store, vector(1))
    other = BaseStore.open(store.path)
    late = other.writer()
    late.remove_vectors([vector(1)])
    late.add_rows("vectors", [vector(3).to_row()])
    late.add_rows("vectors", [vector(4, trait="tone/cold").to_row()])
    refit(store, vector(1), vector(2))

    with pytest.raises(KeyConflictError):
        late.close()

    other.refresh()
    assert hashes(other) == [vector(2).content_hash, vector(4, trait="tone/cold").content_hash]
    assert other.snapshot.table("removals").num_rows == 1


def test_a_removal_and_an_addition_at_once_both_hold(store):
    add(store, vector(1))
    other = BaseStore.open(store.path)
    late = other.writer()
    late.remove_vectors([vector(1)])
    add(store, vector(2, layer=7))

    late.close()

    assert hashes(other) == [vector(2, layer=7).content_hash]
    assert hashes(BaseStore.open(store.path)) == hashes(other)


def test_the_log_names_what_a_commit_removes_and_says_nothing_otherwise(store):
    add(store, vector(1))
    remove(store, vector(1))

    bodies = [
        json.loads(path.read_bytes().splitlines()[0])
        for path in sorted((store.path / "commits").iterdir())
    ]

    assert [body.get("removed") for body in bodies] == [
        None,
        {"vectors": {vector(1).key: vector(1).content_hash}},
    ]


def test_a_choice_stands_for_its_vector_only_as_long_as_that_is_there(store):
    one, other = vector(1), vector(2, layer=7)
    add(store, one, other)
    store.add_rows("choices", [choice(one).to_row()])
    assert [each.chosen for each in store.snapshot.vectors()] == ["named by hand", None]

    refit(store, one, vector(3))

    assert [each.chosen for each in store.snapshot.vectors()] == [None, None]
    assert store.snapshot.choices[("tone/warm", "instruct")] == choice(one)


def test_of_equal_directions_only_the_one_that_was_meant_is_chosen(store):
    """Two names of a trait may hold the same values."""
    one, twin = vector(1), vector(1, position="response[:5]")
    add(store, one, twin)

    store.add_rows("choices", [choice(twin).to_row()])

    assert [bool(each.chosen) for each in store.snapshot.vectors()] == [False, True]


def test_a_copy_of_a_store_has_what_is_left_and_the_reason(tmp_path):
    source = make_store(tmp_path / "from.tistore")
    add(source, vector(1), vector(2, layer=7))
    source.add_rows("choices", [choice(vector(2, layer=7)).to_row()])
    remove(source, vector(1), reason="of no use")

    export_store(source, tmp_path / "to.tistore", Selection())

    copied = Store.open(tmp_path / "to.tistore")
    assert hashes(copied) == hashes(source)
    assert [one.chosen for one in copied.snapshot.vectors()] == ["named by hand"]
    assert copied.snapshot.table("removals")["reason"].to_pylist() == ["of no use"]
    copied.verify()


def test_a_copy_made_again_loses_what_its_source_has_removed_since(tmp_path):
    source = make_store(tmp_path / "from.tistore")
    add(source, vector(1), vector(2, layer=7))
    export_store(source, tmp_path / "to.tistore", Selection())
    refit(source, vector(1), vector(3))
    refit(source, vector(3), vector(4))
    remove(source, vector(2, layer=7))

    for _ in range(2):
        export_store(source, tmp_path / "to.tistore", Selection())

    copied = Store.open(tmp_path / "to.tistore")
    assert hashes(copied) == hashes(source) == [vector(4).content_hash]
    assert copied.snapshot.keys["vectors"] == source.snapshot.keys["vectors"]
    assert copied.snapshot.table("removals").num_rows == 3


def test_a_copy_made_again_keeps_what_is_its_own(tmp_path):
    source = make_store(tmp_path / "from.tistore")
    add(source, vector(1))
    export_store(source, tmp_path / "to.tistore", Selection())
    copied = Store.open(tmp_path / "to.tistore")
    add(copied, vector(9, trait="tone/own"))
    remove(source, vector(1))

    export_store(source, tmp_path / "to.tistore", Selection())

    copied.refresh()
    assert hashes(copied) == [vector(9, trait="tone/own").content_hash]


def make_store(path):
    made = Store.create(path)
    with made.writer() as writer:
        writer.add(**make_reading())
    return made
