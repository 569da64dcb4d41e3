"""What is known of a vector from scenarios that had no part in its being chosen."""

from __future__ import annotations

import pyarrow.compute as pc

from tistore.query.store import Store
from tistore.schemas.evaluation import VectorEvaluation
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.pick import Quality


def find_quality(store: Store, vector: Vector) -> Quality:
    """
    Look up the newest evaluation of a vector on held-out scenarios of its own trait.

    Only for choices in which these scenarios had no part: where they did, the figure of the best
    of many is too large.
    """
    table = store.snapshot.table("evaluations")
    own = table.filter(
        (pc.field("vector_hash") == vector.content_hash)
        & (pc.field("trait") == vector.trait)
        & (pc.field("tested_on") == vector.trait)
        & (pc.field("method") == vector.method)
        & (pc.field("position") == vector.position)
    )
    found = [one.evaluation for one in map(VectorEvaluation.from_row, own.to_pylist())]
    if not found:
        return Quality()
    last = found[-1]
    return Quality(last.auroc, last.g, last.g_low, last.g_high)
