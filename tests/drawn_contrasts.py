"""Contrasts drawn at random, with a direction planted in them."""

from __future__ import annotations

import numpy as np

from tistore.vectors.contrast import Contrast


def draw_contrast(
    seed: int = 0, n: int = 40, width: int = 24, *, shift: float = 3.0, dtype=np.float64
) -> tuple[Contrast, np.ndarray]:
    """Draw n pairs around a common state, the positive ones moved along the unit vector given."""
    rng = np.random.default_rng([7, seed])
    direction = rng.normal(size=width)
    direction /= np.linalg.norm(direction)
    common = 2 * rng.normal(size=width)
    positive = common + rng.normal(size=(n, width)) + shift * direction
    negative = common + rng.normal(size=(n, width))
    pairs = np.arange(n)
    return Contrast(positive.astype(dtype), negative.astype(dtype), pairs, pairs), direction


def swap(contrast: Contrast) -> Contrast:
    """Call the negative side positive."""
    return Contrast(
        contrast.negative, contrast.positive, contrast.negative_groups, contrast.positive_groups
    )


def change(contrast: Contrast, alter) -> Contrast:
    """Alter the rows of both sides."""
    return Contrast(
        alter(contrast.positive),
        alter(contrast.negative),
        contrast.positive_groups,
        contrast.negative_groups,
    )


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
