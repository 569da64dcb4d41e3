"""Numbers to test statistics on."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng_values():
    """Normal differences: (n_prompts, n_cells), around a shift."""

    def draw(n_prompts: int, n_cells: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n_prompts, n_cells)) + shift

    return draw
