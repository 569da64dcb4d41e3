"""Methods to which it is all the same how rows are turned, and rows turned for them."""

from __future__ import annotations

import numpy as np

from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.mean_difference import fit_mean_difference
from tistore.vectors.methods.probe import fit_probe
from tistore.vectors.methods.span import Span

ROTATION_INVARIANT: frozenset[Method] = frozenset({fit_mean_difference, fit_probe})
"""
Methods that know lengths and angles only: turned rows give them the turned direction.

The discriminant is none of them, because it standardises each dimension; nor are a gradient that
starts, and Adam that steps, dimension by dimension, a feature machine, or whatever cleans
dimensions. These see the rows at full width.
"""


def in_span(contrast: Contrast) -> Contrast:
    """
    Turn the rows so that all but as many coordinates as there are rows are 0, and drop these.

    An exact rotation: lengths and angles, and so the scores along any direction fitted by a method
    of `ROTATION_INVARIANT`, stay as they are. Rows that are no wider than many stay too.

    Args:
        contrast: Rows, width wide.

    Returns:
        The same rows in float64, as wide as there are rows at most.
    """
    n_positive = len(contrast.positive)
    if contrast.width <= n_positive + len(contrast.negative):
        return contrast
    rows = np.concatenate([contrast.positive, contrast.negative], dtype=np.float64)
    coordinates = Span.of(rows).rows
    return Contrast(
        coordinates[:n_positive],
        coordinates[n_positive:],
        contrast.positive_groups,
        contrast.negative_groups,
    )


def lay_out(contrast: Contrast, method: Method) -> Contrast:
    """Turn the rows into their span where the method does not mind."""
    return in_span(contrast) if method in ROTATION_INVARIANT else contrast
