"""Calls of `project()` and its kin in a query, and whose rows they measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from tistore.errors import SqlError
from tistore.query.dynamics import FUNCTIONS
from tistore.query.measures import MEASURES, Measure
from tistore.query.relations import PROJECTABLE
from tistore.query.scopes import Derived, Scope, Source

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """
    One call.

    Attributes:
        node: Tree to be replaced by a column, the alias before the dot included.
        measure: Which of the functions.
        reference: Vector reference, as given.
        layer: Second argument; None when there is none.
        sources: Items of FROMs from the one called on down to the relation: more than one when
            the call is on a CTE or subquery that hands the relation's rows through.
        scopes: The scope of each of these.
    """

    node: exp.Expr
    measure: Measure
    reference: str
    layer: int | None
    sources: tuple[Source, ...]
    scopes: tuple[Scope, ...]

    @property
    def relation(self) -> Source:
        """The item that reads the relation."""
        return self.sources[-1]

    def spell_out(self) -> None:
        """Write the arguments in the place of parameters."""
        function = self.node.expression if isinstance(self.node, exp.Dot) else self.node
        arguments: list[exp.Expr] = [exp.Literal.string(self.reference)]
        if self.layer is not None:
            arguments.append(exp.Literal.number(self.layer))
        function.set("expressions", arguments)

    @property
    def text(self) -> str:
        """The call as people write it."""
        arguments = f"'{self.reference}'" + (f", {self.layer}" if self.layer is not None else "")
        return f"{self.measure}({arguments})"


def is_call(node: exp.Expr) -> bool:
    """Whether a node calls one of the measures."""
    return isinstance(node, exp.Anonymous) and node.name.lower() in MEASURES


def has_call(node: exp.Expr) -> bool:
    """Whether one of the measures is called anywhere below a node."""
    return any(is_call(inner) for inner in node.find_all(exp.Anonymous))


def find_calls(tree: exp.Query, scopes: list[Scope], parameters: Parameters) -> list[Call]:
    """
    Find every call and the relation it measures.

    Raises:
        SqlError: A call has wrong arguments, or it does not tell whose rows it measures.
    """
    by_select = {id(scope.select): scope for scope in scopes}
    return [
        _read_call(node, by_select, parameters)
        for node in tree.find_all(exp.Anonymous)
        if is_call(node)
    ]


def _read_call(node: exp.Anonymous, by_select: Mapping[int, Scope], parameters: Parameters) -> Call:
    name = node.name.lower()
    measure = next(measure for measure in MEASURES if measure == name)
    if isinstance(node.parent, exp.Window | exp.Filter):
        raise SqlError(f"{name}() is no aggregate: write it inside one, as avg({name}('trait'))")
    reference, layer = _read_arguments(node, name, parameters)
    owner = node.find_ancestor(exp.Select, exp.SetOperation)
    if not isinstance(owner, exp.Select):
        raise SqlError(
            f"{name}() in the ORDER BY of a {type(owner).__name__.upper()} has no rows to measure",
            mend="give the score a name in every SELECT, and order by that name",
        )
    scope = by_select[id(owner)]
    whole: exp.Expr = node
    alias = None
    if isinstance(node.parent, exp.Dot) and node.parent.expression is node:
        whole, alias = node.parent, _read_alias(node.parent, name)
    pivot = node.find_ancestor(exp.Pivot, exp.Select)
    pivoted = pivot.parent if isinstance(pivot, exp.Pivot) else None
    scope, source = (
        _find_named(scope, alias, name) if alias is not None else _find_only(scope, name, pivoted)
    )
    sources, inner_scopes = _descend(scope, source, name, is_inside_pivot=pivoted is source.node)
    return Call(whole, measure, reference, layer, sources, inner_scopes)


def _read_arguments(
    node: exp.Anonymous, name: str, parameters: Parameters
) -> tuple[str, int | None]:
    usage = f"write {name}('refusal') or {name}('refusal', 26)"
    if not 1 <= len(node.expressions) <= 2:
        raise SqlError(
            f"{name}() takes a vector and perhaps a layer, not {len(node.expressions)} arguments",
            mend=usage,
        )
    values = [_read_argument(argument, name, usage, parameters) for argument in node.expressions]
    reference, layer = values[0], values[1] if len(values) == 2 else None
    if not isinstance(reference, str) or not reference.strip():
        raise SqlError(f"{name}() takes a vector reference, not {reference!r}", mend=usage)
    if len(values) == 2 and (type(layer) is not int or layer < 0):
        raise SqlError(f"{name}(): {layer!r} is no layer: a block number from 0", mend=usage)
    return reference, layer


def _read_argument(argument: exp.Expr, name: str, usage: str, parameters: Parameters) -> Any:
    if isinstance(argument, exp.Literal):
        return argument.to_py()
    if isinstance(argument, exp.Placeholder):
        if argument.name not in parameters:
            raise SqlError(f"no value is given for parameter ${argument.name}")
        return parameters[argument.name]
    if isinstance(argument, exp.Null):
        raise SqlError(f"{name}() takes a vector reference, not NULL", mend=usage)
    raise SqlError(
        f"{name}({argument.sql('duckdb')}): which vector is read must be known before the rows are",
        mend=f"{usage}, or bind a parameter: {name}($trait)",
    )


def _read_alias(dot: exp.Dot, name: str) -> str:
    before = dot.this
    if isinstance(before, exp.Column) and not before.table:
        before = before.this
    if not isinstance(before, exp.Identifier):
        raise SqlError(
            f"{before.sql('duckdb')}.{name}() is called on a value, not on a relation",
            mend=f"write {name}('refusal'), or a.{name}('refusal') for the relation named a",
        )
    return before.name


def _find_named(scope: Scope, alias: str, name: str) -> tuple[Scope, Source]:
    around: Scope | None = scope
    names: list[str] = []
    while around is not None:
        if source := around.find(alias):
            return around, source
        names += [source.alias for source in around.sources if source.alias]
        around = around.parent
    raise SqlError(
        f"{alias}.{name}(): nothing in this FROM is named {alias!r}",
        mend=f"there are: {', '.join(names)}" if names else None,
    )


def _find_only(scope: Scope, name: str, pivoted: exp.Expr | None) -> tuple[Scope, Source]:
    """Find the one item of the FROM a call without an alias can mean."""
    around: Scope | None = scope
    while around is not None:
        sources = [source for source in around.sources if pivoted in (None, source.node)]
        # A SEMI or ANTI join shows nothing of its right side beyond its own ON.
        seen = [s for s in sources if s.join is None or s.join.kind not in ("SEMI", "ANTI")]
        found = [source for source in seen if source.is_projectable] or [
            source for source in seen if source.derived and _reaches_relation(source.derived)
        ]
        if len(found) == 1:
            return around, found[0]
        if found:
            written = [f"{source.alias}.{name}('refusal')" for source in found]
            raise SqlError(
                f"{name}() could measure any of {len(found)} relations in this FROM",
                mend=f"say which: {' or '.join(written)}",
            )
        derived = [source for source in sources if source.derived]
        if derived or not around.is_expression:
            break
        around = around.parent
    if around is not None and len(derived := [s for s in around.sources if s.derived]) == 1:
        return around, derived[0]  # to fail with the reason why it cannot be handed through
    raise SqlError(
        f"{name}() has no rows to measure: this FROM names none of {', '.join(PROJECTABLE)}"
    )


def _reaches_relation(derived: Derived) -> bool:
    return _find_inner(derived) is not None


def _find_inner(derived: Derived) -> Source | None:
    """The one item whose rows a query hands through as they are; None when there is none."""
    scope = derived.scope
    if scope is None or derived.is_recursive or not _keeps_rows(scope.select):
        return None
    found = [source for source in scope.sources if source.is_projectable] or [
        source for source in scope.sources if source.derived and _reaches_relation(source.derived)
    ]
    return found[0] if len(found) == 1 and not found[0].pivots else None


def _keeps_rows(select: exp.Select) -> bool:
    """Whether each row of the SELECT's answer is one row of its FROM."""
    if any(select.args.get(key) for key in ("group", "distinct", "having")):
        return False
    order = select.args.get("order")
    if order is not None and any(isinstance(key.this, exp.Var) for key in order.expressions):
        return False  # ORDER BY ALL would order by the score handed through, too
    return not any(
        _may_aggregate(node) and node.find_ancestor(exp.Query, exp.Window) is select
        for item in select.expressions
        for node in item.walk()
    )


