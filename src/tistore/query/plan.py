"""The plan of a query: what it needs, and the SQL that runs once that is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import Dialect, exp
from sqlglot.errors import SqlglotError

from tistore.errors import SqlError
from tistore.query.calls import Call, find_calls
from tistore.query.guard import RESERVED, first_line, parse_query
from tistore.query.long_form import LongColumn, find_vectors, write_union
from tistore.query.massive import MassiveDims
from tistore.query.measures import Measurement
from tistore.query.narrow import Narrowed, Narrower
from tistore.query.references import resolve
from tistore.query.relations import LONG, OF_READINGS, RELATIONS, level_of
from tistore.query.scopes import Scope, Source, read_scopes
from tistore.schemas.vector import Vector


@dataclass(slots=True, eq=False)
class Item:
    """
    One use of a relation in a query whose rows are parts of readings.

    Attributes:
        source: Where it is used.
        scope: The SELECT it is used in.
        table: Name its table is registered under.
        columns: The columns of the relation the query may look at, those of scores left out.
        scores: Score columns to add to it, by name.
        long: For `scores`, the vectors that are laid out one after the other.
        narrowed: The rows it needs; None until they are known.
    """

    source: Source
    scope: Scope
    table: str
    columns: tuple[str, ...]
    scores: dict[str, Measurement] = field(default_factory=dict)
    long: list[LongColumn] = field(default_factory=list)
    narrowed: Narrowed | None = None


@dataclass(slots=True, eq=False)
class Statement:
    """
    A query, checked and resolved, not yet rewritten.

    Attributes:
        tree: Its tree.
        scopes: Its SELECTs, inner ones first.
        calls: Its calls, each with the measurement it stands for.
        items: Its uses of projectable relations.
        log_tables: Tables of the log it names.
        parameters: Values of its parameters, by name or number.
        vectors: Every vector of the store.
        massive: Its massive dimensions.
        names_pairing: Whether it names the column `pairing`; a star shows it without asking.
    """

    tree: exp.Query
    scopes: list[Scope]
    calls: list[tuple[Call, Measurement]]
    items: list[Item]
    log_tables: set[str]
    parameters: Mapping[str, Any]
    vectors: Sequence[Vector]
    massive: MassiveDims
    names_pairing: bool

    def narrow(self, narrower: Narrower) -> None:
        """
        Find out which rows each item needs, and which vectors each use of `scores`.

        Raises:
            SqlError: A use of `scores` does not say which vectors it means.
            UnknownVectorError: It names a vector that is not there.
            AmbiguousVectorError: It names one that could be several.
        """
        for item in self.items:
            if item.source.relation == LONG:
                self._add_vectors(item, narrower)
            item.narrowed = narrower.narrow(item.scope, item.source)

    def _add_vectors(self, item: Item, narrower: Narrower) -> None:
        named = find_vectors(item.scope, item.source, self.parameters, narrower.evaluate)
        for reference, layer in named:
            direction = resolve(reference, layer, self.vectors, self.massive)
            place = (reference, direction.site.layer)
            # A vector named both with and without its own layer is one all the same.
            if place not in {(known.vector, known.layer) for known in item.long}:
                column = self.add_score(item, Measurement("project", direction))
                item.long.append(LongColumn(*place, column))

    def add_score(self, item: Item, measurement: Measurement) -> str:
        """Add a score column to an item's table, once, and name it."""
        for name, known in item.scores.items():
            if known == measurement:
                return name
        name = f"{RESERVED}_score_{sum(len(other.scores) for other in self.items)}"
        item.scores[name] = measurement
        return name


def read_statement(
    sql: str,
    parameters: Mapping[str, Any] | Sequence[Any] | None,
    vectors: Sequence[Vector],
    massive: MassiveDims,
) -> Statement:
    """
    Parse, check and resolve a query.

    Raises:
        SqlError: It is malformed or refused.
        UnknownVectorError: A call names no vector.
        AmbiguousVectorError: A call could mean several.
    """
    tree = parse_query(number_parameters(sql))
    values = bind_parameters(tree, parameters)
    scopes = read_scopes(tree)
    sources = [(scope, source) for scope in scopes for source in scope.sources]
    columns = _mentioned_columns(tree)
    items = [
        Item(source, scope, f"{RESERVED}_table_{place}", _keep(columns, str(source.relation)))
        for place, (scope, source) in enumerate(sources)
        if source.is_of_readings
    ]
    calls = [
        (call, Measurement(call.measure, resolve(call.reference, call.layer, vectors, massive)))
        for call in find_calls(tree, scopes, values)
    ]
    for call, measurement in calls:
        measurement.check(level_of(str(call.relation.relation)))
    log_tables = {
        source.relation
        for _, source in sources
        if source.relation is not None and not source.is_of_readings
    }
    return Statement(
        tree,
        scopes,
        calls,
        items,
        log_tables,
        values,
        vectors,
        massive,
        _names_column(tree, "pairing"),
    )


