"""A question about spans: what a span is, which ones are looked at, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlglot import exp

from tistore.errors import QueryError, SqlError, nearest
from tistore.query.guard import parse_query
from tistore.query.span_unit import Unit
from tistore.schemas.prompt import SCENARIO_SETS

Order = Literal["highest", "lowest", "absolute"]
ORDERS: tuple[Order, ...] = get_args(Order)

Statistic = Literal["mean", "max", "top3", "top5", "std"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

KEYS = ("organism", "reader", "baseline", "prompt_set", "prompt_id", "sample", "response_id")
"""What every span says of its reading."""

# ≤2-token clauses are a quarter of all clauses and most of a raw top 20: short means vary most.
_MIN_CLAUSE_TOKENS = 3

_RANKS: dict[Order, str] = {
    "highest": "score DESC",
    "lowest": "score",
    "absolute": "abs(score) DESC",
}

_STATISTICS_SQL: dict[Statistic, str] = {
    "mean": "avg({0})",
    "max": "max({0})",
    "top3": "list_avg(max({0}, 3))",
    "top5": "list_avg(max({0}, 5))",
    "std": "stddev_samp({0})",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on rows, and what people call it."""

    label: str
    condition: str


@dataclass(frozen=True, slots=True)
class _Columns:
    """
    What is asked of each span, beyond its reading and its place.

    Attributes:
        traits: Vector references; their scores are `score`, `score_1`, `score_2`, …
        is_pool: Whether its number of tokens and its characters are.
        with_wording: Whether the strings of its tokens are, put together.
    """

    traits: tuple[str, ...]
    is_pool: bool = False
    with_wording: bool = False

    @property
    def names(self) -> list[str]:
        return [f"score_{place}" if place else "score" for place in range(len(self.traits))]

    def project(self) -> str:
        pairs = zip(self.traits, self.names, strict=True)
        return ",\n  ".join(f"project({quote(trait)}) AS {name}" for trait, name in pairs)

    def gather(self, statistic: str, over: str = "") -> str:
        """Sum up the tokens of a span; `over` makes functions of groups those of windows."""
        parts = []
        if self.is_pool:
            parts += [
                f"count(*) {over} AS n_tokens",
                f"min(char_start) {over} AS char_start",
                f"max(char_end) {over} AS char_end",
            ]
        if self.with_wording:
            order = "" if over else " ORDER BY position"
            parts.append(f"string_agg(token, ''{order}) {over} AS wording")
        parts += [f"{statistic.format(name)} AS {name}" for name in self.names]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class SpanQuestion:
    """
    Which spans score highest along a vector?

    Attributes:
        trait: Vector reference.
        by: "clause", "response", "token", "turn" (a turn's tokens under audit), or "window:N"
            (N tokens under audit in a row).
        organism: Author of the texts; every one when None.
        reader: Whose readings; each organism's own when None.
        baseline: Take the reader's score minus this reader's, on the same tokens.
        n: How many at most; of each organism with `per_organism`.
        order: "highest" or "lowest" scores first, or the largest in size, of either sign.
        per_organism: One list for each organism in place of one for all.
        rank_by: What a response's score is: the mean over its tokens under audit, the largest,
            the mean of the 3 or 5 largest, or the standard deviation (n - 1).
        min_tokens: Shortest span; 3 for clauses and 1 for the rest when None.
        where: A further SQL condition, on the columns of `responses` for responses, of `clauses`
            for clauses, of `tokens` for the rest.
        any_pairing: With a baseline, keep readings that differ from it in precision, template or
            tokenizer.

    Raises:
        QueryError: The question makes no sense.
    """

    trait: str
    by: str = "clause"
    organism: str | None = None
    reader: str | None = None
    baseline: str | None = None
    n: int = 20
    order: Order = "highest"
    per_organism: bool = False
    rank_by: Statistic = "mean"
    min_tokens: int | None = None
    where: str | None = None
    any_pairing: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        unit = self.unit
        if self.n < 1:
            raise QueryError(f"n is at least 1, not {self.n}")
        if self.order not in ORDERS:
            raise QueryError(f"no order {self.order!r}; {nearest(self.order, ORDERS)}")
        if self.rank_by not in STATISTICS:
            raise QueryError(
                f"cannot rank by {self.rank_by!r}; {nearest(self.rank_by, STATISTICS)}"
            )
        if self.rank_by != "mean" and unit.name != "response":
            raise QueryError(
                f"only responses are ranked by {self.rank_by}; a {unit.name} has its mean score",
                mend="take spans by response, or leave the statistic out",
            )
        if unit.name in ("token", "window") and (self.min_tokens or 1) > unit.width:
            raise QueryError(
                f"no {unit.name} has {self.min_tokens} tokens: each has {unit.width}",
                mend="leave the shortest length out",
            )
        if self.where is not None:
            check_condition(self.where)
        if self.any_pairing and self.baseline is None:
            raise QueryError(
                "any pairing is allowed, but nothing is paired", mend="name a baseline, too"
            )

    @property
    def unit(self) -> Unit:
        """What a span is."""
        return Unit.parse(self.by)

    @property
    def relation(self) -> str:
        """The relation whose rows the conditions speak of."""
        noun = self.unit.name if self.unit.name in ("response", "clause") else "token"
        return f"{noun}s" if self.baseline is None else f"{noun}_diffs"

    @property
    def readings(self) -> str:
        """The relation that has a row for each reading, or pair of readings."""
        return "responses" if self.baseline is None else "response_diffs"

    @property
    def least(self) -> int:
        """Tokens a span has at least."""
        default = _MIN_CLAUSE_TOKENS if self.unit.name == "clause" else 1
        return default if self.min_tokens is None else self.min_tokens

    def list_filters(self) -> list[Filter]:
        """List the conditions on rows of the relation, those on whole readings first."""
        return [*self.list_reading_filters(), *self._list_row_filters()]

    def list_reading_filters(self) -> list[Filter]:
        """List the conditions that say whose texts and readings are looked at."""
        filters = []
        if self.organism is not None:
            filters.append(
                Filter(f"organism {self.organism!r}", f"organism = {quote(self.organism)}")
            )
        if self.reader is None:
            filters.append(Filter("texts read by their own author", "reader = organism"))
        else:
            filters.append(Filter(f"reader {self.reader!r}", f"reader = {quote(self.reader)}"))
        if self.baseline is not None:
            filters.append(
                Filter(f"baseline {self.baseline!r}", f"baseline = {quote(self.baseline)}")
            )
        if SCENARIO_SETS not in (self.where or ""):
            # They show the trait on purpose, and would lead every list; who names them gets them.
            filters.append(
                Filter(
                    "no contrast scenarios",
                    f"NOT starts_with(prompt_set, {quote(SCENARIO_SETS)})",
                )
            )
        return filters

    def _list_row_filters(self) -> Iterator[Filter]:
        if self.unit.name in ("clause", "response"):
            yield Filter(f"at least {self.least} tokens", f"n_tokens >= {self.least}")
        else:
            yield Filter("tokens under audit", "is_response")
        if self.where is not None:
            # The line break ends a comment the condition may end with.
            line = self.where.strip()
            yield Filter(f"where {line}", f"({line}\n    )" if "--" in line else f"({line})")

    def to_sql(self, *, is_read_twice: bool = False) -> str:
        """
        Write the question in SQL; its columns are `keys`, the span's place, and `score`.

        Windows that overlap are all in its answer: enough of them that the best `n` that do not
        overlap are among them.

        Args:
            is_read_twice: Whether a reader may have read a response under several capture
                settings, so that each of its rows can be there several times.
        """
        with_clause, last = self._write_steps(is_read_twice, _Columns((self.trait,)))
        return f"{with_clause}\n{self._select_best(last)}"

    def to_pool_sql(
        self,
        *,
        traits: Sequence[str] = (),
        is_read_twice: bool = False,
        with_wording: bool = False,
    ) -> str:
        """
        Write in SQL all spans there are, in no order, to be chosen from elsewhere.

        Its columns are those of `to_sql`, and `n_tokens`, `char_start`, `char_end` (but for
        responses), and `score_1`, `score_2`, … for further traits. Overlapping windows are all
        in it.

        Args:
            traits: Vector references, in the place of the question's own.
            is_read_twice: As for `to_sql`.
            with_wording: Whether windows and turns are spelled, in the column `wording`.
        """
        columns = _Columns(tuple(traits) or (self.trait,), is_pool=True, with_wording=with_wording)
        with_clause, last = self._write_steps(is_read_twice, columns)
        return f"{with_clause}\nSELECT * FROM {last} WHERE score IS NOT NULL"

    def to_token_sql(self) -> str:
        """
        Write in SQL the scores, in order, of each response that has a row in the question.

        Its columns are `organism`, `response_id`, and `scores`: a list of the scores of the tokens
        under audit.
        """
        filters = [kept.condition for kept in self.list_reading_filters()]
        if self.where is not None:
            conditions = " AND ".join(kept.condition for kept in self.list_filters())
            filters.append(
                f"response_id IN (SELECT response_id FROM {self.relation} WHERE {conditions})"
            )
        # A query that names the pairing keeps pairs that are not alike.
        keys = "organism, response_id, pairing" if self.any_pairing else "organism, response_id"
        return (
            f"SELECT {keys}, trajectory({quote(self.trait)}) AS scores\n"
            f"FROM {self.readings}\nWHERE {' AND '.join(filters)}"
        )

    def _write_steps(self, is_read_twice: bool, columns: _Columns) -> tuple[str, str]:
        """Write WITH and its steps; gives it, and the name of the last step."""
        steps = [("scored", self._select_scored(columns))]
        if is_read_twice:
            place = "position" if self._is_of_tokens else self._place
            steps.append(("once", _select_once(place, columns)))
        if self._is_of_tokens and self.unit.name != "token":
            steps.append(("spans", self._select_spans(steps[-1][0], columns)))
        written = ",\n".join(f"{name} AS (\n{_indent(select)}\n)" for name, select in steps)
        return f"WITH {written}", steps[-1][0]

    @property
    def keys(self) -> tuple[str, ...]:
        """What every span says of its reading: `KEYS`, and how it is paired if any pairing goes."""
        return (*KEYS, "pairing") if self.any_pairing else KEYS

    @property
    def _is_of_tokens(self) -> bool:
        return self.unit.name not in ("clause", "response") or self.rank_by != "mean"

    @property
    def _place(self) -> str:
        return "token_start" if self.unit.name == "clause" else "response_id"

    def _select_scored(self, wanted: _Columns) -> str:
        relation, filters = self.relation, self.list_filters()
        if self.unit.name == "response":
            columns = "text, n_tokens" if wanted.is_pool else "text"
            if self._is_of_tokens:
                relation, columns = relation.replace("response", "token"), "position"
                filters = [*self.list_reading_filters(), self._filter_tokens()]
        elif self.unit.name == "clause":
            columns = "token_start, token_end, char_start, char_end, text"
            columns += ", n_tokens" if wanted.is_pool else ""
        elif self.unit.name == "token":
            columns = "position, position AS token_start, position + 1 AS token_end, token AS text"
            columns += ", char_start, char_end, 1 AS n_tokens" if wanted.is_pool else ""
        else:
            columns = "position, turn" if self.unit.name == "turn" else "position"
        if wanted.is_pool and self._is_of_tokens and self.unit.name != "token":
            columns += ", token, char_start, char_end"
        keys = ", ".join("NULL AS baseline" if self._lacks(key) else key for key in self.keys)
        conditions = "\n  AND ".join(kept.condition for kept in filters)
        return (
            f"SELECT {keys},\n  {columns},\n  {wanted.project()}\n"
            f"FROM {relation}\nWHERE {conditions}"
        )

    def _lacks(self, key: str) -> bool:
        return key == "baseline" and self.baseline is None

    def _filter_tokens(self) -> Filter:
        """Keep the tokens of the responses that meet the conditions on responses."""
        conditions = " AND ".join(kept.condition for kept in self.list_filters())
        chosen = f"SELECT response_id FROM {self.relation} WHERE {conditions}"
        return Filter("tokens under audit", f"is_response\n  AND response_id IN ({chosen})")

    def _select_spans(self, source: str, columns: _Columns) -> str:
        keys = ", ".join(self.keys)
        if self.unit.name == "window":
            last = self.unit.width - 1
            # One reader and one baseline are left of each response: its id tells readings apart.
            return (
                f"SELECT {keys},\n  position AS token_start, position + {last + 1} AS token_end, "
                f"{columns.gather('avg({0}) OVER stretch', 'OVER stretch')}\n"
                f"FROM {source} WHERE score IS NOT NULL\n"
                "WINDOW stretch AS (PARTITION BY response_id ORDER BY position\n"
                f"  ROWS BETWEEN CURRENT ROW AND {last} FOLLOWING)\n"
                # At the end of a response a stretch has fewer rows; where tokens between are not
                # under audit, it reaches too far.
                f"QUALIFY count(*) OVER stretch = {last + 1}\n"
                f"  AND last_value(position) OVER stretch = position + {last}"
            )
        group = f"{keys}, turn" if self.unit.name == "turn" else keys
        if self.unit.name == "turn" and self.least > 1:
            group += f"\nHAVING count(*) >= {self.least}"
        return (
            f"SELECT {keys},\n  min(position) AS token_start, max(position) + 1 AS token_end, "
            f"{columns.gather(_STATISTICS_SQL[self.rank_by])}\n"
            f"FROM {source} WHERE score IS NOT NULL\nGROUP BY {group}"
        )

    def _select_best(self, source: str) -> str:
        place = "response_id" if self.unit.name == "response" else "response_id, token_start"
        order = f"{_RANKS[self.order]}, {place}"
        # A window rules out fewer than twice its width of others, itself included: when fewer
        # than n are taken, at most (n - 1) of such groups have been looked at.
        limit = self.n * (2 * self.unit.width - 1)
        best = f"SELECT * FROM {source} WHERE score IS NOT NULL\n"
        if not self.per_organism:
            return f"{best}ORDER BY {order}\nLIMIT {limit}"
        return (
            f"{best}QUALIFY row_number() OVER (PARTITION BY organism ORDER BY {order}) <= {limit}\n"
            f"ORDER BY organism, {order}"
        )


