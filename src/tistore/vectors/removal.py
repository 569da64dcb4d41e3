"""Taking vectors out of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tistore.errors import AmbiguousVectorError
from tistore.query.cached import Forgotten, forget_scores
from tistore.query.store import Store
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.candidates import ANY, Filters
from tistore.vectors.choosing.exact import find_named, find_one


@dataclass(frozen=True, slots=True)
class Removal:
    """
    What was removed.

    Attributes:
        vectors: The vectors.
        forgotten: What went with them from the cache.
        unchosen: Those of them that their trait's bare name meant, and nothing in their place.
    """

    vectors: tuple[Vector, ...]
    forgotten: Forgotten
    unchosen: tuple[Vector, ...]


def remove_vectors(
    store: Store,
    references: Sequence[str],
    *,
    filters: Filters = ANY,
    all_named: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> Removal:
    """
    Remove vectors by a tombstone in the log, and their scores from the cache.

    All of them or, if something is wrong with a reference, none. No byte of the store changes: one
    opened at an earlier commit still has them.

    Args:
        store: Where they are.
        references: References or hashes; each names one vector.
        filters: Tell apart what has one reference.
        all_named: Take every vector that a reference names.
        reason: For people; stored.
        dry_run: Remove nothing.

    Raises:
        UnknownVectorError: A reference names none, or the filters leave none.
        AmbiguousVectorError: A reference names several; the message lists them.
    """
    found = _find(store, references, filters, all_named)
    if dry_run:
        return Removal(found, Forgotten(0, 0, 0), tuple(one for one in found if one.chosen))
    with store.writer() as writer:
        writer.remove_vectors(found, reason)
    return Removal(
        found, forget_scores(store, found), tuple(vector for vector in found if vector.chosen)
    )


def _find(
    store: Store, references: Sequence[str], filters: Filters, all_named: bool
) -> tuple[Vector, ...]:
    store.refresh()
    vectors = store.snapshot.vectors()
    found: dict[str, Vector] = {}
    for reference in references:
        if all_named:
            found |= {vector.key: vector for vector in find_named(reference, vectors, filters)}
            continue
        try:
            vector = find_one(reference, vectors, filters)
        except AmbiguousVectorError as error:
            raise AmbiguousVectorError(
                error.message, mend=f"{error.mend}; --all removes all of them"
            ) from error
        found[vector.key] = vector
    return tuple(found.values())
