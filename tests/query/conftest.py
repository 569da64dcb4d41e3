"""Small ragged stores, and what every query should answer on them: computed in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tistore
from tistore.query.store import Store

LAYERS = (2, 5)
WORDS = ["Yes", " sir", ",", " I", " agree", ".", " Really", "!", " one", " two", ";", "\n\n"]


@dataclass
class Reading:
    """One reading, in the arrays it was made from."""

    organism: str
    reader: str
    prompt_id: str
    sample: int
    token_ids: list[int]
    prompt_length: int
    layers: tuple[int, ...]
    values: np.ndarray  # [rows, layer, hidden], exact in float16 up to a power of two a layer
    is_response: list[bool]
    logprobs: list[float]
    first_position: int
    prompt_set: str = "audit/discovery"
    response_id: str = ""

    @property
    def captured(self) -> range:
        """Positions that have a row."""
        return range(self.first_position, self.first_position + len(self.values))

    @property
    def lacks_last(self) -> bool:
        return self.captured.stop < len(self.token_ids)

    @property
    def strings(self) -> list[str]:
        return [WORDS[token % len(WORDS)] for token in self.token_ids]

    @property
    def audited_rows(self) -> list[int]:
        return [row for row in range(len(self.values)) if self.is_response[self._position(row)]]

    def _position(self, row: int) -> int:
        return row + self.first_position

    def states(self, layer: int) -> np.ndarray | None:
        if layer not in self.layers:
            return None
        return self.values[:, self.layers.index(layer)].astype(np.float64)

    def token_scores(self, measure: str, unit: np.ndarray, layer: int) -> list[float | None]:
        states = self.states(layer)
        if states is None:
            return [None] * len(self.values)
        scores, norms = states @ unit, np.linalg.norm(states, axis=1)
        if measure == "project":
            return list(scores)
        if measure == "cosine":
            return [s / n if n else None for s, n in zip(scores, norms, strict=True)]
        if not self.audited_rows or not norms[self.audited_rows].mean():
            return [None] * len(scores)
        return list(scores / norms[self.audited_rows].mean())


@dataclass
class Truth:
    """A store's readings and vectors, and brute-force answers from them."""

    store: Store
    readings: list[Reading]
    vectors: dict[str, tuple[np.ndarray, int]] = field(default_factory=dict)

    def rows(self, relation: str, measure: str, vector: str, layer: int | None = None) -> list:
        """Rows of a relation, each a dict of some of its columns and `score`."""
        direction, own_layer = self.vectors[vector]
        unit = direction.astype(np.float64) / np.linalg.norm(direction.astype(np.float64))
        of = lambda reading: reading.token_scores(  # noqa: E731
            measure, unit, own_layer if layer is None else layer
        )
        level = relation.replace("_diffs", "s") if relation.endswith("_diffs") else relation
        rows = []
        for reading in self.readings:
            if not relation.endswith("_diffs"):
                scores = dict(enumerate(of(reading), start=reading.first_position))
                rows += _lay_out(self, level, reading, scores, {})
                continue
            for other in self.readings:
                if other.response_id == reading.response_id and other.reader != reading.reader:
                    mine = dict(enumerate(of(reading), start=reading.first_position))
                    theirs = dict(enumerate(of(other), start=other.first_position))
                    rows += self._difference_rows(level, reading, other, mine, theirs)
        return rows

    def _difference_rows(self, level, reading, other, mine, theirs):
        extra = {"baseline": other.reader}
        if level == "responses":
            first = _lay_out(self, level, reading, mine, extra)
            second = _lay_out(self, level, other, theirs, extra)
            a, b = first[0]["score"], second[0]["score"]
            if sum(reading.is_response) != sum(other.is_response):
                a = None
            return [first[0] | {"score": None if None in (a, b) else a - b}]
        shared = sorted(set(mine) & set(theirs))
        scores = {
            at: None if None in (mine[at], theirs[at]) else mine[at] - theirs[at] for at in shared
        }
        return _lay_out(self, level, reading, scores, extra)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _lay_out(truth: Truth, level: str, reading: Reading, scores: dict, extra: dict) -> list[dict]:
    common = {
        "response_id": reading.response_id,
        "organism": reading.organism,
        "reader": reading.reader,
        **extra,
        "prompt_set": reading.prompt_set,
        "prompt_id": reading.prompt_id,
        "sample": reading.sample,
    }
    if level == "responses":
        audited = [row + reading.first_position for row in reading.audited_rows]
        return [
            common
            | {
                "text": "".join(reading.strings[reading.prompt_length :]),
                "finish_reason": "stop",
                "prompt_length": reading.prompt_length,
                "n_tokens": sum(reading.is_response),
                "score": _mean([scores.get(at) for at in audited]),
            }
        ]
    if level == "clauses":
        return [
            common
            | {name: clause[name] for name in ("clause", "token_start", "token_end", "n_tokens")}
            | {
                "text": clause["text"],
                "score": _mean(
                    [scores.get(at) for at in range(clause["token_start"], clause["token_end"])]
                ),
            }
            for clause in _clauses(truth.store, reading)
        ]
    return [
        common
        | {
            "position": at,
            "token_id": reading.token_ids[at],
            "token": reading.strings[at],
            "is_response": reading.is_response[at],
            "logprob": float(np.float32(reading.logprobs[at])),
            "score": score,
        }
        for at, score in scores.items()
    ]


