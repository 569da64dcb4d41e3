"""Turning bfloat16 into float16 by integers, against NumPy's own rounding of every number."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tistore.exchange.trait_interp.exact_half import fill_half

EVERY = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)
WIDE = EVERY.astype(np.float32)
with np.errstate(over="ignore"):
    ROUNDED = WIDE.astype(np.float16)
FITS = np.isfinite(ROUNDED) & ((ROUNDED != 0) | (WIDE == 0))


def convert(values):
    target = np.empty((1, len(values)), dtype=np.float16)
    return fill_half(target, values[None]), target[0]


def test_every_number_float16_holds_is_converted_as_numpy_does():
    """To the bit, signed zeros and subnormals too."""
    is_exact, halves = convert(EVERY[FITS])

    assert is_exact
    np.testing.assert_array_equal(halves.view(np.uint16), ROUNDED[FITS].view(np.uint16))


def test_every_other_number_is_declined():
    """NaN, infinity, what overflows, and what would become zero without being zero."""
    misfits = EVERY[~FITS]

    assert not any(convert(misfits[place : place + 1])[0] for place in range(0, len(misfits), 7))
    assert not convert(np.concatenate([EVERY[16256:16300], misfits[:1]]))[0]
