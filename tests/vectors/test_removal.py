"""Removed vectors take their cached scores with them, and nothing else's."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from audited_store import HIDDEN, write_audited_store
from tistore.errors import AmbiguousVectorError, UnknownVectorError
from tistore.exchange.stores.score_bundle import export_scores
from tistore.query.cached import list_cached
from tistore.query.store import Store
from tistore.vectors.choosing.candidates import Filters
from tistore.vectors.choosing.choose import choose_named
from tistore.vectors.removal import remove_vectors

AT_HOME = "SELECT sum(project('flattery')) FROM tokens"
ELSEWHERE = "SELECT sum(project('flattery', 2)) FROM tokens"
OTHER = "SELECT sum(project('hedging')) FROM tokens"


@pytest.fixture
def store(tmp_path):
    made, _ = write_audited_store(tmp_path / "s.tistore", n_prompts=2, response=20)
    return made


def cached(store):
    return sorted((row["vector"], row["site"]) for row in list_cached(store))


def names(store):
    return [vector.reference for vector in store.snapshot.vectors()]


def test_scores_at_home_and_elsewhere_leave_the_cache(store):
    for query in (AT_HOME, ELSEWHERE, OTHER):
        store.sql(query)
    assert len(cached(store)) == 3
    folders = {path.name for path in store.score_folder.iterdir()}

    done = remove_vectors(store, ["flattery"])

    assert cached(store) == [("tone/hedging:mean_diff@5", "residual@5")]
    assert done.forgotten.files > 0
    assert done.forgotten.size_bytes > 0
    assert len(folders) == len(list(store.score_folder.iterdir())) + 2


def test_scores_in_memory_go_too(store):
    for query in (AT_HOME, ELSEWHERE, OTHER):
        store.sql(query)
    kept = store._score_cache
    before = kept._kept_bytes

    remove_vectors(store, ["flattery"])

    hedging = store.vector("hedging").content_hash
    assert {direction for direction, _ in kept._kept} == {hedging}
    assert kept._kept_bytes == sum(scores.nbytes for scores in kept._kept.values()) < before


def test_scores_that_another_name_shares_stay(store):
    """The cache knows directions: a twin under another trait needs the same scores."""
    store.add_vector("tone/twin", store.vector("flattery").values, layer=5)
    store.sql(AT_HOME)

    done = remove_vectors(store, ["flattery"])

    assert done.forgotten.files == 0
    assert cached(store) == [("tone/twin:unknown@5", "residual@5")]


def test_the_answer_of_an_earlier_commit_is_computed_again(store):
    truth = store.sql(AT_HOME).fetchall()
    number = store.snapshot.number
    remove_vectors(store, ["flattery"])

    past = tistore.open(store.path, at=number)

    assert past.sql(AT_HOME).fetchall() == truth
    with pytest.raises(UnknownVectorError):
        store.sql(AT_HOME)


def test_a_reference_that_names_several_removes_none_unless_all_are_meant(store):
    store.add_vector("tone/flattery", np.arange(1, 9), layer=2, method="probe", model="instruct")
    before = names(store)

    with pytest.raises(AmbiguousVectorError, match=r"mean_diff@5, tone/flattery:probe@2") as caught:
        remove_vectors(store, ["hedging", "flattery"])
    assert names(store) == before
    assert "--all" in str(caught.value)

    done = remove_vectors(store, ["flattery"], all_named=True, reason="planted")
    assert len(done.vectors) == 2
    assert names(store) == ["tone/hedging:mean_diff@5", "tone/early:mean_diff@2"]
    assert store.snapshot.table("removals")["reason"].to_pylist() == ["planted"] * 2


def test_a_choice_does_not_make_a_name_exact(store):
    """What is removed is what was written, not what the name has come to mean."""
    store.add_vector("tone/flattery", np.arange(1, 9), layer=2, method="probe", model="instruct")
    choose_named(store, ["flattery@5"])

    with pytest.raises(AmbiguousVectorError):
        remove_vectors(store, ["flattery"])


def test_what_only_filters_tell_apart_is_removed_alone(store):
    same = {"layer": 5, "method": "mean_diff", "model": "instruct"}
    store.add_vector("tone/flattery", np.arange(1, HIDDEN + 1), position="prompt[-1]", **same)

    remove_vectors(store, ["flattery@5"], filters=Filters(position="prompt[-1]"))

    assert [v.position for v in store.snapshot.vectors()] == ["unknown"] * 3


def test_a_dry_run_removes_nothing(store):
    store.sql(AT_HOME)
    number = store.snapshot.number

    done = remove_vectors(store, ["flattery"], dry_run=True)

    assert [vector.reference for vector in done.vectors] == ["tone/flattery:mean_diff@5"]
    assert store.snapshot.number == number
    assert cached(store)


def test_a_removed_choice_is_told(store):
    choose_named(store, ["flattery"])

    done = remove_vectors(store, ["flattery", "hedging"])

    assert [vector.trait for vector in done.unchosen] == ["tone/flattery"]


def test_scores_that_are_part_of_a_store_stay_and_are_told(store, tmp_path):
    export_scores(store, tmp_path / "b.tistore", ["flattery", "hedging"])
    bundle = Store.open(tmp_path / "b.tistore")

    done = remove_vectors(bundle, ["flattery"])

    assert done.forgotten.files == 0
    assert done.forgotten.bundled == len(bundle.snapshot.segments) > 0
    bundle.verify()
    assert bundle.sql(OTHER).fetchall() == store.sql(OTHER).fetchall()
