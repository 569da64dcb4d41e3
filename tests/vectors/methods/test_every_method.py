"""What every method promises, whatever it computes."""

from __future__ import annotations

import numpy as np
import pytest

from drawn_contrasts import change, cosine, draw_contrast, swap
from tistore.errors import ConfigError, FitError, NonFiniteError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.registry import METHODS, find_method

LEARNING = sorted(METHODS.keys() - {"random"})
"""Methods that look at the rows."""


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_same_rows_and_seed_give_the_same_fit(name):
    contrast, _ = draw_contrast()

    one, other = (METHODS[name](contrast, 3) for _ in range(2))

    assert np.array_equal(one.values, other.values)
    assert one.bias == other.bias
    assert one.values.shape == (contrast.width,)
    assert one.values.dtype == np.float64


@pytest.mark.parametrize("name", LEARNING)
def test_every_method_finds_what_was_planted_and_points_to_the_positive_side(name):
    contrast, planted = draw_contrast(1, n=80, width=8, shift=4.0)

    assert cosine(METHODS[name](contrast, 0).values, planted) > 0.9
    assert cosine(METHODS[name](swap(contrast), 0).values, planted) < -0.9


@pytest.mark.parametrize("name", sorted(METHODS))
def test_fitting_leaves_the_rows_alone(name):
    contrast, _ = draw_contrast()
    frozen = change(contrast, np.copy)
    for side in (frozen.positive, frozen.negative):
        side.flags.writeable = False

    METHODS[name](frozen, 0)
    find_method(f"{name}-on-clean", [2])(frozen, 0)

    assert np.array_equal(frozen.positive, contrast.positive)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_rows_may_be_float32(name):
    contrast, _ = draw_contrast(dtype=np.float32)
    wide = change(contrast, lambda rows: rows.astype(np.float64))

    one, other = METHODS[name](contrast, 0), METHODS[name](wide, 0)

    np.testing.assert_allclose(one.values, other.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_nan_and_infinity_are_refused(name, value):
    contrast, _ = draw_contrast()
    contrast.negative[4, 5] = value

    with pytest.raises(NonFiniteError, match="1 of 40 negative rows hold NaN or infinity"):
        METHODS[name](contrast, 0)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_rows_that_are_all_the_same_are_refused(name):
    contrast, _ = draw_contrast()

    with pytest.raises(FitError, match="all rows are the same"):
        METHODS[name](change(contrast, np.ones_like), 0)


@pytest.mark.parametrize("name", ["lda", "probe", "rfm"])
def test_one_row_a_side_is_too_few_for_what_learns_a_spread(name):
    contrast, _ = draw_contrast(n=1)

    with pytest.raises(FitError, match="1 positive rows are too few: this method needs 2"):
        METHODS[name](contrast, 0)


def test_one_row_a_side_has_a_mean_difference():
    contrast, _ = draw_contrast(n=1)

    fit = METHODS["mean_diff"](contrast, 0)

    assert np.array_equal(fit.values, contrast.positive[0] - contrast.negative[0])


def test_sides_with_the_same_mean_have_no_difference():
    rows = np.array([[1.0, 2.0], [-1.0, -2.0]])
    pairs = np.arange(2)
    contrast = Contrast(rows, 3 * rows, pairs, pairs)

    for name in ("gradient", "mean_diff"):
        with pytest.raises(FitError, match="nothing tells the two sides apart"):
            METHODS[name](contrast, 0)


def test_random_directions_differ_by_seed_and_are_spread_evenly():
    contrast, _ = draw_contrast(width=4000)
    one, other = (METHODS["random"](contrast, seed).values for seed in (0, 1))

    assert abs(cosine(one, other)) < 5 / np.sqrt(4000)
    assert np.array_equal(one, METHODS["random"](swap(contrast), 0).values)
    assert one.std() == pytest.approx(1, abs=0.05)


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(ConfigError, match="no method 'mean_dif'") as caught:
        find_method("mean_dif")
    assert "'mean_diff'" in caught.value.mend

    with pytest.raises(ConfigError, match="no method 'prob-on-clean'") as caught:
        find_method("prob-on-clean", [1])
    assert "'probe'" in caught.value.mend


def test_a_fit_is_a_direction():
    for broken in (np.zeros(3), np.array([1.0, np.nan])):
        with pytest.raises(FitError):
            Fit(broken)
