"""Which rows of `lens` a query needs: found before any of them is put to a head."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from tistore.errors import ReadBudgetError
from tistore.query.conditions import find_conditions, is_steady
from tistore.query.guard import RESERVED
from tistore.query.lens import TOP
from tistore.query.lens_fit import check_heads, find_heads
from tistore.query.limits import Limits
from tistore.query.plan import Item
from tistore.query.readings import Ids
from tistore.query.relations import (
    OF_READINGS,
    PLAIN_COLUMNS,
    RELATIONS,
    Extent,
    Spans,
    build_relation,
    count_rows,
    token_spans,
)
from tistore.query.scopes import Scope, Source
from tistore.query.streamed import cut_extent, spell_out
from tistore.schemas.head import Head
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot

PRODUCTS = frozenset(
    ("rank", "probability", "lens_logprob", "entropy", "top_token_ids", "top_tokens",
     "top_probabilities")
)  # fmt: skip
"""Columns that take a product with the unembedding."""

LISTS = frozenset(("top_token_ids", "top_tokens", "top_probabilities"))

_KNOWN_BEFORE = frozenset((*PLAIN_COLUMNS["tokens"], "layer"))
_ID = f"{RESERVED}_id"
_LAYERS = f"{RESERVED}_layers"
_PIECE = f"{RESERVED}_piece"
_PIECE_ROWS = 1 << 18
_NONE = np.empty(0, dtype=np.int64)
_CELL_BYTES = 8
_LIST_BYTES = TOP * 16


@dataclass(frozen=True, slots=True, eq=False)
class LensRows:
    """
    Rows of one use of `lens`.

    Attributes:
        extent: The readings they are of.
        columns: Columns of `lens` the query looks at.
        heads: For each reading of the store, its reader's head; None where none is kept.
        table: The columns that are known without a product; of as many rows as there is room for.
        reading: For each row of the table, its reading.
        row: The same: the state's row in the segment.
        layer: The same: its layer.
        n_rows: Rows the query needs, whether there is room for them or not.
        multiply_adds: Multiplications they take.
        most_rows: Rows there is room for.
        read_bytes: Bytes of states and of unembeddings that are read.
        notes: What a reader of the answer should know.
    """

    extent: Extent
    columns: tuple[str, ...]
    heads: Sequence[Head | None]
    table: pa.Table
    reading: Ids
    row: Ids
    layer: Ids
    n_rows: int
    multiply_adds: int
    most_rows: int
    read_bytes: int
    notes: tuple[str, ...]

    @property
    def takes_products(self) -> bool:
        """Whether anything is to be multiplied."""
        return bool(PRODUCTS & set(self.columns))


def check_budget(lenses: Collection[LensRows], limits: Limits) -> None:
    """
    Refuse uses of `lens` in a query that take too long, or more memory than there may be.

    Raises:
        ReadBudgetError: They do; the message says how much it is.
    """
    n_rows = sum(rows.n_rows for rows in lenses)
    cost = sum(rows.multiply_adds for rows in lenses)
    budget = limits.max_multiply_adds
    if budget is not None and not cost <= budget:  # not a number is no room, either
        raise ReadBudgetError(
            f"this query would put {n_rows} rows (tokens × layers) to their models' unembeddings: "
            f"{cost:.2g} multiply-adds, but its budget is {budget:.2g}",
            mend="narrow it with a WHERE on organism, reader, prompt_id, layer, position or "
            "is_response; or raise max_multiply_adds in store.limits, --max-multiply-adds",
        )
    room = min((rows.most_rows for rows in lenses), default=0)
    if n_rows > room:
        raise ReadBudgetError(
            f"this query needs {n_rows} rows of lens, and there is memory for {room}",
            mend="narrow it with a WHERE, or raise memory_limit in store.limits",
        )


def pick_rows(
    item: Item,
    extent: Extent,
    snapshot: Snapshot,
    connection: duckdb.DuckDBPyConnection,
    parameters: Mapping[str, Any],
    limits: Limits,
) -> LensRows:
    """
    Find the rows of a use of `lens` that its own conditions leave.

    Conditions on what is known without a product, such as position, layer and is_response, are
    asked of the tokens; those that are not understood are left out, which leaves more rows.

    Raises:
        QueryError: No reading that is needed has residual activations, or a head where one is
            needed; or a head is of another width.
    """
    heads = find_heads(extent, snapshot)
    takes_products = bool(PRODUCTS & set(item.columns))
    layers = {place: _layers_of(extent.readings.segments[place]) for place in extent.segments}
    notes = tuple(check_heads(extent, layers, heads, takes_products))
    conditions = [
        condition
        for condition in find_conditions(item.scope, item.source)
        if _is_own(condition, item.scope, item.source)
    ]
    shown = [name for name in item.columns if name in PLAIN_COLUMNS["tokens"]]
    picker = _Picker(connection, conditions, item.source.alias, parameters, layers)
    picked = _Picked(_most_rows(item.columns, limits), limits.max_multiply_adds)
    costs = np.array([0 if head is None else head.hidden * head.n_vocabulary for head in heads])
    tokens_of = replace(extent, relation="tokens")
    for piece in cut_extent(tokens_of, _PIECE_ROWS) if len(extent.ids) else ():
        tokens = picker.pick(piece, shown)
        picked.add(tokens, costs[tokens.reading] if takes_products else np.zeros(0, np.int64))
    return LensRows(
        extent=extent,
        columns=item.columns,
        heads=heads,
        table=picked.table(_empty(extent, shown)),
        reading=picked.gather("reading"),
        row=picked.gather("row"),
        layer=picked.gather("layer"),
        n_rows=picked.n_rows,
        multiply_adds=picked.cost,
        most_rows=picked.most_rows,
        read_bytes=_count_bytes(extent, heads, snapshot, picked.n_rows) if takes_products else 0,
        notes=notes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows that were picked of some readings."""

    table: pa.Table
    reading: Ids
    row: Ids
    layer: Ids


