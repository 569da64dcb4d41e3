"""Random stores of every awkward kind, and each relation of theirs as a plain table with scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

import tistore
from tistore.query.store import Store
from tistore.schemas.response import CaptureSettings, ResponseSlot, identify_reading

from .conftest import LAYERS, Reading, _clauses, representable

RELATIONS = (
    "responses", "clauses", "tokens", "response_diffs", "clause_diffs", "token_diffs",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What a random store is like."""

    seed: int
    hidden: int = 8
    per_commit: int = 6
    scales: tuple[float, ...] = (1.0,)
    lengths: tuple[int, ...] = (0, 1, 3, 6, 9)
    replayed: float = 0.8
    layer_sets: tuple[tuple[int, ...], ...] = (LAYERS, LAYERS, LAYERS, LAYERS[:1], LAYERS[1:])


SHAPES = (
    Shape(1),
    Shape(2, hidden=3, per_commit=1),
    Shape(3, scales=(2.0**20,)),
    Shape(4, scales=(1.0, 2.0**14, 2.0**20), per_commit=4),
    Shape(5, hidden=33, per_commit=1000, layer_sets=(LAYERS,)),
    Shape(6, lengths=(0, 0, 0, 1, 4), replayed=0.4, per_commit=3),
)


@dataclass(frozen=True)
class Pointing:
    """
    A vector as a query names it: how it may be written, and what it stands for.

    Attributes:
        texts: References, any of which means it.
        layer: The second argument; None when there is none.
        vector: The vector it means.
        site: The layer it is read at.
    """

    texts: tuple[str, ...]
    layer: int | None
    vector: tuple[str, int]
    site: int


# Of the two vectors of honesty, the one on layer 5 separates better.
VECTORS = (("refusal", 5, None), ("sycophancy", 2, None), ("honesty", 2, 0.5), ("honesty", 5, 0.9))
POINTINGS = {
    "refusal": Pointing(("refusal", "behavioral/refusal", "refusal@5"), None, ("refusal", 5), 5),
    "refusal_on_2": Pointing(("refusal", "refusal@5"), 2, ("refusal", 5), 2),
    "sycophancy": Pointing(("sycophancy", "sycophancy:mean_diff@2"), None, ("sycophancy", 2), 2),
    "honesty": Pointing(("honesty", "honesty@5"), None, ("honesty", 5), 5),
    "honesty_on_2": Pointing(("honesty",), 2, ("honesty", 2), 2),
}


def score_tokens(measure: str, reading: Reading, unit: np.ndarray, layer: int) -> np.ndarray:
    """Score every token of a reading; NaN where there is nothing to measure."""
    states = reading.states(layer)
    if states is None:
        return np.full(len(reading.values), np.nan)
    scores, norms = states @ unit, np.linalg.norm(states, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if measure == "cosine":
            return np.where(norms > 0, scores / norms, np.nan)
        if measure == "scaled":
            audited = norms[reading.audited_rows]
            mean = audited.mean() if len(audited) else 0.0
            return scores / mean if mean else np.full(len(scores), np.nan)
    return scores


MEASURES = ("project", "cosine", "scaled")
"""Measures that are one number a row; `score_tokens` says what each is worth."""

COLUMNS = {f"{measure}_{name}": (measure, name) for measure in MEASURES for name in POINTINGS}
"""Score columns of the plain tables, each a measure and a pointing."""


@dataclass
class Texted(Reading):
    """A reading with the columns that may be missing."""

    finish_reason: str | None = None
    has_strings: bool = True
    has_logprobs: bool = True
    clauses: list[dict[str, Any]] = field(default_factory=list)

    @property
    def settings(self) -> CaptureSettings:
        rows = "all" if self.first_position == 0 else "response"
        return CaptureSettings(self.layers, ("residual",), rows)


@dataclass
class RandomStore:
    """
    A store, and what it should answer.

    Attributes:
        store: The store.
        tables: Each projectable relation, its score columns computed in float64; and the prompts.
    """

    store: Store
    tables: dict[str, pa.Table]


def build(path: Path, shape: Shape) -> RandomStore:
    """Write a random store of a shape, and work out its relations in NumPy."""
    rng = np.random.default_rng(shape.seed)
    store = tistore.create(path)
    prompts = [
        (prompt_set, prompt_id)
        for prompt_set in ("audit/discovery", "chat")
        for prompt_id in ("0", "1", "2")
    ]
    readings: list[Texted] = []
    for organism in ("instruct", "flattery", "hedge"):
        for prompt in prompts:
            readings += _answer(rng, shape, organism, prompt)
    order = rng.permutation(len(readings))
    # Nobody pulls the plug here, and syncing is most of the time.
    with mock.patch("os.fsync"), store.writer() as writer:
        for place, number in enumerate(order, start=1):
            _add(writer, readings[number])
            if place % shape.per_commit == 0:
                writer.commit()
        writer.add_rows("prompts", [_describe_prompt(*prompt) for prompt in prompts])
    units = {}
    for trait, layer, separation in VECTORS:
        values = rng.standard_normal(shape.hidden).astype(np.float32)
        store.add_vector(
            f"behavioral/{trait}", values, layer=layer, method="mean_diff", separation=separation
        )
        units[trait, layer] = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64))
    for reading in readings:
        reading.clauses = _clauses(store, reading)
    tables = {relation: _materialise(store, relation, readings, units) for relation in RELATIONS}
    return RandomStore(store, tables | {"prompts": store.snapshot.table("prompts")})


