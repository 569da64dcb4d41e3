"""Scores derived from scores: a direction that lies in the span of others needs no scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CANDIDATES = 64
"""How many directions are searched for a span; the work grows with the square."""

_THINNEST = 3e-8  # what spans less than this was set apart by rounding to float32 alone

TOLERANCE = 1e-6
"""
What may be missing of a unit vector. Its own rounding to float32 leaves about 3e-8 for each unit of
weight; what is missing adds at most this share of an activation's length to its score.
"""

MAX_WEIGHT = 32.0
"""
The largest sum of weights' sizes. Each score comes with the rounding of a float32 product, about
1e-7 of its activation's length at worst, and the weights multiply it: the bound is 3e-6 of that
length, where scores along a direction chosen without regard to the activations spread over
1/√hidden of it.
"""

Unit = NDArray[np.float32]
Wide = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Derivation:
    """
    How a direction is made of others at the same site, and its scores of theirs.

    Attributes:
        places: Which of the candidates, in ascending order.
        weights: What each one's scores are multiplied by.
    """

    places: tuple[int, ...]
    weights: tuple[float, ...]

    def apply(self, scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """
        Work out the direction's scores.

        Args:
            scores: (row,) of each candidate in `places`, in that order.

        Returns:
            (row,) float32, added up in float64.
        """
        total = np.zeros(scores[0].shape, dtype=np.float64)
        for weight, known in zip(self.weights, scores, strict=True):
            total += weight * known.astype(np.float64)
        return total.astype(np.float32)


def derive(
    wanted: Unit, candidates: Sequence[Unit], preferred: Sequence[int] = ()
) -> Derivation | None:
    """
    Express a unit vector by others, where that loses nothing of its scores.

    The preferred candidates are tried alone first; then those that point most nearly along or
    against the wanted one, up to `MAX_CANDIDATES`, picked greedily and thinned out. Few and small
    weights are sought, not the fewest or smallest. The same arguments give the same answer.

    Args:
        wanted: (hidden,) of length 1.
        candidates: Each (hidden,) of length 1, at the same site.
        preferred: Places of those it is likely made of.

    Returns:
        The derivation; None when at this accuracy there is none that keeps within `TOLERANCE` and
        `MAX_WEIGHT`, and the direction must be scanned.

    Source:
        Orthogonal matching pursuit: Pati, Rezaiifar and Krishnaprasad (1993),
        doi:10.1109/ACSSC.1993.342465.
    """
    likely = sorted(set(preferred))
    if likely and (found := _solve(*_reduce(wanted, [candidates[at] for at in likely]))):
        return _name_places(found, likely)
    if len(candidates) == 0:
        return None
    nearest = _nearest(wanted, candidates)
    if _is_far(wanted, [candidates[at] for at in nearest]):
        return None
    target, columns = _reduce(wanted, [candidates[at] for at in nearest])
    if _distance(target, columns) > TOLERANCE:
        return None
    found = _pursue(target, columns) or _solve(target, columns)
    return _name_places(found, nearest) if found else None


def _nearest(wanted: Unit, candidates: Sequence[Unit]) -> list[int]:
    cosines = np.abs([float(candidate @ wanted) for candidate in candidates])
    return sorted(np.argsort(-cosines, kind="stable")[:MAX_CANDIDATES].tolist())


def _is_far(wanted: Unit, candidates: Sequence[Unit]) -> bool:
    """
    Whether a vector is plainly outside the span: a hundredth of its length or more.

    Told from angles alone, which is ten times as fast as `_reduce` but good to 1e-6 of the squared
    length only. Leaving out what is thinner than 1e-5 costs weights within `MAX_WEIGHT` 3e-3.
    """
    stacked = np.stack([*candidates, wanted]).astype(np.float64)
    angles = stacked @ stacked.T
    weights = np.linalg.lstsq(angles[:-1, :-1], angles[:-1, -1], rcond=1e-10)[0]
    signed = np.append(weights, -1.0)
    return bool(signed @ angles @ signed > 1e-4)


def _reduce(wanted: Unit, candidates: Sequence[Unit]) -> tuple[Wide, Wide]:
    """Turn the space so that few coordinates hold all vectors: lengths and angles remain."""
    stacked = np.stack([*candidates, wanted], axis=1).astype(np.float64)
    if stacked.shape[0] > stacked.shape[1]:
        stacked = np.asarray(np.linalg.qr(stacked, mode="r"))
    return stacked[:, -1], stacked[:, :-1]


def _distance(target: Wide, columns: Wide) -> float:
    """How far a vector lies from a span; no fewer columns can come nearer."""
    weights = np.linalg.lstsq(columns, target)[0]
    return float(np.linalg.norm(target - columns @ weights))


def _pursue(target: Wide, columns: Wide) -> Derivation | None:
    """Pick the column nearest to what is missing until nothing is; then drop the dispensable."""
    chosen: list[int] = []
    missing = target
    while len(chosen) < columns.shape[1]:
        gain = np.abs(columns.T @ missing)
        gain[chosen] = -1.0
        chosen.append(int(np.argmax(gain)))
        weights = np.linalg.lstsq(columns[:, chosen], target, rcond=_THINNEST)[0]
        missing = target - columns[:, chosen] @ weights
        if np.linalg.norm(missing) <= TOLERANCE:
            return _thin_out(target, columns, sorted(chosen))
    return None


def _thin_out(target: Wide, columns: Wide, chosen: list[int]) -> Derivation | None:
    best = _solve(target, columns[:, chosen])
    for place in list(chosen):
        fewer = [at for at in chosen if at != place]
        if fewer and (found := _solve(target, columns[:, fewer])):
            best, chosen = found, fewer
    return _name_places(best, chosen) if best else None


def _solve(target: Wide, columns: Wide) -> Derivation | None:
    """Use all columns, with the least squared weights; None when that is not accurate."""
    weights = np.linalg.lstsq(columns, target, rcond=_THINNEST)[0]
    missing = np.linalg.norm(target - columns @ weights)
    if missing > TOLERANCE or np.abs(weights).sum() > MAX_WEIGHT:
        return None
    return Derivation(tuple(range(columns.shape[1])), tuple(map(float, weights)))


def _name_places(found: Derivation, places: Sequence[int]) -> Derivation:
    return Derivation(tuple(places[at] for at in found.places), found.weights)
