"""Vectors of their own without massive dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tistore.errors import KeyConflictError, QueryError
from tistore.query.expressions import read_expression
from tistore.query.massive import MassiveDims
from tistore.query.references import CLEAN_SUFFIX, resolve
from tistore.query.store import Store
from tistore.schemas.vector import Vector


@dataclass(frozen=True, slots=True)
class Cleaned:
    """
    A vector and its cleaned copy.

    Attributes:
        vector: As it was fitted.
        cleaned: What is left of it; None where it had nothing in these dimensions.
        dims: Dimensions that were set to 0, ascending.
        kept: Share of its squared length that is left.
    """

    vector: Vector
    cleaned: Vector | None
    dims: tuple[int, ...]
    kept: float


def clean_vectors(
    store: Store, references: Sequence[str], without: str = "massive"
) -> list[Cleaned]:
    """
    Commit vectors without some dimensions, each under its own name with another method.

    `refusal:mean_diff@26` becomes `refusal:mean_diff-clean@26`; a reference that names no method
    goes on meaning the vector as it was fitted. Nothing is committed unless all can be.

    Args:
        store: Where the vectors are.
        references: Vector references.
        without: What may stand after 'without' in an expression: "massive", "top5", "443, 1802".

    Raises:
        UnknownVectorError: No vector answers to a reference, or `without` names no dimensions.
        AmbiguousVectorError: Several vectors do, or readers differ in what is massive.
        QueryError: A reference is an expression; nothing is left of a vector; or massive
            dimensions have not been measured at its site.
        KeyConflictError: The store holds another cleaned vector of that name.
    """
    found = [_clean(store, reference, without) for reference in references]
    rows = [one.cleaned.to_row() for one in found if one.cleaned is not None]
    try:
        if rows:
            store.add_rows("vectors", rows)
    except KeyConflictError as error:
        raise KeyConflictError(
            error.message,
            mend="it was cleaned of other dimensions before; give this one a name of its own: "
            f"tistore vectors add STORE NAME --expression '… without {without}'",
        ) from error
    return found


def _clean(store: Store, reference: str, without: str) -> Cleaned:
    vectors, massive = store.snapshot.vectors(), MassiveDims(store.snapshot)
    vector = resolve(reference, None, vectors, massive).vector
    if vector.expression is not None:
        raise QueryError(
            f"{reference!r} is made of other vectors, and only stored ones are cleaned",
            mend="give it a name first: tistore vectors add STORE NAME --expression …",
        )
    written = f"{reference} without {without}"
    if len(read_expression(written, lambda stretch: stretch.strip() == reference)) > 1:
        raise QueryError(
            f"{written!r} is more than a vector without some dimensions",
            mend="give it a name of its own: tistore vectors add STORE NAME --expression …",
        )
    # By its hash it is found whatever its name looks like.
    cleaned = resolve(f"{vector.content_hash} without {without}", None, vectors, massive).vector
    changed = np.flatnonzero(cleaned.values != vector.values)
    if not len(changed):
        return Cleaned(vector, None, (), 1.0)
    before, after = (np.linalg.norm(v.values.astype(np.float64)) for v in (vector, cleaned))
    named = replace(
        vector,
        values=cleaned.values,
        method=vector.method + CLEAN_SUFFIX,
        # All of them were measured with what the dimensions added.
        separation=None,
        midpoint=None,
        bias=None,
    )
    return Cleaned(vector, named, tuple(map(int, changed)), float((after / before) ** 2))
