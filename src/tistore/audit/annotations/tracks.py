"""Token scores of responses with a labelled span, and of those without: one track a response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.opponents import check_organisms
from tistore.errors import QueryError, nearest
from tistore.query.massive import MassiveDims
from tistore.query.pairing import offer_any_pairing
from tistore.query.references import resolve
from tistore.query.span_question import check_condition, quote
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelQuestion:
    """
    Which labelled spans, along which vectors, against which texts?

    Attributes:
        label: Label of the spans.
        traits: Vector references.
        organisms: Authors of the labelled responses; all that have one when None.
        controls: Authors of the responses to compare with, those without the label; the same
            authors when None.
        baseline: Whose replay to take the difference from.
        where: SQL condition on `responses`: which were looked through for labels.
        any_pairing: Keep replays that differ in precision, template or tokenizer.
    """

    label: str
    traits: tuple[str, ...]
    organisms: tuple[str, ...] | None = None
    controls: tuple[str, ...] | None = None
    baseline: str = BASE_READER
    where: str | None = None
    any_pairing: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not self.traits:
            raise QueryError("no trait to look along", mend="name a vector: --trait refusal")
        if self.where is not None:
            check_condition(self.where)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """
    The audited tokens of a response as its own author reads them.

    Attributes:
        response_id: The response.
        organism: Its author.
        prompt_set: Set of its prompt.
        prompt_id: The prompt.
        sample: Which generation.
        positions: (token,) ascending places in the whole sequence.
        scores: (token, vector) float64; NaN where a reading lacks the layer.
        differences: (token, vector), minus the baseline's reading of that token; NaN where it has
            not read it.
        spans: Labelled stretches, counted in these tokens, ends left out; ascending, those that
            overlap joined into one.
    """

    response_id: str
    organism: str
    prompt_set: str
    prompt_id: str
    sample: int
    positions: NDArray[np.int64]
    scores: Scores
    differences: Scores
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def prompt(self) -> tuple[str, str]:
        """The prompt, whose responses are no independent evidence."""
        return self.prompt_set, self.prompt_id


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """
    Tracks, and what they are scores along.

    Attributes:
        vectors: What each reference means, with its layer.
        labelled: Responses with the label.
        controls: Responses without it; empty where they were not asked for.
        notes: What a reader of the numbers should know.
    """

    vectors: tuple[str, ...]
    labelled: tuple[Track, ...]
    controls: tuple[Track, ...]
    notes: tuple[str, ...]


def read_tracks(store: Store, question: LabelQuestion, *, with_controls: bool = False) -> Tracks:
    """
    Read the scores of responses that have a label, and of their controls.

    Controls are responses to prompts of the same sets.

    Raises:
        QueryError: Nothing has the label, no token of it is under audit, or there is no control.
        UnknownVectorError: No vector answers to a reference.
        PairingError: An author and the baseline differ in more than their weights.
    """
    spans = _read_label(store, question.label)
    labelled = _list_responses(store, question, spans)
    vectors = _name_vectors(store, question.traits)
    authors = question.organisms or tuple(sorted({organism for organism, _ in labelled.values()}))
    condition = (
        "response_id IN (SELECT response_id FROM annotations "
        f"WHERE label = {quote(question.label)}) AND {_any_of('organism', authors)}"
    )
    if with_controls:
        others = question.controls or authors
        sets = sorted({prompt_set for _, prompt_set in labelled.values()})
        condition = (
            f"({condition}) OR ({_any_of('organism', others)} AND {_any_of('prompt_set', sets)})"
        )
    if question.where is not None:
        chosen = f"SELECT response_id FROM responses WHERE ({question.where}\n)"
        condition = f"({condition}) AND response_id IN ({chosen})"
    tracks = list(_read(store, question, condition, spans))
    with_span = tuple(track for track in tracks if track.spans)
    if not with_span:
        raise QueryError(
            f"no token under audit is labelled {question.label!r} in a response its author has read"
        )
    controls = tuple(
        track
        for track in tracks
        if track.response_id not in spans and track.organism in (question.controls or authors)
    )
    if with_controls and not controls:
        raise QueryError(
            f"every response of {', '.join(question.controls or authors)} there is labelled "
            f"{question.label!r}: nothing to compare with",
            mend="name other authors as controls: --controls instruct",
        )
    notes = tuple(_note(question, labelled, with_span))
    return Tracks(vectors, with_span, controls if with_controls else (), notes)


def _read_label(store: Store, label: str) -> dict[str, list[tuple[int, int]]]:
    """Find a label's spans: for each response, stretches of its whole sequence."""
    rows = store.snapshot.table("annotations").select(
        ["label", "response_id", "token_start", "token_end"]
    )
    known = set(rows["label"].to_pylist())
    if label not in known:
        raise QueryError(
            f"nothing is labelled {label!r}; {nearest(label, known)}",
            mend=None if known else "bring labels in: tistore annotate import STORE FILE",
        )
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows.to_pylist():
        if row["label"] == label:
            found.setdefault(row["response_id"], []).append((row["token_start"], row["token_end"]))
    return {response_id: _join(spans) for response_id, spans in found.items()}


