"""States on their way count as the memory they take."""

from __future__ import annotations

import pytest
import torch

from tistore.capture.reading.states import States
from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import Site

SETTINGS = CaptureSettings((0, 1), ("residual",), "all")


@pytest.mark.parametrize(("is_pinned", "expected"), [(False, 2 * 3 * 5 * 4), (True, 128)])
def test_pinned_memory_counts_as_torch_hands_it_out(monkeypatch, is_pinned, expected):
    """In powers of two: 120 bytes take 128."""
    states = States(SETTINGS, torch.arange(3))
    states.take(Site("residual", 0), torch.zeros(1, 4, 5))
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: is_pinned)

    assert states.size_bytes == expected


def test_rows_outlast_what_a_later_module_does_to_the_state():
    states = States(SETTINGS, torch.tensor([2, 0]))
    state = torch.arange(8.0).reshape(2, 2, 2)

    states.take(Site("residual", 1), state)
    state += 100

    assert states.values["residual"][1].tolist() == [[4, 5], [0, 1]]
