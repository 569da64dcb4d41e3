"""Separation maximised step by step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.errors import FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.mean_difference import fit_mean_difference

RATE = 0.01
PENALTY = 0.01
MOST_STEPS = 20_000

_DECAYS = (0.9, 0.999)
_EPSILON = 1e-8
_CONVERGED = 0.9999  # cosine between the direction and the one that separates most


def fit_gradient(contrast: Contrast, seed: int = 0, *, steps: int | None = None) -> Fit:
    """
    Maximise the distance of the two mean scores along the direction, from a random start.

    What it converges to is the mean difference: among directions of length 1, none has a larger
    distance of means. Stopped after the 100 steps that trait-interp takes, it is still a mixture of
    the mean difference and its random start. Either is of use for comparison only.

    Each step is Adam's at a rate of 0.01, on −(mean positive − mean negative) · v/‖v‖ + 0.01 ‖v‖.

    Args:
        contrast: Rows of both sides.
        seed: Draws the start.
        steps: Steps to take, in the activations' own units. As many as it takes when left out, and
            in units that give the mean difference the length √width: in tiny ones the second term,
            which has no part in the direction, would drown the first.

    Returns:
        The direction with length 1, without a bias.

    Raises:
        NonFiniteError: The rows hold NaN or infinity.
        FitError: All rows are the same, both means are, or 20,000 steps do not converge.

    Source:
        Adam: Kingma and Ba, arXiv:1412.6980; the objective is trait-interp's.
    """
    difference = fit_mean_difference(contrast).values
    start = np.random.default_rng(seed).standard_normal(contrast.width)
    if steps is None:
        return Fit(_converge(start, difference))
    ascent = _Ascent(start, difference)
    for _ in range(steps):
        ascent.step()
    return Fit(ascent.unit)


def _converge(start: NDArray[np.float64], difference: NDArray[np.float64]) -> NDArray[np.float64]:
    best = difference / np.linalg.norm(difference)
    ascent = _Ascent(start, best * np.sqrt(len(best)))
    for _ in range(MOST_STEPS):
        ascent.step()
        if ascent.unit @ best >= _CONVERGED:
            return ascent.unit
    raise FitError(
        f"the gradient does not converge within {MOST_STEPS:,} steps",
        mend="fit mean_diff: that is what it converges to",
    )


class _Ascent:
    """Adam on its way from a start towards the largest separation."""

    def __init__(self, start: NDArray[np.float64], difference: NDArray[np.float64]) -> None:
        self._values = start
        self._difference = difference
        self._mean = np.zeros_like(start)
        self._square = np.zeros_like(start)
        self._n_steps = 0

    @property
    def unit(self) -> NDArray[np.float64]:
        return np.asarray(self._values / np.linalg.norm(self._values))

    def step(self) -> None:
        self._n_steps += 1
        slope = self._slope()
        first, second = _DECAYS
        self._mean += (1 - first) * (slope - self._mean)
        self._square += (1 - second) * (slope**2 - self._square)
        mean = self._mean / (1 - first**self._n_steps)
        square = self._square / (1 - second**self._n_steps)
        self._values = self._values - RATE * mean / (np.sqrt(square) + _EPSILON)

    def _slope(self) -> NDArray[np.float64]:
        """Differentiate: only what is across the direction alters a distance along its unit."""
        length, unit = np.linalg.norm(self._values), self.unit
        across = self._difference - (self._difference @ unit) * unit
        return np.asarray(PENALTY * unit - across / length)