def number_parameters(sql: str) -> str:
    """
    Write every `?` as `$1`, `$2`, …, so that a parameter can be known by name.

    Raises:
        SqlError: The SQL mixes `?` with other parameters.
    """
    try:
        tokens = Dialect.get_or_raise("duckdb").tokenize(sql)
    except SqlglotError as error:
        raise SqlError(f"the SQL cannot be parsed: {first_line(error)}") from error
    marks = [token for token in tokens if token.token_type.name == "PLACEHOLDER"]
    if marks and any(token.token_type.name == "PARAMETER" for token in tokens):
        raise SqlError("parameters are either ? or $name, not both")
    for number, token in reversed(list(enumerate(marks, start=1))):
        sql = f"{sql[: token.start]}${number}{sql[token.end + 1 :]}"
    return sql


def bind_parameters(
    tree: exp.Query, parameters: Mapping[str, Any] | Sequence[Any] | None
) -> dict[str, Any]:
    """
    Pair parameters with their values.

    Raises:
        SqlError: A value is missing, or has no parameter.
    """
    if parameters is None:
        values: dict[str, Any] = {}
    elif isinstance(parameters, Mapping):
        values = {str(name): value for name, value in parameters.items()}
    else:
        values = {str(place): value for place, value in enumerate(parameters, start=1)}
    used = {node.name for node in tree.find_all(exp.Placeholder)}
    if missing := sorted(used - set(values)):
        raise SqlError(f"no value is given for parameter ${missing[0]}")
    if unused := sorted(set(values) - used):
        raise SqlError(f"the SQL has no parameter ${unused[0]}")
    return values


def _mentioned_columns(tree: exp.Query) -> set[str] | None:
    """Names that may be columns; None when a star or the like shows columns not named."""
    sources = _source_names(tree)
    for node in tree.walk():
        shows_all = isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count)
        if shows_all or isinstance(node, exp.Pivot | exp.Columns):
            return None
        if isinstance(node, exp.Join) and node.method == "NATURAL":
            return None
        if isinstance(node, exp.Column) and node.name.lower() in sources:
            return None  # a whole row, perhaps
    return {node.name.lower() for node in tree.find_all(exp.Identifier)}


def _names_column(tree: exp.Query, name: str) -> bool:
    """Whether a column of that name is looked at, and not only left out of a star."""
    return any(
        column.name.lower() == name and not isinstance(column.parent, exp.Star)
        for column in tree.find_all(exp.Column)
    )


def _source_names(tree: exp.Query) -> set[str]:
    return {table.alias_or_name.lower() for table in tree.find_all(exp.Table)}


def _keep(columns: set[str] | None, relation: str) -> tuple[str, ...]:
    known = OF_READINGS["tokens" if relation == LONG else relation]
    return known if columns is None else tuple(name for name in known if name in columns)


def rewrite(statement: Statement) -> tuple[str, dict[str, str]]:
    """
    Put score columns where the calls are, and the items' tables where the relations are.

    No star shows a score column; every call that names an output column gives it its own text.

    Returns:
        The SQL to run, and what people call each of the planner's own names.
    """
    names: dict[str, str] = {}
    for call, _ in statement.calls:
        call.spell_out()
    _name_outputs(statement)
    for call, measurement in statement.calls:
        column = _add_score(statement, call, measurement, names)
        alias = None if call.node.find_ancestor(exp.Pivot) else call.sources[0].alias
        tree: exp.Expr = exp.column(column, table=alias or None, quoted=True)
        # a.b.abs() would name a function of the schema a.b.
        call.node.replace(exp.Paren(this=tree) if isinstance(call.node.parent, exp.Dot) else tree)
    for scope in statement.scopes:
        _hide(scope)
    for scope in statement.scopes:
        for alias, column in scope.injected:
            tree = exp.alias_(
                exp.column(column, table=alias or None, quoted=True), column, quoted=True
            )
            scope.select.append("expressions", tree)
    for item in statement.items:
        names[item.table] = str(item.source.relation)
        _name_table(item)
    return statement.tree.sql("duckdb"), names