@dataclass(slots=True, eq=False)
class _Picked:
    """Rows picked so far; from the limit on they are only counted."""

    most_rows: int
    most_cost: float | None
    n_rows: int = 0
    cost: int = 0
    parts: list[_Rows] = field(default_factory=list)

    def add(self, rows: _Rows, costs: NDArray[np.int64]) -> None:
        self.n_rows += len(rows.reading)
        self.cost += int(costs.sum())
        is_too_much = self.most_cost is not None and self.cost > self.most_cost
        if is_too_much or self.n_rows > self.most_rows:
            self.parts.clear()
        else:
            self.parts.append(rows)

    def table(self, empty: pa.Table) -> pa.Table:
        return pa.concat_tables([part.table for part in self.parts]) if self.parts else empty

    def gather(self, name: str) -> Ids:
        return np.concatenate([_NONE, *(getattr(p, name) for p in self.parts)])


class _Picker:
    """Asks the tokens of some readings which of them, at which layers, meet conditions."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        conditions: Sequence[exp.Expr],
        alias: str,
        parameters: Mapping[str, Any],
        layers: Mapping[int, Sequence[int]],
    ) -> None:
        self._connection = connection
        self._conditions = conditions
        self._asked = {
            column.name.lower() for tree in conditions for column in tree.find_all(exp.Column)
        }
        used = {node.name for tree in conditions for node in tree.find_all(exp.Placeholder)}
        self._parameters = {name: parameters[name] for name in used}
        self._layers = layers
        columns = [exp.column(name, quoted=True) for name in sorted(self._asked | {_ID, "layer"})]
        inner = exp.select(*columns).from_(_PIECE).join(_LAYERS, using=["segment"])
        source = inner.subquery(exp.to_identifier(alias, quoted=True))
        self._statement = (
            exp.select(_ID, "layer")
            .from_(source)
            .where(*(exp.Paren(this=tree.copy()) for tree in conditions))
            .order_by(_ID, "layer")
        )
        places = [(place, layer) for place, found in layers.items() for layer in found]
        table = pa.table(
            {
                "segment": pa.array([place for place, _ in places], pa.int64()),
                "layer": pa.array([layer for _, layer in places], pa.int32()),
            }
        )
        connection.register(_LAYERS, table)

    def pick(self, piece: Extent, shown: Sequence[str]) -> _Rows:
        """Pick rows of some readings."""
        spans = token_spans(piece)
        reading = np.repeat(piece.ids, spans.length)
        before = np.cumsum(spans.length) - spans.length
        n_tokens = count_rows(piece)
        row = np.arange(n_tokens) + np.repeat(spans.start - before, spans.length)
        asked = self._asked & set(PLAIN_COLUMNS["tokens"])
        table = build_relation(piece, {*shown, *asked})
        segment = np.repeat(spans.segment, spans.length)
        numbered = table.select([name for name in table.column_names if name in asked])
        numbered = numbered.append_column("segment", pa.array(segment))
        numbered = numbered.append_column(_ID, pa.array(np.arange(n_tokens)))
        answer = self._ask(numbered) if self._conditions else None
        # Whatever is wrong with the conditions, running the query itself will say so better.
        ids, layer = self._take_all(spans) if answer is None else answer
        known = table.select([name for name in table.column_names if name in shown])
        taken = spell_out(known.take(pa.array(ids)))
        return _Rows(taken, reading[ids], row[ids], layer)

    def _take_all(self, spans: Spans) -> tuple[Ids, Ids]:
        """Every token at every layer."""
        found = [self._layers[int(place)] for place in spans.segment]
        n_layers = np.repeat([len(layers) for layers in found], spans.length).astype(np.int64)
        layers = [
            np.tile(np.array(layers, dtype=np.int64), length)
            for layers, length in zip(found, spans.length, strict=True)
        ]
        return np.repeat(np.arange(len(n_layers)), n_layers), np.concatenate([_NONE, *layers])

    def _ask(self, numbered: pa.Table) -> tuple[Ids, Ids] | None:
        """Tokens and layers that meet the conditions; None when these fail."""
        self._connection.register(_PIECE, numbered)
        try:
            answer = self._connection.execute(
                self._statement.sql("duckdb"), self._parameters or None
            ).fetchnumpy()
        except duckdb.Error:
            return None
        finally:
            self._connection.unregister(_PIECE)
        return (
            np.asarray(answer[_ID], dtype=np.int64),
            np.asarray(answer["layer"], dtype=np.int64),
        )


def _count_bytes(
    extent: Extent, heads: Sequence[Head | None], snapshot: Snapshot, n_rows: int
) -> int:
    """Bytes of states and unembeddings to be read, about."""
    used = {head for head in (heads[int(place)] for place in extent.ids) if head is not None}
    width = max((head.hidden for head in used), default=0)
    sizes = (snapshot.unembedding(head.head_hash).record.size_bytes for head in used)
    return 2 * n_rows * width + sum(sizes)


def _empty(extent: Extent, columns: Sequence[str]) -> pa.Table:
    """Build the table of no rows, for its types."""
    nothing = replace(extent, relation="tokens", ids=extent.ids[:0])
    table = build_relation(nothing, columns)
    return spell_out(table.select([name for name in table.column_names if name in columns]))


def _is_own(condition: exp.Expr, scope: Scope, source: Source) -> bool:
    """Whether a condition speaks of nothing but the source, and of what is known beforehand."""
    if not is_steady(condition) or condition.find(exp.Query) is not None:
        return False
    return all(
        isinstance(column.this, exp.Identifier)
        and column.name.lower() in _KNOWN_BEFORE
        and _belongs(column, scope, source)
        for column in condition.find_all(exp.Column)
    )


def _belongs(column: exp.Column, scope: Scope, source: Source) -> bool:
    if column.table:
        return column.table.lower() == source.alias
    others = [other for other in scope.sources if other is not source]
    return all(
        other.relation is not None and column.name.lower() not in RELATIONS[other.relation]
        for other in others
    )


def _layers_of(segment: Segment) -> tuple[int, ...]:
    """List the layers whose states are there."""
    return segment.layers if segment.has_activations("residual") else ()


def _most_rows(columns: Sequence[str], limits: Limits) -> int:
    """Count the rows there is room for."""
    room = limits.memory_for("tables")
    n_columns = len(set(columns) & set(OF_READINGS["lens"])) + 3
    row_bytes = _CELL_BYTES * n_columns + _LIST_BYTES * len(LISTS & set(columns))
    return room // row_bytes if room is not None else 1 << 62
