"""The mean difference, against NumPy in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drawn_contrasts import change, draw_contrast, swap
from tistore.vectors.methods.mean_difference import fit_mean_difference

seeds = st.integers(0, 2**32)
sizes = st.integers(1, 30)


@given(seeds, sizes, sizes)
def test_it_is_numpys_difference_of_means_in_float64(seed, n, width):
    contrast, _ = draw_contrast(seed, n, width, dtype=np.float32)
    positive, negative = (
        np.array([sum(map(float, column)) for column in side.T]) / n
        for side in (contrast.positive, contrast.negative)
    )

    np.testing.assert_allclose(
        fit_mean_difference(contrast).values, positive - negative, rtol=1e-12, atol=1e-12
    )


def test_large_means_cost_no_digits():
    """float32 steps by 0.002 at 32,000, where massive dimensions lie."""
    contrast, _ = draw_contrast(n=500)
    lifted = change(contrast, lambda rows: (rows + 32_000).astype(np.float32))
    exact = change(lifted, lambda rows: rows.astype(np.longdouble))

    wanted = exact.positive.mean(axis=0) - exact.negative.mean(axis=0)

    np.testing.assert_allclose(
        fit_mean_difference(lifted).values, wanted.astype(np.float64), atol=1e-10
    )


@given(seeds, st.floats(-100, 100))
def test_where_the_origin_lies_does_not_matter(seed, offset):
    contrast, _ = draw_contrast(seed)

    moved = fit_mean_difference(change(contrast, lambda rows: rows + offset))

    np.testing.assert_allclose(moved.values, fit_mean_difference(contrast).values, atol=1e-11)


@given(seeds)
def test_swapping_the_sides_turns_it_round(seed):
    contrast, _ = draw_contrast(seed)

    swapped = fit_mean_difference(swap(contrast))

    assert np.array_equal(swapped.values, -fit_mean_difference(contrast).values)
