"""Rows of both sides of a trait at one site: what every method is fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.errors import InvalidRecordError

Rows = NDArray[np.floating]
Groups = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """
    Mean activations of the scenarios that show a trait, and of those that do not.

    Attributes:
        positive: (n_positive, width), in the site's activation units.
        negative: (n_negative, width).
        positive_groups: (n_positive,) number of the scenario each row belongs to. Rows with one
            number, on either side, tell of the same situation: no split may part them.
        negative_groups: (n_negative,).
    """

    positive: Rows
    negative: Rows
    positive_groups: Groups
    negative_groups: Groups

    def __post_init__(self) -> None:
        """Check that the sides can be compared."""
        if self.positive.ndim != 2 or self.negative.ndim != 2:
            raise InvalidRecordError("a side of a contrast is (rows, width)")
        if not len(self.positive) or not len(self.negative):
            raise InvalidRecordError(
                f"a contrast needs rows on both sides, not {len(self.positive)} and "
                f"{len(self.negative)}"
            )
        if self.positive.shape[1] != self.negative.shape[1]:
            raise InvalidRecordError(
                f"the sides differ in width: {self.positive.shape[1]} and {self.negative.shape[1]}"
            )
        lengths = (len(self.positive_groups), len(self.negative_groups))
        if lengths != (len(self.positive), len(self.negative)):
            raise InvalidRecordError("each row of a contrast belongs to one group")

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(self.positive.shape[1])

    @property
    def groups(self) -> Groups:
        """Every group once, ascending."""
        return np.unique(np.concatenate([self.positive_groups, self.negative_groups]))

    def take(self, groups: Groups) -> Contrast:
        """
        Keep the rows of some groups.

        Raises:
            InvalidRecordError: A side has none of them.
        """
        is_positive = np.isin(self.positive_groups, groups)
        is_negative = np.isin(self.negative_groups, groups)
        return Contrast(
            self.positive[is_positive],
            self.negative[is_negative],
            self.positive_groups[is_positive],
            self.negative_groups[is_negative],
        )
