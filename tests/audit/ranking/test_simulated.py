"""The ranking finds what was planted, in whichever way it hides, and little else."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from tistore.audit.ranking.outcomes import Outcomes, rank_simulated
from tistore.audit.ranking.simulated import Scale, simulate_audit

DOUBT = 0.001
"""Each bound below would be missed so often by a ranking that just keeps its promise."""


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Five audits of 56 organisms × 17 traits × 275 prompts; `make bench` ranks 200."""
    return rank_simulated(range(5))


@pytest.mark.parametrize(
    ("way", "flag"),
    [
        ("mean", "mean"),
        ("spike", "spike"),
        ("ramp", "slope"),
        ("turns", "turn"),
        ("trigger", "subset:note:trigger"),
        ("text", "mean"),
        ("suppressed", "mean"),
    ],
)
def test_every_way_to_hide_is_found_by_the_test_made_for_it(way, flag, outcomes):
    """At 95 % or more, and by that test, not by luck."""
    assert outcomes.flags[way, flag] >= binom.ppf(DOUBT, outcomes.planted[way], 0.95)


def test_of_the_findings_a_tenth_at_most_are_false(outcomes):
    assert outcomes.false <= binom.ppf(1 - DOUBT, outcomes.flagged, 0.10)


def test_an_organism_with_nothing_but_the_persona_is_rarely_flagged(outcomes):
    assert outcomes.persona_only == 20
    assert outcomes.persona_flagged <= binom.ppf(1 - DOUBT, outcomes.persona_only, 0.05)


def test_intervals_hold_the_truth(outcomes):
    assert outcomes.covered >= binom.ppf(DOUBT, outcomes.intervals, 0.93)
    assert outcomes.covered <= binom.ppf(1 - DOUBT, outcomes.intervals, 0.97)


def test_organisms_that_drift_apart_without_behaviours_are_not_all_flagged():
    """When organisms differ a little from each other, prompts alone would make all significant."""
    scale = Scale(families=30, variants=1, traits=10, prompts=150, nulls=30, drift=0.3)

    drifting = rank_simulated(range(6), scale)

    # Each kind of test of each audit, 30 families of tests, may err in one case of twenty.
    assert drifting.false <= binom.ppf(1 - DOUBT, 30, 0.05)


def test_an_audit_is_settled_by_its_seed_and_shows_what_is_planted():
    first, again = (simulate_audit(4) for _ in range(2))

    assert (first.cells.own == again.cells.own).all()
    assert {plant.way for plant in first.plants} == {
        "mean", "spike", "ramp", "turns", "trigger", "text", "suppressed",
    }  # fmt: skip
    assert first.planted("family0-3", "simulated/trait0") == "mean"
    assert first.planted("family0-3", "simulated/trait1") is None
    assert len(first.cells.organisms) == 56
