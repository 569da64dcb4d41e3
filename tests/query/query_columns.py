"""What a random query can ask about: relations, their columns, and values that matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .query_spelling import Text, spell_asked
from .random_stores import COLUMNS

TOLERANCE = 2e-3
"""How far a score may be off, in spreads of its column."""

KEYS = {
    "responses": ("response_id", "reader"),
    "clauses": ("response_id", "reader", "clause"),
    "tokens": ("response_id", "reader", "position"),
    "response_diffs": ("response_id", "reader", "baseline"),
    "clause_diffs": ("response_id", "reader", "baseline", "clause"),
    "token_diffs": ("response_id", "reader", "baseline", "position"),
    "prompts": ("prompt_set", "prompt_id"),
}
"""Columns that tell the rows of each relation apart."""

JOINABLE = ("response_id", "position", "prompt_id", "prompt_set", "reader", "organism", "sample")
WHOLE = ("organism", "reader", "baseline", "prompt_id", "prompt_set", "response_id", "sample")
"""Columns that have one value for a whole reading: those a planner can narrow by."""

STEADY_KINDS = ("text", "int", "bool")


@dataclass(frozen=True)
class Column:
    """
    A column, of a relation or of a query's answer.

    Attributes:
        name: Its name.
        kind: text, int, bool, real (exact floating point), score, or loose (made of scores).
        domain: Values that make sense in a predicate; for a score, thresholds in gaps.
        spread: How far its scores lie apart; 0 for what is not made of scores.
        origin: (alias, column) it is a plain copy of, in the FROM of its own SELECT.
    """

    name: str
    kind: str
    domain: tuple[Any, ...] = ()
    spread: float = 0.0
    origin: tuple[str, str] | None = None


@dataclass(frozen=True)
class Catalogue:
    """The relations of a store: columns with typical values, and what their scores are like."""

    relations: Mapping[str, tuple[Column, ...]]
    scores: Mapping[tuple[str, str], Column]

    def __repr__(self) -> str:
        return "<a catalogue>"

    @classmethod
    def of(cls, tables: Mapping[str, pa.Table]) -> Catalogue:
        relations, scores = {}, {}
        for name, table in tables.items():
            plain = [field for field in table.schema if field.name not in COLUMNS]
            relations[name] = tuple(_describe(table, field) for field in plain)
            for column in COLUMNS if name != "prompts" else ():
                scores[name, column] = _describe_scores(table, column)
        return cls(relations, scores)


def _describe(table: pa.Table, column: pa.Field) -> Column:
    kinds = {
        pa.types.is_string: "text",
        pa.types.is_integer: "int",
        pa.types.is_boolean: "bool",
        pa.types.is_floating: "real",
        pa.types.is_list: "list",
    }
    kind = next(kind for test, kind in kinds.items() if test(column.type))
    values = [] if kind == "list" else table[column.name].unique().drop_null().to_pylist()
    values.sort()
    return Column(column.name, kind, tuple(values[:: max(1, len(values) // 12)]))


def _describe_scores(table: pa.Table, column: str) -> Column:
    values = np.unique(table[column].drop_null().to_numpy())
    spread = float(np.ptp(values)) if len(values) else 0.0
    gaps = np.flatnonzero(np.diff(values) > 4 * TOLERANCE * spread)
    middles = (values[gaps] + values[gaps + 1]) / 2
    # The largest number of scores on either side first: that is what examples shrink to.
    middles = sorted(middles, key=lambda middle: abs(middle - np.median(values)))
    return Column(column, "score", tuple(float(f"{m:.9g}") for m in middles[:12]), spread)


@dataclass(frozen=True)
class Source:
    """
    An item of a FROM.

    Attributes:
        alias: Name it goes by.
        text: The item itself.
        columns: What it shows.
        keys: Columns that tell its rows apart; None when nothing does.
        measured: Relation whose rows it has; empty when it cannot be measured.
        item: Which use of a relation that is.
        is_relation: Whether it is that relation itself.
        is_seen: Whether more than its own ON can see it.
        is_optional: Whether a row can be without it, all its columns NULL.
        merged: Columns a USING made one with those of the items before.
    """

    alias: str
    text: Text
    columns: tuple[Column, ...]
    keys: tuple[str, ...] | None = None
    measured: str = ""
    item: int = -1
    is_relation: bool = False
    is_seen: bool = True
    is_optional: bool = False
    merged: tuple[str, ...] = ()

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def has(self, name: str, kind: str) -> bool:
        return any((column.name, column.kind) == (name, kind) for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True)
class Written:
    """A query: its text, its columns, and the columns that tell its rows apart."""

    text: Text
    outputs: tuple[Column, ...]
    keys: tuple[str, ...] | None = None
    measured: str = ""
    item: int = -1
    has_star: bool = False


@dataclass
class Query:
    """
    A random query.

    Attributes:
        text: Its tree.
        outputs: Its columns.
        is_fragile: Whether it may hang on the order of scores that lie close.
        forms: What it is made of, to be counted.
    """

    text: Text
    outputs: tuple[Column, ...]
    is_fragile: bool
    forms: set[str]

    def __repr__(self) -> str:
        return f"<{spell_asked(self.text)[0]}>"


Ctes = Mapping[str, Written]
Scope = Sequence[Source]


def shared_columns(scope: Scope, other: Source) -> list[tuple[Source, str]]:
    """Columns an item shares with one of those before, each with the first that has it."""
    found = []
    for name in JOINABLE:
        owner = next((source for source in scope if source.is_seen and name in source.names), None)
        if owner and name in other.names and owner.column(name).kind == other.column(name).kind:
            found.append((owner, name))
    return found


def owners_of(scope: Scope, name: str) -> list[Source]:
    """Items that a bare name could mean; those a USING made one count once."""
    return [s for s in scope if s.is_seen and name in s.names and name not in s.merged]


def keys_among(seen: Scope, outputs: Sequence[Column]) -> tuple[str, ...] | None:
    """Outputs that tell rows apart; None when some key is not among them."""
    names = {output.origin: output.name for output in outputs if output.origin}
    keys = []
    for source in seen:
        for key in source.keys if source.keys is not None else ("",):
            if (source.alias, key) not in names:
                return None
            keys.append(names[source.alias, key])
    return tuple(keys)
