"""The engine: plan, check the budget, compute what is missing, run."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from tistore.errors import ReadBudgetError, SqlError
from tistore.query.complexity import check_length, shallow
from tistore.query.execution import close_database, open_cursor, run
from tistore.query.explanation import Explanation, NeededRows, describe_bytes
from tistore.query.fence import check_statement
from tistore.query.fit import check_fit, count_nulls
from tistore.query.guard import connect
from tistore.query.lens_rows import LensRows, check_budget, pick_rows
from tistore.query.lens_table import build_lens
from tistore.query.limits import Limits
from tistore.query.massive import MassiveDims
from tistore.query.measures import measure_extent
from tistore.query.narrow import Narrower
from tistore.query.needs import Plan, extent_of, item_bytes
from tistore.query.pairing import check_pairing
from tistore.query.plan import Item, Statement, read_statement, rewrite
from tistore.query.progress import Progress, metered, show_on_terminal
from tistore.query.readings import Readings
from tistore.query.relations import (
    LENS,
    RELATIONS,
    Extent,
    audits_same_tokens,
    build_relation,
    count_rows,
    count_unmatched,
)
from tistore.query.result import Result, make_unique
from tistore.query.scores import (
    Key,
    ScoreCache,
    ScoreRequest,
    ScoresOnDemand,
    TokenScores,
    Warmed,
    check_scannable,
    compute_scores,
    find_scores,
    read_bytes,
    scan_bytes,
    summarise,
    warm_scores,
)
from tistore.query.shortcuts import Derived, derive_scores, plan_derived
from tistore.query.streamed import StreamedRelation
from tistore.store.snapshot import Snapshot

Parameters = Mapping[str, Any] | Sequence[Any] | None

_PIECES = 4
"""How many pieces of a streamed relation there may be at a time: being built, and being read."""


class Engine:
    """
    Answers questions about one snapshot.

    Args:
        snapshot: The state to read.
        cache: Scores computed before.
        limits: What a query may use.
        show: Told how far a scan is when it takes its time.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        cache: ScoreCache,
        limits: Limits,
        show: Callable[[Progress], None] = show_on_terminal,
    ) -> None:
        self.snapshot = snapshot
        self._cache = cache
        self.limits = limits
        self._show = show
        self._table_limit = _or_unlimited(limits.memory_for("tables"))
        snapshot.kept_columns.limit_bytes = _or_unlimited(limits.memory_for("columns"))
        cache.memory_bytes = _or_unlimited(limits.memory_for("scores"))

    @cached_property
    def _database(self) -> duckdb.DuckDBPyConnection:
        """
        A database without data, opened once: that takes longer than most questions.

        Each question has a cursor of its own, and sees no other's tables.
        """
        database = connect(self.limits)
        # The interpreter's own clean-up comes too late for DuckDB, which then reports leaks.
        weakref.finalize(self, close_database, database)
        return database

    @cached_property
    def readings(self) -> Readings:
        """Every reading of the snapshot."""
        return Readings(self.snapshot.segments, lambda: self.snapshot.models)

    def answer(self, sql: str, parameters: Parameters, max_read_bytes: int | None) -> Result:
        """Run a query; see `Store.sql`."""
        with self._plan(sql, parameters) as (connection, plan):
            scores, notes = self._compute(plan, max_read_bytes)
            for name, rows in plan.lenses.items():
                lens = build_lens(rows, self.snapshot, partial(metered, show=self._show))
                connection.register(name, lens)
            for item in plan.statement.items:
                if item.table not in plan.lenses:
                    connection.register(item.table, self._table(item, scores, plan.table_bytes))
            table = _run(connection, plan, self.limits)
        return Result(table, plan.notes + notes)

    def _compute(
        self, plan: Plan, max_read_bytes: int | None
    ) -> tuple[Mapping[Key, TokenScores], tuple[str, ...]]:
        """Have all scores a plan needs at hand; gives notes on what went wrong with the cache."""
        check_budget(plan.lenses.values(), self.limits)
        is_large = plan.table_bytes > self._table_limit
        if is_large:
            derived, missing = self._prepare(plan)
            found: dict[Key, TokenScores] = {}
        else:
            found, missing = self._find(plan.requests)
        self._check_scannable(missing)
        self._check_budget(read_bytes(missing) + plan.side_bytes, len(missing), max_read_bytes)
        progress = metered(scan_bytes(missing), self._show)
        computed, is_cached = compute_scores(
            missing, self._cache, progress, self.limits.threads, is_large
        )
        notes = () if is_cached else (f"scores could not be written to {self._cache.folder.path}",)
        if not is_large:
            return found | computed, notes

        def look_up(request: ScoreRequest) -> TokenScores | None:
            if request.key in derived:
                return derive_scores(derived[request.key], self._cache)
            return self._cache.find(request)

        return ScoresOnDemand(plan.requests, computed, look_up, self._cache), notes

    def _table(
        self, item: Item, scores: Mapping[Key, TokenScores], table_bytes: int
    ) -> pa.Table | StreamedRelation:
        """Lay an item's rows out, or hand them over piece by piece where they are too many."""
        extent, columns = extent_of(item), [*item.columns, *item.scores]
        if table_bytes <= self._table_limit:
            return _lay_out(item, extent, columns, scores)
        build = partial(_lay_out, item, scores=scores)
        row_bytes = max(1, item_bytes(item) // max(1, count_rows(extent)))
        piece_rows = self._table_limit // _PIECES // row_bytes
        return StreamedRelation(extent, columns or ["sample"], build, piece_rows)

    def warm(self, sql: str, parameters: Parameters, max_read_bytes: int | None) -> list[Warmed]:
        """Cache what a query needs; see `Store.warm`."""
        with self._plan(sql, parameters) as (_, plan):
            # Reading them tells damaged files from good ones; `holds` would take either.
            _, missing = self._find(plan.requests)
            self._check_scannable(missing)
            self._check_budget(read_bytes(missing), len(missing), max_read_bytes)
            progress = metered(scan_bytes(missing), self._show)
            warm_scores(missing, self._cache.folder, progress, self.limits.threads)
            return summarise(plan.requests, missing)

    def explain(self, sql: str, parameters: Parameters) -> Explanation:
        """Tell what a query would read; see `Store.explain`."""
        with self._plan(sql, parameters) as (_, plan):
            _, missing = self._prepare(plan)
            self._check_scannable(missing)
            cached = [request for request in plan.requests if self._cache.holds(request)]
            directions = [measurement.direction for _, _, measurement in plan.measured]
            needed = {place for item in plan.statement.items for place in extent_of(item).segments}
            return Explanation(
                vectors=_unique(str(direction) for direction in directions),
                sites=_unique(str(direction.site) for direction in directions),
                relations=tuple(_describe(item) for item in plan.statement.items),
                segments_needed=len(needed),
                segments_total=len(self.snapshot.segments),
                read_bytes=read_bytes(missing) + plan.side_bytes,
                cached_bytes=sum(request.size_bytes for request in cached),
                multiply_adds=sum(rows.multiply_adds for rows in plan.lenses.values()),
                notes=plan.notes,
            )

    def _prepare(self, plan: Plan) -> tuple[dict[Key, Derived], list[ScoreRequest]]:
        """Split what seems not to be cached, reading nothing: what others give, and the rest."""
        lacking = [request for request in plan.requests if not self._cache.holds(request)]
        derived = {derived.request.key: derived for derived in self._derivable(lacking)}
        return derived, [request for request in lacking if request.key not in derived]

    def _find(
        self, requests: Sequence[ScoreRequest]
    ) -> tuple[dict[Key, TokenScores], list[ScoreRequest]]:
        """Split requests into the scores there are, or that others give, and those to scan for."""
        found, missing = find_scores(requests, self._cache)
        for derived in self._derivable(missing):
            scores = derive_scores(derived, self._cache)
            if scores is not None:  # else a part is damaged
                found[derived.request.key] = scores
        return found, [request for request in missing if request.key not in found]

    def _derivable(self, missing: Sequence[ScoreRequest]) -> list[Derived]:
        return plan_derived(missing, self._cache, self.snapshot.vectors()) if missing else []

    @contextmanager
    def _plan(
        self, sql: str, parameters: Parameters
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, Plan]]:
        check_length(sql)
        with shallow():
            statement = read_statement(
                sql, parameters, self.snapshot.vectors(), MassiveDims(self.snapshot)
            )
        with open_cursor(self._database) as connection:
            for name in statement.log_tables:
                table = self.snapshot.table(name).select(list(RELATIONS[name]))
                connection.register(name, table)
            statement.narrow(Narrower(connection, self.readings, statement.parameters))
            lenses = self._pick_lenses(connection, statement)
            with shallow():
                text, names = rewrite(statement)
            check_statement(connection, text)
            plan = Plan(statement, text, names, lenses)
            plan.notes = _unique(self._take_notes(plan))
            yield connection, plan

    def _pick_lenses(
        self, connection: duckdb.DuckDBPyConnection, statement: Statement
    ) -> dict[str, LensRows]:
        """Find the rows of each use of `lens`, by the name of its table."""
        return {
            item.table: pick_rows(
                item,
                extent_of(item),
                self.snapshot,
                connection,
                statement.parameters,
                self.limits,
            )
            for item in statement.items
            if item.source.relation == LENS
        }

    def _take_notes(self, plan: Plan) -> Iterator[str]:
        for rows in plan.lenses.values():
            yield from rows.notes
        for _, extent, measurement in plan.measured:
            yield from check_fit(extent, measurement, self.snapshot)
        for item in plan.statement.items:
            extent = extent_of(item)
            yield from count_nulls(extent, item.scores.values())
            if item.scores and extent.baselines is not None:
                yield from check_pairing(extent, plan.statement.names_pairing)
            if (
                item.scores
                and extent.relation == "response_diffs"
                and (n_pairs := int((~audits_same_tokens(extent)).sum()))
            ):
                yield (
                    f"differences are NULL for {n_pairs} of {len(extent.ids)} pairs of readings "
                    "in response_diffs: their means run over different tokens"
                )
            if extent.relation == "token_diffs" and (n_rows := count_unmatched(extent)):
                yield (
                    f"{n_rows} tokens in token_diffs have no partner and are left out: "
                    "one reading kept all rows, the other those of the response"
                )

    def _check_scannable(self, missing: Sequence[ScoreRequest]) -> None:
        check_scannable(missing, self.snapshot.vectors() if missing else ())

    def _check_budget(self, size_bytes: int, n_scans: int, max_read_bytes: int | None) -> None:
        budget = self.limits.max_read_bytes if max_read_bytes is None else max_read_bytes
        if budget is not None and size_bytes > budget:
            raise ReadBudgetError(
                f"this query would read {describe_bytes(size_bytes)}"
                + (f" for {n_scans} scans of segments" if n_scans else "")
                + f", but its budget is {describe_bytes(budget)}",
                mend="narrow it with a WHERE on organism, reader or prompt_set, "
                "or raise the budget",
            )


