"""A direction that knows nothing."""

from __future__ import annotations

import numpy as np

from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.rows import check_rows


def draw_direction(contrast: Contrast, seed: int = 0) -> Fit:
    """
    Draw a direction, every one equally likely: what a fitted one must beat.

    It depends on the width and the seed alone, and its sign on nothing.

    Args:
        contrast: Only its width is looked at.
        seed: Another seed is another direction.

    Returns:
        Independent standard normal values, without a bias.

    Raises:
        NonFiniteError: The rows hold NaN or infinity.
        FitError: All rows are the same.
    """
    check_rows(contrast)
    return Fit(np.random.default_rng(seed).standard_normal(contrast.width))
