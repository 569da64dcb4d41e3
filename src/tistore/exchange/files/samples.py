"""Readings taken out of a store one by one: their states, and what identifies them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.datasets.foreign.identity import SampleIdentity
from tistore.exchange.selection import Part
from tistore.schemas.site import Component, Site
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot

_DIGESTS = ("fingerprint", "content_hash")
"""Columns that follow from the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """
    One selected reading.

    Attributes:
        row: Its row of the `responses` table.
        tokens: Its rows of the `tokens` table: one for each row of its states.
        layers: Ascending block numbers of the layer axis.
        component: What was captured.
        rows: Reads its states.
    """

    row: Mapping[str, Any]
    tokens: pa.Table
    layers: tuple[int, ...]
    component: Component
    rows: PartRows

    @property
    def key(self) -> str:
        """Its `reading_key`, unique in the store."""
        return str(self.row["reading_key"])

    @property
    def first_position(self) -> int:
        """Position in the sequence of row 0."""
        return int(self.row["first_position"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, layers, width."""
        return int(self.row["n_rows"]), len(self.layers), self.rows.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type its states are given in, without reading them."""
        return self.rows.dtype

    def read(self) -> NDArray[Any]:
        """
        Read the states.

        Returns:
            [row, layer, width]: float16 as stored; float32 where a layer of the segment is
            stored with an exponent, since float16 could not hold its values. Exact either way.

        Raises:
            IntegrityError: They are damaged.
        """
        start = int(self.row["row_start"])
        return self.rows.read(start, start + int(self.row["n_rows"]))

    def __str__(self) -> str:
        """Name the reading as error messages do."""
        row = self.row
        return (
            f"{row['organism']} on {row['prompt_set']}#{row['prompt_id']}, "
            f"sample {row['sample']}, read by {row['reader']}"
        )


class PartRows:
    """
    The states of one part, read forward: each chunk is decoded once, and one a layer is kept.

    Args:
        segment: The segment.
        sites: Sites to read, of one component, in the order of the layer axis.
    """

    def __init__(self, segment: Segment, sites: Sequence[Site]) -> None:
        self.width = segment.width(sites[0].component)
        self.exponents = tuple(segment.exponent(site) for site in sites)
        self.dtype = np.dtype(np.float32 if any(self.exponents) else np.float16)
        self._streams = [_Forward(segment, site) for site in sites]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows of every site: [row, site, width] of `dtype`."""
        out = np.empty((stop - start, len(self._streams), self.width), dtype=self.dtype)
        for place, (stream, exponent) in enumerate(zip(self._streams, self.exponents, strict=True)):
            stream.read(start, stop, out[:, place])
            if exponent:
                np.ldexp(out[:, place], exponent, out=out[:, place])
        return out


class _Forward:
    """One site, the chunk that was read last kept decoded."""

    def __init__(self, segment: Segment, site: Site) -> None:
        self._stream = segment.stream(site)
        self._blocks = self._stream.blocks() if segment.n_rows else []
        self._starts = [block.start for block in self._blocks]
        self._buffers: dict[tuple[int, ...], NDArray[Any]] = {}
        self._at = -1
        self._values: NDArray[Any] | None = None

    def read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Fill `out`, [row, width]."""
        filled = 0
        while start < stop:
            at = bisect_right(self._starts, start) - 1
            block = self._blocks[at]
            if at != self._at or self._values is None:
                self._values = self._stream.read(block, self._buffers)
                self._at = at
            end = min(stop, block.stop)
            out[filled : filled + end - start] = self._values[
                start - block.start : end - block.start
            ]
            filled += end - start
            start = end


def walk_samples(parts: Sequence[Part], component: Component) -> Iterator[Sample]:
    """Give every selected reading, in the order of the store; states are read when asked for."""
    for part in parts:
        rows = PartRows(part.segment, [Site(component, layer) for layer in part.layers])
        responses = part.segment.table("responses")
        tokens = part.segment.table("tokens")
        for place in part.places.tolist():
            row = responses.slice(place, 1).to_pylist()[0]
            taken = tokens.slice(row["row_start"], row["n_rows"])
            yield Sample(row, taken, part.layers, component, rows)


class Identities:
    """
    What identifies the readings of a snapshot, with the models and prompts they name.

    Args:
        snapshot: The store's state.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._models = {row["name"]: row for row in snapshot.table("models").to_pylist()}
        self._prompts = {
            (row["prompt_set"], row["prompt_id"]): row
            for row in snapshot.table("prompts").to_pylist()
        }

    def identify(self, sample: Sample) -> SampleIdentity:
        """Say which reading a sample is, in full: what a reader of it needs to store it again."""
        row = sample.row
        return SampleIdentity(
            organism=row["organism"],
            reader=row["reader"],
            prompt_set=row["prompt_set"],
            prompt_id=row["prompt_id"],
            sample=row["sample"],
            prompt_length=row["prompt_length"],
            first_position=sample.first_position,
            layers=sample.layers,
            component=sample.component,
            text=row["text"],
            finish_reason=row["finish_reason"],
            organism_model=self._describe_model(row["organism"]),
            reader_model=self._describe_model(row["reader"]),
            prompt=_known(self._prompts.get((row["prompt_set"], row["prompt_id"]), {})),
            **_identify_tokens(sample),
        )

    def _describe_model(self, name: str) -> dict[str, Any] | None:
        row = _known(self._models.get(name, {}))
        return row if row and row.keys() - {"name", *_DIGESTS} else None


def _known(row: Mapping[str, Any]) -> dict[str, Any] | None:
    return {name: value for name, value in row.items() if value is not None} or None


def _identify_tokens(sample: Sample) -> dict[str, Any]:
    """
    Lay the columns of the captured tokens out over the whole sequence.

    The store keeps nothing but ids of tokens without a row: they get what the writer gives
    tokens it is told nothing of.
    """
    n_ids, length = len(sample.row["token_ids"]), sample.row["prompt_length"]
    audited = [at >= length for at in range(n_ids)]
    roles = ["assistant" if own else "prompt" for own in audited]
    turns = [int(own) for own in audited]
    columns: dict[str, list[Any]] = {
        "tokens": [None] * n_ids,
        "roles": roles,
        "turns": turns,
        "is_response": audited,
        "logprobs": [None] * n_ids,
    }
    first, last = sample.first_position, sample.first_position + sample.tokens.num_rows
    for name, stored in _STORED.items():
        columns[name][first:last] = sample.tokens[stored].to_pylist()
    columns["is_response"][last:] = [False] * (n_ids - last)  # what has no row is not under audit
    columns["logprobs"] = [_finite(value) for value in columns["logprobs"]]
    is_bare = {name: all(v is None for v in columns[name]) for name in ("tokens", "logprobs")}
    return {name: None if is_bare.get(name) else tuple(v) for name, v in columns.items()}


_STORED = {
    "tokens": "token",
    "roles": "role",
    "turns": "turn",
    "is_response": "is_response",
    "logprobs": "logprob",
}
"""Fields of an identity, and the columns of the `tokens` table that fill them."""


def _finite(value: float | None) -> float | None:
    """JSON has no notation for the logarithm of zero: such a probability goes out as unknown."""
    return value if value is not None and math.isfinite(value) else None
