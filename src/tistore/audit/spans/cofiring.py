"""Spans at which several traits fire at once, correlated traits counted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.spans.answers import add_answers
from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.length_scale import standardise
from tistore.audit.spans.listing import list_spans
from tistore.audit.spans.pool import Pool, keep_prose, read_pool, read_scales
from tistore.errors import QueryError
from tistore.query.span_checks import list_silent
from tistore.query.span_question import Order, SpanQuestion
from tistore.query.spans import CONTEXT_TOKENS, lay_out_spans
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.query.store import Store

Values = NDArray[np.float64]

THRESHOLD = 2.0
"""Standard deviations from which on a trait fires."""

_LEAST_OWN_VARIANCE = 0.05
"""Share of a trait's variance that others must leave it, or it says nothing that they do not."""


@dataclass(frozen=True, slots=True)
class Fired:
    """
    The traits that fire at a span.

    Attributes:
        places: Which, in the order in which they were counted.
        z: Of each, how far it lies off given those before it, in standard deviations.
    """

    places: tuple[int, ...]
    z: tuple[float, ...]

    @property
    def strength(self) -> float:
        """Length of the whitened vector of the traits that fire."""
        return float(np.sqrt(np.sum(np.square(self.z))))


@dataclass(frozen=True, slots=True)
class Cofiring:
    """
    Spans at which several traits fire.

    Attributes:
        traits: Vector references.
        sql: The SQL of all spans and their scores.
        rows: See `find_cofiring`.
        n_spans: How many spans were looked at.
        n_cofiring: At how many of them several traits fire, near-duplicates included.
        n_effective: Effective number of traits; see `count_effective`.
        notes: What a reader of them should know.
    """

    traits: tuple[str, ...]
    sql: str
    rows: list[dict[str, Any]]
    n_spans: int
    n_cofiring: int
    n_effective: float
    notes: tuple[str, ...]


def find_cofiring(
    store: Store,
    question: SpanQuestion,
    traits: Sequence[str],
    choice: SpanChoice | None = None,
    *,
    context: int = CONTEXT_TOKENS,
) -> Cofiring:
    """
    Find spans at which two traits or more lie beyond 2 standard deviations.

    z is taken over the spans of one organism; by `choice.standardise`, over its stretches of so
    many tokens, as `find_top` does. A trait counts if its own z is beyond 2, and still is given
    the traits counted before it, the largest first: so traits that go together count once, and a
    vector that is there twice adds nothing. Spans that read nearly alike are listed once.

    Args:
        store: Where to look.
        question: What a span is, and which are looked at; its order says which side counts.
        traits: Vector references, two or more.
        choice: How the list is chosen; both ends and quantiles do not go with it.
        context: Tokens of context on each side.

    Returns:
        Rows as `tistore.query.spans.top_spans` has them, strongest first, and `n_traits`, `traits`
        ("refusal +3.1, flattery +2.2": each given those before it), `n_alike` and `answer`.
        `score` is the length of these z together.

    Raises:
        QueryError: An argument names nothing. That two traits fire nowhere is an answer: no rows.

    Source:
        Whitening by Gram–Schmidt, in the order of size: Kessy, Lewin and Strimmer, Optimal
        whitening and decorrelation, 2018 (Cholesky whitening).
    """
    choice = choice or SpanChoice()
    _check(question, traits, choice)
    question = choice.adapt(question)
    pool = read_pool(store, question, traits=traits, with_wording=True, needs_text=choice.is_worded)
    n_spans = len(pool)
    if choice.prose:
        pool = keep_prose(store, pool)
    pool, dropped = _keep_known(pool, len(traits))
    z = _standardise(store, pool, traits, choice)
    correlation = _correlate(z)
    fired = dict(find_fired(z, correlation, question.order))
    mask = np.zeros(len(pool), dtype=bool)
    mask[list(fired)] = True
    rows = []
    if fired:
        rows = _list(store, pool.take(mask), list(fired.values()), traits, choice, context)
    if rows and choice.with_answer:
        rows = add_answers(store, rows, question.baseline or BASE_READER, context)
    notes = (*pool.notes, *list_silent(store, question), *dropped)
    return Cofiring(
        tuple(traits), pool.sql, rows, n_spans, len(fired), count_effective(correlation), notes
    )


def _list(
    store: Store,
    pool: Pool,
    fired: Sequence[Fired],
    traits: Sequence[str],
    choice: SpanChoice,
    context: int,
) -> list[dict[str, Any]]:
    """List spans, strongest first; those that read nearly alike once, where they have a text."""
    strengths = np.array([one.strength for one in fired])
    ranked = replace(pool, question=replace(pool.question, order="highest"))
    has_text = pool.wordings.null_count < len(pool)
    listed = list_spans(ranked, strengths, replace(choice, dedupe=has_text))
    spans = [
        {"rank": one.rank, **pool.row(one.place), "score": float(strengths[one.place])}
        for one in listed
    ]
    laid_out = lay_out_spans(store, spans, pool.question, context)
    return [
        row | _tell(fired[one.place], traits) | {"n_alike": one.n_alike, "answer": None}
        for row, one in zip(laid_out, listed, strict=True)
    ]


