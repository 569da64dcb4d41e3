"""What the score cache holds, by the vectors' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tistore.query.massive import MassiveDims
from tistore.query.references import Direction, resolve
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector

if TYPE_CHECKING:
    from tistore.query.store import Store

UNNAMED = "(not a vector of this store)"
"""What a combination of vectors is called here: its scores are known by hash alone."""


def list_cached(store: Store) -> list[dict[str, Any]]:
    """
    List what is cached, the last used first.

    Returns:
        For each direction: `vector, site, segments, size_bytes, used_at, key`; `vector` and
        `site` are told for the store's own vectors, at any layer.
    """
    names = {direction.key: direction for direction in _directions(store)}
    rows: dict[str, dict[str, Any]] = {}
    for file in store.score_files.list():
        direction = names.get(file.direction)
        row = rows.setdefault(
            file.direction,
            {
                "vector": UNNAMED if direction is None else str(direction),
                "site": None if direction is None else str(direction.site),
                "segments": 0,
                "size_bytes": 0,
                "used_at": datetime.fromtimestamp(file.used_at, UTC).isoformat(timespec="seconds"),
                "key": file.direction,
            },
        )
        row["segments"] += 1
        row["size_bytes"] += file.size_bytes
    return list(rows.values())


def clear_cached(
    store: Store, reference: str | None = None, used_before: float | None = None
) -> tuple[int, int]:
    """
    Remove cached scores.

    Args:
        store: Whose.
        reference: Only this vector's, at any layer; all when None.
        used_before: Only files last used before this time, in seconds since 1970.

    Returns:
        How many files, and their bytes.

    Raises:
        UnknownVectorError: The reference names no vector.
    """
    wanted: set[str] | None = None
    if reference is not None:
        vector = resolve(
            reference, None, store.snapshot.vectors(), MassiveDims(store.snapshot)
        ).vector
        wanted = _keys(vector, _sites(store))
    files = [
        file
        for file in store.score_files.list()
        if (wanted is None or file.direction in wanted)
        and (used_before is None or file.used_at < used_before)
    ]
    return len(files), store.score_files.remove(files)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """
    Cached scores that were removed.

    Attributes:
        files: Files removed.
        size_bytes: Their bytes.
        bundled: Segments that hold scores of these vectors as a part of themselves: those stay.
    """

    files: int
    size_bytes: int
    bundled: int


def forget_scores(store: Store, vectors: Sequence[Vector]) -> Forgotten:
    """
    Remove the cached scores of vectors that are no longer in the store, on disk and in memory.

    At whichever layer they were applied. What a vector that is still there shares with them stays;
    so do scores of combinations, which are known by hash alone, until they make room.

    Args:
        store: At a snapshot without them.
        vectors: The vectors that were removed.
    """
    live = {vector.content_hash for vector in store.snapshot.vectors()}
    sites = _sites(store)
    gone = {
        key for vector in vectors if vector.content_hash not in live for key in _keys(vector, sites)
    }
    store.forget(gone)
    files = [file for file in store.score_files.list() if file.direction in gone]
    bundled = sum(not gone.isdisjoint(segment.scored) for segment in store.snapshot.segments)
    return Forgotten(len(files), store.score_files.remove(files), bundled)


def _keys(vector: Vector, sites: Sequence[Site]) -> set[str]:
    """Name a vector's scores at its own site, and at others it may have been applied to."""
    return {Direction(vector, site).key for site in [vector.site, *sites]}


def _directions(store: Store) -> list[Direction]:
    vectors = store.snapshot.vectors()
    elsewhere = [Direction(vector, site) for vector in vectors for site in _sites(store)]
    # A vector at its own layer goes last: where keys are equal, that is its name.
    return [*elsewhere, *(Direction(vector, vector.site) for vector in vectors)]


def _sites(store: Store) -> list[Site]:
    segments = store.snapshot.segments
    found = {Site(c, layer) for s in segments for c in s.components for layer in s.layers}
    return sorted(found, key=str)
