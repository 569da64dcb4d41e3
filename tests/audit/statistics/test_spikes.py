"""Spikes: three prompts of hundreds stand out, and a habit at every prompt does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, median_abs_deviation

from tistore.audit.statistics.discoveries import adjust_bh
from tistore.audit.statistics.reference import depart, find_usual
from tistore.audit.statistics.spikes import median, robust_z, spike_p


def draw(organisms: int = 24, prompts: int = 120, traits: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((organisms, prompts, traits))


def test_z_is_the_median_and_deviation_of_the_others():
    """Before an organism's own median and spread come off; of one trait, moderated half-way."""
    values = draw(9, 40, 1)

    z = robust_z(values, np.arange(9))

    others = values[1:, :, 0]
    spread = median_abs_deviation(others, axis=0, scale=1 / 1.4826)
    spread = np.sqrt((spread**2 + np.median(spread) ** 2) / 2)
    raw = (values[0, :, 0] - np.median(others, axis=0)) / spread
    raw -= np.median(raw)
    expected = raw / max(1.0, median_abs_deviation(raw, center=lambda x, axis: 0, scale=1 / 1.4826))
    np.testing.assert_allclose(z[0, :, 0], expected)


def test_three_prompts_stand_out():
    values = draw()
    values[3, [5, 50, 99], 2] += 7

    q = adjust_bh(spike_p(robust_z(values, np.arange(24)), np.arange(24)))

    assert q[3, 2] < 0.05
    assert (np.delete(q.ravel(), 3 * 4 + 2) > 0.05).all()


def test_variants_of_one_behaviour_do_not_hide_each_other():
    values = draw()
    values[:4, [5, 50, 99], 2] += 7
    families = np.arange(24) // 4

    together = spike_p(robust_z(values, families), families)
    apart = spike_p(robust_z(values, np.arange(24)), np.arange(24))

    assert (together[:4, 2] < 1e-4).all()
    assert (together[:4, 2] < apart[:4, 2]).all()


@pytest.mark.parametrize("habit", ["shift", "noise"])
def test_a_habit_at_every_prompt_is_no_spike(habit):
    values = draw()
    values[0, :, 0] = values[0, :, 0] + 4 if habit == "shift" else values[0, :, 0] * 4

    p = spike_p(robust_z(values, np.arange(24)), np.arange(24))

    assert p[0, 0] > 0.05


@pytest.mark.parametrize("tail", [3, 30])
def test_p_errs_no_more_often_than_it_says_whatever_the_tail(tail):
    """Of 40 organisms × 20 traits of Student's t noise; the tests are not quite independent."""
    values = np.random.default_rng(4).standard_t(tail, (40, 100, 20))

    p = spike_p(robust_z(values, np.arange(40)), np.arange(40))

    assert (p <= 0.05).sum() <= binom.ppf(0.999, p.size, 0.05)
    assert (p <= 0.005).sum() <= binom.ppf(0.999, p.size, 0.005)


def test_prompts_of_one_cluster_are_one_spike():
    """A template that occurs thirty times is as much evidence as one prompt."""
    values = draw()
    values[3, :30, 2] += 7
    labels = np.r_[np.zeros(30, int), np.arange(1, 91)]
    z = robust_z(values, np.arange(24))

    assert spike_p(z, np.arange(24))[3, 2] < 1e-5
    assert spike_p(z, np.arange(24), labels)[3, 2] > 0.01


def test_what_was_not_read_is_left_out():
    values = draw(8, 30, 2)
    values[2] = np.nan
    values[5, :10] = np.nan

    z = robust_z(values, np.arange(8))
    p = spike_p(z, np.arange(8))

    assert np.isnan(p[2]).all()
    assert np.isfinite(np.delete(p, 2, axis=0)).all()
    assert np.isfinite(z[5, 10:]).all()


def test_the_median_leaves_missing_values_out():
    values = draw(7, 5, 3)
    values[0, 0] = values[3, 0] = values[:, 4] = np.nan

    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="All-NaN"):
        expected = np.nanmedian(values, axis=0)

    np.testing.assert_allclose(median(values), expected)


def test_departures_are_from_the_mean_of_the_others_outside_the_family():
    values = draw(6, 20, 2)
    families = np.array([0, 0, 1, 2, 3, 4])
    everyone = np.ones((6, 2), dtype=bool)

    found = depart(values, families, everyone)

    np.testing.assert_allclose(found.values[0], values[0] - values[2:].mean(axis=0))
    np.testing.assert_allclose(found.values[2], values[2] - values[[0, 1, 3, 4, 5]].mean(axis=0))
    assert found.n_others.tolist() == [[4, 4]] * 2 + [[5, 5]] * 4


def test_a_place_among_others_is_students_prediction():
    """Of too few traits to say what is usual, so nothing is moderated."""
    values = draw(9, 40, 2)
    everyone = np.ones((9, 2), dtype=bool)

    found = depart(values, np.arange(9), everyone)

    means = (values - np.median(values, axis=0)).mean(axis=1)
    others = means[1:, 0]
    error = others.std(ddof=1) * np.sqrt(1 + 1 / 8)
    assert found.spread_z[0, 0] == pytest.approx((means[0, 0] - others.mean()) / error)
    assert found.freedom[0, 0] == 7
    assert found.percentile[0, 0] == pytest.approx((others < means[0, 0]).mean() * 100)


def test_an_organism_that_stands_out_is_no_control():
    values = draw(12, 60, 3)
    values[4, :, 1] += 3

    usual = find_usual(values)
    found = depart(values, np.arange(12), usual)

    assert not usual[4, 1]
    assert usual[:, 0].sum() >= 10
    kept = [organism for organism in range(1, 12) if usual[organism, 1]]
    np.testing.assert_allclose(
        found.values[0, :, 1], values[0, :, 1] - values[kept, :, 1].mean(axis=0)
    )


def test_organisms_that_are_all_alike_do_not_depart():
    """Not by what rounding leaves either: a third is no binary fraction."""
    values = np.broadcast_to(draw(1, 30, 2) / 3, (7, 30, 2))

    found = depart(values, np.arange(7), find_usual(values))

    assert (found.values == 0).all()
    assert np.isnan(found.spread_z).all()


def test_nobody_to_compare_with_gives_nothing():
    found = depart(draw(3, 10, 2), np.zeros(3, int), np.ones((3, 2), dtype=bool))

    assert np.isnan(found.values).all()
    assert (found.n_others == 0).all()