def _check(question: SpanQuestion, traits: Sequence[str], choice: SpanChoice) -> None:
    if len(set(traits)) < 2:
        raise QueryError(
            f"one trait cannot fire together with others: {', '.join(traits)}",
            mend="name two traits or more",
        )
    if choice.both or choice.quantiles:
        raise QueryError(
            "co-firing has one list, without another end or quantiles",
            mend="ask for these by trait",
        )
    if question.rank_by != "mean":
        raise QueryError("co-firing is of means", mend="leave the statistic out")


def _keep_known(pool: Pool, n_traits: int) -> tuple[Pool, list[str]]:
    """Keep spans with a score along every trait."""
    known = np.asarray(np.isfinite(_stack(pool, n_traits)).all(axis=1))
    if not known.any():
        raise QueryError(
            "no span has a score along every trait",
            mend="choose vectors whose layers were captured together",
        )
    n_dropped = int((~known).sum())
    told = f"{n_dropped} spans have no score along some of the traits: left out"
    return pool.take(known), [told] if n_dropped else []


def _stack(pool: Pool, n_traits: int) -> Values:
    names = ["score", *(f"score_{place}" for place in range(1, n_traits))]
    return np.stack([pool.table[name].to_numpy().astype(np.float64) for name in names], axis=1)


def _standardise(store: Store, pool: Pool, traits: Sequence[str], choice: SpanChoice) -> Values:
    """Standardise each trait by organism: (span, trait)."""
    scores = _stack(pool, len(traits))
    names, codes = pool.organisms
    z = np.empty_like(scores)
    if choice.standardise:
        longest = int(pool.n_tokens.max())
        for place, trait in enumerate(traits):
            scales = read_scales(store, replace(pool.question, trait=trait), names, longest)
            own = np.ascontiguousarray(scores[:, place])
            z[:, place] = standardise(scales, names, codes, own, pool.n_tokens)
    else:
        for place in range(len(names)):
            own_scores = scores[codes == place]
            z[codes == place] = own_scores - own_scores.mean(axis=0)
            deviation = own_scores.std(axis=0)
            z[codes == place] /= np.where(deviation > 0, deviation, np.inf)
    return np.nan_to_num(z)


def _correlate(z: Values) -> Values:
    """
    Correlate the traits' ranks (Spearman); one that does not vary goes with none.

    By values, a few spans at which two traits fire would make these traits correlate, and hide.
    """
    from scipy.stats import rankdata

    ranks = rankdata(z, axis=0)
    centred = ranks - ranks.mean(axis=0)
    deviations = np.linalg.norm(centred, axis=0)
    units = centred / np.where(deviations > 0, deviations, np.inf)
    correlation = units.T @ units
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)


def find_fired(
    z: Values, correlation: Values, order: Order = "highest"
) -> Iterator[tuple[int, Fired]]:
    """
    Find the spans at which two traits or more fire.

    Args:
        z: Standardised scores, (span, trait).
        correlation: Of the traits, (trait, trait).
        order: "highest" for z above 2, "lowest" for z below −2, "absolute" for both.

    Yields:
        The span's place, and the traits that fire at it.
    """
    size = {"highest": z, "lowest": -z, "absolute": np.abs(z)}[order]
    beyond = size > THRESHOLD
    for place in np.flatnonzero(beyond.sum(axis=1) >= 2).tolist():
        own = np.flatnonzero(beyond[place])
        fired = _whiten(z[place, own], correlation[np.ix_(own, own)], order)
        if len(fired.places) >= 2:
            yield place, Fired(tuple(int(own[one]) for one in fired.places), fired.z)


def _whiten(z: Values, correlation: Values, order: Order) -> Fired:
    """Take the trait that is farthest off, then what is farthest off given it, and so on."""
    sign = -1.0 if order == "lowest" else 1.0
    rest, variance, covariance = z.copy(), np.ones(len(z)), correlation.copy()
    places: list[int] = []
    found: list[float] = []
    while True:
        is_own = variance > _LEAST_OWN_VARIANCE
        given = np.where(is_own, rest / np.sqrt(np.where(is_own, variance, 1.0)), 0.0)
        size = np.abs(given) if order == "absolute" else sign * given
        size[places] = -np.inf
        place = int(size.argmax())
        if size[place] <= THRESHOLD:
            return Fired(tuple(places), tuple(found))
        places.append(place)
        found.append(float(given[place]))
        share = covariance[:, place] / variance[place]
        rest = rest - share * rest[place]
        covariance = covariance - np.outer(share, covariance[place])
        variance = np.diag(covariance).copy()


def count_effective(correlation: Values) -> float:
    """
    Count how many traits there are, correlated ones together as less: k² / Σ r².

    The participation ratio of the correlations' eigenvalues: k for k independent traits, 1 for
    one trait k times.

    Args:
        correlation: (trait, trait).
    """
    return float(np.trace(correlation) ** 2 / np.sum(np.square(correlation)))


def _tell(fired: Fired, traits: Sequence[str]) -> dict[str, Any]:
    told = [f"{traits[at]} {z:+.1f}" for at, z in zip(fired.places, fired.z, strict=True)]
    return {"n_traits": len(told), "traits": ", ".join(told)}