def _name_table(item: Item) -> None:
    """Put an item's table where its relation is named."""
    node = item.source.node
    if not node.alias and not node.args.get("pivots"):
        node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name, quoted=True)))
    if not item.long:
        node.set("this", exp.to_identifier(item.table))
        return
    union = write_union(item.table, item.columns, item.long, item.source.hidden)
    kept = {key: node.args[key] for key in ("alias", "pivots", "joins") if node.args.get(key)}
    node.replace(exp.Subquery(this=union, **kept))


def _name_outputs(statement: Statement) -> None:
    """Name the output columns that hold a call and have no name, as they were written."""
    for call, _ in statement.calls:
        output = call.node
        while output.parent is not None and not isinstance(output.parent, exp.Select):
            output = output.parent
        is_output = output.arg_key == "expressions" and isinstance(output.parent, exp.Select)
        if is_output and not isinstance(output, exp.Alias | exp.Star | exp.Columns):
            written = output.sql("duckdb", normalize_functions="lower")
            named = exp.Alias(alias=exp.to_identifier(written, quoted=True))
            output.replace(named)
            named.set("this", output)


def _add_score(
    statement: Statement, call: Call, measurement: Measurement, names: dict[str, str]
) -> str:
    """Add a score column to the relation of a call, and hand it through to where it is called."""
    item = next(item for item in statement.items if item.source is call.relation)
    column = statement.add_score(item, measurement)
    if column not in item.source.hidden:
        item.source.hidden.append(column)
    names[column] = call.text
    for outer, inner, scope in zip(call.sources, call.sources[1:], call.scopes[1:], strict=False):
        assert outer.derived is not None
        if column not in outer.derived.hidden:
            outer.derived.hidden.append(column)
        if (inner.alias, column) not in scope.injected:
            scope.injected.append((inner.alias, column))
    return column


def _hide(scope: Scope) -> None:
    """Keep score columns out of what stars, COLUMNS and whole rows show."""
    _refuse_implicit_columns(scope)
    for node in list(scope.select.walk(prune=lambda node: _is_inner_query(node, scope.select))):
        if node.find_ancestor(exp.Select) is not scope.select:
            continue
        if isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count):
            _exclude(node, scope)
        elif isinstance(node, exp.Columns) and not node.find(exp.Star):
            if any(source.hidden_columns for source in scope.sources):
                raise SqlError(
                    f"{node.sql('duckdb')} cannot stand beside project() in one SELECT",
                    mend="name the columns, or call project() in a query around this one",
                )
        elif isinstance(node, exp.Column) and not node.table:
            _refuse_whole_row(node, scope)


def _refuse_implicit_columns(scope: Scope) -> None:
    """Refuse what would group or join by a score that only passes through."""
    for source in scope.sources:
        columns = (column for pivot in source.pivots for column in pivot.find_all(exp.Column))
        mentioned = {column.name for column in columns}
        is_grouped = bool(source.pivots) and bool(set(source.hidden_columns) - mentioned)
        if is_grouped or _is_joined_by_score(scope, source):
            raise SqlError(
                f"{source.alias!r} carries a score and cannot be "
                f"{'pivoted' if is_grouped else 'joined NATURAL'}",
                mend="name the columns in a query around it",
            )


def _is_joined_by_score(scope: Scope, source: Source) -> bool:
    """Whether a NATURAL join would compare a score that both of its sides carry."""
    if source.join is None or source.join.method != "NATURAL":
        return False
    others = (other.hidden_columns for other in scope.sources if other is not source)
    return any(set(source.hidden_columns) & set(hidden) for hidden in others)


def _is_inner_query(node: exp.Expr, select: exp.Select) -> bool:
    return isinstance(node, exp.Query) and node is not select


def _exclude(star: exp.Star, scope: Scope) -> None:
    of = star.parent.table.lower() if isinstance(star.parent, exp.Column) else ""
    hidden = [
        column
        for source in scope.sources
        if of in ("", source.alias)
        for column in source.hidden_columns
        if not source.pivots or any(pivot.args.get("unpivot") for pivot in source.pivots)
    ]
    if hidden:
        columns = [exp.column(column, quoted=True) for column in dict.fromkeys(hidden)]
        star.set("except_", [*(star.args.get("except_") or []), *columns])


def _refuse_whole_row(column: exp.Column, scope: Scope) -> None:
    source = scope.find(column.name)
    if source is None or not source.hidden_columns:
        return
    known = {name for other in scope.sources for name in RELATIONS.get(str(other.relation), ())}
    if column.name.lower() not in known:
        raise SqlError(
            f"{column.name!r} alone is a whole row of {source.relation or 'a subquery'}",
            mend=f"name its columns, as {column.name}.organism",
        )
