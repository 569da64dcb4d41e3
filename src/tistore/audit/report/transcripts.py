"""Responses as a report shows them: token by token, with what two readers score them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.report.scale import Unit
from tistore.query.span_question import quote
from tistore.schemas.vector import Vector

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Values = NDArray[np.float64]

_AT_ONCE = 16
"""Vectors asked for in one query."""


@dataclass(frozen=True, slots=True)
class Column:
    """
    A vector that tokens are coloured by.

    Attributes:
        trait: Its trait.
        layer: Under what it is picked: "chosen", or the number of a layer.
        vector: The vector.
        unit: What its scores are measured in.
    """

    trait: str
    layer: str
    vector: Vector
    unit: Unit


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """
    What one reader makes of a response; arrays are in the order of its tokens.

    Attributes:
        scores: (column, token), in units of each column, from the baseline's mean; NaN where
            nothing was read.
        surprisal: (token,), -log p in nats; NaN where it is not known.
        norm: (token,), length of the activation at the first column's site; NaN where not known.
    """

    scores: Values
    surprisal: Values
    norm: Values


@dataclass(frozen=True, slots=True, eq=False)
class Transcript:
    """
    A response.

    Attributes:
        response_id: Its id.
        prompt_set: Prompt set.
        prompt_id: Prompt.
        sample: Sample.
        prompt: What was asked, as far as the store knows.
        answer: What the baseline answered to the same; None where it did not.
        finish_reason: Why the response ended.
        positions: (token,), of the captured tokens.
        tokens: What they are.
        clauses: Number of each one's clause; -1 outside of all.
        turns: Number of each one's turn.
        roles: Who speaks.
        is_audited: Whether it is under audit.
        own: The organism's reading.
        replay: The baseline's reading of the same tokens; None where there is none.
    """

    response_id: str
    prompt_set: str
    prompt_id: str
    sample: int
    prompt: str | None
    answer: str | None
    finish_reason: str | None
    positions: NDArray[np.int64]
    tokens: list[str]
    clauses: NDArray[np.int64]
    turns: NDArray[np.int64]
    roles: list[str]
    is_audited: NDArray[np.bool_]
    own: Reading
    replay: Reading | None

    @property
    def difference(self) -> Values | None:
        """(column, token), organism minus baseline on the same tokens, in units."""
        return None if self.replay is None else self.own.scores - self.replay.scores

    @property
    def size_bytes(self) -> int:
        """Estimate what it takes on a page: numbers as base64, and marks around each token."""
        n_readings = 1 if self.replay is None else 2
        numbers = self.own.scores.size * n_readings * 2 * 4 // 3
        texts = (*self.tokens, self.answer or "", self.prompt or "")
        return numbers + len(self.tokens) * 60 + sum(len(one.encode()) for one in texts)


def list_columns(
    vectors: Sequence[Vector], known: Sequence[Vector], most_layers: int
) -> list[tuple[str, str, Vector]]:
    """
    List what tokens may be coloured by: chosen vectors, and the same traits' at other layers.

    Args:
        vectors: The chosen vector of each trait.
        known: Every vector of the store.
        most_layers: How many layers at most; evenly spread where there are more.

    Returns:
        Trait, name of the pick, and vector; the chosen ones first.
    """
    columns = [(one.trait, "chosen", one) for one in vectors]
    layers = sorted({other.layer for one in vectors for other in _siblings(one, known)})
    if len(layers) > most_layers:
        kept = np.linspace(0, len(layers) - 1, most_layers).round().astype(int)
        layers = [layers[at] for at in kept]
    for layer in layers:
        for one in vectors:
            same = [other for other in _siblings(one, known) if other.layer == layer]
            columns += [(one.trait, str(layer), other) for other in same[:1]]
    return columns


def _siblings(vector: Vector, known: Sequence[Vector]) -> list[Vector]:
    """List the vectors that differ from one in their layer only."""
    if vector.expression is not None:
        return []
    name = (vector.trait, vector.method, vector.model, vector.component, vector.position)
    return [
        one
        for one in known
        if (one.trait, one.method, one.model, one.component, one.position) == name
    ]


def read_transcripts(
    store: Store,
    organism: str,
    baseline: str,
    response_ids: Sequence[str],
    columns: Sequence[Column],
) -> list[Transcript]:
    """
    Read responses, in the order they are asked for.

    Args:
        store: Where they are.
        organism: Their author.
        baseline: Who may have read them, too, and answered the same prompts.
        response_ids: Which.
        columns: Vectors to score tokens along.

    Raises:
        QueryError: As `store.sql` does.
    """
    if not response_ids:
        return []
    chosen = ", ".join(map(quote, response_ids))
    tokens = _read_tokens(store, organism, baseline, chosen, columns)
    answers = _read_answers(store, organism, baseline, chosen)
    groups = {key: group for key, group in tokens.group_by("response_id", "reader")}
    transcripts = []
    for response_id in dict.fromkeys(response_ids):
        own = groups.get((response_id, organism))
        if own is not None:
            replay = groups.get((response_id, baseline))
            about = answers[response_id]
            transcripts.append(_lay_out(response_id, own, replay, about, columns))
    return transcripts


def _read_tokens(
    store: Store, organism: str, baseline: str, chosen: str, columns: Sequence[Column]
) -> polars.DataFrame:
    """Read tokens by both readers; a query for some vectors each, their columns side by side."""
    readers = f"{quote(organism)}, {quote(baseline)}"
    keys = ["response_id", "reader", "position"]
    frame: polars.DataFrame | None = None
    for start in range(0, len(columns), _AT_ONCE):
        some = list(enumerate(columns))[start : start + _AT_ONCE]
        names = {f"v{at}": column.vector.exact_name for at, column in some}
        scores = ", ".join(f"max(s{at}) AS s{at}" for at, _ in some)
        raw = ", ".join(f"project($v{at}) AS s{at}" for at, _ in some)
        more = (
            ", any_value(token) AS token, any_value(role) AS role, any_value(turn) AS turn, "
            "any_value(is_response) AS is_response, any_value(clause) AS clause, "
            "any_value(logprob) AS logprob, max(norm) AS norm"
        )
        plain = (
            ", token, role, turn, is_response, clause, logprob, project($v0) / cosine($v0) AS norm"
        )
        is_first = start == 0
        sql = (
            f"WITH r AS (SELECT response_id, reader, position{plain if is_first else ''}, {raw} "
            f"FROM tokens WHERE organism = {quote(organism)} AND reader IN ({readers}) "
            f"AND response_id IN ({chosen})) "
            # A reader may have read a response several times, at other layers each time.
            f"SELECT response_id, reader, position{more if is_first else ''}, {scores} "
            "FROM r GROUP BY response_id, reader, position ORDER BY ALL"
        )
        part = store.sql(sql, names).to_polars()
        frame = part if frame is None else frame.join(part, on=keys, how="left")
    assert frame is not None
    return frame.sort(keys)


def _read_answers(
    store: Store, organism: str, baseline: str, chosen: str
) -> dict[str, dict[str, Any]]:
    """Read what was asked, and what the baseline answered."""
    one, other = quote(organism), quote(baseline)
    sql = (
        "SELECT r.response_id, r.prompt_set, r.prompt_id, r.sample, r.finish_reason, "
        "max(r.prompt_length) AS prompt_length, "
        "any_value(p.text) AS prompt, any_value(p.system_prompt) AS system_prompt, "
        "any_value(b.text) AS answer FROM responses AS r "
        "LEFT JOIN prompts AS p USING (prompt_set, prompt_id) "
        f"LEFT JOIN (SELECT * FROM responses WHERE organism = {other} AND reader = {other}) AS b "
        "ON b.prompt_set = r.prompt_set AND b.prompt_id = r.prompt_id AND b.sample = r.sample "
        f"WHERE r.organism = {one} AND r.response_id IN ({chosen}) "
        "GROUP BY r.response_id, r.prompt_set, r.prompt_id, r.sample, r.finish_reason ORDER BY ALL"
    )
    return {row["response_id"]: row for row in store.sql(sql).rows()}


def _lay_out(
    response_id: str,
    own: polars.DataFrame,
    replay: polars.DataFrame | None,
    about: dict[str, Any],
    columns: Sequence[Column],
) -> Transcript:
    own = _drop_prompt(own, about["prompt_length"])
    asked = [about["system_prompt"], about["prompt"]]
    return Transcript(
        response_id=response_id,
        prompt_set=about["prompt_set"],
        prompt_id=about["prompt_id"],
        sample=about["sample"],
        prompt="\n\n".join(text for text in asked if text) or None,
        answer=about["answer"],
        finish_reason=about["finish_reason"],
        positions=own["position"].to_numpy().astype(np.int64),
        tokens=_spell(own),
        clauses=own["clause"].fill_null(-1).to_numpy().astype(np.int64),
        turns=own["turn"].to_numpy().astype(np.int64),
        roles=own["role"].to_list(),
        is_audited=own["is_response"].to_numpy().astype(bool),
        own=_read(own, columns),
        replay=_align(own, replay, columns),
    )


def _drop_prompt(tokens: polars.DataFrame, prompt_length: int) -> polars.DataFrame:
    """Leave out the prompt, which stands above the response; not what of it is under audit."""
    audited = tokens.filter(tokens["is_response"])["position"].to_numpy()
    first = min([prompt_length, *audited[:1].tolist()])
    return tokens.filter(tokens["position"] >= first)


def _spell(tokens: polars.DataFrame) -> list[str]:
    """Spell tokens; where the store holds no strings, by their number."""
    return [
        text if text is not None else f"⟨{position}⟩"
        for text, position in zip(tokens["token"], tokens["position"], strict=True)
    ]


def _align(
    own: polars.DataFrame, replay: polars.DataFrame | None, columns: Sequence[Column]
) -> Reading | None:
    """Put the baseline's reading beside the organism's, position by position."""
    if replay is None:
        return None
    joined = own.select("position").join(replay, on="position", how="left", maintain_order="left")
    return _read(joined, columns)


def _read(frame: polars.DataFrame, columns: Sequence[Column]) -> Reading:
    scores = [
        (_numbers(frame, f"s{at}") - column.unit.mean) / column.unit.deviation
        for at, column in enumerate(columns)
    ]
    return Reading(np.stack(scores), -_numbers(frame, "logprob"), _numbers(frame, "norm"))


def _numbers(frame: polars.DataFrame, name: str) -> Values:
    import polars as pl

    filled = frame[name].cast(pl.Float64).fill_null(float("nan"))
    return np.asarray(filled.to_numpy(), dtype=np.float64)


def walk_clauses(transcript: Transcript) -> Iterator[tuple[int, range]]:
    """Walk runs of tokens of one clause and turn: the clause's number, and the tokens' places."""
    start = 0
    keys = list(zip(transcript.clauses.tolist(), transcript.turns.tolist(), strict=True))
    for at in range(1, len(keys) + 1):
        if at == len(keys) or keys[at] != keys[start]:
            yield keys[start][0], range(start, at)
            start = at
