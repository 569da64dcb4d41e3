"""Random directions are as random as if they were drawn in all of space."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from tistore.audit.effects.definitions import hedges_g_av, hedges_g_z
from tistore.audit.effects.moments import measure_moments
from tistore.audit.shifts.random_directions import locate_in_span, share_as_large

MEASURES = {"paired": hedges_g_z, "unpaired": hedges_g_av}


def draw_sides(n=12, width=64, seed=0):
    """Sides whose difference lies mostly along the first dimension, in an uneven space."""
    rng = np.random.default_rng(seed)
    scales = np.linspace(3, 0.2, width)
    shared = rng.normal(size=(n, width)) * scales
    first, second = (shared + rng.normal(size=(n, width)) * 0.5 for _ in range(2))
    first[:, 0] += 2.0
    return first, second


def test_coordinates_in_the_span_keep_all_products_of_rows():
    rows = np.random.default_rng(1).normal(size=(9, 50))
    rows[8] = rows[0] + rows[1]

    found = locate_in_span(rows)

    assert found.shape == (9, 8)
    assert found @ found.T == pytest.approx(rows @ rows.T)
    assert locate_in_span(rows.T) is not None and locate_in_span(rows.T).shape == (50, 9)


def test_effects_are_distributed_as_along_directions_drawn_in_all_of_space():
    first, second = draw_sides()
    drawn = np.random.default_rng(2).normal(size=(64, 4000))
    everywhere = np.abs(hedges_g_z(measure_moments(first @ drawn, second @ drawn)))

    levels = np.quantile(everywhere, [0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    found = share_as_large(
        first, second, MEASURES, {"paired": levels, "unpaired": levels}, directions=4000
    )["paired"]

    assert found == pytest.approx([0.9, 0.75, 0.5, 0.25, 0.1, 0.01], abs=0.03)


def test_vectors_drawn_at_random_have_shares_spread_evenly():
    first, second = draw_sides(seed=3)
    vectors = np.random.default_rng(4).normal(size=(64, 300))
    moments = measure_moments(first @ vectors, second @ vectors)

    shares = share_as_large(
        first, second, MEASURES, {name: one(moments) for name, one in MEASURES.items()}
    )

    for share in shares.values():
        assert scipy.stats.kstest(share, "uniform").pvalue > 0.01


def test_a_planted_direction_is_seldom_reached_and_its_sign_does_not_matter():
    first, second = draw_sides()
    planted = np.eye(64)[:, :1]
    moments = measure_moments(first @ planted, second @ planted)
    effects = {name: np.append(one(moments), -one(moments)) for name, one in MEASURES.items()}

    found = share_as_large(first, second, MEASURES, effects, directions=2000)

    assert found["paired"][0] == found["paired"][1] < 0.02

    effects = {name: np.array([1e9]) for name in MEASURES}
    found = share_as_large(first, second, MEASURES, effects, directions=2000)
    assert found["paired"] == 1 / 2001


def test_the_seed_alone_decides_and_an_open_effect_has_no_share():
    first, second = draw_sides()
    effects = {name: np.array([0.3, np.nan]) for name in MEASURES}

    once, again, other = (
        share_as_large(first, second, MEASURES, effects, directions=300, seed=seed)["unpaired"]
        for seed in (1, 1, 2)
    )

    assert once[0] == again[0] != other[0]
    assert np.isnan(once[1])
