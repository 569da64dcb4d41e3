"""States are rounded as the store rounds them, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tistore.capture.running.rounding import round_states
from tistore.errors import NonFiniteError
from tistore.store.half import to_half

LAYERS = (3, 7)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 5)),
        elements=st.floats(-(2.0**20), 2.0**20, width=32)
        | st.sampled_from([0.0, -0.0, 65504.0, 65519.9, 65520.0, 6e-8, 2.9e-8, -1e-40]),
    )
)
def test_rounding_is_the_stores_own(by_layer: np.ndarray):
    states = by_layer.transpose(1, 0, 2)

    found = round_states(torch.from_numpy(states), LAYERS, "a reading")

    expected = to_half(states, LAYERS, "a reading")
    assert np.array_equal(found.values.view(np.uint16), expected.values.view(np.uint16))
    assert np.array_equal(found.exponents, expected.exponents)
    assert found.n_underflow == expected.n_underflow


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_are_taken_over(dtype):
    states = torch.randn(3, 2, 4).to(dtype)

    found = round_states(states, LAYERS, "a reading")

    assert np.array_equal(found.values, states.float().numpy().astype(np.float16))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(value):
    states = torch.zeros(3, 2, 4)
    states[2, 1, 0] = value

    with pytest.raises(NonFiniteError, match="a reading: layer 7 .* first in row 2"):
        round_states(states, LAYERS, "a reading")
