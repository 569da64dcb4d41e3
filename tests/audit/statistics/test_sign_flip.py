"""Sign flips: exact where they can be, right in the tail, honest about many cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest, permutation_test

from tistore.audit.statistics import sign_flip
from tistore.audit.statistics.sign_flip import max_t_p, sign_flip_p


def count_patterns(differences: np.ndarray) -> float:
    """The definition, pattern by pattern."""
    observed = abs(differences.sum())
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean(np.array(sums) >= observed * (1 - 1e-9)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=1, max_size=9))
def test_p_is_exact_with_few_prompts(differences):
    values = np.array(differences)

    (p,) = sign_flip_p(values[:, None])

    assert p == pytest.approx(count_patterns(values))


def test_p_is_scipys(rng_values):
    values = rng_values(12, 1)

    (p,) = sign_flip_p(values)

    theirs = permutation_test(
        (values[:, 0],),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="two-sided",
    )
    assert p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.8, 1.2])
def test_the_approximation_keeps_to_the_exact_count(shift, rng_values):
    """Also where p is so small that ten thousand permutations would see nothing."""
    values = rng_values(18, 8, shift)

    p = sign_flip_p(values)

    units = values / np.sqrt((values**2).sum(axis=0))
    patterns = sign_flip._all_signs(18)
    exact = (np.abs(patterns @ units) >= np.abs(units.sum(axis=0)) * (1 - 1e-9)).mean(axis=0)
    tolerance = np.where(exact > 1e-3, 0.05, 0.2)
    assert (np.abs(p / exact - 1) < tolerance).all()


def test_p_is_uniform_when_there_is_nothing(rng_values):
    """Skewed noise would not be symmetric; heavy tails and unequal spread are."""
    values = rng_values(60, 3000) * np.linspace(0.5, 3, 60)[:, None]

    p = sign_flip_p(values)

    assert kstest(p, "uniform").pvalue > 0.01


def test_prompts_of_a_cluster_flip_together(rng_values):
    """Each prompt five times over is no more evidence than once."""
    values = rng_values(30, 4, 0.3)
    labels = np.repeat(np.arange(30), 5)

    repeated = sign_flip_p(np.repeat(values, 5, axis=0), labels)

    np.testing.assert_allclose(repeated, sign_flip_p(values), rtol=1e-6)


def test_a_missing_prompt_is_left_out_and_a_missing_cell_has_no_p(rng_values):
    values = rng_values(40, 3)
    values[:8, 1] = np.nan
    values[:, 2] = np.nan

    p = sign_flip_p(values)

    assert p[1] == pytest.approx(sign_flip_p(values[8:, [1]])[0])
    assert np.isnan(p[2])
    assert np.isnan(max_t_p(values, permutations=200)[2])


def test_differences_that_are_all_alike_have_the_smallest_p_there_is():
    (p,) = sign_flip_p(np.ones((40, 1)))

    assert p == 2.0**-39
    assert sign_flip_p(np.zeros((40, 1)))[0] == 1.0


def test_max_t_of_few_prompts_is_the_count_of_all_patterns(rng_values):
    """Step-down: each cell against the largest of those that are not above it."""
    values = rng_values(7, 4, 0.5)

    adjusted = max_t_p(values)

    units = values / np.sqrt((values**2).sum(axis=0))
    observed = np.abs(units.sum(axis=0))
    order = np.argsort(-observed)
    raw = []
    for rank, _ in enumerate(order):
        rest = order[rank:]
        maxima = [
            np.abs(np.array(signs) @ units[:, rest]).max() for signs in product((1, -1), repeat=7)
        ]
        raw.append(np.mean(np.array(maxima) >= observed[order[rank]] * (1 - 1e-9)))
    np.testing.assert_allclose(adjusted[order], np.maximum.accumulate(raw))


def test_max_t_errs_in_one_table_of_twenty(rng_values):
    """Of 300 tables of 40 correlated cells without any effect; 0.1 % bounds of the binomial."""
    tables = 300
    wrong = 0
    for seed in range(tables):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((20, 40)) + rng.standard_normal((20, 1))
        wrong += bool((max_t_p(values, permutations=400, seed=seed) <= 0.05).any())

    assert binom.ppf(0.001, tables, 0.05) <= wrong <= binom.ppf(0.999, tables, 0.05)


def test_the_seed_settles_the_permutations(rng_values):
    values = rng_values(30, 5)

    first, again, other = (max_t_p(values, permutations=300, seed=seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
