"""float16 with a power-of-two exponent: what a store keeps of an activation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tistore.errors import InvalidRecordError, NonFiniteError
from tistore.store.bfloat16 import narrow

LARGEST = 65504.0
"""Largest finite float16."""

_ROUNDS_TO_INFINITY = 65520.0
_INFINITY_BITS = 0x7C00
_SIGN_AND_MAGNITUDE = np.int32(-0x70002000)  # 0x8fffe000

EXPONENT_GAP = np.float32(2.0**112)
"""Between the biases of float16 and float32."""


@dataclass(frozen=True, slots=True, eq=False)
class HalfArray:
    """
    Activations as float16, each layer scaled to fit.

    Attributes:
        values: [row, layer, hidden] float16; the true value is `values * 2.0**exponents[layer]`.
            Quickest to write where each layer's rows lie together in memory.
        exponents: [layer] int64, 0 wherever the layer fits as it is.
        n_underflow: How many values were not zero and became zero.
    """

    values: NDArray[np.float16]
    exponents: NDArray[np.int64]
    n_underflow: int


def as_array(values: Any, label: str) -> NDArray[Any]:
    """
    Bring activations from any library into NumPy, on the CPU, losslessly.

    Raises:
        InvalidRecordError: They are not floating point numbers.
    """
    if isinstance(values, HalfArray):
        return values.values
    if hasattr(values, "detach"):  # a torch tensor; torch itself is not needed to tell
        tensor = values.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            # NumPy knows no bfloat16, torch no NumPy's: as plain words both have them.
            word = sys.modules["torch"].int16
            return np.asarray(tensor.contiguous().view(word).numpy().view(ml_dtypes.bfloat16))
        values = tensor.numpy()
    array = np.asarray(values)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return array
    raise InvalidRecordError(
        f"{label}: activations are {array.dtype}, not floating point",
        mend="pass float16, bfloat16, float32 or float64 values",
    )


def to_half(values: ArrayLike, layers: tuple[int, ...], label: str) -> HalfArray:
    """
    Round activations to float16, scaling a layer by 2⁻ᵉ where it would overflow.

    bfloat16 values are exact when 2⁻¹⁷ ≤ |x|·2⁻ᵉ ≤ 65504; others round to the nearest float16.

    Args:
        values: [row, layer, hidden], any floating point type.
        layers: Block number of each place on the layer axis, for messages.
        label: What messages call the reading.

    Raises:
        NonFiniteError: A layer holds NaN or infinity.
    """
    array = as_array(values, label)
    if (taken := _move_bits(array)) is not None:
        half, n_underflow = taken
        return HalfArray(half, np.zeros(len(layers), dtype=np.int64), n_underflow)
    wide = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
    largest = np.maximum(wide.max(axis=(0, 2), initial=0.0), -wide.min(axis=(0, 2), initial=0.0))
    exponents = np.zeros(len(layers), dtype=np.int64)
    for place, layer in enumerate(layers):
        if not np.isfinite(largest[place]):
            raise NonFiniteError(_describe_nonfinite(wide[:, place], layer, label))
        if largest[place] >= _ROUNDS_TO_INFINITY:
            exponents[place] = fitting_exponent(float(largest[place]))
    if exponents.any():
        wide = np.ldexp(wide, -exponents[None, :, None].astype(np.int32))
    half = wide.astype(np.float16)
    is_zero = (half.view(np.uint16) << 1) == 0  # of either sign
    n_underflow = int(np.count_nonzero(wide[is_zero])) if is_zero.any() else 0
    return HalfArray(half, exponents, n_underflow)


def _move_bits(array: NDArray[Any]) -> tuple[NDArray[np.float16], int] | None:
    """
    Take float16 and bfloat16 over bit by bit where they fit: several times as fast.

    Returns:
        Own memory, and how many values were not zero and became zero; None where a value is not
        finite, or does not fit.
    """
    if array.dtype == np.float16:
        by_layer = np.array(array.transpose(1, 0, 2), order="C")
        return (by_layer.transpose(1, 0, 2), 0) if is_finite(by_layer) else None
    if array.dtype.name == "bfloat16":
        return narrow(array)
    return None


def is_finite(half: NDArray[np.float16]) -> bool:
    """
    Tell whether all values are finite numbers.

    By the largest bit patterns of either sign: two passes, which copy nothing.
    """
    if not half.size:
        return True
    positive, negative = half.view(np.int16).max(), half.view(np.uint16).max()
    return bool(positive < _INFINITY_BITS and negative < _INFINITY_BITS | 0x8000)


def fitting_exponent(largest: float) -> int:
    """Find the smallest e for which `largest` · 2⁻ᵉ fits float16."""
    return max(0, int(np.ceil(np.log2(largest / LARGEST))))


def widen(rows: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """
    Cast finite float16 to float32 by moving bits, but for the factor `EXPONENT_GAP`.

    NumPy's own cast is three times as slow. Exact, subnormals included: the product with the
    factor is the value.

    Args:
        rows: [row, hidden].
        out: The same shape.

    Source:
        IEEE 754 binary16: 1 bit of sign, 5 of exponent, 10 of fraction; binary32: 1, 8, 23.
    """
    wide = out.view(np.int32)
    np.copyto(wide, rows.view(np.int16))
    np.left_shift(wide, 13, out=wide)
    # The copies of the sign that widening made lie where the exponent's upper bits are zero.
    np.bitwise_and(wide, _SIGN_AND_MAGNITUDE, out=wide)


def rescale(values: NDArray[np.float16], exponents: NDArray[np.int64]) -> NDArray[np.float16]:
    """Divide each layer of [row, layer, hidden] by 2**exponent; exact above the subnormals."""
    if not exponents.any():
        return values
    return np.ldexp(values, -exponents[None, :, None].astype(np.int32)).astype(np.float16)


def _describe_nonfinite(wide: NDArray[Any], layer: int, label: str) -> str:
    nan, infinite = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
    row = int(np.argwhere(~np.isfinite(wide))[0][0])
    return (
        f"{label}: layer {layer} holds {nan} NaN and {infinite} infinite values, first in row {row}"
    )
