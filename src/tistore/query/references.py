"""Which vector a query means, and where it is to be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tistore.errors import AmbiguousVectorError, ConfigError, UnknownVectorError, nearest
from tistore.schemas.digest import digest
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector, VectorReference

_HASH_PREFIX = re.compile(r"[0-9a-f]{8,32}")


@dataclass(frozen=True, slots=True)
class Direction:
    """
    A vector and the site whose activations it is to be applied to.

    Attributes:
        vector: The vector.
        site: Usually the vector's own; another when the query names a layer it was not fitted at.
    """

    vector: Vector
    site: Site

    @property
    def key(self) -> str:
        """Name of its scores in the cache: the same direction at the same site, the same scores."""
        if self.site == self.vector.site:
            return self.vector.content_hash
        return digest([self.vector.content_hash, self.site.component, self.site.layer])

    @property
    def note(self) -> str | None:
        """What to tell when the vector is read at a layer it was not fitted at."""
        if self.site == self.vector.site:
            return None
        return f"{self.vector.reference} is applied to layer {self.site.layer}"

    def __str__(self) -> str:
        """Name the vector, and the layer where it is not its own."""
        if self.site == self.vector.site:
            return self.vector.reference
        return f"{self.vector.reference} on layer {self.site.layer}"


def resolve(text: str, layer: int | None, vectors: Sequence[Vector]) -> Direction:
    """
    Find the one vector a reference means.

    A trait's full name goes before the short name of another. With `layer`, a reference that
    names none takes the vector fitted there; where there is none, the selected vector is applied
    to that layer. Of several vectors of one trait the largest `separation` is taken, if all have
    one.

    Args:
        text: `trait`, `category/trait`, `trait@26`, `trait:probe@26`, or a vector's hash.
        layer: Layer whose activations are wanted; the vector's own when None.
        vectors: Every vector of the store.

    Raises:
        UnknownVectorError: None answers to the reference.
        AmbiguousVectorError: Several do, and nothing tells which is meant.
    """
    candidates = _find(text, vectors)
    if layer is not None and "@" not in text:
        candidates = [vector for vector in candidates if vector.layer == layer] or candidates
    vector = _select(text, candidates)
    site = vector.site if layer is None else Site(vector.component, layer)
    return Direction(vector, site)


def _find(text: str, vectors: Sequence[Vector]) -> list[Vector]:
    try:
        reference = VectorReference.parse(text)
    except ConfigError as error:
        raise UnknownVectorError(error.message, mend=error.mend) from error
    found = [vector for vector in vectors if reference.matches(vector)]
    exact = [vector for vector in found if vector.trait == reference.trait]
    if not found and _HASH_PREFIX.fullmatch(text):
        found = [vector for vector in vectors if vector.content_hash.startswith(text)]
    if not found:
        raise UnknownVectorError(f"no vector {text!r}; {_suggest(reference, vectors)}")
    return list({vector.content_hash: vector for vector in exact or found}.values())


def _suggest(reference: VectorReference, vectors: Sequence[Vector]) -> str:
    bare = VectorReference(reference.trait)
    if fitted := sorted({vector.reference for vector in vectors if bare.matches(vector)}):
        return f"{reference.trait} is there as {', '.join(fitted)}"
    names = {vector.trait for vector in vectors}
    if "/" not in reference.trait:
        names = {name.rpartition("/")[2] for name in names}
    return nearest(reference.trait, names)


def _select(text: str, candidates: list[Vector]) -> Vector:
    if len(candidates) == 1:
        return candidates[0]
    of_one_trait = len({vector.trait for vector in candidates}) == 1
    if of_one_trait and all(vector.separation is not None for vector in candidates):
        return max(candidates, key=lambda vector: vector.separation or 0.0)
    names = [vector.reference for vector in candidates]
    listed = sorted(
        name if names.count(name) == 1 else f"{vector.content_hash[:8]} ({name}, {vector.position})"
        for name, vector in zip(names, candidates, strict=True)
    )
    raise AmbiguousVectorError(
        f"{text!r} could be any of {len(candidates)} vectors: {', '.join(listed)}",
        mend="write one of these instead",
    )
