"""Choosing by held-out scenarios; what chose is not what reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scenario_store import write_scenario_store
from tistore.errors import ChoiceError
from tistore.schemas.evaluation import VectorEvaluation
from tistore.vectors.calibrate import calibrate
from tistore.vectors.choosing.choose import choose_vectors
from tistore.vectors.choosing.pick import Settings
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import cross_fit
from tistore.vectors.evaluation.evaluate import evaluate
from tistore.vectors.methods.registry import METHODS

TRAIT = "tone/warm"


def add_vectors(written, methods=("mean_diff", "probe"), layers=(2, 5)):
    groups = np.arange(1, 1 + len(written.rows[TRAIT, "positive", layers[0]]))
    for layer in layers:
        sides = (written.rows[TRAIT, side, layer] for side in ("positive", "negative"))
        contrast = Contrast(*sides, groups, groups)
        for method in methods:
            written.store.add_vector(
                TRAIT, METHODS[method](contrast, 0).values, layer=layer, method=method,
                model="instruct", position="response[:]",
            )  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The trait moves the last layer only."""
    path = tmp_path_factory.mktemp("planted") / "s.tistore"
    written = write_scenario_store(path, [TRAIT], n_pairs=25)
    add_vectors(written)
    return written


def test_the_layer_where_the_trait_is_planted_is_taken(planted):
    (choice,) = choose_vectors(planted.store)

    assert (choice.rule, choice.layer, choice.selected_by) == ("nested", 5, "auroc")
    assert choice.n_candidates == 4
    assert choice.auroc > 0.8
    assert choice.g_low < choice.g < choice.g_high
    assert "of 4" in choice.reason


def test_the_score_that_chose_is_the_cross_fitted_one(planted):
    """Against scikit-learn: each fold along the direction of the others, strata kept apart."""
    (choice,) = choose_vectors(planted.store, rule="nested")
    groups = np.arange(1, 26)
    sides = (planted.rows[TRAIT, side, choice.layer] for side in ("positive", "negative"))
    scores = cross_fit(Contrast(*sides, groups, groups), METHODS[choice.method], seed=0)
    within = [
        roc_auc_score(scores.is_positive[scores.folds == fold], scores.scores[scores.folds == fold])
        for fold in np.unique(scores.folds)
    ]

    assert choice.selection_score == pytest.approx(np.mean(within), abs=0.02)


def test_the_same_store_gives_the_same_choice(planted):
    assert choose_vectors(planted.store) == choose_vectors(planted.store)


def test_on_noise_the_choice_looks_good_and_its_estimate_does_not(tmp_path):
    """The best of many is above chance; choosing, judged on other scenarios, is not."""
    chosen_by, reported = [], []
    for seed in range(6):
        path = tmp_path / f"{seed}.tistore"
        written = write_scenario_store(path, [TRAIT], n_pairs=12, shift=0.0, seed=seed)
        add_vectors(written, ("mean_diff", "probe", "lda"))
        (choice,) = choose_vectors(written.store, settings=Settings(folds=4))
        chosen_by.append(choice.selection_score)
        reported.append(choice.auroc)

    assert np.mean(chosen_by) > np.mean(reported) + 0.05
    assert abs(np.mean(reported) - 0.5) < 0.15


def test_steering_goes_before_scenarios_and_reports_their_figures(planted, tmp_path):
    """Scenarios had no part in what steering chose."""
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=12)
    add_vectors(written, ["mean_diff"])
    early = written.store.vector("warm@2")
    row = {"trait": TRAIT, "vector_hash": early.content_hash, "coefficient": 1.0, "n": 20}
    judged = {"trait_mean": 60.0, "coherence_mean": 90.0, "baseline_mean": 10.0}
    written.store.add_rows("steering", [row | judged])

    sides = (written.rows[TRAIT, side, 2] for side in ("positive", "negative"))
    contrast = Contrast(*sides, np.arange(12), np.arange(12))
    figures = evaluate(contrast, METHODS["mean_diff"], folds=4)
    of_it = VectorEvaluation.of(
        early, figures, tested_on=TRAIT, fitted_on=None, evaluated_at=datetime.now(UTC)
    )
    elsewhere = replace(of_it, tested_on="tone/cold", evaluation=replace(figures, auroc=0.1))
    written.store.add_rows("evaluations", [of_it.to_row(), elsewhere.to_row()])

    (choice,) = choose_vectors(written.store)

    assert (choice.rule, choice.layer) == ("steering", 2)
    assert (choice.auroc, choice.g) == (figures.auroc, figures.g)


