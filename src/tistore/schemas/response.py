"""A generation, and what identifies a reading of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tistore.schemas.digest import digest
from tistore.schemas.site import Component, Site

Rows = Literal["all", "response"]


@dataclass(frozen=True, slots=True, order=True)
class ResponseSlot:
    """
    The place of one generation in a run, known before its text is.

    A store holds one response per slot: the same slot with other token ids is a conflict.
    """

    organism: str
    prompt_set: str
    prompt_id: str
    sample: int = 0

    def __str__(self) -> str:
        """Name the response as error messages do."""
        return f"{self.organism} on {self.prompt_set}#{self.prompt_id}, sample {self.sample}"


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """
    What of a response was kept.

    Attributes:
        layers: Ascending block numbers.
        components: Names of the captured components, sorted.
        rows: "all" tokens of the sequence, or those of the "response" only.
    """

    layers: tuple[int, ...]
    components: tuple[Component, ...]
    rows: Rows

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every component at every layer."""
        return tuple(Site(part, layer) for part in self.components for layer in self.layers)

    @property
    def settings_hash(self) -> str:
        """Hash of the three, as part of a reading's key."""
        return digest([list(self.layers), sorted(self.components), self.rows])


def identify_response(slot: ResponseSlot, token_ids: Sequence[int], prompt_length: int) -> str:
    """
    Hash a response's content.

    Args:
        slot: Who answered what.
        token_ids: Ids of prompt and response, in order.
        prompt_length: How many of them are the prompt's.

    Returns:
        The `response_id`: 32 hex digits, the same for every reading of these very tokens.
    """
    return digest(
        [
            slot.organism,
            slot.prompt_set,
            slot.prompt_id,
            slot.sample,
            prompt_length,
            [int(token_id) for token_id in token_ids],
        ]
    )


def identify_reading(slot: ResponseSlot, reader: str, settings: CaptureSettings) -> str:
    """
    Hash the key under which a reading is committed once.

    The slot stands for the `response_id`, to which it maps one to one within a store, so that the
    key of a reading is known before its text is generated: this is what resuming checks.
    """
    parts = [slot.organism, slot.prompt_set, slot.prompt_id, slot.sample]
    return digest([*parts, reader, settings.settings_hash])
