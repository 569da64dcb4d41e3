"""Choosing: the split that chose is never the split that reports."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from tistore.errors import InvalidRecordError
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import cross_fit
from tistore.vectors.evaluation.nested import Candidate, nested
from tistore.vectors.methods.registry import METHODS

MEAN_DIFFERENCE = METHODS["mean_diff"]


def make_candidates(count: int, *, n: int = 20, seed: int = 0, good: int | None = None):
    """Candidates of noise at sites of very different scale; one may tell the sides apart."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        positive, negative = rng.normal(size=(2, n, 6)) * 10.0 ** (number % 3)
        if number == good:
            positive[:, 0] += 3 * 10.0 ** (number % 3)
        contrast = Contrast(positive, negative, np.arange(n), np.arange(n))
        yield Candidate(f"layer {number}", contrast, MEAN_DIFFERENCE)


def test_on_noise_the_nested_estimate_is_chance_and_the_best_of_seventy_is_not():
    best, honest = [], []
    for seed in range(6):
        found = nested(make_candidates(70, n=15, seed=seed), inner_folds=3, resamples=0)
        best.append(found.merits[found.best].auroc)
        honest.append(found.evaluation.auroc)

    assert min(best) > 0.65
    assert abs(np.mean(honest) - 0.5) < 0.08


def test_the_candidate_that_separates_wins_every_fold():
    found = nested(make_candidates(12, n=30, good=7), resamples=200)

    assert found.best == "layer 7"
    assert found.winners == ("layer 7",) * 5 and found.wins == {"layer 7": 5}
    assert found.evaluation.auroc > 0.9
    assert found.evaluation.g_low < found.evaluation.g < found.evaluation.g_high
    # In units of a training row's deviation: the layer's scale does not show.
    assert found.evaluation.positive_std == pytest.approx(1, abs=0.3)


def test_merits_are_those_of_cross_fitting_each_candidate():
    candidates = list(make_candidates(5, good=2))

    found = nested(iter(candidates), resamples=0)

    for candidate in candidates:
        alone = cross_fit(candidate.contrast, MEAN_DIFFERENCE)
        assert found.merits[candidate.name].auroc == pytest.approx(alone.auroc)
        assert found.merits[candidate.name].g == pytest.approx(alone.g)


def test_a_choice_of_one_is_cross_fitting_it():
    (only,) = make_candidates(1, good=0)

    found = nested([only], resamples=0)

    assert found.evaluation.auroc == pytest.approx(cross_fit(only.contrast, MEAN_DIFFERENCE).auroc)


def test_of_equals_the_first_is_chosen():
    first, *_ = make_candidates(1, good=0)
    twins = [Candidate(name, first.contrast, MEAN_DIFFERENCE) for name in ("b", "a")]

    found = nested(twins, resamples=0)

    assert found.best == "b" and set(found.winners) == {"b"}


def test_candidates_are_taken_one_by_one():
    """Rows of two candidates at most are in memory: the one in hand, and the one being read."""
    read: list[weakref.ref] = []

    def walk():
        for candidate in make_candidates(5):
            read.append(weakref.ref(candidate.contrast.positive))
            yield candidate
            del candidate
            assert sum(one() is not None for one in read) <= 2

    nested(walk(), resamples=0)

    assert len(read) == 5


def test_candidates_of_different_scenarios_or_of_one_name_are_refused():
    first, second = make_candidates(2)
    other = Contrast(
        second.contrast.positive, second.contrast.negative, np.arange(20) + 1, np.arange(20)
    )

    with pytest.raises(InvalidRecordError, match="different scenarios"):
        nested([first, Candidate("other", other, MEAN_DIFFERENCE)])
    with pytest.raises(InvalidRecordError, match="two candidates are named layer 0"):
        nested([first, first])
    with pytest.raises(InvalidRecordError, match="nothing to choose"):
        nested([])