def _may_aggregate(node: exp.Expr) -> bool:
    # An unknown function may be an aggregate that the parser has no name for.
    is_known = is_call(node) or node.name.lower() in FUNCTIONS
    is_unknown = isinstance(node, exp.Anonymous) and not is_known
    return is_unknown or isinstance(node, exp.AggFunc | exp.Unnest | exp.Explode)


def _descend(
    scope: Scope, source: Source, name: str, is_inside_pivot: bool
) -> tuple[tuple[Source, ...], tuple[Scope, ...]]:
    """Walk from the item called on down to the relation."""
    if source.pivots and not is_inside_pivot:
        raise SqlError(
            f"{name}() cannot measure {source.alias or 'a table'!r}, which is pivoted",
            mend=f"call it inside the PIVOT, as PIVOT (avg({name}('refusal')) FOR …)",
        )
    sources, scopes = [source], [scope]
    while not source.is_projectable:
        derived = source.derived
        if derived is None:
            raise SqlError(
                f"{source.alias}.{name}(): {source.alias!r} is none of {', '.join(PROJECTABLE)}"
            )
        inner = _find_inner(derived)
        if inner is None or derived.scope is None:
            raise SqlError(
                f"{name}() cannot measure {source.alias or 'a subquery'!r}: its rows are not the "
                "rows of one relation",
                mend=f"call it inside, as SELECT …, {name}('refusal') AS refusal FROM …, "
                "and use that name outside",
            )
        source = inner
        sources.append(source)
        scopes.append(derived.scope)
    return tuple(sources), tuple(scopes)
