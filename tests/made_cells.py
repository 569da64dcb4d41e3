"""Cells made of arrays, for tests of audits that need no store."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tistore.audit.cells import Cells
from tistore.schemas.vector import Vector


def make_cells(
    own: Any,
    replay: Any = None,
    base: Any = None,
    swapped: Any = None,
    *,
    organisms: list[str] | None = None,
    prompts: list[str] | None = None,
    samples: list[int] | None = None,
    clusters: list[str] | None = None,
) -> Cells:
    """Lay arrays out as cells: (row,) or (row, vector); what is left out is NaN."""
    whole = np.asarray(own, dtype=np.float64)
    whole = whole[:, None] if whole.ndim == 1 else whole
    n, width = whole.shape

    def shape(values: Any) -> np.ndarray:
        if values is None:
            return np.full((n, width), np.nan)
        return np.asarray(values, dtype=np.float64).reshape(n, width)

    organisms = organisms or ["loud"] * n
    prompts = prompts or [str(number) for number in range(n)]
    rows = pl.DataFrame(
        {
            "organism": organisms,
            "family": organisms,
            "prompt_set": ["made"] * n,
            "prompt_id": prompts,
            "sample": samples or [0] * n,
            "response_id": [f"r{number}" for number in range(n)],
            "note": pl.Series([None] * n, dtype=pl.String),
            "tags": pl.Series([[]] * n, dtype=pl.List(pl.String)),
            "n_tokens": [10] * n,
            "finish_reason": ["stop"] * n,
            "cluster": clusters or [f"made#{prompt}" for prompt in prompts],
        }
    )
    vectors = tuple(
        Vector(f"tone/trait{at}", np.eye(1, max(width, 2), at, dtype=np.float32)[0], layer=3)
        for at in range(width)
    )
    return Cells(
        "instruct", vectors, rows, whole, shape(replay), shape(base), shape(swapped)
    )  # fmt: skip
