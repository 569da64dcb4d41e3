"""Differences summed up over prompts: the mean, its interval, and the standardised effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.breakdown.question import Question
from tistore.audit.cells import Cells, Part
from tistore.audit.effects.definitions import hedges_g_z
from tistore.audit.effects.moments import measure_moments
from tistore.audit.effects.studentized import bootstrap_means
from tistore.schemas.vector import Vector

Values = NDArray[np.float64]
Labels = NDArray[np.int64]
Row = dict[str, Any]


def average_part(cells: Cells, part: Part) -> Values:
    """
    Average the differences of a part over each prompt's samples: (prompt, vector).

    In the order of `cells.by_prompt()`; samples that lack a side of the part are left out.
    """
    return cells.by_prompt(part).of_part(part)


def clusters_of(cells: Cells) -> Labels:
    """Number the clusters of prompts: (row,)."""
    labels = np.unique(cells.rows["cluster"].to_numpy(), return_inverse=True)[1]
    return np.asarray(labels, dtype=np.int64)


def summarise_prompts(cells: Cells, question: Question, group: Row) -> Iterator[Row]:
    """
    Sum up each vector's differences over prompts, part by part.

    Args:
        cells: Rows of one organism; samples of a prompt are averaged here.
        question: Says which parts.
        group: What the rows are called, put in front.

    Yields:
        A row for each part and vector that any prompt has: see `summarise`.
    """
    averaged = cells.by_prompt()
    clusters = clusters_of(averaged)
    for part in question.parts:
        values = average_part(cells, part)
        yield from summarise(values, clusters, averaged.vectors, question, group | {"part": part})


def summarise(
    values: Values, clusters: Labels, vectors: Sequence[Vector], question: Question, group: Row
) -> Iterator[Row]:
    """
    Sum up differences over prompts, vector by vector.

    Args:
        values: (prompt, vector), NaN where there is none.
        clusters: (prompt,) labels of prompts that are not independent.
        vectors: What the columns are scores along.
        question: Says how often to draw again.
        group: What the rows are called, put in front.

    Yields:
        `trait, vector`, the group, `n_prompts, mean, low, high` in score units, the interval being
        95 % by a bootstrap of prompts, and `g`, Hedges' g_z. What too few prompts leave open
        is None.
    """
    moments = measure_moments(values, np.zeros_like(values))
    ends = bootstrap_means(values, clusters, resamples=question.resamples, seed=question.seed)
    g = hedges_g_z(moments)
    for at, vector in enumerate(vectors):
        if moments.n[at]:
            yield {
                "trait": vector.trait,
                "vector": vector.reference,
                **group,
                "n_prompts": int(moments.n[at]),
                "mean": float(moments.difference[at]),
                "low": none_if_open(ends[0][at]),
                "high": none_if_open(ends[1][at]),
                "g": none_if_open(g[at]),
            }


def none_if_open(value: float) -> float | None:
    """Give a number, or None for NaN."""
    return float(value) if np.isfinite(value) else None