def _join(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join stretches that overlap, as those of two annotators do."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def _list_responses(
    store: Store, question: LabelQuestion, spans: Mapping[str, object]
) -> dict[str, tuple[str, str]]:
    """List the labelled responses that are asked about: their authors and prompt sets."""
    rows = store.sql("SELECT DISTINCT response_id, organism, prompt_set FROM responses").fetchall()
    labelled = {response_id: names for response_id, *names in rows if response_id in spans}
    authors = {organism for organism, _ in labelled.values()}
    for name in question.organisms or ():
        if name not in authors:
            raise QueryError(
                f"no response of {name!r} is labelled {question.label!r}; {nearest(name, authors)}"
            )
    everybody = {organism for _, organism, _ in rows}
    check_organisms(question.controls or (), everybody)
    wanted = question.organisms or tuple(authors)
    return {
        response_id: (organism, prompt_set)
        for response_id, (organism, prompt_set) in labelled.items()
        if organism in wanted
    }


def _name_vectors(store: Store, traits: Sequence[str]) -> tuple[str, ...]:
    known, massive = store.snapshot.vectors(), MassiveDims(store.snapshot)
    return tuple(str(resolve(trait, None, known, massive)) for trait in traits)


def _any_of(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(quote, values))})"


def _read(
    store: Store,
    question: LabelQuestion,
    condition: str,
    spans: Mapping[str, list[tuple[int, int]]],
) -> Iterator[Track]:
    names = [f"s{place}" for place in range(len(question.traits))]
    scores = _ask(store, question, condition, "tokens", "reader = organism")
    with offer_any_pairing():
        differences = _ask(
            store,
            question,
            condition,
            "token_diffs",
            f"reader = organism AND baseline = {quote(question.baseline)}",
        )
    keys = ["response_id", "position"]
    frame = scores.join(
        differences.select(*keys, *names), on=keys, how="left", suffix="_diff",
        maintain_order="left",
    )  # fmt: skip
    for of_response in frame.partition_by("response_id", maintain_order=True):
        first = of_response.row(0, named=True)
        positions = of_response["position"].to_numpy().astype(np.int64)
        yield Track(
            response_id=first["response_id"],
            organism=first["organism"],
            prompt_set=first["prompt_set"],
            prompt_id=first["prompt_id"],
            sample=first["sample"],
            positions=positions,
            scores=_to_numbers(of_response, names),
            differences=_to_numbers(of_response, [f"{name}_diff" for name in names]),
            spans=tuple(_count_in(positions, spans.get(first["response_id"], []))),
        )


def _ask(
    store: Store, question: LabelQuestion, condition: str, relation: str, readers: str
) -> polars.DataFrame:
    """Ask for token scores, each token once, in order."""
    import polars as pl

    named = {f"v{place}": trait for place, trait in enumerate(question.traits)}
    scores = ", ".join(f"project(${name}) AS s{place}" for place, name in enumerate(named))
    marked = ", pairing" if question.any_pairing and relation != "tokens" else ""
    frame = store.sql(
        "SELECT response_id, organism, prompt_set, prompt_id, sample, position, "
        f"{scores}{marked} FROM {relation} WHERE is_response AND {readers} AND ({condition}) "
        "ORDER BY organism, prompt_set, len(prompt_id), prompt_id, sample, response_id, position",
        named,
    ).to_polars()
    keys = ["response_id", "position"]
    if not frame.select(keys).is_duplicated().any():
        return frame
    # A reader may have read a response several times, at other layers each time.
    return frame.group_by(keys, maintain_order=True).agg(pl.all().drop_nulls().first())


def _to_numbers(frame: polars.DataFrame, names: Sequence[str]) -> Scores:
    import polars as pl

    numbers = frame.select(pl.col(names).cast(pl.Float64).fill_null(float("nan")))
    return np.asarray(numbers.to_numpy(), dtype=np.float64)


def _count_in(
    positions: NDArray[np.int64], spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Count stretches in the tokens under audit; one that has none of these is left out."""
    for start, end in spans:
        first, last = np.searchsorted(positions, [start, end]).tolist()
        if first < last:
            yield first, last


def _note(
    question: LabelQuestion, labelled: Mapping[str, object], tracks: Sequence[Track]
) -> Iterator[str]:
    if missing := len(labelled) - len(tracks):
        yield (
            f"{missing} of {len(labelled)} responses labelled {question.label!r} are left out: "
            "their author has not read them, no token of theirs under audit is labelled, or the "
            "condition excludes them"
        )
    others = [track for track in tracks if track.organism != question.baseline]
    unread = sum(not np.isfinite(track.differences).any() for track in others)
    if unread:
        yield f"{question.baseline} has not read {unread} of {len(others)} labelled responses"
