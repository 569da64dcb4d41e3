"""The rows of a segment that some readings have, and what tokens they are."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.store.chunks import Chunk
from tistore.store.segment import Segment

Rows = NDArray[np.int64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BlockRows:
    """
    Rows of one block.

    Attributes:
        rows: Their places in the segment, ascending.
        reading: For each, its reading's place among the segment's.
        is_audited: Which of them means run over.
        is_prompt: Which of them the largest values of a prompt are sought in.
    """

    rows: Rows
    reading: NDArray[np.int32]
    is_audited: Marks
    is_prompt: Marks


class ReadingRows:
    """
    The rows of some readings of a segment.

    Args:
        segment: The segment.
        readings: Places of the readings among the segment's, ascending.
    """

    def __init__(self, segment: Segment, readings: Rows) -> None:
        self.segment = segment
        self.readings = readings
        self._reading = segment.column("tokens", "reading")
        is_chosen = np.zeros(segment.n_readings, dtype=np.bool_)
        is_chosen[readings] = True
        self._is_chosen: Marks = is_chosen[self._reading]
        self._is_audited = self._or_all(segment.column("tokens", "is_response"))
        prompt_length = segment.column("responses", "prompt_length")[self._reading]
        self._is_prompt = self._or_all(self._position < prompt_length)

    @property
    def n_tokens(self) -> int:
        """Rows of the readings."""
        return int(self._is_chosen.sum())

    @property
    def n_audited(self) -> int:
        """Rows that means run over."""
        return int((self._is_chosen & self._is_audited).sum())

    def in_block(self, block: Chunk) -> BlockRows | None:
        """Pick the rows that lie in a block; None where there are none."""
        rows = block.start + np.flatnonzero(self._is_chosen[block.start : block.stop])
        if not len(rows):
            return None
        return BlockRows(rows, self._reading[rows], self._is_audited[rows], self._is_prompt[rows])

    def is_first(self, rows: Rows) -> Marks:
        """Tell which rows are the first tokens of their sequences."""
        return np.asarray(self._position[rows] == 0)

    def is_delimiter(self, rows: Rows) -> Marks:
        """Tell which rows are punctuation or line breaks; none where texts are not stored."""
        return np.array([_is_delimiter(self._tokens[int(row)].as_py()) for row in rows], np.bool_)

    def describe(self, row: int) -> dict[str, Any]:
        """Name the token of a row: response, position, text."""
        responses = self.segment.table("responses", ["response_id"])["response_id"]
        return {
            "response_id": responses[int(self._reading[row])].as_py(),
            "position": int(self._position[row]),
            "token": self._tokens[row].as_py(),
        }

    @cached_property
    def _position(self) -> NDArray[np.int32]:
        return self.segment.column("tokens", "position")

    @cached_property
    def _tokens(self) -> Any:
        return self.segment.table("tokens", ["token"])["token"]

    def _or_all(self, marks: Marks) -> Marks:
        """Mark all rows of the readings that have none marked."""
        n_marked = np.bincount(
            self._reading, weights=marks.astype(np.float64), minlength=self.segment.n_readings
        )
        return np.asarray(marks | (n_marked == 0)[self._reading])


def _is_delimiter(token: str | None) -> bool:
    if token is None:
        return False
    text = token.strip()
    if not text:
        return "\n" in token
    return all(unicodedata.category(character).startswith("P") for character in text)