def test_cleaned_copies_and_controls_are_not_fitted_anew(tmp_path):
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=12)
    add_vectors(written, ["mean_diff", "random"])
    written.store.add_vector(
        TRAIT, np.eye(12)[0], layer=5, method="mean_diff-clean", model="instruct",
        position="response[:]",
    )  # fmt: skip

    (choice,) = choose_vectors(written.store)

    assert (choice.n_candidates, choice.method) == (2, "mean_diff")


def test_what_separations_chose_says_why_scenarios_did_not(tmp_path):
    """Vectors of two positions, only one of which was captured, cannot be compared on scenarios."""
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=12)
    written.add_mean_difference(TRAIT, 5, separation=2.0)
    written.add_mean_difference(TRAIT, 2, separation=1.0, position="prompt[-1]")

    (choice,) = choose_vectors(written.store)

    assert (choice.rule, choice.layer) == ("separation", 5)
    assert "held-out scenarios did not choose: " in choice.reason
    assert "prompt[-1] needs others" in choice.reason


def test_too_few_scenarios_are_told(tmp_path):
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=4)
    add_vectors(written, ["mean_diff"])

    with pytest.raises(ChoiceError, match=r"tone/warm on instruct: 4 scenarios"):
        choose_vectors(written.store, rule="nested")
    with pytest.raises(ChoiceError, match="which of its 2 vectors"):
        choose_vectors(written.store)


def test_a_method_nobody_here_knows_cannot_be_fitted_anew(tmp_path):
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=12)
    for layer in (2, 5):
        written.add_mean_difference(TRAIT, layer, method="secret")

    with pytest.raises(ChoiceError, match="made by secret"):
        choose_vectors(written.store, rule="nested")


def test_a_method_on_clean_rows_is_fitted_anew_on_clean_rows(tmp_path):
    """Once massive dimensions are known; before, the rule says what measures them."""
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=12, shift=3.0)
    written.add_mean_difference(TRAIT, 5, method="probe-on-clean")
    written.add_mean_difference(TRAIT, 2, method="probe-on-clean")
    with pytest.raises(ChoiceError, match="tistore calibrate"):
        choose_vectors(written.store, rule="nested")

    calibrate(written.store)

    (choice,) = choose_vectors(written.store, rule="nested")
    assert (choice.method, choice.layer) == ("probe-on-clean", 5)


def test_vectors_at_two_positions_are_chosen_among_together(tmp_path):
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=20)
    add_vectors(written, ["mean_diff"])
    written.add_mean_difference(TRAIT, 5, position="response[-1]")

    (choice,) = choose_vectors(written.store, rule="nested")

    assert choice.n_candidates == 3
    assert choice.position == "response[:]", "three tokens tell more than one"


def test_vectors_fitted_on_other_rows_are_told(tmp_path):
    written = write_scenario_store(tmp_path / "s.tistore", [TRAIT], n_pairs=12)
    add_vectors(written, ["mean_diff"])
    early = written.store.vector("warm@2")
    with written.store.writer() as writer:
        writer.remove_vectors([early])
        writer.add_rows("vectors", [replace(early, fitted_on="0" * 32).to_row()])

    (choice,) = choose_vectors(written.store, rule="nested")

    assert "1 were fitted on other rows than are there now" in choice.reason
