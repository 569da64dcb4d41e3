"""Norms and means of a reading's activations, in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.store.half import EXPONENT_GAP, widen

_BLOCK_BYTES = 1 << 20
"""Of float32 at a time, so that all steps find it in the processor's cache."""


def measure(
    values: NDArray[np.float16], is_audited: NDArray[np.bool_], scale: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Measure every row's length, and the mean over the audited rows.

    Means are summed in float32 over a few rows at a time, and these sums in float64.

    Args:
        values: [row, layer, hidden], finite.
        is_audited: [row], which rows the mean runs over.
        scale: [layer], what values are to be multiplied by.

    Returns:
        Norms, [row, layer] float32; and the mean, [layer, hidden] float32, NaN where no row is
        audited.
    """
    n_rows, n_layers, hidden = values.shape
    norms = np.empty((n_rows, n_layers), dtype=np.float32)
    means = np.empty((n_layers, hidden), dtype=np.float32)
    for layer, factor in enumerate(scale):
        norms[:, layer], means[layer] = _measure_layer(values[:, layer], is_audited, factor)
    return norms, means


def _measure_layer(
    rows: NDArray[np.float16], is_audited: NDArray[np.bool_], factor: np.float64
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n_rows, hidden = rows.shape
    height = max(1, _BLOCK_BYTES // max(1, 4 * hidden))
    room = np.empty((min(height, n_rows), hidden), dtype=np.float32)
    squares = np.empty(n_rows, dtype=np.float32)
    total = np.zeros(hidden)
    for start in range(0, n_rows, height):
        part = rows[start : start + height]
        block = room[: len(part)]
        widen(np.ascontiguousarray(part), block)
        np.multiply(block, EXPONENT_GAP, out=block)
        np.einsum("rh,rh->r", block, block, out=squares[start : start + height])
        marked = is_audited[start : start + height]
        if marked.any():
            total += (block if marked.all() else block[marked]).sum(axis=0)
    count = int(np.count_nonzero(is_audited))
    mean = total * (factor / count) if count else np.full(hidden, np.nan)
    return np.sqrt(squares.astype(np.float64)) * factor, mean
