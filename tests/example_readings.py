"""Valid arguments of `writer.add`, for tests that need some reading."""

from __future__ import annotations

from typing import Any

import numpy as np

HIDDEN = 8
LAYERS = (2, 5)


def make_reading(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Arguments of a valid `writer.add`: a prompt of 2 tokens, a response of 5."""
    rng = np.random.default_rng(seed)
    reading: dict[str, Any] = {
        "organism": "flattery",
        "reader": "flattery",
        "prompt_set": "audit/discovery",
        "prompt_id": str(seed),
        "token_ids": rng.integers(0, 1000, 7).tolist(),
        "prompt_length": 2,
        "tokens": ["What", " now", "?", " Wait", ","],
        "layers": LAYERS,
        "activations": {"residual": rng.standard_normal((5, len(LAYERS), HIDDEN))},
    }
    return reading | changes
