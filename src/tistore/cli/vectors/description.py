"""How commands show a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tistore.schemas.vector import Vector


def describe_vector(vector: Vector) -> dict[str, Any]:
    """
    Lay a vector out as a row for people: its reference, and all but its values.

    `chosen` tells whether a bare trait name means it; `tistore vectors best` tells why.
    """
    row = vector.to_row()
    del row["values"]
    return {"reference": vector.reference, "chosen": vector.chosen is not None, **row}
