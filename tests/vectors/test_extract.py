"""From rows to vectors of the store: each fitted once, and again only when its rows are others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tistore
from scenario_store import BASE, HIDDEN, LAYERS, RESPONSE, write_scenario_store
from tistore.errors import ConfigError, FitError
from tistore.vectors import fitting
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import cross_fit
from tistore.vectors.extract import extract_vectors
from tistore.vectors.methods.registry import METHODS, find_method
from tistore.vectors.scenario_rows import open_scenarios

TRAIT = "tone/polite"


@pytest.fixture
def written(tmp_path):
    return write_scenario_store(tmp_path / "s.tistore", [TRAIT, "tone/terse"])


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """Names of the methods that were asked for, one entry a vector."""
    asked = []

    def find(name, massive=None):
        asked.append(name)
        return find_method(name, massive)

    monkeypatch.setattr(fitting, "find_method", find)
    return asked


def add_scenarios(written, numbers) -> None:
    rng = np.random.default_rng(9)
    with written.store.writer() as writer:
        for side in ("positive", "negative"):
            for number in numbers:
                writer.add(
                    organism="scenarios",
                    reader=BASE,
                    prompt_set=f"scenarios/{TRAIT}/{side}",
                    prompt_id=str(number),
                    token_ids=rng.integers(0, 900, 2 + RESPONSE).tolist(),
                    prompt_length=2,
                    layers=LAYERS,
                    activations={"residual": rng.standard_normal((RESPONSE, len(LAYERS), HIDDEN))},
                )


def test_vectors_are_what_numpy_and_scikit_learn_fit_on_the_same_rows(written):
    vectors = extract_vectors(written.store, TRAIT, methods=["mean_diff", "probe"])

    names = [(vector.layer, vector.method) for vector in vectors]
    assert names == [(2, "mean_diff"), (2, "probe"), (5, "mean_diff"), (5, "probe")]
    for mean_diff, probe in (vectors[:2], vectors[2:]):
        positive, negative = (
            written.rows[TRAIT, side, mean_diff.layer] for side in ("positive", "negative")
        )
        values = positive.mean(axis=0) - negative.mean(axis=0)
        np.testing.assert_allclose(mean_diff.values, values, atol=1e-5)
        unit = values / np.linalg.norm(values)
        midpoint = (positive.mean(axis=0) + negative.mean(axis=0)) / 2 @ unit
        assert mean_diff.midpoint == pytest.approx(midpoint, abs=1e-5)
        stacked = np.concatenate([positive, negative])
        stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
        regression = LogisticRegression(C=1.0, tol=1e-9, max_iter=5000)
        regression.fit(stacked, np.repeat([1, 0], 20))
        np.testing.assert_allclose(probe.values, regression.coef_[0], atol=1e-4)
        assert probe.bias == pytest.approx(regression.intercept_[0], abs=1e-4)
        groups = np.arange(20)
        held_out = cross_fit(Contrast(positive, negative, groups, groups), METHODS["mean_diff"])
        assert mean_diff.separation == pytest.approx(held_out.g, rel=1e-3)
        assert (mean_diff.n_positive, mean_diff.n_negative) == (20, 20)
    query = "SELECT layer, method, auroc FROM evaluations ORDER BY layer, method"
    assert len(written.store.sql(query).fetchall()) == 4


def test_what_is_up_to_date_is_not_fitted_again(written, fits):
    told = []
    first = extract_vectors(written.store, TRAIT, say=told.append)
    commit = written.store.snapshot.number

    again = extract_vectors(written.store, TRAIT, say=told.append)

    assert told == [f"fitting {TRAIT} on response[:] at residual"], "and nobody is told it were"

    assert written.store.snapshot.number == commit
    assert [vector.content_hash for vector in again] == [vector.content_hash for vector in first]
    assert fits == ["mean_diff"] * 2
    extract_vectors(written.store, TRAIT, methods=["mean_diff", "lda"], layers=[5])
    assert fits == [*["mean_diff"] * 2, "lda"]
    extract_vectors(written.store, TRAIT, layers=[2], refit=True)
    assert fits == [*["mean_diff"] * 2, "lda", "mean_diff"]
    assert len(written.store.snapshot.vectors()) == 3


def test_vectors_whose_scenarios_changed_are_replaced_in_one_commit(written):
    (_, before) = extract_vectors(written.store, TRAIT)
    other = extract_vectors(written.store, "tone/terse")
    assert written.store.sql("SELECT avg(project('polite@5')) FROM responses").fetchall()
    add_scenarios(written, [21, 22])
    commit = written.store.snapshot.number
    told = []

    (_, after) = extract_vectors(written.store, TRAIT, say=told.append)

    assert written.store.snapshot.number == commit + 1
    assert (before.n_positive, after.n_positive) == (20, 22)
    assert after.content_hash != before.content_hash
    known = {vector.key: vector.content_hash for vector in written.store.snapshot.vectors()}
    current = (*other, *extract_vectors(written.store, TRAIT))
    assert known == {vector.key: vector.content_hash for vector in current}
    assert written.store.snapshot.table("removals").num_rows == 2
    assert told[1:] == [f"2 vectors of {TRAIT} were fitted anew"]
    past = tistore.open(written.store.path, at=commit)
    assert before.content_hash in {one.content_hash for one in past.snapshot.vectors()}


def test_a_vector_that_does_not_say_what_it_was_fitted_on_is_replaced(written):
    written.add_mean_difference(TRAIT, 5)
    assert written.store.snapshot.vectors()[0].fitted_on is None

    (vector,) = extract_vectors(written.store, TRAIT, layers=[5])

    assert vector.fitted_on == open_scenarios(written.store, TRAIT).fitted_on
    assert len(written.store.snapshot.vectors()) == 1


def test_other_commands_find_the_very_scenarios_that_vectors_were_fitted_on(written):
    whole = open_scenarios(written.store, TRAIT)
    kept = whole.to_row()["response_ids"][:14] + whole.to_row()["response_ids"][20:36]

    (vector,) = extract_vectors(written.store, TRAIT, layers=[5], kept=kept)

    assert (vector.n_positive, vector.n_negative) == (14, 16)
    rows = open_scenarios(written.store, TRAIT)
    assert rows.fitted_on == vector.fitted_on != whole.fitted_on
    assert rows.to_row()["response_ids"] == kept
    (row,) = written.store.sql("SELECT * FROM scenario_sets").rows()
    assert (row["fitted_on"], row["n_positive"]) == (vector.fitted_on, 14)
    assert open_scenarios(written.store, TRAIT, as_fitted=False).fitted_on == whole.fitted_on
    # The pairs that are left keep their numbers.
    contrast = rows.at(vector.site)
    assert contrast.negative_groups.tolist() == list(range(16))
    positive = written.rows[TRAIT, "positive", 5][:14].mean(axis=0)
    negative = written.rows[TRAIT, "negative", 5][:16].mean(axis=0)
    np.testing.assert_allclose(vector.values, positive - negative, atol=1e-5)


def test_what_was_fitted_before_a_failure_is_kept_and_not_fitted_again(written, monkeypatch, fits):
    plain = fitting.SiteFits.fit

    def fail_at_the_second(self, name, **options):
        if self._site.layer == 5:
            raise KeyboardInterrupt
        return plain(self, name, **options)

    monkeypatch.setattr(fitting.SiteFits, "fit", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        extract_vectors(written.store, TRAIT)
    monkeypatch.setattr(fitting.SiteFits, "fit", plain)

    vectors = extract_vectors(written.store, TRAIT)

    assert [vector.layer for vector in vectors] == [2, 5]
    assert fits == ["mean_diff", "mean_diff"]


def test_a_method_that_finds_nothing_at_a_layer_is_told_and_left_out(written, monkeypatch):
    def fit(contrast, seed=0):
        if contrast.positive[:, 0].mean() < 0.5:  # layer 2, where nothing was planted
            raise FitError("nothing tells them apart")
        return METHODS["mean_diff"](contrast, seed)

    monkeypatch.setitem(METHODS, "gradient", fit)
    told = []

    vectors = extract_vectors(written.store, TRAIT, methods=["gradient"], say=told.append)

    assert [vector.layer for vector in vectors] == [5]
    assert told[1:] == [f"no vector of {TRAIT}, gradient at residual@2: nothing tells them apart"]
    with pytest.raises(FitError, match="gradient at residual@2"):
        extract_vectors(written.store, TRAIT, methods=["gradient"], layers=[2])


def test_a_vector_that_can_no_longer_be_fitted_does_not_stay(written, monkeypatch):
    extract_vectors(written.store, TRAIT, layers=[5])
    add_scenarios(written, [21])

    def fit(contrast, seed=0):
        raise FitError("nothing tells them apart")

    monkeypatch.setitem(METHODS, "mean_diff", fit)

    with pytest.raises(FitError):
        extract_vectors(written.store, TRAIT, layers=[5])
    written.store.refresh()
    assert written.store.snapshot.vectors() == ()


def test_few_scenarios_give_a_vector_without_a_figure(tmp_path):
    few = write_scenario_store(tmp_path / "few.tistore", [TRAIT], n_pairs=3)

    (vector,) = extract_vectors(few.store, TRAIT, layers=[5])

    assert vector.separation is None
    assert few.store.snapshot.table("evaluations").num_rows == 0


def test_vectors_that_nobody_asked_for_are_told_when_their_scenarios_are_others(written):
    extract_vectors(written.store, TRAIT, methods=["mean_diff", "lda"])
    add_scenarios(written, [21])
    told = []

    extract_vectors(written.store, TRAIT, say=told.append)

    assert "2 other vectors of tone/polite are still of the scenarios there were before" in told[2]
    assert "--methods lda" in told[2]


def test_a_misspelt_method_is_told_before_anything_is_fitted(written):
    with pytest.raises(ConfigError, match="prob"):
        extract_vectors(written.store, TRAIT, methods=["mean_diff", "prob"])
    assert written.store.snapshot.vectors() == ()
