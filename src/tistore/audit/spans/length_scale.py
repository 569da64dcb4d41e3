"""How far means of n tokens stray, so that spans of any length can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_EXACT_UP_TO = 32
_STEP = 1.1
LEAST_STRETCHES = 20
"""Stretches side by side without which a deviation is not believed."""


@dataclass(frozen=True, slots=True, eq=False)
class LengthScale:
    """
    Mean and deviations of one organism's token scores.

    Attributes:
        mean: Of all its tokens.
        lengths: Numbers of tokens, ascending.
        deviations: For each, the standard deviation of the means of so many tokens in a row.
    """

    mean: float
    lengths: NDArray[np.int64]
    deviations: Values

    def standardise(self, scores: Values, n_tokens: NDArray[np.int64]) -> Values:
        """
        Tell how many deviations means lie from the mean: z = (score − μ) / σ_n.

        Between measured lengths σ is interpolated, in logarithms. Beyond the longest, it is that
        of the longest: so z is never too large for want of data.

        Args:
            scores: Means, (span,).
            n_tokens: Over how many tokens each is, (span,).

        Returns:
            z, (span,), float64; NaN where nothing varies.
        """
        if not len(self.lengths):
            return np.full(len(scores), np.nan)
        logs = np.interp(
            np.log(np.maximum(n_tokens, 1)), np.log(self.lengths), np.log(self.deviations)
        )
        return np.asarray((scores - self.mean) / np.exp(logs))


def measure_scale(trajectories: Sequence[Values], longest: int) -> LengthScale:
    """
    Measure how far means of n tokens in a row stray from the mean of all tokens.

    All stretches of n tokens are looked at, overlapping ones included. What neighbouring tokens
    have in common is so in σ_n, which falls slower than 1/√n; nothing is assumed about it.
    Lengths are measured one by one up to 32 tokens, then in steps of a tenth, as far as there are
    20 stretches side by side.

    Args:
        trajectories: Token scores of each response, in order: (token,) each.
        longest: Longest span to come, in tokens.
    """
    told = [one[np.isfinite(one)] for one in trajectories]
    scores = np.concatenate([np.empty(0), *told]).astype(np.float64)
    if len(scores) < LEAST_STRETCHES or np.ptp(scores) == 0:
        return LengthScale(float("nan"), np.empty(0, np.int64), np.empty(0))
    sizes = np.array([len(one) for one in told])
    mean = float(scores.mean())
    running = np.concatenate([[0.0], np.cumsum(scores - mean)])
    # How many tokens are left in the response, from each on.
    left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(scores))
    found = {}
    for length in _list_lengths(longest):
        if (sizes // length).sum() < LEAST_STRETCHES:
            break
        sums = running[length:] - running[:-length]
        sums = sums[left[: len(sums)] >= length]
        found[length] = float(np.sqrt(np.mean(sums * sums))) / length
    kept = {length: deviation for length, deviation in found.items() if deviation > 0}
    return LengthScale(mean, np.array([*kept], np.int64), np.array([*kept.values()]))


def _list_lengths(longest: int) -> list[int]:
    lengths = list(range(1, min(longest, _EXACT_UP_TO) + 1))
    while lengths[-1] < longest:
        lengths.append(max(lengths[-1] + 1, round(lengths[-1] * _STEP)))
    return lengths


def standardise(
    scales: Mapping[str, LengthScale],
    organisms: Sequence[str],
    codes: NDArray[np.int64],
    scores: Values,
    n_tokens: NDArray[np.int64],
) -> Values:
    """
    Standardise spans of several organisms, each by its own scale.

    Args:
        scales: By organism.
        organisms: Names.
        codes: Place of each span's organism among them, (span,).
        scores: Means, (span,).
        n_tokens: Over how many tokens each is, (span,).

    Returns:
        z, (span,), float64; NaN where an organism has no scale.
    """
    z = np.full(len(scores), np.nan)
    for place, name in enumerate(organisms):
        if name in scales:
            own = codes == place
            z[own] = scales[name].standardise(scores[own], n_tokens[own])
    return z
