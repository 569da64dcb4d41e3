"""Token scores of selected readings, a bounded number of tokens at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.exchange.selection import Selected
from tistore.exchange.trait_interp_export.documents import TokenScores
from tistore.exchange.trait_interp_export.places import View
from tistore.query.store import Store
from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.segment import Segment

_TOKENS_AT_ONCE = 100_000
_VIEWS_AT_ONCE = 1000
_VECTORS_AT_ONCE = 64
_COLUMNS = (
    "response_id", "reader", "organism", "prompt_set", "prompt_id", "sample", "prompt_length",
    "token_ids", "first_position", "row_start", "n_rows",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """
    Where one reading lies.

    Attributes:
        segment: Its segment.
        index: Its row of the segment's `responses` table.
        row_start: Its first row in the segment's arrays.
        n_rows: How many it has.
        first_position: Token of its first row.
    """

    segment: Segment
    index: int
    row_start: int
    n_rows: int
    first_position: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredView:
    """
    A response as one reader saw it, under however many capture settings.

    Attributes:
        view: Which.
        response_id: Its response.
        prompt_length: Tokens of the prompt.
        n_ids: Tokens in all.
        stretches: Its readings; the fullest first.
    """

    view: View
    response_id: str
    prompt_length: int
    n_ids: int
    stretches: list[Stretch]

    def find(self, site: Site) -> Stretch | None:
        """Find the fullest reading that holds a site, for any token at all."""
        return next((s for s in self.stretches if s.n_rows and s.segment.has(site)), None)


def list_views(selected: Selected) -> list[StoredView]:
    """List the selected responses as their readers saw them, in the order of the store."""
    views: dict[tuple[str, str], StoredView] = {}
    for part in selected.parts:
        table = part.segment.table("responses", _COLUMNS)
        lengths = pc.list_value_length(table["token_ids"]).to_pylist()
        rows = table.drop_columns(["token_ids"]).take(part.places).to_pylist()
        for index, row in zip(part.places.tolist(), rows, strict=True):
            slot = ResponseSlot(row["organism"], row["prompt_set"], row["prompt_id"], row["sample"])
            stretch = Stretch(
                part.segment, index, row["row_start"], row["n_rows"], row["first_position"]
            )
            found = views.setdefault(
                (row["response_id"], row["reader"]),
                StoredView(
                    View(row["reader"], slot),
                    row["response_id"],
                    row["prompt_length"],
                    lengths[index],
                    [],
                ),
            )
            found.stretches.append(stretch)
            found.stretches.sort(key=lambda stretch: -stretch.n_rows)
    return list(views.values())


def divide(views: Iterable[StoredView]) -> Iterator[list[StoredView]]:
    """Divide views into batches of a bounded number of tokens."""
    batch: list[StoredView] = []
    n_tokens = 0
    for view in views:
        n_rows = sum(stretch.n_rows for stretch in view.stretches)
        if batch and (n_tokens + n_rows > _TOKENS_AT_ONCE or len(batch) == _VIEWS_AT_ONCE):
            yield batch
            batch, n_tokens = [], 0
        batch.append(view)
        n_tokens += n_rows
    if batch:
        yield batch


class Scorer:
    """
    Scores readings by the store's own queries.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Norms of a site are read whole; neighbouring readings share them.
        self._norms = lru_cache(maxsize=16)(lambda segment, site: segment.norms(site))

    def score(
        self, views: Sequence[StoredView], vectors: Sequence[Vector]
    ) -> dict[tuple[str, str], dict[str, list[TokenScores]]]:
        """
        Score views on every vector whose site they hold.

        Returns:
            By response and reader, and then by trait, the scores in the order of the vectors.

        Raises:
            QueryError: As `store.sql` raises.
        """
        held = [vector for vector in vectors if any(view.find(vector.site) for view in views)]
        found: dict[tuple[str, str], dict[str, list[TokenScores]]] = {}
        for start in range(0, len(held), _VECTORS_AT_ONCE):
            asked = held[start : start + _VECTORS_AT_ONCE]
            table = self._ask(views, asked)
            for view, rows in _match(views, table):
                by_trait = found.setdefault((view.response_id, view.view.reader), {})
                for at, vector in enumerate(asked):
                    if scored := self._pick(view, rows, at, vector):
                        by_trait.setdefault(vector.trait, []).append(scored)
        return found

    def _ask(self, views: Sequence[StoredView], vectors: Sequence[Vector]) -> pa.Table:
        columns = [
            f"project('{vector.content_hash}') AS s{at}" for at, vector in enumerate(vectors)
        ]
        return self._store.sql(
            f"SELECT response_id, reader, position, {', '.join(columns)} FROM tokens "
            "WHERE response_id IN (SELECT unnest($ids)) AND reader IN (SELECT unnest($readers)) "
            "ORDER BY response_id, reader, position",
            {
                "ids": list({view.response_id for view in views}),
                "readers": list({view.view.reader for view in views}),
            },
        ).to_arrow()

    def _pick(
        self, view: StoredView, rows: pa.Table, at: int, vector: Vector
    ) -> TokenScores | None:
        """Take one vector's scores; None where the reading lacks its site."""
        stretch = view.find(vector.site)
        if stretch is None:
            return None
        column = rows[f"s{at}"]
        known = column.is_valid().to_numpy()
        positions: NDArray[np.int64] = rows["position"].to_numpy()[known].astype(np.int64)
        scores = column.drop_null().to_numpy().astype(np.float32)
        # A token that two readings of this reader hold is there twice.
        positions, places = np.unique(positions, return_index=True)
        row = positions - stretch.first_position
        inside = (row >= 0) & (row < stretch.n_rows)
        norms = self._norms(stretch.segment, vector.site)
        return TokenScores(
            vector,
            positions[inside],
            scores[places][inside],
            norms[stretch.row_start + row[inside]],
        )


def _match(views: Sequence[StoredView], table: pa.Table) -> Iterator[tuple[StoredView, pa.Table]]:
    """Cut sorted rows into those of each view; rows of views that are not asked for are left."""
    wanted = {(view.response_id, view.view.reader): view for view in views}
    if not table.num_rows:
        return
    table = table.combine_chunks()
    keys = [table[name].dictionary_encode().combine_chunks() for name in ("response_id", "reader")]
    codes = np.stack([key.indices.to_numpy() for key in keys])
    starts = [0, *(np.flatnonzero((np.diff(codes, axis=1) != 0).any(axis=0)) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], table.num_rows], strict=True):
        response_id, reader = (table[name][start].as_py() for name in ("response_id", "reader"))
        if view := wanted.get((response_id, reader)):
            yield view, table.slice(start, stop - start)
