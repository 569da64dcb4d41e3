"""Effect sizes are those of SciPy, of statsmodels, and of the formulas they are named after."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from tistore.audit.effects.definitions import (
    DEFINITIONS,
    cohens_d_av,
    find_definition,
    hedges_g_av,
    hedges_g_z,
    population_d_z,
)
from tistore.audit.effects.moments import ClusterSums, measure_moments
from tistore.errors import InvalidRecordError, QueryError

numbers = st.floats(-100, 100, allow_nan=False, width=32)


def draw(n=30, cells=4, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, cells))
    return 3 + shared + rng.normal(0.5, 1, (n, cells)), 3 + shared + rng.normal(0, 2, (n, cells))


def correct(freedom):
    return 1 - 3 / (4 * freedom - 1)


@pytest.mark.parametrize("n", [3, 7, 275])
def test_the_paired_effect_is_the_paired_t_over_the_root_of_n(n):
    first, second = draw(n)

    found = hedges_g_z(measure_moments(first, second))

    t = scipy.stats.ttest_rel(first, second).statistic
    assert found == pytest.approx(t / np.sqrt(n) * correct(n - 1))


def test_the_paired_effect_agrees_with_statsmodels():
    first, second = draw()

    found = hedges_g_z(measure_moments(first, second))

    t = DescrStatsW(first - second).ttest_mean(0)[0]
    assert found == pytest.approx(t / np.sqrt(30) * correct(29))


@pytest.mark.parametrize("n", [2, 7, 275])
def test_the_unpaired_effect_is_welchs_t_over_the_root_of_half_n(n):
    first, second = draw(n)

    moments = measure_moments(first, second)

    t = scipy.stats.ttest_ind(first, second, equal_var=False).statistic
    other = CompareMeans(DescrStatsW(first), DescrStatsW(second)).ttest_ind(usevar="unequal")[0]
    assert cohens_d_av(moments) == pytest.approx(t * np.sqrt(2 / n))
    assert cohens_d_av(moments) == pytest.approx(other * np.sqrt(2 / n))
    assert hedges_g_av(moments) == pytest.approx(t * np.sqrt(2 / n) * correct(2 * n - 2))


def test_the_definitions_of_trait_interp_are_its_formulas():
    first, second = draw()

    definition = find_definition("trait-interp")
    moments = measure_moments(first, second)

    difference = first - second
    pooled = np.sqrt((first.var(axis=0, ddof=1) + second.var(axis=0, ddof=1)) / 2)
    assert definition.unpaired(moments) == pytest.approx(difference.mean(axis=0) / pooled)
    assert definition.paired(moments) == pytest.approx(
        difference.mean(axis=0) / difference.std(axis=0)
    )


def test_a_constant_difference_has_no_standardised_effect_but_trait_interps_is_0():
    second = np.array([[1.0], [2.0], [4.0]])
    moments = measure_moments(second + 7, second)

    assert np.isnan(hedges_g_z(moments))
    assert population_d_z(moments) == 0
    assert hedges_g_av(moments) > 0


def test_effects_keep_their_sign():
    first, second = draw()
    there, back = measure_moments(first, second), measure_moments(second, first)

    for definition in DEFINITIONS.values():
        for measure in (definition.paired, definition.unpaired):
            assert measure(there) == pytest.approx(-measure(back))


def test_a_large_offset_costs_no_digits():
    """Massive dimensions put scores at 30,000, where the differences are of size 1."""
    first, second = draw()

    near, far = measure_moments(first, second), measure_moments(first + 3e6, second + 3e6)

    assert hedges_g_z(far) == pytest.approx(hedges_g_z(near), rel=1e-8, abs=1e-9)
    assert hedges_g_av(far) == pytest.approx(hedges_g_av(near), rel=1e-8, abs=1e-9)


def test_a_prompt_that_one_side_lacks_counts_for_neither():
    first, second = draw()
    lacking, other = first.copy(), second.copy()
    lacking[:5, 0] = np.nan
    other[:5, 1] = np.nan

    expected = measure_moments(first[5:], second[5:])
    for found in (measure_moments(lacking, other), ClusterSums.of(lacking, other).whole()):
        assert found.n.ravel().tolist() == [25, 25, 30, 30]
        assert hedges_g_av(found).ravel()[:2] == pytest.approx(hedges_g_av(expected)[:2])
        assert hedges_g_z(found).ravel()[:2] == pytest.approx(hedges_g_z(expected)[:2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers, st.integers(0, 4)), min_size=3, max_size=20),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_taking_a_cluster_twice_is_the_same_as_its_prompts_being_there_twice(prompts, times):
    values = np.array([prompt[:2] for prompt in prompts], dtype=np.float64)
    labels = np.array([prompt[2] for prompt in prompts])
    known = np.unique(labels)
    counts = np.array(times, dtype=np.float64)[: len(known)]
    repeated = np.repeat(values, counts[np.searchsorted(known, labels)].astype(int), axis=0)

    sums = ClusterSums.of(values[:, :1], values[:, 1:], labels)
    found = sums.moments(counts[None])

    assert found.n[0, 0] == len(repeated)
    if len(repeated):
        expected = measure_moments(repeated[:, :1], repeated[:, 1:])
        for name in ("difference", "paired", "first", "second"):
            assert getattr(found, name)[0, 0] == pytest.approx(
                getattr(expected, name)[0], rel=1e-7, abs=1e-6
            ), name


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(QueryError, match="trait-interp"):
        find_definition("trait-interpp")
    with pytest.raises(InvalidRecordError, match="no pairs"):
        measure_moments(np.zeros((3, 1)), np.zeros((4, 1)))


@pytest.mark.parametrize("shift", [0.1, 1 / 3, 1e4])
def test_what_rounding_leaves_of_a_constant_difference_is_no_spread(shift):
    second = np.random.default_rng(0).normal(size=(40, 3)) * 7
    first = second + shift

    assert np.isnan(hedges_g_z(measure_moments(first, second))).all()
    assert np.isnan(hedges_g_z(ClusterSums.of(first, second).whole())).all()
    assert (population_d_z(measure_moments(first, second)) == 0).all()
