"""Removed readings: gone at once, whole, for good where wanted, and there for who looks back."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from before_the_commit import before_the_commit
from example_readings import make_reading
from tistore.errors import NotStoredError, RewriteConflictError, StoreError
from tistore.schemas.response import ResponseSlot
from tistore.store.base import BaseStore

READERS = ("flattery", "instruct")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nobody pulls the plug here."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def list_readings(store):
    return {
        (row["organism"], row["reader"], row["prompt_id"]): row
        for segment in store.snapshot.segments
        for row in segment.table("responses").to_pylist()
    }


def pick(store, **wanted):
    return [
        row["reading_key"]
        for row in list_readings(store).values()
        if all(row[name] == value for name, value in wanted.items())
    ]


def read_all(store):
    return {
        key: store.activations(row["response_id"], reader=row["reader"], layer=5).tobytes()
        for key, row in list_readings(store).items()
    }


@pytest.fixture
def store(tmp_path):
    """Three responses, each with its author's reading and the base's: two segments."""
    store = BaseStore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for seed in range(3):
            for offset, reader in enumerate(("flattery", "instruct")):
                values = make_reading(100 * offset + seed)["activations"]
                writer.add(**make_reading(seed, reader=reader, activations=values))
            if seed == 1:
                writer.commit()
    return store


def test_a_removed_reading_is_gone_and_the_others_are_as_they_were(store):
    before = read_all(store)

    report = store.remove_readings(pick(store, prompt_id="0", reader="instruct"), reason="wrong")

    assert (report.readings, report.responses, report.kept_readings) == (1, 0, 5)
    after = read_all(store)
    assert set(before) - set(after) == {("flattery", "instruct", "0")}
    assert after == {key: before[key] for key in after}
    assert store.verify().ok
    (row,) = store.snapshot.table("removals").to_pylist()
    assert (row["table"], row["reason"]) == ("responses", "wrong")
    assert "read by instruct" in row["name"]


def test_the_rows_of_what_stays_are_in_the_same_order(store):
    before = list(list_readings(store))

    store.remove_readings(pick(store, prompt_id="1"))

    assert list(list_readings(store)) == [key for key in before if key[2] != "1"]


def test_a_segment_of_which_all_goes_is_dropped(store):
    report = store.remove_readings(pick(store, prompt_id="2"))

    assert (report.segments_dropped, report.segments_rewritten) == (1, 0)
    assert len(store.snapshot.segments) == 1


def test_all_can_go(store):
    store.remove_readings(list(store.snapshot.keys["readings"]))

    assert store.snapshot.segments == ()
    assert not store.snapshot.keys["readings"]
    assert not store.snapshot.keys["slots"]


def test_an_earlier_commit_still_has_it(store):
    number, before = store.snapshot.number, read_all(store)

    store.remove_readings(pick(store, prompt_id="0"))

    assert read_all(BaseStore.open(store.path, at=number)) == before


def test_the_same_reading_can_be_committed_again(store):
    store.remove_readings(pick(store, prompt_id="0", reader="instruct"))
    assert not any(store.holds(key) for key in pick(store, prompt_id="0", reader="instruct"))

    with store.writer() as writer:
        values = make_reading(100)["activations"]
        writer.add(**make_reading(0, reader="instruct", activations=values))

    assert ("flattery", "instruct", "0") in read_all(store)


def test_a_slot_holds_its_response_while_a_reading_of_it_is_left(store):
    store.remove_readings(pick(store, prompt_id="0", reader="instruct"))
    slot = ResponseSlot("flattery", "audit/discovery", "0", 0)
    assert store.stored_response(slot) is not None

    report = store.remove_readings(pick(store, prompt_id="0"))

    assert report.responses == 1
    assert store.stored_response(slot) is None
    with store.writer() as writer:  # another text than before
        writer.add(**make_reading(0, token_ids=[1, 2, 3, 4, 5, 6, 7]))


def test_an_unknown_reading_removes_nothing(store):
    number = store.snapshot.number

    with pytest.raises(NotStoredError, match="1 of 2 readings"):
        store.remove_readings([*pick(store, prompt_id="0", reader="instruct"), "nonsense"])

    assert store.snapshot.number == number


def test_a_dry_run_and_an_empty_list_change_nothing(store):
    number = store.snapshot.number

    report = store.remove_readings(pick(store, prompt_id="0"), dry_run=True)

    assert (report.readings, report.responses, report.segments_rewritten) == (2, 1, 1)
    assert report.freed_bytes > 0
    assert store.remove_readings([]).readings == 0
    assert store.snapshot.number == number


def test_a_store_open_at_a_commit_is_not_changed(store):
    with pytest.raises(StoreError, match="open at commit 1"):
        BaseStore.open(store.path, at=1).remove_readings([])


def test_what_another_writer_adds_meanwhile_stays(store):
    """A reading of the very slot that is being emptied: the slot is not free then."""
    other = BaseStore.open(store.path)
    going = pick(store, prompt_id="0")
    values = make_reading(300)["activations"]
    changes = {"reader": "judge", "activations": values}

    def add_in_between():
        with other.writer() as writer:
            writer.add(**make_reading(0, **changes))

    with before_the_commit(store, add_in_between):
        report = store.remove_readings(going)

    assert report.readings == 2
    assert ("flattery", "judge", "0") in read_all(store)
    assert store.stored_response(ResponseSlot("flattery", "audit/discovery", "0", 0)) is not None
    assert store.verify().ok


def test_a_condition_names_what_goes(store):
    asking = tistore.open(store.path)
    asking.add_vector("tone/flattery", np.arange(1, 9), layer=5)
    question = "SELECT prompt_id, reader, project('flattery') FROM responses"
    before = asking.sql(question).fetchall()

    report = asking.remove("prompt_id = '1' -- the second", reader="instruct")

    assert [group.readings for group in report.groups] == [1]
    assert asking.sql(question).fetchall() == [
        row for row in before if row[:2] != ("1", "instruct")
    ]
    with pytest.raises(NotStoredError, match="no reading satisfies"):
        asking.remove("prompt_id = '1'", reader="instruct")


def test_it_is_planned_anew_when_something_else_was_removed_meanwhile(store):
    """Also where both lie in one segment, which the other one has just replaced."""
    other = BaseStore.open(store.path)
    (mine,), (theirs,) = (pick(store, prompt_id="0", reader=name) for name in READERS)
    before = read_all(store)

    with before_the_commit(store, lambda: other.remove_readings([theirs])):
        store.remove_readings([mine])

    left = read_all(store)
    assert left.keys() == {key for key in before if key[2] != "0"}
    assert all(before[key] == values for key, values in left.items())
    assert store.verify().ok


def test_it_gives_up_when_others_go_on_replacing(store):
    """Rather than trying for ever; and it removes nothing then."""
    other = BaseStore.open(store.path)
    (going,) = pick(store, prompt_id="0", reader="flattery")
    left = [key for key in pick(store) if key != going]

    def remove_one():
        other.remove_readings([left.pop()])

    with (
        before_the_commit(store, remove_one, times=5),
        pytest.raises(RewriteConflictError, match="other processes keep removing"),
    ):
        store.remove_readings([going])

    assert pick(store) == [going]
    assert store.verify().uncommitted_segments == ()
