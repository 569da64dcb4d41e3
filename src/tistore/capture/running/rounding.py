"""States rounded to float16 with torch's own cast, several times as fast as NumPy's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tistore.capture.reading.prefill import Prefill
from tistore.schemas.response import CaptureSettings
from tistore.store.half import HalfArray, as_array, is_finite, to_half


def round_reading(reading: Prefill, settings: CaptureSettings, label: str) -> dict[str, HalfArray]:
    """
    Round all that a model made of a sequence, as `round_states` does.

    Args:
        reading: What it made of it.
        settings: Its layers.
        label: What messages call the reading.

    Raises:
        NonFiniteError: A layer holds NaN or infinity.
    """
    return {
        component: round_states(states, settings.layers, f"{label}, {component}")
        for component, states in reading.activations.items()
    }


def round_states(states: Tensor, layers: tuple[int, ...], label: str) -> HalfArray:
    """
    Round states to float16 exactly as `to_half` does.

    Args:
        states: (row, layer, width) on the CPU, a layer's rows together in memory.
        layers: Block number of each place on the layer axis, for messages.
        label: What messages call the reading.

    Raises:
        NonFiniteError: A layer holds NaN or infinity.
    """
    if states.dtype != torch.float32:
        # Those of sixteen bits are moved bit by bit.
        return to_half(as_array(states, label), layers, label)
    by_layer = states.transpose(0, 1)
    rounded = by_layer.to(torch.float16, memory_format=torch.contiguous_format)
    half = rounded.numpy()
    if not is_finite(half):
        # Too large for float16, or no number at all: there layers are looked at one by one.
        return to_half(as_array(states, label), layers, label)
    is_zero = (half.view(np.uint16) << 1) == 0  # of either sign
    n_underflow = int(np.count_nonzero(by_layer.numpy()[is_zero])) if is_zero.any() else 0
    exponents = np.zeros(len(layers), dtype=np.int64)
    return HalfArray(half.transpose(1, 0, 2), exponents, n_underflow)
