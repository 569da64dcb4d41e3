"""Whether a difference shows at every layer that was kept, and at the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Part, check_parts
from tistore.audit.effects.definitions import hedges_g_z
from tistore.audit.effects.intervals import RESAMPLES
from tistore.audit.effects.moments import measure_moments
from tistore.audit.effects.studentized import bootstrap_means
from tistore.audit.opponents import check_opponents
from tistore.audit.prompt_clusters import ClusterBy, check_cluster
from tistore.audit.shifts.response_means import Answers
from tistore.audit.statistics.known import known_or_none
from tistore.errors import QueryError, VectorMismatchError
from tistore.query.massive import MassiveDims
from tistore.query.references import Direction, resolve
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.schemas.vector import Vector

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]
Key = tuple[str, int]

FEWEST_PROMPTS = 3
"""A correlation needs so many."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """
    How a difference depends on the layer.

    Attributes:
        layers: A flat dict for each trait and layer: `organism, baseline, part, trait, vector,
            component, layer, is_own, n_prompts, mean_difference, low, high, g, r_own`. `is_own`
            marks the layer of the trait's own vector; `r_own` is the correlation of the prompts'
            differences with those there.
        pairs: A flat dict for each trait and two layers: `organism, baseline, part, trait,
            component, layer, other_layer, r, n_prompts`.
        vectors: The traits' own vectors.
        notes: What a reader of them should know.
    """

    layers: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    vectors: tuple[Vector, ...]
    notes: tuple[str, ...]


def compare_layers(
    store: Store,
    organism: str,
    baseline: str = BASE_READER,
    traits: Sequence[str] | None = None,
    *,
    which: Part = "total",
    where: str | None = None,
    cluster: ClusterBy = "prompt",
    any_pairing: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Sensitivity:
    """
    Measure a difference at every layer that was captured, and how prompts agree between layers.

    At a layer for which a trait has a vector that one is used, else the trait's own vector as it
    is. Samples of a prompt are averaged first; from stored means: no token is read. Layers differ
    in scale, so that their `mean_difference` cannot be compared, and their `g` can: it is in
    standard deviations of the prompts' differences.

    Args:
        store: Where to look.
        organism: Who departs.
        baseline: From whom.
        traits: Vector references; every trait's when None.
        which: All that differs, the model's part, or the text's.
        where: SQL condition on `responses`.
        cluster: What prompts share that are no independent evidence.
        any_pairing: Compare models that differ in precision, template or tokenizer, too.
        resamples: Of the intervals: clusters of prompts are drawn again.
        seed: Of the resamples.

    Raises:
        QueryError: There is no such organism, baseline, part or vector, or nothing to compare.
        PairingError: The two differ in more than their weights.
        VectorMismatchError: A vector and the readings differ in width.
    """
    check_parts([which])
    check_cluster(cluster)
    notes = list(check_opponents(store, organism, baseline, any_pairing))
    answers = Answers(store, organism, baseline, where, cluster)
    known = store.snapshot.vectors()
    names = traits if traits is not None else sorted({vector.trait for vector in known})
    if not names:
        raise QueryError("there are no vectors to compare by", mend="add one: store.add_vector(…)")
    massive = MassiveDims(store.snapshot)
    context = {"organism": organism, "baseline": baseline, "part": which}
    layers: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    directions = {
        (name, layer): resolve(name, layer, known, massive)
        for name in names
        for layer in answers.layers()
    }
    differences = _read_differences(answers, directions, which)
    own_vectors = []
    for name in names:
        own = resolve(name, None, known, massive)
        own_vectors.append(own.vector)
        read = {
            layer: (found, differences[name, layer])
            for (one, layer), found in directions.items()
            if one == name and np.isfinite(differences[name, layer]).any()
        }
        if not read:
            notes.append(f"no {which} part of {own.vector.reference} was read at any layer")
        rest = (answers.clusters, resamples, seed)
        layers += [context | row for row in _list_layers(own, read, *rest)]
        pairs += [context | row for row in _list_pairs(own, read)]
    if not layers:
        raise QueryError("there is nothing to compare: " + "; ".join(notes))
    return Sensitivity(layers, pairs, tuple(own_vectors), tuple(dict.fromkeys(notes)))


def correlate_prompts(one: Scores, other: Scores) -> float | None:
    """
    Correlate two series of prompts (Pearson), over those that both have.

    Returns:
        None below three prompts, or where one of them never varies.
    """
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < FEWEST_PROMPTS or not (np.ptp(one[both]) and np.ptp(other[both])):
        return None
    return float(np.corrcoef(one[both], other[both])[0, 1])


def _read_differences(
    answers: Answers, directions: Mapping[Key, Direction], which: Part
) -> dict[Key, Scores]:
    """Read each vector's differences at its site, one site at a time: (prompt,)."""
    found: dict[Key, Scores] = {}
    for site in dict.fromkeys(direction.site for direction in directions.values()):
        means = answers.read(site)
        first, second = means.average(which)
        for key, direction in directions.items():
            if direction.site == site:
                found[key] = _project(direction, first - second)
    return found


def _project(direction: Direction, difference: Scores) -> Scores:
    if difference.shape[1] == 0:  # nothing was read there
        return np.full(len(difference), np.nan)
    values = direction.vector.values.astype(np.float64)
    if len(values) != difference.shape[1]:
        raise VectorMismatchError(
            f"{direction.vector.reference} is {len(values)} wide, and the readings at "
            f"{direction.site} are {difference.shape[1]}"
        )
    return np.asarray(difference @ (values / np.linalg.norm(values)))


def _list_layers(
    own: Direction,
    read: dict[int, tuple[Direction, Scores]],
    clusters: Labels,
    resamples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    at_own = read.get(own.site.layer)
    for layer, (found, differences) in read.items():
        column = differences[:, None]
        ends = bootstrap_means(column, clusters, resamples=resamples, seed=seed)
        moments = measure_moments(column, np.zeros_like(column))
        yield {
            "trait": own.vector.trait,
            "vector": found.vector.reference,
            "component": found.site.component,
            "layer": layer,
            "is_own": layer == own.site.layer,
            "n_prompts": int(np.isfinite(differences).sum()),
            "mean_difference": float(moments.difference[0]),
            "low": known_or_none(ends[0][0]),
            "high": known_or_none(ends[1][0]),
            "g": known_or_none(hedges_g_z(moments)[0]),
            "r_own": correlate_prompts(differences, at_own[1]) if at_own else None,
        }


def _list_pairs(
    own: Direction, read: dict[int, tuple[Direction, Scores]]
) -> Iterator[dict[str, Any]]:
    for layer, other in combinations(sorted(read), 2):
        one, two = read[layer][1], read[other][1]
        yield {
            "trait": own.vector.trait,
            "component": own.site.component,
            "layer": layer,
            "other_layer": other,
            "r": correlate_prompts(one, two),
            "n_prompts": int((np.isfinite(one) & np.isfinite(two)).sum()),
        }
