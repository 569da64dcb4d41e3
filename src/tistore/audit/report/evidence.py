"""The spans that show a finding best, and what there is to say against each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.report.scale import Unit
from tistore.audit.report.subject import Subject
from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.listing import list_spans
from tistore.audit.spans.pool import Pool
from tistore.query.span_question import SpanQuestion, and_condition, quote
from tistore.schemas.prompt import SCENARIO_SETS

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Values = NDArray[np.float64]

FIRES = 2.0
"""From so many deviations of a span of its length on, a trait fires at a span."""


@dataclass(frozen=True, slots=True)
class Card:
    """
    A span that shows something.

    Attributes:
        trait: Along which it was found.
        sign: 1 where it has more of the trait than is usual, -1 where less.
        response_id: Where it lies.
        prompt_set: Prompt set.
        prompt_id: Prompt.
        sample: Sample.
        clause: Number of its clause.
        token_start: First token.
        token_end: One past the last.
        n_tokens: Tokens under audit.
        text: What it says.
        z: How far the organism's reading lies from the baseline's mean, in standard deviations of
            the baseline's stretches of that many tokens.
        total: The organism's reading of the span, less the baseline's mean reading of its own
            answer to the same prompt, in SD of the baseline's tokens; None without such an answer.
        model_part: Organism's minus baseline's reading of the span itself; None without a replay.
        text_part: What is left: the baseline's reading of the span less that of its own answer.
        fires_with: Other traits that fire at it, with their z, the strongest first.
        n_alike: Spans left out because they read nearly like it.
    """

    trait: str
    sign: int
    response_id: str
    prompt_set: str
    prompt_id: str
    sample: int
    clause: int
    token_start: int
    token_end: int
    n_tokens: int
    text: str
    z: float
    total: float | None
    model_part: float | None
    text_part: float | None
    fires_with: tuple[tuple[str, float], ...]
    n_alike: int


@dataclass(frozen=True, slots=True, eq=False)
class Clauses:
    """
    All clauses of an organism.

    Attributes:
        table: A row a clause: its place and text.
        own: (clause, trait), the organism's reading, in score units.
        replay: (clause, trait), the baseline's; NaN where there is none.
        z: (clause, trait), see `Card`.
    """

    table: polars.DataFrame
    own: Values
    replay: Values
    z: Values

    def __len__(self) -> int:
        """Count them."""
        return len(self.table)


def read_clauses(
    store: Store, subject: Subject, units: Sequence[Unit], where: str | None
) -> Clauses:
    """
    Read every clause of an organism, by both readers, along all traits.

    Raises:
        QueryError: As `store.sql` does.
    """
    vectors = subject.cells.vectors
    organism, baseline = subject.organism, subject.cells.baseline
    names = {f"v{at}": one.exact_name for at, one in enumerate(vectors)}
    columns = [f"s{at}" for at in range(len(vectors))]
    scores = ", ".join(f"project($v{at}) AS s{at}" for at in range(len(vectors)))
    merged = ", ".join(f"max({name}) AS {name}" for name in columns)
    keys = (
        "organism, reader, prompt_set, prompt_id, sample, response_id, clause, token_start, "
        "token_end, n_tokens, text"
    )
    condition = and_condition(where)
    sql = (
        f"WITH r AS (SELECT {keys}, {scores} FROM clauses WHERE organism = {quote(organism)} "
        f"AND reader IN ({quote(organism)}, {quote(baseline)}) "
        f"AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)}){condition}) "
        f"SELECT {keys}, {merged} FROM r GROUP BY ALL ORDER BY response_id, clause, reader"
    )
    frame = store.sql(sql, names).to_polars()
    own = frame.filter(frame["reader"] == organism)
    other = frame.filter(frame["reader"] == baseline).select("response_id", "clause", *columns)
    joined = own.select("response_id", "clause").join(
        other, on=["response_id", "clause"], how="left", maintain_order="left"
    )
    readings = _matrix(own, columns)
    n_tokens = own["n_tokens"].to_numpy().astype(np.int64)
    z = [unit.by_length.standardise(readings[:, at], n_tokens) for at, unit in enumerate(units)]
    shape = (len(own), len(columns))
    stacked = np.stack(z, axis=1) if z else np.empty(shape)
    return Clauses(own.drop(columns), readings, _matrix(joined, columns), stacked)


def _matrix(frame: polars.DataFrame, columns: Sequence[str]) -> Values:
    import polars as pl

    values = frame.select(columns).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.asarray(values, dtype=np.float64).reshape(len(frame), len(columns))


def choose_cards(
    subject: Subject,
    clauses: Clauses,
    units: Sequence[Unit],
    leads: Sequence[tuple[str, int]],
    n: int,
) -> list[Card]:
    """
    Choose the spans that show some leads best: of each in turn, the most unusual for its length.

    Spans that read alike count once, and a lead has one span of a prompt.

    Args:
        subject: Whose spans.
        clauses: All of them.
        units: Of the traits.
        leads: Traits, each with the sign it is looked at in; the most important first.
        n: How many spans at most.
    """
    lists = {lead: _list(subject, clauses, *lead, n) for lead in leads}
    cards: list[Card] = []
    seen: set[int] = set()
    while len(cards) < n and any(lists.values()):
        for (trait, sign), spans in lists.items():
            while spans and spans[0][0] in seen:
                spans.pop(0)
            if spans and len(cards) < n:
                place, n_alike = spans.pop(0)
                seen.add(place)
                at = subject.trait_at(trait)
                cards.append(_lay_out(subject, clauses, units, place, at, sign, n_alike))
    return cards


def _list(
    subject: Subject, clauses: Clauses, trait: str, sign: int, n: int
) -> list[tuple[int, int]]:
    """List clauses by how unusual they are along a trait, and how many read like each."""
    question = SpanQuestion(trait, n=n, organism=subject.organism)
    pool = Pool(question, "", clauses.table.to_arrow())
    values = clauses.z[:, subject.trait_at(trait)] * sign
    chosen = list_spans(pool, values, SpanChoice(dedupe=True, per_prompt=1))
    return [(one.place, one.n_alike or 0) for one in chosen]


def _lay_out(
    subject: Subject,
    clauses: Clauses,
    units: Sequence[Unit],
    place: int,
    trait: int,
    sign: int,
    n_alike: int,
) -> Card:
    row = clauses.table.row(place, named=True)
    unit = units[trait]
    rows = subject.own.rows
    at = rows["response_id"].to_list().index(row["response_id"])
    usual = subject.own.base[at, trait]
    own, replay = clauses.own[place, trait], clauses.replay[place, trait]
    parts = [
        float(part / unit.deviation) if np.isfinite(part) else None
        for part in (own - usual, own - replay, replay - usual)
    ]
    return Card(
        trait=subject.cells.traits[trait],
        sign=sign,
        response_id=row["response_id"],
        prompt_set=row["prompt_set"],
        prompt_id=row["prompt_id"],
        sample=row["sample"],
        clause=row["clause"],
        token_start=row["token_start"],
        token_end=row["token_end"],
        n_tokens=row["n_tokens"],
        text=row["text"],
        z=float(clauses.z[place, trait]),
        total=parts[0],
        model_part=parts[1],
        text_part=parts[2],
        fires_with=_list_firing(subject, clauses.z[place], trait),
        n_alike=n_alike,
    )


def _list_firing(subject: Subject, z: Values, trait: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-np.abs(np.nan_to_num(z)), kind="stable")
    return tuple(
        (subject.cells.traits[at], float(z[at]))
        for at in order.tolist()
        if at != trait and abs(z[at]) > FIRES
    )
