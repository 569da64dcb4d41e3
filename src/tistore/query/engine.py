"""The engine: plan, check the budget, compute what is missing, run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from tistore.errors import ReadBudgetError, SqlError
from tistore.query.explanation import Explanation, NeededRows, describe_bytes
from tistore.query.fit import check_fit
from tistore.query.guard import Limits, connect
from tistore.query.measures import Measurement, measure_extent
from tistore.query.narrow import Narrower
from tistore.query.plan import Item, Statement, read_statement, rewrite
from tistore.query.readings import Readings
from tistore.query.relations import RELATIONS, Extent, build_relation, count_unmatched
from tistore.query.result import Result, make_unique
from tistore.query.scores import (
    ScoreCache,
    ScoreRequest,
    TokenScores,
    compute_scores,
    find_scores,
    read_bytes,
)
from tistore.store.snapshot import Snapshot

Parameters = Mapping[str, Any] | Sequence[Any] | None


@dataclass(slots=True, eq=False)
class _Plan:
    """A statement whose needs are known."""

    statement: Statement
    sql: str
    names: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def measured(self) -> list[tuple[Item, Extent, Measurement]]:
        return [
            (item, _extent(item), measurement)
            for item in self.statement.items
            for measurement in item.scores.values()
        ]

    @property
    def requests(self) -> list[ScoreRequest]:
        """Token scores the plan needs, each once."""
        requests = {}
        for _, extent, measurement in self.measured:
            if measurement.needs_tokens(extent.level):
                for place in extent.segments:
                    segment = extent.readings.segments[place]
                    if segment.has(measurement.direction.site):
                        request = ScoreRequest(measurement.direction, segment)
                        requests[request.key] = request
        return list(requests.values())

    @property
    def side_bytes(self) -> int:
        """Bytes of response means and token norms it reads."""
        means: dict[tuple[str, str], int] = {}
        norms: dict[tuple[str, str], int] = {}
        for _, extent, measurement in self.measured:
            site = measurement.direction.site
            for place in extent.segments:
                segment = extent.readings.segments[place]
                if segment.has(site) and not measurement.needs_tokens(extent.level):
                    means[segment.uuid, str(site)] = segment.mean_bytes(site)
                if segment.has(site) and measurement.measure != "project":
                    norms[segment.uuid, str(site)] = 4 * segment.n_rows
        return sum(means.values()) + sum(norms.values())


class Engine:
    """
    Answers questions about one snapshot.

    Args:
        snapshot: The state to read.
        cache: Scores computed before.
        limits: What a query may use.
    """

    def __init__(self, snapshot: Snapshot, cache: ScoreCache, limits: Limits) -> None:
        self.snapshot = snapshot
        self._cache = cache
        self.limits = limits

    @cached_property
    def readings(self) -> Readings:
        """Every reading of the snapshot."""
        return Readings(self.snapshot.segments)

    def answer(self, sql: str, parameters: Parameters, max_read_bytes: int | None) -> Result:
        """Run a query; see `Store.sql`."""
        with self._plan(sql, parameters) as (connection, plan):
            found, missing = find_scores(plan.requests, self._cache)
            self._check_budget(read_bytes(missing) + plan.side_bytes, len(missing), max_read_bytes)
            computed, is_cached = compute_scores(missing, self._cache)
            notes = plan.notes
            if not is_cached:
                notes += (f"scores could not be written to {self._cache.folder}",)
            for item in plan.statement.items:
                connection.register(item.table, _build_table(item, found | computed))
            table = _run(connection, plan)
        return Result(table, notes)

    def explain(self, sql: str, parameters: Parameters) -> Explanation:
        """Tell what a query would read; see `Store.explain`."""
        with self._plan(sql, parameters) as (_, plan):
            requests = plan.requests
            missing = [request for request in requests if not self._cache.holds(request)]
            cached = [request for request in requests if self._cache.holds(request)]
            directions = [measurement.direction for _, _, measurement in plan.measured]
            needed = {place for item in plan.statement.items for place in _extent(item).segments}
            return Explanation(
                vectors=_unique(str(direction) for direction in directions),
                sites=_unique(str(direction.site) for direction in directions),
                relations=tuple(_describe(item) for item in plan.statement.items),
                segments_needed=len(needed),
                segments_total=len(self.snapshot.segments),
                read_bytes=read_bytes(missing) + plan.side_bytes,
                cached_bytes=sum(request.size_bytes for request in cached),
                notes=plan.notes,
            )

    @contextmanager
    def _plan(
        self, sql: str, parameters: Parameters
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, _Plan]]:
        statement = read_statement(sql, parameters, self.snapshot.vectors())
        with connect(self.limits) as connection:
            for name in statement.log_tables:
                table = self.snapshot.table(name).select(list(RELATIONS[name]))
                connection.register(name, table)
            statement.narrow(Narrower(connection, self.readings, statement.parameters))
            text, names = rewrite(statement)
            plan = _Plan(statement, text, names, ())
            plan.notes = _unique(self._take_notes(plan))
            yield connection, plan

    def _take_notes(self, plan: _Plan) -> Iterator[str]:
        for _, extent, measurement in plan.measured:
            yield from check_fit(extent, measurement, self.snapshot)
        for item in plan.statement.items:
            extent = _extent(item)
            if extent.relation == "token_diffs" and (n_rows := count_unmatched(extent)):
                yield (
                    f"{n_rows} tokens in token_diffs have no partner and are left out: "
                    "one reading kept all rows, the other those of the response"
                )

    def _check_budget(self, size_bytes: int, n_scans: int, max_read_bytes: int | None) -> None:
        budget = self.limits.max_read_bytes if max_read_bytes is None else max_read_bytes
        if budget is not None and size_bytes > budget:
            raise ReadBudgetError(
                f"this query would read {describe_bytes(size_bytes)} for {n_scans} scans of "
                f"segments, but its budget is {describe_bytes(budget)}",
                mend="narrow it with a WHERE on organism, reader or prompt_set, "
                "or raise the budget",
            )


def _extent(item: Item) -> Extent:
    assert item.narrowed is not None
    return item.narrowed.extent


def _build_table(item: Item, scores: Mapping[tuple[str, str], TokenScores]) -> pa.Table:
    extent = _extent(item)
    table = build_relation(extent, item.columns)
    for name, measurement in item.scores.items():
        table = table.append_column(name, measure_extent(extent, measurement, scores))
    return table


def _run(connection: duckdb.DuckDBPyConnection, plan: _Plan) -> pa.Table:
    used = {node.name for node in plan.statement.tree.find_all(exp.Placeholder)}
    parameters = {name: plan.statement.parameters[name] for name in used}
    try:
        relation = connection.sql(plan.sql, params=parameters or None)
        table = relation.to_arrow_table()
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
    extent = _extent(item)
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
