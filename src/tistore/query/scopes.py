"""
Scopes: which relation, CTE or subquery each name in a query's FROM stands for.

Resolving is also a guard: a table is a known relation or a query of the statement itself, and
whatever this module does not recognise in a FROM is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from sqlglot import exp

from tistore.errors import SqlError, nearest
from tistore.query.relations import LENS, OF_READINGS, PROJECTABLE, RELATIONS
from tistore.schemas.tables import STREAMED_TABLES

_MOST_INLINED = 50

_Tree = TypeVar("_Tree", bound=exp.Expr)


@dataclass(slots=True, eq=False)
class Derived:
    """
    A query used as a table: a CTE, or a subquery in a FROM.

    Attributes:
        query: Its tree.
        scope: Its scope, when it is a single SELECT.
        ctes: Queries that can be named in it, by name, those of its own left out.
        is_recursive: Whether it may refer to itself.
        uses: Where it is named.
        hidden: Score columns handed through it, which no star may show.
    """

    query: exp.Query
    scope: Scope | None
    ctes: Mapping[str, Derived] = field(default_factory=dict)
    is_recursive: bool = False
    uses: list[tuple[Scope, Source]] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Source:
    """
    One item of a FROM.

    Attributes:
        alias: Name it goes by, in lower case; empty when it has none.
        node: Its tree.
        relation: Relation it reads; None for anything else.
        derived: Query it reads; None for anything else.
        join: The join that adds it; None for the first.
        is_nested: Whether it stands in a parenthesised join.
        hidden: Score columns of a relation, which no star may show.
    """

    alias: str
    node: exp.Expr
    relation: str | None = None
    derived: Derived | None = None
    join: exp.Join | None = None
    is_nested: bool = False
    hidden: list[str] = field(default_factory=list)

    @property
    def is_projectable(self) -> bool:
        """Whether it reads a relation on which project() works."""
        return self.relation in PROJECTABLE

    @property
    def is_of_readings(self) -> bool:
        """Whether it reads a relation whose rows are parts of readings."""
        return self.relation in OF_READINGS

    @property
    def pivots(self) -> list[exp.Expr]:
        """PIVOT and UNPIVOT clauses on it."""
        return list(self.node.args.get("pivots") or [])

    @property
    def hidden_columns(self) -> list[str]:
        """Columns no star may show."""
        return self.derived.hidden if self.derived else self.hidden


@dataclass(slots=True, eq=False)
class Scope:
    """
    One SELECT and what its FROM names.

    Attributes:
        select: Its tree.
        parent: Scope it is nested in, whose columns it can use; None for CTEs and the outermost.
        is_expression: Whether it is a subquery in an expression, not in a FROM.
        sources: Items of its FROM.
        ctes: Queries that can be named in it, by name.
        stands_for: The CTE or subquery in a FROM that it is; None for any other.
        injected: (alias, column) of scores handed through to the query around it.
    """

    select: exp.Select
    parent: Scope | None
    is_expression: bool
    ctes: Mapping[str, Derived]
    sources: list[Source] = field(default_factory=list)
    stands_for: Derived | None = None
    injected: list[tuple[str, str]] = field(default_factory=list)

    def find(self, alias: str) -> Source | None:
        """Look up an item of the FROM by the name it goes by."""
        return next((source for source in self.sources if source.alias == alias.lower()), None)


def read_scopes(tree: exp.Query) -> list[Scope]:
    """
    Resolve every name in every FROM of a query, inner scopes first.

    Raises:
        SqlError: A name is neither a relation nor a query of the statement, or something in a
            FROM is not to be read here.
    """
    reader = _Reader()
    reader.read_query(tree, {}, None, False)
    for table in tree.find_all(exp.Table):
        if id(table) not in reader.seen:
            raise SqlError(f"{table.sql('duckdb')} cannot be read in this place")
    return reader.scopes


class _Reader:
    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.seen: set[int] = set()

    def read_query(
        self,
        query: exp.Expr,
        ctes: Mapping[str, Derived],
        parent: Scope | None,
        is_expression: bool,
    ) -> Scope | None:
        """Read a query; gives its scope when it is a single SELECT."""
        if not isinstance(query, exp.Query):
            raise SqlError(f"a query is expected here, not {query.sql('duckdb')}")
        ctes = self._read_ctes(query, ctes)
        if isinstance(query, exp.Select):
            return self._read_select(query, ctes, parent, is_expression)
        is_pair = isinstance(query, exp.SetOperation)
        inner = [query.this, query.args["expression"]] if is_pair else [query.this]
        if isinstance(query, exp.Subquery) and isinstance(query.this, exp.Table):
            raise SqlError(f"{query.sql('duckdb')}: write SELECT … FROM around the table")
        scopes = [self.read_query(side, ctes, parent, is_expression) for side in inner]
        for nested in _nearest_queries(query, skip=("with_", "this", "expression")):
            self.read_query(nested, ctes, parent, True)
        is_bare = not any(
            value for key, value in query.args.items() if key not in ("this", "alias", "pivots")
        )
        return scopes[0] if isinstance(query, exp.Subquery) and is_bare else None

    def _read_ctes(self, query: exp.Query, ctes: Mapping[str, Derived]) -> Mapping[str, Derived]:
        with_ = query.args.get("with_")
        if with_ is None:
            return ctes
        known = dict(ctes)
        for cte in with_.expressions:
            name = cte.alias.lower()
            if not isinstance(cte.this, exp.Query):
                raise SqlError(f"WITH {cte.alias}: only a query can stand here")
            is_recursive = bool(with_.args.get("recursive"))
            derived = Derived(cte.this, None, dict(known), is_recursive)
            inside = known | {name: derived} if derived.is_recursive else known
            derived.scope = self.read_query(cte.this, inside, None, False)
            known[name] = derived
        return known

    def _read_select(
        self,
        select: exp.Select,
        ctes: Mapping[str, Derived],
        parent: Scope | None,
        is_expression: bool,
    ) -> Scope:
        scope = Scope(select, parent, is_expression, ctes)
        if (from_ := select.args.get("from_")) is not None:
            self._read_source(from_.this, None, scope)
        for join in select.args.get("joins") or []:
            self._read_join(join, scope)
        for lateral in select.args.get("laterals") or []:
            self._read_source(lateral, None, scope)
        for nested in _nearest_queries(select, skip=("with_", "from_", "joins", "laterals")):
            self.read_query(nested, ctes, scope, True)
        self.scopes.append(scope)
        return scope

    def _read_join(self, join: exp.Join, scope: Scope, is_nested: bool = False) -> None:
        self._read_source(join.this, join, scope, is_nested)
        for nested in _nearest_queries(join, skip=("this",)):
            self.read_query(nested, scope.ctes, scope, True)

    def _read_source(
        self,
        node: exp.Expr,
        join: exp.Join | None,
        scope: Scope,
        is_nested: bool = False,
    ) -> None:
        is_nested = is_nested or bool(node.args.get("joins"))
        skip: tuple[str, ...]
        if isinstance(node, exp.Table) and isinstance(node.this, exp.GenerateSeries):
            self.seen.add(id(node))
            source, skip = Source(_alias(node), node), ()
        elif isinstance(node, exp.Table):
            source = self._read_table(node, scope)
            skip = ("this", "joins")
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table):
            if node.alias:
                raise SqlError(
                    f"the join in parentheses has a name of its own, {node.alias!r}",
                    mend="name its tables instead, or write (SELECT * FROM …)",
                )
            self._read_source(node.this, join, scope, True)
            return
        elif isinstance(node, exp.Subquery):
            inner = self.read_query(node, scope.ctes, scope, False)
            source = Source(_alias(node), node, derived=Derived(node, inner))
            skip = tuple(key for key in node.args if key not in ("pivots", "joins"))
        elif isinstance(node, exp.Lateral) and isinstance(node.this, exp.Subquery):
            inner = self.read_query(node.this, scope.ctes, scope, False)
            source = Source(_alias(node), node, derived=Derived(node.this, inner))
            skip = ("this",)
        elif isinstance(node, exp.Values | exp.Unnest) or (
            isinstance(node, exp.Lateral) and isinstance(node.this, exp.Unnest)
        ):
            source = Source(_alias(node), node)
            skip = ()
        else:
            raise SqlError(
                f"{node.sql('duckdb')} is refused: "
                "a FROM names relations, queries, VALUES, UNNEST or range(n)",
                mend=f"the relations are {', '.join(RELATIONS)}",
            )
        source.join, source.is_nested = join, is_nested
        if source.derived is not None:
            source.derived.uses.append((scope, source))
            if source.derived.scope is not None:
                source.derived.scope.stands_for = source.derived
        scope.sources.append(source)
        for nested in _nearest_queries(node, skip=(*skip, "joins")):
            self.read_query(nested, scope.ctes, scope, True)
        for inner_join in node.args.get("joins") or []:
            self._read_join(inner_join, scope, is_nested=True)

    def _read_table(self, node: exp.Table, scope: Scope) -> Source:
        self.seen.add(id(node))
        written = node.sql("duckdb")
        is_plain = isinstance(node.this, exp.Identifier) and not (
            node.args.get("db") or node.args.get("catalog") or node.args.get("when")
        )
        if not is_plain:
            raise SqlError(
                f"{written} is refused: a query reads the store's relations only",
                mend=f"they are {', '.join(RELATIONS)}",
            )
        name = node.name.lower()
        alias = _alias(node) or name
        if name in scope.ctes:
            return Source(alias, node, derived=scope.ctes[name])
        if name in STREAMED_TABLES:
            raise SqlError(
                f"{name} is no relation: it is too large to be read whole",
                mend=f"ask {LENS}, or read it with store.snapshot.unembedding(head_hash)",
            )
        if name not in RELATIONS:
            raise SqlError(f"no relation {node.name!r}; {nearest(name, [*RELATIONS, *scope.ctes])}")
        return Source(alias, node, relation=name)


def inline(tree: _Tree, ctes: Mapping[str, Derived]) -> _Tree | None:
    """
    Write the CTEs that are named in a tree into it, as subqueries.

    Returns:
        A copy; None when there are too many: each may name the one before it twice.
    """
    copied = tree.copy()
    left: list[tuple[exp.Expr, Mapping[str, Derived]]] = [(copied, ctes)]
    for n_done in count():
        if not left:
            return copied
        if n_done > _MOST_INLINED:
            return None
        part, seen = left.pop()
        own = {cte.alias.lower() for cte in part.find_all(exp.CTE)}
        for table in list(part.find_all(exp.Table)):
            derived = seen.get(table.name.lower())
            if derived is not None and not derived.is_recursive and table.name.lower() not in own:
                subquery = _spell_out(table, derived)
                table.replace(subquery)
                left.append((subquery, derived.ctes))
    raise AssertionError


def _spell_out(table: exp.Table, derived: Derived) -> exp.Subquery:
    cte = derived.query.parent
    columns = cte.args["alias"].columns if isinstance(cte, exp.CTE) else []
    alias = exp.TableAlias(
        this=exp.to_identifier(table.alias_or_name), columns=[name.copy() for name in columns]
    )
    return exp.Subquery(this=derived.query.copy(), alias=alias)


def _alias(node: exp.Expr) -> str:
    for pivot in reversed(node.args.get("pivots") or []):
        if pivot.alias:
            return str(pivot.alias).lower()
    return str(node.alias).lower()


def _nearest_queries(node: exp.Expr, skip: tuple[str, ...]) -> Iterator[exp.Query]:
    """Queries nested in a node's own expressions, those nested in them left out."""
    for key, value in node.args.items():
        if key in skip:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, exp.Expr):
                continue
            if isinstance(child, exp.Query):
                yield child
            else:
                yield from _nearest_queries(child, ())
