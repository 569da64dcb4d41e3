"""What a bare trait name means in SQL once a vector has been chosen."""

from __future__ import annotations

import numpy as np
import pytest

from audited_store import HIDDEN, write_audited_store
from tistore.errors import AmbiguousVectorError
from tistore.vectors.choosing.choose import choose_named
from tistore.vectors.removal import remove_vectors

QUERY = "SELECT response_id, reader, project($trait) AS score FROM responses"


@pytest.fixture
def store(tmp_path):
    """Vectors of one trait: two layers, two methods, none of them chosen yet."""
    made, _ = write_audited_store(tmp_path / "s.tistore", n_prompts=2, response=20)
    for layer, method, separation in ((2, "probe", 1.0), (5, "probe", 3.0), (5, "lda", 2.0)):
        add(made, layer, method, separation)
    return made


def add(store, layer, method, separation=None, model="instruct", **changes):
    values = np.random.default_rng([layer, len(method), len(model)]).standard_normal(HIDDEN)
    return store.add_vector(
        "tone/warm", values, layer=layer, method=method, separation=separation, model=model,
        **changes,
    )  # fmt: skip


def scores(store, trait):
    rows = store.sql(QUERY, {"trait": trait}).fetchall()
    return {row[:2]: row[2] for row in rows}


def test_the_name_alone_means_the_choice(store):
    assert scores(store, "warm") == scores(store, "warm:probe@5"), "the largest separation"

    choose_named(store, ["warm:lda@5"])

    assert scores(store, "warm") == scores(store, "tone/warm") == scores(store, "warm:lda@5")
    assert scores(store, "warm") != scores(store, "warm:probe@5")


def test_a_fuller_name_means_what_it_says(store):
    """Within what it leaves open, the choice still counts."""
    choose_named(store, ["warm:lda@5"])

    assert scores(store, "warm@2") == scores(store, "warm:probe@2")
    assert scores(store, "warm@5") == scores(store, "warm:lda@5")
    assert scores(store, "warm:probe") == scores(store, "warm:probe@5"), "the largest separation"


def test_a_layer_asked_for_goes_before_the_choice(store):
    choose_named(store, ["warm:lda@5"])

    (at_2,) = store.sql(
        "SELECT max(abs(project('warm', 2) - project('warm:probe@2'))) FROM responses"
    ).fetchall()

    assert at_2 == (0.0,)


def test_the_answer_and_its_explanation_name_the_vector(store):
    choose_named(store, ["warm:lda@5"])

    asked = store.sql(QUERY, {"trait": "warm"})
    explained = store.explain(QUERY, {"trait": "warm"})

    assert "warm is tone/warm:lda@5 (chosen)" in asked.notes
    assert explained.vectors == ("tone/warm:lda@5",)
    assert "warm is tone/warm:lda@5 (chosen)" in explained.notes
    full = store.sql(QUERY, {"trait": "warm:lda@5"})
    assert not any("chosen" in note for note in full.notes)


def test_without_a_choice_the_note_says_what_told(store):
    assert "warm is tone/warm:probe@5 (largest separation)" in store.sql(
        QUERY, {"trait": "warm"}
    ).notes  # fmt: skip


def test_an_expression_takes_the_choice_and_tells(store):
    choose_named(store, ["warm:lda@5"])
    query = "SELECT max(abs(project($one) - project($other))) FROM responses"

    asked = store.sql(query, {"one": "warm - 0.5*hedging", "other": "warm:lda@5 - 0.5*hedging"})

    assert asked.fetchall() == [(0.0,)]
    assert any("warm is tone/warm:lda@5 (chosen)" in note for note in asked.notes)


def test_cleaned_copies_may_be_chosen(store):
    add(store, 5, "probe-clean")
    assert scores(store, "warm") == scores(store, "warm:probe@5")

    choose_named(store, ["warm:probe-clean"])

    assert scores(store, "warm") == scores(store, "warm:probe-clean@5")


def test_of_two_models_with_a_choice_the_clean_base_goes_first(store):
    add(store, 5, "probe", 9.0, model="flattery")
    choose_named(store, ["warm:lda@5"])
    add(store, 5, "gradient", 9.0, model="flattery")
    choose_named(store, ["warm:gradient@5"])

    assert scores(store, "warm") == scores(store, "warm:lda@5")


def test_of_two_other_models_neither_goes_first(store):
    """The separations of two models say nothing about each other."""
    for model in ("flattery", "hedge"):
        add(store, 5, "gradient", 4.0, model=model)
    remove_vectors(store, ["warm:probe", "warm:lda"], all_named=True)
    hashes = [vector.content_hash[:8] for vector in store.snapshot.vectors()[-2:]]
    choose_named(store, hashes)

    with pytest.raises(AmbiguousVectorError, match="of flattery") as caught:
        scores(store, "warm")

    assert all(name in str(caught.value) for name in hashes)
    assert scores(store, hashes[0])


def test_a_chosen_vector_that_was_removed_is_meant_no_more(store):
    choose_named(store, ["warm:lda@5"])

    remove_vectors(store, ["warm:lda@5"])

    assert scores(store, "warm") == scores(store, "warm:probe@5")


def test_a_chosen_vector_that_was_fitted_anew_is_meant_no_more_until_chosen(store):
    """Nobody has compared the new one with the others."""
    choose_named(store, ["warm:lda@5"])
    old = store.vector("warm:lda@5")
    new = type(old)(
        "tone/warm", np.arange(1, HIDDEN + 1), 5, method="lda", model="instruct", separation=0.5
    )
    with store.writer() as writer:
        writer.remove_vectors([old])
        writer.add_rows("vectors", [new.to_row()])

    assert scores(store, "warm") == scores(store, "warm:probe@5")
    choose_named(store, ["warm:lda@5"])
    assert scores(store, "warm") == scores(store, new.content_hash)


def test_of_equal_directions_under_two_names_the_chosen_one_is_meant(store):
    chosen = store.vector("warm:lda@5")
    twin = {"layer": 5, "method": "zeta", "model": "instruct", "separation": 2.0}
    store.add_vector("tone/warm", chosen.values, **twin)
    choose_named(store, ["warm:lda@5"])

    assert "warm is tone/warm:lda@5 (chosen)" in store.sql(QUERY, {"trait": "warm"}).notes


def test_choices_and_removals_are_relations(store):
    choose_named(store, ["warm:lda@5"])
    remove_vectors(store, ["warm@2"], reason="too early")

    (chosen,) = store.sql("SELECT trait, layer, method, rule FROM choices").fetchall()
    (removed,) = store.sql('SELECT "table", name, reason FROM removals').fetchall()

    assert chosen == ("tone/warm", 5, "lda", "named")
    assert removed == ("vectors", "tone/warm:probe@2 residual unknown", "too early")
