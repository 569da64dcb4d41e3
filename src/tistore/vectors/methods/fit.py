"""A fitted direction, and what every method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.errors import FitError
from tistore.vectors.contrast import Contrast


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """
    What a method makes of a contrast.

    Attributes:
        values: (width,) float64; not normalised, and pointing to the positive side.
        bias: What the method adds to activation · values before it decides, where it decides; its
            own docstring says on which activations.
    """

    values: NDArray[np.float64]
    bias: float | None = None

    def __post_init__(self) -> None:
        """Check that the values are a direction."""
        if not np.isfinite(self.values).all():
            raise FitError("the fit holds NaN or infinity: the rows are too large for it")
        if not self.values.any():
            raise FitError(
                "the fit is zero everywhere: nothing tells the two sides apart",
                mend="see whether positive and negative scenarios differ at all",
            )


Method = Callable[[Contrast, int], Fit]
"""
A way to fit a direction: from the rows of both sides, and a seed.

The same rows and seed give the same fit. A method that draws nothing takes the seed all the same.

Raises:
    NonFiniteError: The rows hold NaN or infinity.
    FitError: The rows give no direction by this method.
"""