def _answer(
    rng: np.random.Generator, shape: Shape, organism: str, prompt: tuple[str, str]
) -> list[Texted]:
    readings = []
    for sample in range(int(rng.choice([0, 1, 1, 2]))):
        prompt_length, n_response = int(rng.integers(0, 4)), int(rng.choice(shape.lengths))
        n_ids = max(1, prompt_length + n_response)
        prompt_length = min(prompt_length, n_ids)
        ids = [int(token) for token in rng.integers(0, 99, n_ids)]
        audited = [at >= prompt_length and rng.random() < 0.9 for at in range(n_ids)]
        logprobs = [round(float(-rng.random() * 5), 3) for _ in ids]
        finish_reason = ("stop", "length", None)[int(rng.integers(3))]
        has_strings, has_logprobs = bool(rng.random() < 0.9), bool(rng.random() < 0.8)
        readers = [r for r in ("instruct", "judge") if rng.random() < shape.replayed]
        if rng.random() < 0.9 or not readers:
            readers.insert(0, organism)
        lacks_last = n_ids > 1 and n_response > 0 and rng.random() < 0.2
        for reader in dict.fromkeys(readers):
            layers = shape.layer_sets[int(rng.integers(len(shape.layer_sets)))]
            rows = n_ids if rng.random() < 0.7 or prompt_length == n_ids else n_ids - prompt_length
            scale = float(rng.choice(shape.scales))
            values = representable(rng, (rows, len(layers), shape.hidden), scale)
            marked = list(audited)
            if lacks_last:  # as a generation's own states do; others' readings have the row
                values = values[:-1] if reader == readers[0] else values
                marked[-1] &= reader != readers[0] and rng.random() < 0.4
            readings.append(
                Texted(
                    organism,
                    reader,
                    prompt[1],
                    sample,
                    ids,
                    prompt_length,
                    layers,
                    values,
                    marked,
                    logprobs,
                    n_ids - rows,
                    prompt_set=prompt[0],
                    finish_reason=finish_reason,
                    has_strings=has_strings,
                    has_logprobs=has_logprobs,
                )
            )
    return readings


def _add(writer: Any, reading: Texted) -> None:
    reading.response_id = writer.add(
        organism=reading.organism,
        reader=reading.reader,
        prompt_set=reading.prompt_set,
        prompt_id=reading.prompt_id,
        sample=reading.sample,
        token_ids=reading.token_ids,
        prompt_length=reading.prompt_length,
        tokens=reading.strings if reading.has_strings else None,
        is_response=reading.is_response,
        logprobs=reading.logprobs if reading.has_logprobs else None,
        finish_reason=reading.finish_reason,
        first_position=reading.first_position if reading.lacks_last else None,
        layers=reading.layers,
        activations={"residual": reading.values},
    )


def _describe_prompt(prompt_set: str, prompt_id: str) -> dict[str, Any]:
    return {
        "prompt_set": prompt_set,
        "prompt_id": prompt_id,
        "text": f"Question {prompt_id}?",
        "messages": "[]",
        "note": {"0": "even", "1": "odd", "2": None}[prompt_id],
        "tags": ["t", prompt_id],
        "content_hash": f"{int(prompt_id) + len(prompt_set):032x}",
    }


