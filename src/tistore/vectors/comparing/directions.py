"""Cosines between vectors that differ in one thing: trait, layer, method, position, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.errors import NotStoredError, QueryError, nearest
from tistore.schemas.vector import Vector

Axis = Literal["traits", "layers", "methods", "positions", "components", "models"]
AXES: tuple[Axis, ...] = get_args(Axis)

DROP = 0.1
"""A neighbouring pair of layers whose cosine is that much below the pair before it is a drop."""

_NAMES = ("trait", "layer", "method", "position", "model", "component")

_ATTRIBUTES: dict[Axis, str] = {
    "traits": "trait",
    "layers": "layer",
    "methods": "method",
    "positions": "position",
    "components": "component",
    "models": "model",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """
    Two vectors and the cosine of the angle between them.

    Attributes:
        first: One.
        second: The other.
        cosine: From -1 to 1; None where they differ in width, and so lie in different spaces.
        is_drop: Whether the vectors of two neighbouring layers turn there; None elsewhere.
    """

    first: Vector
    second: Vector
    cosine: float | None
    is_drop: bool | None = None


def cosine(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """
    Cosine of the angle between two directions.

    Args:
        first: (width,), not all zero.
        second: (width,), not all zero.

    Returns:
        From -1 to 1, computed in float64.
    """
    one, other = first.astype(np.float64), second.astype(np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def compare_vectors(vectors: Sequence[Vector], between: Axis) -> list[Pair]:
    """
    Compare every two vectors that differ in one thing only.

    Traits are compared whatever layer their vectors are of: each trait's may be another. All else
    is equal on both sides of a pair.

    Args:
        vectors: Which.
        between: What the two of a pair differ in.

    Returns:
        The pairs, in the order of the vectors; layers ascending, with drops marked.

    Raises:
        QueryError: No two of them differ in that alone.
    """
    attribute = _ATTRIBUTES[between]
    pairs = [pair for group in _group(vectors, between) for pair in _compare_all(group)]
    if not pairs:
        shared = "" if between == "traits" else ", and in nothing else"
        raise QueryError(
            f"no two of the {len(vectors)} vectors differ in {attribute}{shared}",
            mend="name more vectors, or compare them between "
            + ", ".join(axis for axis in AXES if axis != between),
        )
    return _mark_drops(pairs) if between == "layers" else pairs


def select_vectors(vectors: Sequence[Vector], names: Sequence[str]) -> list[Vector]:
    """
    Pick all vectors of some traits, by full or short name, in the store's order; all for no names.

    Raises:
        NotStoredError: There are none of a trait.
    """
    found: list[Vector] = []
    for name in names:
        of_trait = [one for one in vectors if name in (one.trait, one.trait.rpartition("/")[2])]
        if not of_trait:
            known = {one.trait for one in vectors}
            raise NotStoredError(f"no vectors of trait {name!r}; {nearest(name, known)}")
        found += of_trait
    return found if names else list(vectors)


def align_components(vectors: Sequence[Vector]) -> list[Pair]:
    """
    Compare each component's vector with the residual's of its own block, and of the two before.

    What a block adds to the stream can point where the stream does at its end, or where it did
    before: that tells whether the block writes the direction or finds it there.

    Raises:
        QueryError: No component's vector has a residual one of the same trait, method, position
            and model beside it.
    """
    residual = {_rest(one, "component"): one for one in vectors if one.component == "residual"}
    pairs = []
    for vector in vectors:
        if vector.component == "residual":
            continue
        for layer in range(vector.layer, max(-1, vector.layer - 3), -1):
            key = (vector.trait, layer, vector.method, vector.position, vector.model)
            if key in residual:
                pairs.append(_compare(vector, residual[key]))
    if not pairs:
        raise QueryError(
            "no vector of a component has one of the residual stream to be compared with",
            mend="extract both: tistore vectors extract … --component attn_out",
        )
    return pairs


def _group(vectors: Sequence[Vector], between: Axis) -> Iterator[list[Vector]]:
    by_rest: dict[tuple[object, ...], list[Vector]] = {}
    for vector in vectors:
        rest = () if between == "traits" else _rest(vector, _ATTRIBUTES[between])
        by_rest.setdefault(rest, []).append(vector)
    for group in by_rest.values():
        yield sorted(group, key=lambda one: one.layer) if between == "layers" else group


def _rest(vector: Vector, attribute: str) -> tuple[object, ...]:
    """What names a vector, but for one attribute."""
    return tuple(getattr(vector, name) for name in _NAMES if name != attribute)


def _compare_all(vectors: Sequence[Vector]) -> Iterator[Pair]:
    for first, second in combinations(vectors, 2):
        yield _compare(first, second)


def _compare(first: Vector, second: Vector) -> Pair:
    is_one_space = first.hidden == second.hidden
    return Pair(first, second, cosine(first.values, second.values) if is_one_space else None)


def _mark_drops(pairs: Sequence[Pair]) -> list[Pair]:
    """Mark where neighbouring layers agree clearly less than the neighbours before them did."""
    marked: list[Pair] = []
    before: dict[tuple[object, ...], Pair] = {}
    is_next = _next_layers(pairs)
    for pair in pairs:
        if not is_next(pair):
            marked.append(pair)
            continue
        rest = _rest(pair.first, "layer")
        last = before.get(rest)
        fell = (
            last is not None
            and last.cosine is not None
            and pair.cosine is not None
            and last.cosine - pair.cosine > DROP
        )
        marked.append(Pair(pair.first, pair.second, pair.cosine, is_drop=fell))
        before[rest] = pair
    return marked


def _next_layers(pairs: Sequence[Pair]) -> Callable[[Pair], bool]:
    """Tell whether a pair's second layer is the next stored one after its first."""
    following: dict[tuple[object, ...], int] = {}
    for pair in pairs:
        key = (pair.first.layer, *_rest(pair.first, "layer"))
        following[key] = min(following.get(key, pair.second.layer), pair.second.layer)
    return lambda pair: (
        following[(pair.first.layer, *_rest(pair.first, "layer"))] == pair.second.layer
    )