def quote(text: str) -> str:
    """Write a text as SQL does."""
    return "'" + text.replace("'", "''") + "'"


def _select_once(place: str, columns: _Columns) -> str:
    if len(columns.traits) == 1:
        return (
            "SELECT * FROM scored WHERE score IS NOT NULL\n"
            f"QUALIFY row_number() OVER (PARTITION BY response_id, {place} ORDER BY score) = 1"
        )
    # Each of several settings may have captured the layer of another trait.
    merged = ", ".join(f"max({name}) OVER same AS {name}" for name in columns.names)
    return (
        f"SELECT * REPLACE ({merged}) FROM scored\nQUALIFY row_number() OVER same = 1\n"
        f"WINDOW same AS (PARTITION BY response_id, {place})"
    )


def _indent(sql: str) -> str:
    return "\n".join(f"  {line}" for line in sql.split("\n"))


def check_condition(where: str) -> None:
    """Refuse what is more, or less, than one condition."""
    if not where.strip():
        raise SqlError(
            "the condition is empty",
            mend="write what may stand after WHERE, or leave the condition out for everything",
        )
    tree = parse_query(f"SELECT 1 WHERE {where}\n")
    parts = {name for name, value in tree.args.items() if value}
    if not isinstance(tree, exp.Select) or parts - {"expressions", "where", "kind"}:
        raise QueryError(
            f"{where!r} is more than a condition",
            mend="write what may stand after WHERE, such as prompt_set = 'audit/discovery'",
        )


def and_condition(where: str | None) -> str:
    """
    Write a condition behind others that a query has; nothing where there is none.

    Raises:
        SqlError: It is empty, or no SQL.
        QueryError: It is more than one condition.
    """
    if where is None:
        return ""
    check_condition(where)
    # The line break ends a comment the condition may end with.
    return f" AND ({where}\n)"


def of_responses(where: str | None) -> str:
    """
    Write the SQL that keeps what belongs to some responses.

    Raises:
        QueryError: `where` is more, or less, than one condition.
    """
    if where is None:
        return ""
    check_condition(where)
    return f" AND response_id IN (SELECT response_id FROM responses WHERE {where}\n)"