def _or_unlimited(size_bytes: int | None) -> int:
    return sys.maxsize if size_bytes is None else size_bytes


def _lay_out(
    item: Item, extent: Extent, columns: Sequence[str], scores: Mapping[Key, TokenScores]
) -> pa.Table:
    """Build some columns of an item's table, or of a part of it."""
    table = build_relation(extent, columns)
    for name, measurement in item.scores.items():
        if name in columns:
            column = measure_extent(extent, measurement, scores)
            table = table.append_column(name, column)
    return table


def _run(connection: duckdb.DuckDBPyConnection, plan: Plan, limits: Limits) -> pa.Table:
    used = {node.name for node in plan.statement.tree.find_all(exp.Placeholder)}
    parameters = {name: plan.statement.parameters[name] for name in used}
    try:
        table = run(connection, plan.sql, parameters, limits)
    except duckdb.InterruptException as error:
        raise SqlError("the query took longer than its time limit") from error
    except duckdb.Error as error:
        raise SqlError(_readable(str(error), plan.names)) from error
    columns = [_readable(name, plan.names) for name in table.column_names]
    return table.rename_columns(make_unique(columns))


def _readable(text: str, names: Mapping[str, str]) -> str:
    """Say a DuckDB message in the user's words: the SQL it points into is not theirs."""
    text = text.split("\n\nLINE ")[0]
    for internal in sorted(names, key=len, reverse=True):
        text = text.replace(internal, names[internal])
    return text


def _describe(item: Item) -> NeededRows:
    extent = extent_of(item)
    assert item.narrowed is not None
    return NeededRows(
        relation=extent.relation,
        alias=item.source.alias,
        readings=len(extent.ids),
        segments=len(extent.segments),
        condition=item.narrowed.condition,
    )


def _unique(texts: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
