"""How far means of n tokens stray: measured as it is, and fair to spans of any length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from tistore.audit.spans.length_scale import LEAST_STRETCHES, measure_scale, standardise


def draw_ar1(rng, n_responses, n_tokens, phi, mean=0.0):
    """Token scores of variance 1, each alike its neighbours."""
    noise = rng.standard_normal((n_responses, n_tokens + 200)) * np.sqrt(1 - phi**2)
    return list(mean + lfilter([1.0], [1.0, -phi], noise, axis=1)[:, 200:])


def by_brute_force(trajectories, length):
    """Root mean square of every stretch's mean, about the mean of all tokens."""
    mean = np.concatenate(trajectories).mean()
    means = [
        np.mean(one[start : start + length]) - mean
        for one in trajectories
        for start in range(len(one) - length + 1)
    ]
    return np.sqrt(np.mean(np.square(means)))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    offset=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_deviations_are_those_of_all_stretches(sizes, offset, seed):
    rng = np.random.default_rng(seed)
    trajectories = [offset + rng.standard_normal(size).cumsum() for size in sizes]

    scale = measure_scale(trajectories, 50)

    wanted = [
        length for length in range(1, 33)
        if sum(size // length for size in sizes) >= LEAST_STRETCHES
    ]  # fmt: skip
    assert scale.lengths.tolist()[: len(wanted)] == wanted
    found = dict(zip(scale.lengths.tolist(), scale.deviations, strict=True))
    assert all(sum(size // length for size in sizes) >= LEAST_STRETCHES for length in found)
    for length in wanted:
        assert found[length] == pytest.approx(by_brute_force(trajectories, length), rel=1e-9)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_deviations_of_ar1_noise_are_those_of_its_formula(phi):
    """Var of a mean of n: (n + 2 Σ (n − k) φᵏ) / n², far above 1/n when neighbours are alike."""
    trajectories = draw_ar1(np.random.default_rng(1), 2000, 200, phi)

    scale = measure_scale(trajectories, 60)

    for length, deviation in zip(scale.lengths.tolist(), scale.deviations, strict=True):
        lags = np.arange(1, length)
        variance = (length + 2 * np.sum((length - lags) * phi**lags)) / length**2
        assert deviation == pytest.approx(np.sqrt(variance), rel=0.03)


def test_between_measured_lengths_it_is_interpolated_and_beyond_them_held():
    trajectories = draw_ar1(np.random.default_rng(2), 400, 100, 0.5)
    scale = measure_scale(trajectories, 300)

    def sigma(length):
        at = scale.mean + 1.0
        return float(1 / scale.standardise(np.array([at]), np.array([length]))[0])

    assert sigma(34) == pytest.approx(by_brute_force(trajectories, 34), rel=0.02)
    assert sigma(55) == pytest.approx(by_brute_force(trajectories, 55), rel=0.02)
    assert scale.lengths[-1] <= 100
    assert sigma(3000) == pytest.approx(scale.deviations[-1])


@pytest.mark.parametrize(
    "trajectories",
    [[], [np.empty(0)], [np.arange(19.0)], [np.ones(50)], [np.full(50, np.nan)]],
    ids=["none", "empty", "few", "constant", "unknown"],
)
def test_without_enough_that_varies_nothing_is_standardised(trajectories):
    scale = measure_scale(trajectories, 10)

    assert np.isnan(scale.standardise(np.array([1.0]), np.array([2]))).all()


def test_each_organism_is_measured_by_its_own_scale():
    rng = np.random.default_rng(3)
    scales = {
        "calm": measure_scale(draw_ar1(rng, 50, 100, 0.5), 5),
        "wild": measure_scale([10 * one + 5 for one in draw_ar1(rng, 50, 100, 0.5)], 5),
    }
    scores, codes = np.array([1.0, 1.0, 1.0]), np.array([0, 1, 2])

    z = standardise(scales, ["calm", "wild", "unknown"], codes, scores, np.array([3, 3, 3]))

    assert z[0] == scales["calm"].standardise(scores[:1], np.array([3]))[0]
    assert z[1] == scales["wild"].standardise(scores[:1], np.array([3]))[0]
    assert z[0] > 0 > z[1]
    assert np.isnan(z[2])


def test_short_clauses_win_by_score_and_not_by_z():
    """Under AR(1) noise: clauses of 8 tokens on average, of geometric length, 20 at the top."""
    shares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        trajectories = draw_ar1(rng, 100, 300, 0.6)
        sizes = rng.geometric(1 / 8, (100, 300))
        clauses = [
            (one[end - size : end].mean(), size)
            for one, own in zip(trajectories, sizes, strict=True)
            for end, size in zip(np.cumsum(own), own, strict=True)
            if end <= len(one)
        ]
        scores, n_tokens = (np.array(column) for column in zip(*clauses, strict=True))
        z = measure_scale(trajectories, int(n_tokens.max())).standardise(scores, n_tokens)
        is_short = n_tokens <= 2
        shares.append(
            (is_short.mean(), *(is_short[np.argsort(-by)[:20]].mean() for by in (scores, z)))
        )
    overall, raw, standardised = np.mean(shares, axis=0)

    assert raw > overall + 0.3
    assert abs(standardised - overall) <= 0.05
