"""Warming the score cache: scores computed before anybody waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tistore.errors import QueryError
from tistore.query.references import resolve
from tistore.schemas.site import Site

if TYPE_CHECKING:
    from tistore.query.store import Store


def warm_vectors(
    store: Store,
    references: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    where: str | None = None,
    max_read_bytes: int | None = None,
) -> list[dict[str, Any]]:
    """
    Compute the token scores of some vectors and cache them on disk, all in one pass.

    Nothing depends on it: a query computes what it needs. It is for the night before.

    Args:
        store: Where to read.
        references: Vector references; every vector whose site was captured when None.
        layer: Layer to read instead of the vectors' own.
        where: SQL condition on `tokens`; segments with no such reading are left out.
        max_read_bytes: Refuse to read more.

    Returns:
        For each vector: `vector, site, segments, computed, read_bytes`: the segments it was
        wanted for, how many of them had to be computed, and what a pass for them alone reads.
        Vectors of one site share their pass.

    Raises:
        QueryError: As `Store.sql`; or there is no vector to project.
        StoreError: The cache cannot be written.
    """
    if references is None:
        references = _captured(store, layer)
    if not references:
        raise QueryError(
            "there are no vectors for the layers of this store", mend="add one: tistore vectors add"
        )
    at_layer = "" if layer is None else f", {int(layer)}"
    calls = [f"count(project($v{place}{at_layer}))" for place in range(len(references))]
    condition = f" WHERE {where}" if where else ""
    done = store.warm(
        f"SELECT {', '.join(calls)} FROM tokens{condition}",
        {f"v{place}": reference for place, reference in enumerate(references)},
        max_read_bytes=max_read_bytes,
    )
    return [asdict(warmed) for warmed in done]


def _captured(store: Store, layer: int | None) -> list[str]:
    """List the hash of each vector whose own site, or the one at `layer`, any segment has."""
    found = dict.fromkeys(vector.content_hash for vector in store.snapshot.vectors())
    sites = {
        Site(component, number)
        for segment in store.snapshot.segments
        for component in segment.components
        for number in segment.layers
    }
    vectors = store.snapshot.vectors()
    return [name for name in found if resolve(name, layer, vectors).site in sites]
