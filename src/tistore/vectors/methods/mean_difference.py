"""The difference of means."""

from __future__ import annotations

import numpy as np

from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.rows import check_rows


def fit_mean_difference(contrast: Contrast, seed: int = 0) -> Fit:
    """
    Fit the direction from the negative mean to the positive mean.

    Its length is in the site's own activation units. A dimension that is large and noisy turns it
    towards itself, whether or not it has to do with the trait.

    Args:
        contrast: Rows of both sides.
        seed: Not used: nothing is drawn.

    Returns:
        The difference, without a bias.

    Raises:
        NonFiniteError: The rows hold NaN or infinity.
        FitError: All rows are the same, or both means are.

    Source:
        Contrastive Activation Addition, arXiv:2312.06681.
    """
    check_rows(contrast)
    positive, negative = (
        side.mean(axis=0, dtype=np.float64) for side in (contrast.positive, contrast.negative)
    )
    return Fit(positive - negative)
