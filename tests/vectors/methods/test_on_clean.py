"""Massive dimensions: what they do to methods, and that leaving them out mends it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from drawn_contrasts import change, draw_contrast
from tistore.errors import ConfigError, FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.registry import METHODS, find_method

MASSIVE = 7


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(METHODS.keys() - {"rfm"})),
    st.integers(0, 2**32),
    st.sets(st.integers(0, 23), max_size=4),
)
def test_what_stands_in_a_massive_dimension_does_not_matter(name, seed, dims):
    contrast, _ = draw_contrast(seed)
    places = sorted(dims)
    noise = np.random.default_rng(seed).normal(300, 15, (40, len(places)))
    spoilt = change(contrast, np.copy)
    spoilt.positive[:, places] = noise

    fit, of_spoilt = (find_method(f"{name}-on-clean", places)(c, 1) for c in (contrast, spoilt))

    assert np.array_equal(fit.values, of_spoilt.values)
    assert not fit.values[places].any()
    assert fit.bias == of_spoilt.bias


def test_without_massive_dimensions_it_is_the_method_itself():
    contrast, _ = draw_contrast()

    fit = find_method("probe-on-clean", [])(contrast, 0)

    assert np.array_equal(fit.values, METHODS["probe"](contrast, 0).values)


def test_dimensions_must_be_known_and_be_there():
    with pytest.raises(ConfigError, match="they are not known") as caught:
        find_method("probe-on-clean")
    assert "tistore calibrate" in caught.value.mend
    for dims in ([3, 24], [-1]):
        with pytest.raises(FitError, match="not all among the 24"):
            find_method("probe-on-clean", dims)(draw_contrast()[0], 0)


def test_a_trait_that_lies_in_massive_dimensions_alone_is_refused():
    contrast, _ = draw_contrast()
    flat = change(contrast, np.zeros_like)
    flat.positive[:, MASSIVE] = 300

    with pytest.raises(FitError, match="all rows are the same"):
        find_method("mean_diff-on-clean", [MASSIVE])(flat, 0)


class Audit:
    """
    60 pairs 256 wide, and 500 fresh ones: a planted direction under noise that is partly shared.

    One dimension may be 300 ± 15 on both sides, as a massive one is.
    """

    def __init__(self, seed: int, *, is_massive: bool) -> None:
        self._rng = np.random.default_rng(seed)
        self._is_massive = is_massive
        axes = self._rng.normal(size=(3, 256))
        self._trait, *self._shared = axes / np.linalg.norm(axes, axis=1, keepdims=True)
        pairs = np.arange(60)
        self.contrast = Contrast(self._draw(60, 5.5), self._draw(60, 0), pairs, pairs)
        self.fresh = self._draw(500, 5.5), self._draw(500, 0)

    def _draw(self, n: int, shift: float) -> np.ndarray:
        rows = 1.3 * self._rng.normal(size=(n, 256)) + shift * self._trait
        rows += 5 * self._rng.normal(size=(n, 2)) @ np.array(self._shared)
        if self._is_massive:
            rows[:, MASSIVE] = self._rng.normal(300, 15, n)
        return rows

    def measure(self, method: str) -> tuple[float, float]:
        """Fit, and give AUROC on the fresh rows, and the unit vector's massive value."""
        values = find_method(method, [MASSIVE])(self.contrast, 0).values
        positive, negative = (side @ values for side in self.fresh)
        auroc = mannwhitneyu(positive, negative).statistic / 500**2
        return float(auroc), float(abs(values[MASSIVE]) / np.linalg.norm(values))


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, bool], np.ndarray]:
    """Of 20 audits each: the mean AUROC, and the mean massive value."""
    methods = ("mean_diff", "mean_diff-on-clean", "probe", "probe-on-clean", "lda")
    return {
        (method, is_massive): np.mean(
            [Audit(seed, is_massive=is_massive).measure(method) for seed in range(20)], axis=0
        )
        for is_massive in (False, True)
        for method in methods
    }


def test_a_massive_dimension_hijacks_the_mean_difference(measured):
    """Measured elsewhere, with few seeds: AUROC .963 → .784, and .34 of the unit vector is it."""
    (before, _), (after, share) = measured["mean_diff", False], measured["mean_diff", True]

    assert 0.95 < before < 0.99
    assert 0.7 < after < 0.86
    assert 0.2 < share < 0.45


def test_a_massive_dimension_does_a_probe_little_harm(measured):
    """Measured elsewhere: AUROC .989 → .980."""
    before, after = measured["probe", False][0], measured["probe", True][0]

    assert 0.975 < before < 0.995
    assert before - 0.02 < after < before + 0.005


def test_a_massive_dimension_does_a_discriminant_no_harm(measured):
    assert measured["lda", True][0] > 0.98


@pytest.mark.parametrize("method", ["mean_diff", "probe"])
def test_cleaning_restores_what_the_massive_dimension_took(measured, method):
    """Measured elsewhere: AUROC .983."""
    clean, share = measured[f"{method}-on-clean", True]

    assert share == 0
    assert clean > 0.97
    assert clean > measured[method, False][0] - 0.01