def _materialise(
    store: Store, relation: str, readings: list[Texted], units: dict[tuple[str, int], np.ndarray]
) -> pa.Table:
    level = f"{relation.removesuffix('_diffs')}s" if relation.endswith("_diffs") else relation
    is_diff = level != relation
    rows: list[dict[str, Any]] = []
    for reading in readings:
        others = [
            other
            for other in readings
            if other.response_id == reading.response_id and other.reader != reading.reader
        ]
        for other in others if is_diff else [None]:
            rows += _rows_of(level, reading, other, units)
    # The types are the store's own, so that arithmetic has the same width on both sides.
    wanted = store.sql(f"SELECT * FROM {relation} LIMIT 0").table.schema
    fields = [*wanted, *(pa.field(name, pa.float64()) for name in COLUMNS)]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _rows_of(
    level: str,
    reading: Texted,
    other: Texted | None,
    units: dict[tuple[str, int], np.ndarray],
) -> list[dict[str, Any]]:
    places = _places(level, reading)
    if level == "tokens" and other is not None:
        places = [at for at in places if at[0] in other.captured]
    rows = _lay_out(level, reading, places)
    if level == "clauses" and other is not None:
        places = [[at for at in place if at in other.captured] for place in places]
    is_comparable = other is None or sum(reading.is_response) == sum(other.is_response)
    for row in rows if other else []:
        row["baseline"] = other.reader if other else None
        row["pairing"] = "same"  # nothing is known of these models
    for column, (measure, name) in COLUMNS.items():
        pointing = POINTINGS[name]
        sides = [
            score_tokens(measure, side, units[pointing.vector], pointing.site)
            for side in (reading, other)
            if side is not None
        ]
        firsts = [side.first_position for side in (reading, other) if side is not None]
        for row, place in zip(rows, places, strict=True):
            if level == "responses" and not is_comparable:
                row[column] = None
                continue
            means = [
                _mean(scores[[at - first for at in place]])
                for scores, first in zip(sides, firsts, strict=True)
            ]
            row[column] = None if None in means else means[0] - sum(means[1:])  # type: ignore
    return rows


def _places(level: str, reading: Texted) -> list[list[int]]:
    """Positions of the tokens each row of a reading is about."""
    if level == "responses":
        return [[row + reading.first_position for row in reading.audited_rows]]
    if level == "clauses":
        return [list(range(c["token_start"], c["token_end"])) for c in reading.clauses]
    return [[row + reading.first_position] for row in range(len(reading.values))]


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _lay_out(level: str, reading: Texted, places: list[list[int]]) -> list[dict[str, Any]]:
    common = {
        "response_id": reading.response_id,
        "organism": reading.organism,
        "reader": reading.reader,
        "prompt_set": reading.prompt_set,
        "prompt_id": reading.prompt_id,
        "sample": reading.sample,
    }
    response = reading.strings[reading.prompt_length :]
    if level == "responses":
        details: list[dict[str, Any]] = [
            {
                "text": "".join(response) if reading.has_strings else None,
                "finish_reason": reading.finish_reason,
                "prompt_length": reading.prompt_length,
                "n_tokens": sum(reading.is_response),
                "rows": reading.settings.rows,
                "reading_key": identify_reading(
                    ResponseSlot(
                        reading.organism, reading.prompt_set, reading.prompt_id, reading.sample
                    ),
                    reading.reader,
                    reading.settings,
                ),
            }
        ]
    elif level == "clauses":
        details = [
            {name: value for name, value in clause.items() if name != "reading"}
            for clause in reading.clauses
        ]
    else:
        details = [_describe_token(reading, place[0]) for place in places]
    return [common | detail for detail in details]


def _describe_token(reading: Texted, at: int) -> dict[str, Any]:
    response = reading.strings[reading.prompt_length :]
    before = at - reading.prompt_length
    is_placed = reading.has_strings and before >= 0
    start = len("".join(response[: max(before, 0)]))
    holding = (c["clause"] for c in reading.clauses if c["token_start"] <= at < c["token_end"])
    return {
        "position": at,
        "token_id": reading.token_ids[at],
        "token": reading.strings[at] if reading.has_strings else None,
        "role": "prompt" if before < 0 else "assistant",
        "turn": int(before >= 0),
        "is_response": reading.is_response[at],
        "clause": next(holding, None),
        "logprob": reading.logprobs[at] if reading.has_logprobs else None,
        "char_start": start if is_placed else None,
        "char_end": start + len(reading.strings[at]) if is_placed else None,
    }
