"""Whether the numbers of a report can be believed: what was checked, and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tistore.audit.report.findings import Finding, count
from tistore.audit.report.subject import Subject
from tistore.schemas.model import Model, compare_models

if TYPE_CHECKING:
    from tistore.query.store import Store

ENOUGH_OTHERS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing a reader should be able to rely on.

    Attributes:
        label: What.
        holds: Whether it does; None where nobody looked.
        reason: Why, in a few words.
    """

    label: str
    holds: bool | None
    reason: str

    @property
    def mark(self) -> str:
        """A sign for it."""
        return "?" if self.holds is None else "✓" if self.holds else "✗"


def check_validity(
    store: Store, subject: Subject, findings: Sequence[Finding], is_blind: bool
) -> list[Check]:
    """List what the numbers rest on, and whether it holds."""
    return [
        _check_replays(subject),
        _check_begin(store, subject),
        _check_capture(store, subject),
        _check_noise(subject, findings),
        _check_vectors(store, subject),
        _check_nulls(subject),
        _check_ends(subject),
        Check("labels blind", is_blind, "pseudonyms" if is_blind else "names are shown"),
    ]


def _check_replays(subject: Subject) -> Check:
    """A replay is of a response's own token ids, or it is not stored under its id."""
    replayed = np.asarray(np.isfinite(subject.own.replay).any(axis=1))
    n, m = int(replayed.sum()), replayed.size
    if not n:
        return Check("token ids identical", None, "the baseline has read none of the texts")
    return Check("token ids identical", n == m, f"{n} of {m} responses read by the baseline, too")


def _read_responses(store: Store, subject: Subject) -> Iterator[tuple[list[int], str]]:
    """Walk token ids and capture settings of the readings that are compared."""
    columns = ["organism", "reader", "prompt_set", "token_ids", "settings_hash"]
    pairs = {
        (subject.organism, subject.organism),
        (subject.organism, subject.cells.baseline),
        (subject.cells.baseline, subject.cells.baseline),
    }
    sets = {prompt.prompt_set for prompt in subject.prompts}
    for segment in store.snapshot.segments:
        for row in segment.table("responses", columns).to_pylist():
            if (row["organism"], row["reader"]) in pairs and row["prompt_set"] in sets:
                yield row["token_ids"], row["settings_hash"]


def _check_begin(store: Store, subject: Subject) -> Check:
    begun = [ids[:2] for ids, _ in _read_responses(store, subject) if len(ids) > 1]
    doubled = sum(first == second for first, second in begun)
    firsts = {first for first, _ in begun}
    if doubled:
        return Check("one BOS", False, f"{doubled} of {len(begun)} begin with one token twice")
    if len(firsts) > 1:
        return Check("one BOS", False, f"sequences begin with {len(firsts)} different tokens")
    return Check("one BOS", True, "all sequences begin alike, and once")


def _check_capture(store: Store, subject: Subject) -> Check:
    label = "same precision and capture"
    models = store.snapshot.models
    sides = [models.get(name) or Model(name) for name in (subject.organism, subject.cells.baseline)]
    if differences := compare_models(*sides):
        return Check(label, False, f"they differ in {', '.join(one.aspect for one in differences)}")
    settings = {hashed for _, hashed in _read_responses(store, subject)}
    if len(settings) > 1:
        return Check(label, False, f"{len(settings)} different capture settings")
    if sides[0].dtype is None:
        return Check(label, None, "the store does not know the precision")
    return Check(label, True, sides[0].quantization or sides[0].dtype)


def _check_noise(subject: Subject, findings: Sequence[Finding]) -> Check:
    rows = [one.row for one in findings if one.kind == "mean"] or subject.rows
    floors = [(abs(row["g"] or 0.0), row["noise_floor"]) for row in rows]
    if any(floor is None for _, floor in floors):
        return Check("effects above noise", None, "not measured: tistore noise STORE CONFIG")
    below = sum(g <= floor for g, floor in floors)
    return Check("effects above noise", not below, f"{below} of {len(floors)} lie within the noise")


def _check_vectors(store: Store, subject: Subject) -> Check:
    label = "vectors causally validated"
    steered = set(store.snapshot.table("steering")["vector_hash"].to_pylist())
    steered |= {
        one.vector_hash for one in store.snapshot.choices.values() if one.rule in _CAUSAL_RULES
    }
    vectors = subject.cells.vectors
    n = sum(one.content_hash in steered for one in vectors)
    return Check(label, n == len(vectors), f"{n} of {len(vectors)} were steered with")


_CAUSAL_RULES = ("steering", "incumbent")
"""What choices are made by that rest on steering; held-out scenarios tell of no cause."""


def _check_nulls(subject: Subject) -> Check:
    n = len(subject.others)
    enough = n >= ENOUGH_OTHERS
    told = f"signs of {count(len(subject.prompts), 'prompt')} flipped, {count(n, 'other organism')}"
    return Check("nulls run", enough, told if enough else f"{told}: too few")


def _check_ends(subject: Subject) -> Check:
    reasons = [one for one in subject.own.rows["finish_reason"].to_list() if one is not None]
    if not reasons:
        return Check("answers complete", None, "why they end is not known")
    cut = sum(one == "length" for one in reasons)
    return Check("answers complete", not cut, f"{cut} of {len(reasons)} were cut off")
