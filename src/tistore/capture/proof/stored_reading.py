"""A reading as the store has it, taken back to what it was when it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tistore.capture.reading.prefill import Prefill, TokenSequence
from tistore.schemas.response import CaptureSettings, ResponseSlot
from tistore.schemas.role import UNKNOWN_ROLE
from tistore.schemas.site import Site
from tistore.schemas.tables import RESPONSES
from tistore.store.half import HalfArray
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot

_TEXTS = ["token_ids", "text", "finish_reason"]
_PLACES = [name for name in RESPONSES.names if name not in _TEXTS]


@dataclass(frozen=True, eq=False)
class StoredReading:
    """
    One committed reading, whose rows are those of all tokens it should have.

    Attributes:
        segment: Where it lies.
        index: Its row of the segment's `responses`.
        row: That row, without its texts.
        settings: What was kept of it.
    """

    segment: Segment
    index: int
    row: Mapping[str, Any]
    settings: CaptureSettings

    @property
    def slot(self) -> ResponseSlot:
        """Who answered what."""
        row = self.row
        return ResponseSlot(row["organism"], row["prompt_set"], row["prompt_id"], row["sample"])

    @property
    def reader(self) -> str:
        """Whose reading it is."""
        return str(self.row["reader"])

    @property
    def response_id(self) -> str:
        """Id of the response."""
        return str(self.row["response_id"])

    @cached_property
    def sequence(self) -> TokenSequence:
        """Its tokens."""
        return TokenSequence(tuple(self._texts["token_ids"]), self.row["prompt_length"])

    @cached_property
    def tokens(self) -> pa.Table:
        """Rows of `tokens`: of the whole sequence, or of the response alone."""
        return self.segment.table("tokens").slice(self.row["row_start"], self.row["n_rows"])

    def read(self) -> Prefill:
        """
        Read its states and log probabilities, as float32.

        Raises:
            NotStoredError: The activations were left behind when the store was copied.
            IntegrityError: They are damaged.
        """
        start = self.row["row_start"]
        states: dict[str, torch.Tensor] = {
            component: torch.stack(
                [
                    self._read_site(Site(component, layer), start, start + self.row["n_rows"])
                    for layer in self.settings.layers
                ],
                dim=1,
            )
            for component in self.settings.components
        }
        return Prefill(states, tuple(self._pad(self.tokens["logprob"].to_pylist(), None)))

    def describe(self) -> dict[str, Any]:
        """List what the writer is told of a reading, all but the reader and what it made of it."""
        sequence, columns = self.sequence, self.tokens.to_pydict()
        n_response = len(sequence.token_ids) - sequence.prompt_length
        strings: list[str | None] = columns["token"]
        starts, ends = columns["char_start"][-n_response:], columns["char_end"][-n_response:]
        has_offsets = n_response > 0 and None not in (*starts, *ends)
        return {
            "organism": self.slot.organism,
            "prompt_set": self.slot.prompt_set,
            "prompt_id": self.slot.prompt_id,
            "sample": self.slot.sample,
            "token_ids": sequence.token_ids,
            "prompt_length": sequence.prompt_length,
            "layers": self.settings.layers,
            "text": self._texts["text"],
            "tokens": None if None in strings else strings,
            "offsets": list(zip(starts, ends, strict=True)) if has_offsets else None,
            # Of a prompt without rows nothing is stored, and nothing will be.
            "roles": self._pad(columns["role"], UNKNOWN_ROLE),
            "turns": self._pad(columns["turn"], 0),
            "is_response": self._pad(columns["is_response"], False),
            "finish_reason": self._texts["finish_reason"],
        }

    @cached_property
    def _texts(self) -> dict[str, Any]:
        table = self.segment.table("responses", _TEXTS).slice(self.index, 1)
        row: dict[str, Any] = table.to_pylist()[0]
        return row

    def _pad(self, values: list[Any], filler: Any) -> list[Any]:
        """Fill a column up on the left, for the tokens before the first row."""
        return [filler] * self.row["first_position"] + values

    def _read_site(self, site: Site, start: int, stop: int) -> torch.Tensor:
        values = self.segment.read(site, start, stop).astype(np.float32)
        return torch.from_numpy(np.ldexp(values, self.segment.exponent(site)))


def find_readings(
    snapshot: Snapshot, settings_of: Mapping[str, CaptureSettings]
) -> Iterator[StoredReading]:
    """
    Find the readings of some readers at given settings, in the order they were committed.

    Those that lack rows, or whose activations were left behind, are passed over.

    Args:
        snapshot: Where to look.
        settings_of: Of each reader.
    """
    for segment in snapshot.segments:
        table = segment.table("responses", _PLACES)
        lengths = pc.list_value_length(segment.table("responses", ["token_ids"])["token_ids"])
        for index, (row, length) in enumerate(
            zip(table.to_pylist(), lengths.to_pylist(), strict=True)
        ):
            settings = settings_of.get(row["reader"])
            if settings is None or row["settings_hash"] != settings.settings_hash:
                continue
            is_whole = row["first_position"] + row["n_rows"] == length
            if is_whole and all(map(segment.has_activations, settings.components)):
                yield StoredReading(segment, index, row, settings)


def read_back(halves: Mapping[str, HalfArray], logprobs: Sequence[float | None]) -> Prefill:
    """Make of a rounded reading what `StoredReading.read` will make of it, once it is stored."""
    states: dict[str, torch.Tensor] = {
        component: torch.from_numpy(
            np.ldexp(half.values.astype(np.float32), half.exponents[None, :, None].astype(np.int32))
        )
        for component, half in halves.items()
    }
    return Prefill(states, tuple(logprobs))
