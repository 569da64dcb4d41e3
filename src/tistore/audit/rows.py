"""Numbers as the rows of an answer hold them."""

from __future__ import annotations

import numpy as np


def known_or_none(value: np.float64 | float) -> float | None:
    """Give a number for a row; None for what is not known (NaN), or has no bounds."""
    return float(value) if np.isfinite(value) else None
