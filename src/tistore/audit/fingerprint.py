"""What each organism's answers are like, trait by trait, in units that traits share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import find_vectors
from tistore.audit.opponents import check_organisms
from tistore.audit.statistics.known import known_or_none
from tistore.errors import QueryError
from tistore.query.span_question import and_condition, quote
from tistore.schemas.model import BASE_READER
from tistore.schemas.prompt import SCENARIO_SETS

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.schemas.vector import Vector

Scores = NDArray[np.float64]

FEWEST_OTHERS = 3
"""With fewer other organisms nobody knows how far organisms of no interest lie apart."""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """
    Mean scaled scores of organisms.

    Attributes:
        rows: A flat dict for each organism and trait: `organism, family, trait, reference,
            n_prompts, scaled, difference, z, percentile, n_others`.
        vectors: What the scores are along.
        notes: What a reader of them should know.
    """

    rows: list[dict[str, Any]]
    vectors: tuple[Vector, ...]
    notes: tuple[str, ...]


def take_fingerprints(
    store: Store,
    traits: Sequence[str] | None = None,
    *,
    organisms: Sequence[str] | None = None,
    baseline: str = BASE_READER,
    families: Mapping[str, str] | None = None,
    where: str | None = None,
) -> Fingerprints:
    """
    Average what each organism makes of its own answers, over the size of its states.

    `scaled` is the mean over prompts, samples averaged, of a response's mean score over the mean
    norm of its states at the vector's layer. `difference` is that minus the baseline's, over the
    same prompts. `z` tells how far `scaled` lies from the mean of the other organisms, in their
    standard deviations (n − 1), and `percentile` what share of them lies below; both leave the
    baseline and the organism's own family out, and are None with fewer than three others. From
    stored means: no token is read.

    Args:
        store: Where to look.
        traits: Vector references; every trait's chosen vector when None.
        organisms: Whom to list; all, the baseline included, when None.
        baseline: Who is no organism among others.
        families: Organism → family: variants that are no controls for each other.
        where: SQL condition on responses.

    Raises:
        QueryError: There is no such organism, no vector, or nothing has been read.

    Source:
        The fingerprints of trait-interp, utils/projections.py: score / mean ‖h‖ at the trait's
        layer.
    """
    vectors = find_vectors(store, traits)
    means, notes = _read_means(store, vectors, where)
    names = sorted({name for name, *_ in means})
    check_organisms(organisms or (), names)
    prompts = sorted({key[1:] for key in means})
    table = np.full((len(names), len(prompts), len(vectors)), np.nan)
    at_name = {name: at for at, name in enumerate(names)}
    at_prompt = {key: at for at, key in enumerate(prompts)}
    for key, scores in means.items():
        table[at_name[key[0]], at_prompt[key[1:]]] = scores
    if baseline not in at_name:
        notes += (f"{baseline!r} has answered nothing: there are no differences from it",)
    is_answered = np.isfinite(table).any(axis=2)
    if (is_answered != is_answered[0]).any():
        notes += ("organisms have not answered the same prompts: compare with care",)
    base = table[at_name[baseline]] if baseline in at_name else np.full(table.shape[1:], np.nan)
    named = families or {}
    rows = [
        _place(name, vector, column, _Levels(table[:, :, column], names, baseline, named), base)
        for name in organisms or names
        for column, vector in enumerate(vectors)
    ]
    return Fingerprints(rows, vectors, notes)


@dataclass(frozen=True, slots=True, eq=False)
class _Levels:
    """One trait's scaled scores: (organism, prompt)."""

    values: Scores
    names: Sequence[str]
    baseline: str
    families: Mapping[str, str]

    def family(self, name: str) -> str:
        return self.families.get(name, name)

    def others(self, name: str) -> Scores:
        """Means of the organisms that are neither of the family nor the baseline."""
        kept = [
            _mean(self.values[at])
            for at, other in enumerate(self.names)
            if other != self.baseline and self.family(other) != self.family(name)
        ]
        means = np.array(kept, dtype=np.float64)
        return np.asarray(means[np.isfinite(means)])


def _place(name: str, vector: Vector, column: int, levels: _Levels, base: Scores) -> dict[str, Any]:
    own = levels.values[levels.names.index(name)]
    scaled, others = _mean(own), levels.others(name)
    is_placed = len(others) >= FEWEST_OTHERS and np.isfinite(scaled)
    deviation = float(others.std(ddof=1)) if is_placed else 0.0
    return {
        "organism": name,
        "family": levels.family(name),
        "trait": vector.trait,
        "reference": vector.reference,
        "n_prompts": int(np.isfinite(own).sum()),
        "scaled": known_or_none(scaled),
        "difference": known_or_none(_mean(own - base[:, column])),
        "z": (scaled - float(others.mean())) / deviation if deviation > 0 else None,
        "percentile": 100 * float((others < scaled).mean()) if is_placed else None,
        "n_others": len(others),
    }


def _read_means(
    store: Store, vectors: Sequence[Vector], where: str | None
) -> tuple[dict[tuple[str, str, str], Scores], tuple[str, ...]]:
    names = {f"v{at}": vector.exact_name for at, vector in enumerate(vectors)}
    scores = ", ".join(f"scaled($v{at}) AS s{at}" for at in range(len(names)))
    means = ", ".join(f"avg(s{at})" for at in range(len(names)))
    more = and_condition(where)
    result = store.sql(
        f"SELECT organism, prompt_set, prompt_id, {means} FROM (SELECT organism, prompt_set, "
        f"prompt_id, {scores} FROM responses WHERE reader = organism "
        f"AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)}){more}) GROUP BY ALL ORDER BY ALL",
        names,
    )
    found = {row[:3]: np.array(row[3:], dtype=np.float64) for row in result.fetchall()}
    if not found:
        raise QueryError(
            "nobody has read a response of its own", mend='capture with readers = ["self", "base"]'
        )
    return found, result.notes


def _mean(values: Scores) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")
