"""Single tokens, clauses and prompts: what each scores, without a word on how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.breakdown.pieces import CLAUSES, TOKENS, read_pieces
from tistore.audit.breakdown.question import Question
from tistore.audit.breakdown.summary import average_part
from tistore.audit.cells import Cells, Part
from tistore.errors import QueryError

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store


def list_tokens(store: Store, question: Question) -> tuple[polars.DataFrame, Cells]:
    """
    List the tokens under audit that both have read, with both scores and their difference.

    Raises:
        QueryError: The baseline has read none of them.
    """
    return _list_spans(read_pieces(store, question, TOKENS), question)


def list_clauses(store: Store, question: Question) -> tuple[polars.DataFrame, Cells]:
    """
    List the clauses that both have read, with both mean scores and their difference.

    Raises:
        QueryError: The baseline has read none of them.
    """
    return _list_spans(read_pieces(store, question, CLAUSES), question)


def list_prompts(cells: Cells, question: Question) -> polars.DataFrame:
    """List prompts, their samples averaged: the three readings' scores, and the parts."""
    import polars as pl

    counts = cells.rows.group_by("prompt_set", "prompt_id").agg(n_samples=pl.len())
    averaged = cells.by_prompt()
    rows = averaged.rows.select("prompt_set", "prompt_id", "note").join(
        counts, on=["prompt_set", "prompt_id"], how="left", maintain_order="left"
    )
    figures = {
        "organism_score": averaged.own,
        "replay_score": averaged.replay,
        "baseline_score": averaged.base,
        **{name: average_part(cells, part) for part, name in _PART_NAMES.items()},
    }
    return _lay_out(rows, averaged, figures)


_PART_NAMES: dict[Part, str] = {"total": "total", "model": "model_part", "text": "text_part"}


def keep_largest(frame: polars.DataFrame, n: int, question: Question) -> polars.DataFrame:
    """Keep, of each trait, the rows whose difference is largest in size, largest first."""
    import polars as pl

    if question.by not in ("token", "clause", "prompt"):
        raise QueryError(
            f"rows by {question.by} are all shown", mend="leave the number of rows out"
        )
    columns = [_PART_NAMES[part] for part in question.parts]
    column = columns[0] if question.by == "prompt" else "difference"
    return (
        frame.with_columns(_size=pl.col(column).abs())
        .sort("_size", descending=True, nulls_last=True, maintain_order=True)
        .group_by("trait", "vector", maintain_order=True)
        .head(n)
        .sort("trait", "vector", maintain_order=True)
        .drop("_size")
    )


def _list_spans(cells: Cells, question: Question) -> tuple[polars.DataFrame, Cells]:
    import polars as pl

    rows = cells.rows.drop("organism", "cluster", "tags")
    if question.by == "token":
        rows = rows.rename({"position": "token_start", "token": "text"}).with_columns(
            token_end=pl.col("token_start") + 1
        )
    names = ["prompt_set", "prompt_id", "sample", "response_id", "token_start", "token_end"]
    rows = rows.select(*names, pl.exclude(names))
    frame = _lay_out(
        rows,
        cells,
        {
            "organism_score": cells.own,
            "baseline_score": cells.replay,
            "difference": cells.model_part,
        },
    ).drop_nulls("difference")
    if not len(frame):
        raise QueryError(
            f"{question.baseline!r} has read none of these {question.by}s of {question.organism!r}",
            mend='capture replays: readers = ["self", "base"]',
        )
    return frame, cells


def _lay_out(
    rows: polars.DataFrame, cells: Cells, figures: Mapping[str, NDArray[np.float64]]
) -> polars.DataFrame:
    """Put vectors below each other: their names, the rows, the figures of each."""
    import polars as pl

    return pl.concat(
        [
            rows.with_columns(
                pl.Series(name, values[:, at]).fill_nan(None) for name, values in figures.items()
            ).select(
                pl.lit(vector.trait).alias("trait"),
                pl.lit(vector.reference).alias("vector"),
                pl.all(),
            )
            for at, vector in enumerate(cells.vectors)
        ]
    )
