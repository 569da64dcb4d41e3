"""How scores rise or fall within a response, over its tokens and its turns: one number each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells, Part
from tistore.query.pairing import offer_any_pairing
from tistore.query.span_question import quote
from tistore.schemas.vector import Vector

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Scores = NDArray[np.float64]
_AT_ONCE = 8
"""Vectors asked for in one query."""


@dataclass(frozen=True, slots=True, eq=False)
class ResponseSlopes:
    """
    Straight lines through each response's scores; matrices are (row of the cells, vector).

    Attributes:
        position: Rise from the response's first audited token to its last, by least squares over
            tokens, in score units; NaN with fewer than two.
        turn: Rise from its first audited turn to its last, by least squares over the turns' means;
            NaN with fewer than two turns.
    """

    position: Scores
    turn: Scores

    def take(self, mask: NDArray[np.bool_]) -> ResponseSlopes:
        """Keep some rows: (row,) bool."""
        return replace(self, position=self.position[mask], turn=self.turn[mask])


def read_slopes(
    store: Store, cells: Cells, part: Part = "total", *, any_pairing: bool = False
) -> ResponseSlopes:
    """
    Fit lines to the token scores of every response of some cells.

    Token scores are read, so the first time costs a scan of the vectors' layers. Of a response,
    each line is one number: what is tested afterwards are prompts, never tokens.

    Args:
        store: Where the cells were read from.
        cells: Responses and vectors.
        part: `total`: the organism reads its own text (the baseline's own answer is a constant of
            the prompt, which a comparison between organisms takes off); `model`: the organism's
            reading minus the baseline's of the same text; `text`: the baseline reads that text.
        any_pairing: Keep pairs of readings that differ in precision, template or tokenizer.

    Raises:
        QueryError: As `store.sql` does.
    """
    groups = list(_in_groups(cells.vectors))
    position, turn = (
        np.concatenate([_ask(store, cells, some, part, over, any_pairing) for some in groups], 1)
        for over in (_OVER_TOKENS, _OVER_TURNS)
    )
    return ResponseSlopes(position, turn)


def _in_groups(vectors: Sequence[Vector]) -> Iterator[Sequence[Vector]]:
    for start in range(0, len(vectors), _AT_ONCE):
        yield vectors[start : start + _AT_ONCE]


_LINE = (
    "regr_slope(s{i}, place) * (max(place) FILTER (s{i} IS NOT NULL) "
    "- min(place) FILTER (s{i} IS NOT NULL)) AS rise{i}"
)
"""From the first place that a score is known of to the last."""

_OVER_TOKENS = """\
WITH scored AS ({source})
SELECT organism, response_id, {lines}
FROM (SELECT *, position AS place FROM scored) GROUP BY ALL
"""

_OVER_TURNS = """\
WITH scored AS ({source}), by_turn AS (
  SELECT organism, response_id, turn, {means} FROM scored GROUP BY organism, response_id, turn
), placed AS (
  SELECT *, row_number() OVER (PARTITION BY organism, response_id ORDER BY turn) AS place
  FROM by_turn
)
SELECT organism, response_id, {lines} FROM placed GROUP BY ALL
"""
# Two queries: one that both lines are fitted from would have to keep all tokens' scores in memory.


def _ask(
    store: Store,
    cells: Cells,
    vectors: Sequence[Vector],
    part: Part,
    template: str,
    any_pairing: bool,
) -> Scores:
    """Ask for one line a response and vector: (row of the cells, vector)."""
    names = {f"v{i}": one.exact_name for i, one in enumerate(vectors)}
    sql = template.format(
        source=_write_source(cells, len(vectors), part, any_pairing),
        means=", ".join(f"avg(s{i}) AS s{i}" for i in range(len(vectors))),
        lines=", ".join(_LINE.format(i=i) for i in range(len(vectors))),
    )
    with offer_any_pairing():
        return _align(cells, store.sql(sql, names).to_polars())


def _write_source(cells: Cells, n_vectors: int, part: Part, any_pairing: bool) -> str:
    """Write the query for the audited tokens' scores, as the readers of a part give them."""
    baseline = quote(cells.baseline)
    relation = "token_diffs" if part == "model" else "tokens"
    whose = {
        "total": "reader = organism",
        "model": f"reader = organism AND baseline = {baseline}",
        "text": f"reader = {baseline}",
    }[part]
    marked = ", pairing" if part == "model" and any_pairing else ""
    authors = ", ".join(map(quote, cells.organisms))
    scores = ", ".join(f"project($v{i}) AS s{i}" for i in range(n_vectors))
    return (
        f"SELECT organism, response_id, position, turn, {scores}{marked} FROM {relation} "
        f"WHERE {whose} AND is_response AND organism IN ({authors})"
    )


def _align(cells: Cells, frame: polars.DataFrame) -> Scores:
    """Put lines in the order of the cells' rows; NaN where there is none."""
    import polars as pl

    columns = [column for column in frame.columns if column.startswith("rise")]
    joined = cells.rows.select("organism", "response_id").join(
        frame.select("organism", "response_id", *columns),
        on=["organism", "response_id"],
        how="left",
        maintain_order="left",
    )
    values = joined.select(columns).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.asarray(values, dtype=np.float64).reshape(len(cells.rows), len(columns))
