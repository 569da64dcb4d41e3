"""Means and variances of two sides that answered the same prompts, and of their differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels, number_clusters, sum_clusters
from tistore.errors import InvalidRecordError

Values = NDArray[np.float64]

_ROUNDING = 1e-12
"""What is this small beside the squares it is the rest of is rounding, and no spread at all."""

_DIGITS = 16 * np.finfo(np.float64).eps
"""A spread this small beside the values themselves is rounding, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """
    What effect sizes are made of; all arrays are of one shape, such as (resample, cell).

    Attributes:
        n: Prompts that both sides have answered.
        difference: Mean difference, first side minus second.
        paired: Sum of squared deviations of the differences from their mean.
        first: Sum of squared deviations of the first side's values.
        second: The same of the second side's.
    """

    n: Values
    difference: Values
    paired: Values
    first: Values
    second: Values


@dataclass(frozen=True, slots=True, eq=False)
class ClusterSums:
    """
    What each cluster of prompts adds to the moments: (cluster, cell) each.

    Values are taken from the mean of their cell, lest squares of large numbers lose the small
    differences between them.
    """

    n: Values
    first: Values
    second: Values
    first_squares: Values
    second_squares: Values
    difference_squares: Values
    offset: Values
    floor: Values

    @classmethod
    def of(cls, first: Values, second: Values, clusters: Labels | None = None) -> Self:
        """
        Add up the prompts of each cluster.

        Args:
            first: (prompt, cell); NaN where there is no answer.
            second: The same prompts.
            clusters: (prompt,) labels of prompts that are not independent.

        Raises:
            InvalidRecordError: The sides differ in shape.
        """
        index, n_clusters = number_clusters(clusters, len(first))
        is_there, (one, other), offset, floor = _centre(first, second)

        def add_up(values: Values) -> Values:
            return sum_clusters(values, index, n_clusters)

        return cls(
            n=add_up(is_there.astype(np.float64)),
            first=add_up(one),
            second=add_up(other),
            first_squares=add_up(one**2),
            second_squares=add_up(other**2),
            difference_squares=add_up((one - other) ** 2),
            offset=offset,
            floor=floor,
        )

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return len(self.n)

    def moments(self, counts: Values) -> Moments:
        """
        Compute the moments with each cluster taken as often as is counted.

        Args:
            counts: (resample, cluster).

        Returns:
            Arrays of (resample, cell); NaN where no prompt is left.
        """
        n = counts @ self.n
        one, other = counts @ self.first, counts @ self.second
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = [
                _drop_rounding(counts @ total - mean**2 / n, counts @ total, self.floor * n)
                for total, mean in (
                    (self.difference_squares, one - other),
                    (self.first_squares, one),
                    (self.second_squares, other),
                )
            ]
            return Moments(n, (one - other) / n + self.offset, *squares)

    def whole(self) -> Moments:
        """Compute the moments of all prompts: (1, cell)."""
        return self.moments(np.ones((1, self.n_clusters)))


def measure_moments(first: Values, second: Values) -> Moments:
    """
    Compute the moments of two sides, each prompt by itself: arrays of (cell,).

    Args:
        first: (prompt, cell); NaN where there is no answer.
        second: The same prompts.

    Raises:
        InvalidRecordError: The sides differ in shape.
    """
    is_there, (one, other), offset, floor = _centre(first, second)
    n = is_there.sum(axis=0).astype(np.float64)
    squares = [(side**2).sum(axis=0) for side in (one - other, one, other)]
    kept = [_drop_rounding(one, one, floor * n) for one in squares]
    return Moments(n, np.where(n > 0, offset, np.nan), *kept)


def _centre(
    first: Values, second: Values
) -> tuple[NDArray[np.bool_], tuple[Values, Values], Values, Values]:
    """
    Take each side's mean off.

    Returns:
        Which prompts both have answered; the sides, 0 elsewhere; the difference of their means;
        and the square below which one prompt's spread is rounding.
    """
    if first.shape != second.shape:
        raise InvalidRecordError(f"two sides of {first.shape} and {second.shape} are no pairs")
    # A prompt that one side has not answered says nothing of either.
    is_there = np.isfinite(first) & np.isfinite(second)
    n = np.maximum(is_there.sum(axis=0), 1)
    one, other = (np.where(is_there, side, 0.0) for side in (first, second))
    largest = np.maximum(np.abs(one), np.abs(other)).max(axis=0, initial=0.0)
    means = one.sum(axis=0) / n, other.sum(axis=0) / n
    centred = (np.where(is_there, one - means[0], 0.0), np.where(is_there, other - means[1], 0.0))
    return is_there, centred, (one - other).sum(axis=0) / n, (_DIGITS * largest) ** 2


def _drop_rounding(rest: Values, squares: Values, floor: Values) -> Values:
    return np.where((rest > _ROUNDING * squares) & (rest > floor), rest, 0.0)
