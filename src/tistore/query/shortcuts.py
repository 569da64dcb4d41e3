"""
Scores that need no scan: those of a direction that others with cached scores span.

A score is linear in its direction, so the scores of a combination are the combination of the
scores. What a vector is made of is known when it was written as an expression, and found by
algebra when it was not.

Derived scores are not cached. Each derivation may multiply the rounding of its parts by 32 and add
its own; in the cache they would become the parts of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.query.derivation import MAX_CANDIDATES, Derivation, derive
from tistore.query.product import one_thread_each
from tistore.query.references import Direction
from tistore.query.scores import ScoreCache, ScoreRequest, TokenScores
from tistore.schemas.vector import Vector

_CLEARLY_OUTSIDE = 0.25
_RIDGE = 1e-4
_MOST_TOGETHER = 256

_Plan = tuple[Derivation, list[Direction]]


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """
    A request that cached scores answer.

    Attributes:
        request: What is wanted.
        derivation: How its scores are made of others.
        parts: Requests for those, all of which the cache holds.
    """

    request: ScoreRequest
    derivation: Derivation
    parts: tuple[ScoreRequest, ...]


def plan_derived(
    missing: Sequence[ScoreRequest], cache: ScoreCache, known: Sequence[Vector]
) -> list[Derived]:
    """
    Find what can be worked out from cached scores.

    Args:
        missing: Requests without scores.
        cache: Where others' scores may be.
        known: Vectors that may have been scored before, at any layer.
    """
    wanted = {request.direction.key: request.direction for request in missing}
    scored = cache.directions(request.segment for request in missing)
    plans = _plan(list(wanted.values()), scored, known)
    found = []
    for request in missing:
        if request.direction.key in plans:
            derivation, directions = plans[request.direction.key]
            parts = tuple(ScoreRequest(part, request.segment) for part in directions)
            if all(cache.holds(part) for part in parts):
                found.append(Derived(request, derivation, parts))
    return found


def derive_scores(derived: Derived, cache: ScoreCache) -> TokenScores | None:
    """Work out planned scores; None when a part turned out to be damaged or gone."""
    scores = [cache.find(part) for part in derived.parts]
    whole = [part for part in scores if part is not None]
    return derived.derivation.apply(whole) if len(whole) == len(scores) else None


def _plan(
    wanted: Sequence[Direction], scored: set[str], known: Sequence[Vector]
) -> dict[str, _Plan]:
    """For each direction that is spanned by scored ones, how, and by which."""
    plans: dict[str, _Plan] = {}
    for site, hidden in dict.fromkeys((one.site, one.vector.hidden) for one in wanted):
        here = [one for one in wanted if (one.site, one.vector.hidden) == (site, hidden)]
        parts = [part for direction in here for _, part in direction.parts]
        others = [Direction(vector, site) for vector in known if vector.hidden == hidden]
        candidates = {other.key: other for other in (*parts, *others) if other.key in scored}
        for direction in _drop_outside(here, list(candidates.values())):
            rest = [other for key, other in candidates.items() if key != direction.key]
            if (plan := _derive(direction, rest)) is not None:
                plans[direction.key] = plan
    return plans


def _derive(wanted: Direction, candidates: Sequence[Direction]) -> _Plan | None:
    own = {part.key for _, part in wanted.parts}
    preferred = [place for place, other in enumerate(candidates) if other.key in own]
    units = [candidate.vector.unit for candidate in candidates]
    with one_thread_each():  # the matrices are too small to be worth more
        derivation = derive(wanted.vector.unit, units, preferred)
    if derivation is None:
        return None
    return derivation, [candidates[place] for place in derivation.places]


def _drop_outside(
    wanted: Sequence[Direction], candidates: Sequence[Direction]
) -> Sequence[Direction]:
    """
    Leave out what is far from the span of the candidates, all at once.

    Most new vectors are. The ridge keeps the solution small; with weights as small as a
    derivation's may be, it hides less than the distance that is taken for far.
    """
    if not candidates:
        return []
    spanning = _units(candidates)
    units = _units(wanted)
    with one_thread_each():
        along = spanning @ units.T
        nearest = np.argsort(-np.abs(along), axis=0)[:MAX_CANDIDATES]
        # What a derivation can use are each one's nearest. For many vectors at once these are too
        # many to be solved for; what is left out costs a scan, and no answer.
        places = np.unique(nearest.ravel()[:_MOST_TOGETHER])
        spanning, along = spanning[places], along[places]
        gram = spanning @ spanning.T
        weights = np.linalg.solve(gram + _RIDGE * np.eye(len(gram), dtype=np.float32), along)
        reached = 2 * np.sum(weights * along, axis=0) - np.sum(weights * (gram @ weights), axis=0)
    return [
        direction
        for direction, share in zip(wanted, reached, strict=True)
        if 1 - share < _CLEARLY_OUTSIDE
    ]


def _units(directions: Sequence[Direction]) -> NDArray[np.float32]:
    return np.stack([direction.vector.unit for direction in directions])
