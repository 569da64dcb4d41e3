"""Turning bfloat16 into float16 by integers, against NumPy's own rounding of every number."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tistore.store.bfloat16 import fill_half, narrow
from tistore.store.half import to_half

EVERY = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)
WIDE = EVERY.astype(np.float32)
with np.errstate(over="ignore"):
    ROUNDED = WIDE.astype(np.float16)
FITS = np.isfinite(ROUNDED)
VANISHES = FITS & (ROUNDED == 0) & (WIDE != 0)


def convert(values):
    target = np.empty((1, len(values)), dtype=np.float16)
    return fill_half(target, values[None]), target[0]


def test_every_number_float16_holds_is_rounded_as_numpy_does():
    """To the bit, signed zeros and subnormals too; what becomes zero is counted."""
    n_underflow, halves = convert(EVERY[FITS])

    assert n_underflow == VANISHES.sum() > 0
    np.testing.assert_array_equal(halves.view(np.uint16), ROUNDED[FITS].view(np.uint16))


def test_every_other_number_is_declined():
    """NaN, infinity, and what overflows, also where it stands among numbers that fit."""
    misfits = EVERY[~FITS]

    for place in range(0, len(misfits), 7):
        assert convert(misfits[place : place + 1])[0] is None
    assert convert(np.concatenate([EVERY[16256:16300], misfits[:1]]))[0] is None


@pytest.mark.parametrize("shape", [(0, 3, 5), (40, 3, 0), (1, 1, 1), (40, 3, 700), (3, 2, 70_000)])
def test_arrays_of_any_shape_are_converted_whole(shape):
    """Also where a row is longer than a block, and where memory is not in order."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape).astype(ml_dtypes.bfloat16)

    for given in (values, values[::-1], np.asfortranarray(values)):
        half, n_underflow = narrow(given)

        wanted = given.astype(np.float32).astype(np.float16)
        np.testing.assert_array_equal(half.view(np.uint16), wanted.view(np.uint16))
        assert n_underflow == np.count_nonzero(wanted == 0) - np.count_nonzero(given == 0)


def test_a_reading_of_bfloat16_is_stored_as_one_of_float32():
    """The quick way and the general one give the same bits, exponents and counts."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((50, 2, 64)) * np.exp(rng.uniform(-20, 5, (50, 2, 64)))
    for factor in (1.0, 1e6):
        narrow_values = (values * factor).astype(ml_dtypes.bfloat16)

        quick = to_half(narrow_values, (1, 2), "x")
        general = to_half(narrow_values.astype(np.float32), (1, 2), "x")

        np.testing.assert_array_equal(quick.values.view(np.uint16), general.values.view(np.uint16))
        assert quick.exponents.tolist() == general.exponents.tolist()
        assert quick.n_underflow == general.n_underflow
