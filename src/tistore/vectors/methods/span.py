"""The span of some rows: a few coordinates in place of thousands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """
    Rows in coordinates of the space they span.

    A method that knows lengths and angles only finds the same direction there, at the price of as
    many dimensions as there are rows.

    Attributes:
        rows: (rows, dimensions) float64, with the lengths and angles of the rows given.
        basis: (dimensions, width) float64, rows of length 1 across each other; None where `rows`
            are as given.
    """

    rows: Matrix
    basis: Matrix | None

    @classmethod
    def of(cls, rows: Matrix) -> Self:
        """Find coordinates for rows (rows, width); as they are where that is no wider."""
        if rows.shape[1] <= rows.shape[0]:
            return cls(rows, None)
        # rows = (Q R)ᵀ = Rᵀ Qᵀ.
        axes, coordinates = np.linalg.qr(rows.T)
        return cls(np.ascontiguousarray(coordinates.T), np.ascontiguousarray(axes.T))

    def widen(self, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give a direction of the span, (dimensions,), in the space of the rows: (width,)."""
        return direction if self.basis is None else direction @ self.basis
