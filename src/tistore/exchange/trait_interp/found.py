"""What a file gives the store besides activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """
    Rows that a file becomes.

    Attributes:
        rows: Each with its table.
        variety: Form the file was written in.
        vector_hash: Of the vector it holds.
        source_dtype: Of the file's values, where it holds a tensor.
        note: What people should know, such as what of it was left out.
    """

    rows: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    variety: str | None = None
    vector_hash: str | None = None
    source_dtype: str | None = None
    note: str | None = None
