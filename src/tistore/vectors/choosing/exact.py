"""Vectors that references name, without anything choosing among several."""

from __future__ import annotations

from collections.abc import Sequence

from tistore.errors import AmbiguousVectorError, UnknownVectorError, nearest
from tistore.query.references import list_vectors, match_vectors
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.candidates import ANY, Filters


def find_one(reference: str, vectors: Sequence[Vector], filters: Filters = ANY) -> Vector:
    """
    Find the one vector that a reference names; nothing chooses between several.

    Raises:
        UnknownVectorError: It names none.
        AmbiguousVectorError: It names several; the message lists them.
    """
    found = find_named(reference, vectors, filters)
    if len(found) > 1:
        raise AmbiguousVectorError(
            f"{reference!r} names {len(found)} vectors: {list_vectors(found)}",
            mend="write one of these instead; --component, --position, --method and --model tell "
            "apart what has one name",
        )
    return found[0]


def find_named(reference: str, vectors: Sequence[Vector], filters: Filters = ANY) -> list[Vector]:
    """
    Find every vector that a reference names; at least one.

    Raises:
        UnknownVectorError: It names none.
    """
    found = match_vectors(reference, vectors)
    if not found:
        known = {vector.reference for vector in vectors}
        raise UnknownVectorError(f"no vector {reference!r}; {nearest(reference, known)}")
    return list(filters.pick(found, reference))
