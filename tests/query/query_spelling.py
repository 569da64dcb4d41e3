"""
Queries spelled twice from one tree.

As it is asked of a store, and as it is told to DuckDB over plain tables in which
`project('refusal')` and its kin are ordinary columns. Both spellings are the same but for the calls
and the names of the tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .random_stores import COLUMNS, POINTINGS


@dataclass(frozen=True)
class Call:
    """A score: a call where it is asked, a column where it is told."""

    measure: str
    pointing: str
    reference: str
    alias: str
    is_bare: bool
    item: int
    bound: str = ""
    is_shouted: bool = False

    @property
    def column(self) -> str:
        return f"{self.measure}_{self.pointing}"


@dataclass(frozen=True)
class Value:
    """A bound parameter."""

    name: str
    value: Any


@dataclass(frozen=True)
class Relation:
    """A relation in a FROM, with the alias it goes by if it is given one."""

    name: str
    alias: str = ""
    is_shouted: bool = False


@dataclass(frozen=True)
class Exposed:
    """Where a subquery hands scores through: nothing where asked, all columns where told."""

    alias: str


@dataclass(frozen=True)
class Shown:
    """A star that must not show the told tables' own score columns."""

    alias: str
    columns: tuple[str, ...]


Part = str | Call | Value | Relation | Exposed | Shown


@dataclass(frozen=True)
class Text:
    """SQL not yet spelled."""

    parts: tuple[Part, ...]

    @property
    def calls(self) -> list[Call]:
        return [part for part in self.parts if isinstance(part, Call)]


def write(template: str, *pieces: Text | Part) -> Text:
    """Fill each `{}` of a template."""
    strings = template.split("{}")
    assert len(strings) == len(pieces) + 1, (template, pieces)
    parts: list[Part] = [strings[0]]
    for piece, string in zip(pieces, strings[1:], strict=True):
        parts += piece.parts if isinstance(piece, Text) else [piece]
        parts.append(string)
    return Text(tuple(part for part in parts if part != ""))


def join(separator: str, pieces: Iterable[Text | Part]) -> Text:
    pieces = list(pieces)
    return write(separator.join("{}" for _ in pieces), *pieces)


def spell_asked(
    text: Text, is_numbered: bool = False
) -> tuple[str, dict[str, Any] | list[Any] | None]:
    """Spell a query for a store, with its parameters: `$name`, or `?` if they are numbered."""
    named: dict[str, Any] = {}
    numbered: list[Any] = []

    def bind(name: str, value: Any) -> str:
        named[name] = value
        numbered.append(value)
        return "?" if is_numbered else f"${name}"

    def spell(part: Part) -> str:
        if isinstance(part, Call):
            layer = POINTINGS[part.pointing].layer
            reference = f"'{part.reference}'"
            if part.bound:
                reference = bind(part.bound, part.reference)
            second = "" if layer is None else f", {layer}"
            before = "" if part.is_bare else f"{part.alias}."
            measure = part.measure.upper() if part.is_shouted else part.measure
            return f"{before}{measure}({reference}{second})"
        if isinstance(part, Value):
            return bind(part.name, part.value)
        if isinstance(part, Relation):
            name = part.name.upper() if part.is_shouted else part.name
            return name if part.alias in ("", name) else f"{name} AS {part.alias}"
        if isinstance(part, Shown):
            return f"{part.alias}.*"
        return "" if isinstance(part, Exposed) else part

    sql = "".join(map(spell, text.parts))
    return sql, (numbered if is_numbered else named) or None


def spell_told(
    text: Text, prefix: str = "exact_", silenced: tuple[int, int] | None = None
) -> tuple[str, dict[str, Any] | None]:
    """
    Spell a query for DuckDB over plain tables.

    Args:
        text: The query.
        prefix: What the tables' names begin with.
        silenced: (item, layer) whose scores are NULL, as if they had not been captured.
    """
    parameters: dict[str, Any] = {}

    def spell(part: Part) -> str:
        if isinstance(part, Call):
            if (part.item, POINTINGS[part.pointing].site) == silenced:
                return "NULL::DOUBLE"
            return f"{part.alias}.{part.column}" if part.alias else part.column
        if isinstance(part, Value):
            parameters[part.name] = part.value
            return f"${part.name}"
        if isinstance(part, Relation):
            return f"{prefix}{part.name}" + (f" AS {part.alias}" if part.alias else "")
        if isinstance(part, Exposed):
            return "".join(f", {part.alias}.{column}" for column in COLUMNS)
        if isinstance(part, Shown):
            return ", ".join(f"{part.alias}.{column}" for column in part.columns)
        return part

    return "".join(map(spell, text.parts)), parameters or None
