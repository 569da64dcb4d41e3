"""A commit's number stands for one state, whatever happens afterwards, until it is given up."""

from __future__ import annotations

import numpy as np
import pytest

from example_readings import HIDDEN, make_reading
from tistore.errors import IntegrityError, NotStoredError
from tistore.query.store import Store

QUESTIONS = (
    "SELECT response_id, reader, position, token_id, project('flattery') FROM tokens",
    "SELECT response_id, reader, text, project('flattery'), cosine('flattery') FROM clauses",
    "SELECT organism, prompt_id, project('flattery') FROM responses",
    "SELECT organism, reader, baseline, position, project('flattery') FROM token_diffs",
    "SELECT * FROM vectors",
    "SELECT * FROM models",
)


@pytest.fixture
def store(tmp_path) -> Store:
    """Three responses, each read twice, a commit each; and a vector."""
    store = Store.create(tmp_path / "s.tistore")
    for seed in range(3):
        for offset, reader in enumerate(("flattery", "instruct")):
            values = make_reading(100 * offset + seed)["activations"]
            with store.writer() as writer:
                writer.add(**make_reading(seed, reader=reader, activations=values))
    store.add_vector("tone/flattery", np.arange(1, HIDDEN + 1), layer=5)
    return store


def answer_all(store: Store) -> list[str]:
    """Every answer, and every value, to the bit."""
    answers = [repr(store.sql(query).to_arrow().to_pydict()) for query in QUESTIONS]
    ids = store.sql("SELECT response_id, reader FROM responses").fetchall()
    values = [store.activations(name, reader=reader, layer=5).tobytes() for name, reader in ids]
    return [*answers, repr(values), repr(store.info().readings)]


def change_everything(store: Store) -> None:
    """Append, remove, replace and merge."""
    with store.writer() as writer:
        writer.add(**make_reading(50))
        writer.remove_vectors([store.snapshot.vectors()[0]])
    store.add_vector("tone/flattery", np.arange(HIDDEN, 0, -1), layer=5)
    store.remove("prompt_id = '1'", dry_run=False)
    store.compact()


def test_a_number_answers_the_same_after_whatever_came_later(store):
    number = store.snapshot.number
    before = answer_all(store)

    change_everything(store)

    assert answer_all(Store.open(store.path)) != before
    again = Store.open(store.path, at=number)
    assert answer_all(again) == before
    assert again.verify().ok
    assert Store.open(store.path).verify().ok


def test_a_handle_keeps_its_state_while_others_write(store):
    before = answer_all(store)

    change_everything(Store.open(store.path))

    assert answer_all(store) == before
    store.refresh()
    assert answer_all(store) != before


def test_every_state_is_kept_until_it_is_given_up_and_then_refused(store):
    change_everything(store)
    newest = store.snapshot.number
    states = {number: answer_states(store, number) for number in range(newest + 1)}

    report = store.gc(dry_run=False, keep_days=0, trash_days=0)

    oldest = report.gives_up_before
    assert oldest is not None
    for number in range(newest + 1):
        if number < oldest:
            with pytest.raises(NotStoredError, match="given up"):
                Store.open(store.path, at=number)
        else:
            assert answer_states(store, number) == states[number]
            assert Store.open(store.path, at=number).verify().ok


def answer_states(store: Store, number: int) -> list[str]:
    """What there is at a commit; early ones have no vector to ask for."""
    at = Store.open(store.path, at=number)
    rows = at.sql("SELECT response_id, reader, position, token_id FROM tokens").to_arrow()
    return [repr(rows.to_pydict()), repr(at.snapshot.vectors()), repr(at.info().readings)]


def test_a_handle_whose_files_were_given_up_says_so_and_never_answers_wrongly(store):
    """Nothing keeps readers' files: they take no locks. With a week of grace they need none."""
    other = Store.open(store.path)
    before = answer_all(store)
    stale = Store.open(store.path)
    change_everything(other)
    other.gc(dry_run=False, keep_days=0, trash_days=0)

    with pytest.raises(IntegrityError, match="open the store again"):
        answer_all(stale)
    stale.refresh()
    assert answer_all(stale) == answer_all(Store.open(store.path)) != before


def test_a_number_that_is_none_is_refused(store):
    for number in (-1, store.snapshot.number + 1):
        with pytest.raises(NotStoredError, match="no commit"):
            Store.open(store.path, at=number)


def test_damage_to_what_only_an_earlier_commit_needs_is_found(store):
    before = {record.path for record in store.snapshot.files}
    change_everything(store)
    only_before = sorted(before - {record.path for record in store.snapshot.files})
    path = store.path / only_before[0]
    path.write_bytes(path.read_bytes()[:-1])

    report = store.verify(strict=False)

    assert [problem.path for problem in report.problems] == [only_before[0]]
    assert answer_all(store)
