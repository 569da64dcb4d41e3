"""What a query would read, told before it is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class NeededRows:
    """
    What one use of a relation needs.

    Attributes:
        relation: Its name.
        alias: What the query calls it.
        readings: Readings whose rows can matter; pairs of readings for differences.
        segments: Segments these lie in.
        condition: Conditions the readings were narrowed by; None when all are needed.
    """

    relation: str
    alias: str
    readings: int
    segments: int
    condition: str | None

    def __str__(self) -> str:
        """Say it in a line."""
        named = self.relation if self.alias == self.relation else f"{self.relation} {self.alias}"
        by = f"where {self.condition}" if self.condition else "not narrowed"
        return f"{named}: {self.readings} readings in {self.segments} segments, {by}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    What a query would read.

    Attributes:
        vectors: Full references of the vectors it scores by.
        sites: Sites whose activations, means or norms it reads.
        relations: Rows it needs of each relation.
        segments_needed: Segments of which it needs anything.
        segments_total: Segments of the store.
        read_bytes: Bytes of activations, means and norms it would read; an estimate.
        cached_bytes: Bytes of scores it would take from the cache.
        multiply_adds: Multiplications `lens` would take.
        notes: What a reader of the answer should know.
    """

    vectors: tuple[str, ...]
    sites: tuple[str, ...]
    relations: tuple[NeededRows, ...]
    segments_needed: int
    segments_total: int
    read_bytes: int
    cached_bytes: int
    multiply_adds: int
    notes: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """Lay it out flat, with stable keys."""
        return {
            "vectors": list(self.vectors),
            "sites": list(self.sites),
            "relations": [str(needed) for needed in self.relations],
            "segments_needed": self.segments_needed,
            "segments_total": self.segments_total,
            "read_bytes": self.read_bytes,
            "cached_bytes": self.cached_bytes,
            "multiply_adds": self.multiply_adds,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [str(needed) for needed in self.relations]
        lines += [f"vectors: {', '.join(self.vectors)}"] if self.vectors else []
        lines += [f"sites: {', '.join(self.sites)}"] if self.sites else []
        lines += [
            f"segments: {self.segments_needed} of {self.segments_total}",
            f"reads {describe_bytes(self.read_bytes)}; "
            f"{describe_bytes(self.cached_bytes)} are cached",
        ]
        lines += [f"multiplies {self.multiply_adds:.2g} times"] if self.multiply_adds else []
        return "\n".join([*lines, *self.notes])


def describe_bytes(size_bytes: int) -> str:
    """Write a size for people."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
