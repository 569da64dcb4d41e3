"""How a stored vector would be fitted again, on some of its scenarios."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.errors import ConfigError
from tistore.query.references import CLEAN_SUFFIX
from tistore.schemas.vector import Vector
from tistore.vectors.contrast import Contrast, Rows
from tistore.vectors.methods.fit import Fit, Method
from tistore.vectors.methods.mean_difference import fit_mean_difference
from tistore.vectors.methods.on_clean import ON_CLEAN
from tistore.vectors.methods.registry import METHODS
from tistore.vectors.position import Position

Dims = NDArray[np.int64]


def is_refittable(vector: Vector) -> bool:
    """Whether its method and its position are known, so that it can be fitted again."""
    return _base(vector) in METHODS and is_position(vector.position)


def is_position(text: str) -> bool:
    """Whether a vector's position says which tokens it was fitted on."""
    try:
        Position.parse(text)
    except ConfigError:
        return False
    return True


def plan_refit(vector: Vector, contrast: Contrast) -> tuple[Contrast, Method]:
    """
    Say which rows go to which method, to fit a vector as it was fitted.

    The dimensions that a cleaned vector lacks are those where its values are 0.

    Args:
        vector: One that `is_refittable`.
        contrast: Rows at its site.

    Returns:
        The rows, and the method.
    """
    method = METHODS[_base(vector)]
    if _base(vector) == vector.method:
        return contrast, method
    dims = np.flatnonzero(vector.values == 0)
    # A mean difference is the same whether it is cleaned before or after.
    if vector.method.endswith(ON_CLEAN) or method is fit_mean_difference:
        return _without(contrast, dims), method
    return contrast, _cleaned_after(method, dims)


def _base(vector: Vector) -> str:
    """Name the method without what was done about massive dimensions."""
    suffix = ON_CLEAN if vector.method.endswith(ON_CLEAN) else CLEAN_SUFFIX
    return vector.method.removesuffix(suffix)


def _without(contrast: Contrast, dims: Dims) -> Contrast:
    return Contrast(
        _clean(contrast.positive, dims),
        _clean(contrast.negative, dims),
        contrast.positive_groups,
        contrast.negative_groups,
    )


def _clean(rows: Rows, dims: Dims) -> Rows:
    cleaned = rows.copy()
    cleaned[:, dims] = 0
    return cleaned


def _cleaned_after(method: Method, dims: Dims) -> Method:
    def fit(contrast: Contrast, seed: int = 0) -> Fit:
        values = method(contrast, seed).values.copy()
        values[dims] = 0
        return Fit(values)

    return fit