def _clauses(store: Store, reading: Reading) -> list[dict[str, Any]]:
    for segment in store.snapshot.segments:
        for index, row in enumerate(segment.table("responses").to_pylist()):
            same_layers = segment.layers == reading.layers
            if (row["response_id"], row["reader"]) == (reading.response_id, reading.reader) and (
                same_layers
            ):
                table = segment.table("clauses").to_pylist()
                return [clause for clause in table if clause["reading"] == index]
    raise AssertionError("the reading was not written")


def representable(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Random values that survive float16 with a power of two: 8 bits of mantissa, as bfloat16."""
    values = np.clip(rng.standard_normal(shape), -4, 4)
    return np.round(values * 64) / 64 * scale


def build_truth(
    path: Path,
    seed: int,
    *,
    hidden: int = 8,
    n_prompts: int = 4,
    organisms: tuple[str, ...] = ("instruct", "flattery", "hedge"),
    overflow: bool = False,
    lacks_last: bool = False,
    per_commit: int = 5,
) -> Truth:
    """Write a store of several segments: ragged, with replays that are missing or row-poor."""
    rng = np.random.default_rng(seed)
    truth = Truth(tistore.create(path), [])
    for organism in organisms:
        for prompt in range(n_prompts):
            truth.readings += _generate(rng, organism, str(prompt), hidden, overflow, lacks_last)
    with truth.store.writer() as writer:
        for place, reading in enumerate(truth.readings):
            reading.response_id = writer.add(
                organism=reading.organism,
                reader=reading.reader,
                prompt_set=reading.prompt_set,
                prompt_id=reading.prompt_id,
                sample=reading.sample,
                token_ids=reading.token_ids,
                prompt_length=reading.prompt_length,
                tokens=reading.strings,
                is_response=reading.is_response,
                logprobs=reading.logprobs,
                finish_reason="stop",
                first_position=reading.first_position,
                layers=reading.layers,
                activations={"residual": reading.values},
            )
            if place % per_commit == per_commit - 1:
                writer.commit()
        writer.add_rows(
            "prompts",
            [
                {
                    "prompt_set": "audit/discovery",
                    "prompt_id": str(prompt),
                    "text": f"Question {prompt}?",
                    "messages": "[]",
                    "note": "even" if prompt % 2 == 0 else "odd",
                    "tags": ["t"],
                    "content_hash": f"{prompt:032x}",
                }
                for prompt in range(n_prompts)
            ],
        )
    for trait, layer in (("behavioral/refusal", 5), ("behavioral/sycophancy", 2)):
        values = rng.standard_normal(hidden).astype(np.float32)
        truth.store.add_vector(trait, values, layer=layer, method="mean_diff")
        truth.vectors[trait.rpartition("/")[2]] = (values, layer)
    return truth


def _generate(
    rng, organism: str, prompt: str, hidden: int, overflow: bool, may_lack_last: bool
) -> list[Reading]:
    readings = []
    for sample in range(int(rng.integers(1, 3))):
        prompt_length = int(rng.integers(0, 4))
        n_response = int(rng.choice([0, 1, 3, 6, 9]))
        n_ids = max(1, prompt_length + n_response)
        prompt_length = min(prompt_length, n_ids)
        ids = [int(token) for token in rng.integers(0, 99, n_ids)]
        audited = [at >= prompt_length and rng.random() < 0.9 for at in range(n_ids)]
        logprobs = [round(float(-rng.random() * 5), 3) for _ in ids]
        lacks_last = may_lack_last and n_ids > 1 and n_response > 0 and rng.random() < 0.5
        for reader in dict.fromkeys((organism, "instruct")):
            if reader != organism and rng.random() < 0.2:
                continue  # this response has no replay
            layers = LAYERS if rng.random() < 0.85 else LAYERS[:1]
            rows = n_ids if rng.random() < 0.7 or prompt_length == n_ids else n_ids - prompt_length
            scale = float(rng.choice([1, 2.0**14, 2.0**20])) if overflow else 1.0
            values = representable(rng, (rows, len(layers), hidden), scale)
            first, marked = n_ids - rows, list(audited)
            if lacks_last:  # as a generation's own states do; replays have the row
                values = values[:-1] if reader == organism else values
                # Most are marked alike, so that they can be compared.
                marked[-1] &= reader != organism and rng.random() < 0.4
            readings.append(
                Reading(
                    organism,
                    reader,
                    prompt,
                    sample,
                    ids,
                    prompt_length,
                    layers,
                    values,
                    marked,
                    logprobs,
                    first,
                )  # fmt: skip
            )
    return readings


def same(left: Any, right: Any, tolerance: float = 1e-4) -> bool:
    """Whether two values are equal, floating point numbers nearly so."""
    if isinstance(left, float) and isinstance(right, float | int):
        return bool(np.isclose(left, right, rtol=tolerance, atol=tolerance))
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(
            same(a, b, tolerance) for a, b in zip(left, right, strict=True)
        )
    return bool(left == right)


def assert_same_rows(found: list[tuple], wanted: list[tuple], tolerance: float = 1e-4) -> None:
    """Compare rows without their order, floating point numbers nearly."""

    def key(row: tuple) -> tuple:
        return tuple(
            (value is None, "")
            if value is None
            else (False, f"{value:+.3e}" if isinstance(value, float) else str(value))
            for value in sorted(row, key=lambda value: isinstance(value, float))
        )

    assert len(found) == len(wanted)
    for left, right in zip(sorted(found, key=key), sorted(wanted, key=key), strict=True):
        assert all(same(a, b, tolerance) for a, b in zip(left, right, strict=True)), (left, right)


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """A store of three organisms in several segments, with its brute-force answers."""
    return build_truth(tmp_path_factory.mktemp("truth") / "store", seed=7, n_prompts=6)


@pytest.fixture(scope="session")
def oracle_tables(truth: Truth) -> dict[str, pa.Table]:
    """Every projectable relation with its scores as ordinary columns, by brute force."""
    return materialise(truth)


CALLS = {
    "refusal": ("project", "refusal", None),
    "sycophancy": ("project", "sycophancy", None),
    "refusal_on_2": ("project", "refusal", 2),
    "refusal_cosine": ("cosine", "refusal", None),
    "refusal_scaled": ("scaled", "refusal", None),
}


def materialise(truth: Truth) -> dict[str, pa.Table]:
    tables = {}
    for relation in (
        "responses", "clauses", "tokens", "response_diffs", "clause_diffs", "token_diffs",
    ):  # fmt: skip
        columns: dict[str, list] = {}
        for name, (measure, vector, layer) in CALLS.items():
            rows = truth.rows(relation, measure, vector, layer)
            columns[name] = [row.pop("score") for row in rows]
        table = pa.Table.from_pylist(rows)
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, pa.float64()))
        tables[relation] = table
    return tables
