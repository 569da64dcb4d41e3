"""Numbers of a projection file beside those of the store, row for row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tistore.datasets.trait_interp.projections import Halves
from tistore.exchange.trait_interp_check.imported import ImportedReading
from tistore.exchange.trait_interp_check.recomputed import Recomputed, shown_rounding


class Unchecked(Exception):
    """
    Nothing of a projection can be compared.

    Args:
        reason: Why; the same words for all that share the reason.
        place: What of the file it is said of.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """
    Numbers of a file beside the store's.

    Attributes:
        theirs: As the file has them.
        ours: Computed again.
        tolerance: How far they may lie apart.
        places: What to call each.
    """

    theirs: NDArray[np.float64]
    ours: NDArray[np.float64]
    tolerance: NDArray[np.float64]
    places: Sequence[str]

    @property
    def differences(self) -> NDArray[np.float64]:
        """How far each lies from its other."""
        return np.abs(self.theirs - self.ours)

    @property
    def excess(self) -> float:
        """Largest difference, as a multiple of what is allowed."""
        return float((self.differences / self.tolerance).max(initial=0.0))

    @property
    def largest_difference(self) -> float:
        """The largest of the differences."""
        return float(self.differences.max(initial=0.0))

    @property
    def relative(self) -> float:
        """Largest difference, over the largest of the store's numbers."""
        size = float(np.abs(self.ours).max(initial=0.0))
        return self.largest_difference / size if size else 0.0

    def describe(self, what: str) -> str:
        """Say where the difference is most out of bounds."""
        worst = int((self.differences / self.tolerance).argmax())
        n_out = int((self.differences > self.tolerance).sum())
        return (
            f"{n_out} of {len(self.ours)} {what} differ, most at {self.places[worst]}: "
            f"{self.theirs[worst]:.6g} in the file, {self.ours[worst]:.6g} in the store"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """
    Which stored row each number of a file belongs to.

    Attributes:
        rows: Rows of the reading, one for each number that has one.
        kept: Place of these numbers among the file's, those of the prompt first.
        places: What to call each number that is kept.
        notes: What was left out.
    """

    rows: NDArray[np.int64]
    kept: NDArray[np.int64]
    places: Sequence[str]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, halves: Halves, reading: ImportedReading) -> Self:
        """
        Align the numbers of a file with a reading's rows.

        A file has a number for each row that its raw file had. Rows lie at their tokens, the last
        one often missing; or, of predicting captures, one token further, and the first is the
        prompt's last.

        Raises:
            Unchecked: The numbers are not as many as the tokens, or no row of theirs is stored.
        """
        row = reading.row
        n_prompt, n_response = row["prompt_length"], row["n_ids"] - row["prompt_length"]
        here, there = len(halves.prompt), len(halves.response)
        if here not in (0, n_prompt):
            raise Unchecked(f"{here} prompt scores for {n_prompt} tokens")
        allowed = (n_response,) if reading.is_predicting else (n_response, n_response - 1)
        if there and there not in allowed:
            raise Unchecked(f"{there} response scores for {n_response} tokens")
        start = n_prompt - 1 if reading.is_predicting else n_prompt
        positions = np.array([*range(here), *range(start, start + there)], dtype=np.int64)
        rows = positions - row["first_position"]
        is_stored = (rows >= 0) & (rows < row["n_rows"])
        notes = []
        if there and reading.lost_first_row:
            is_stored[here] = False
        if n_lost := int((~is_stored).sum()):
            notes.append(f"{n_lost} of {len(rows)} rows are not stored")
        kept = np.flatnonzero(is_stored)
        if not len(kept):
            raise Unchecked("none of its rows are stored")
        names = [*(f"prompt[{i}]" for i in range(here)), *(f"response[{i}]" for i in range(there))]
        return cls(rows[kept], kept, [names[i] for i in kept], tuple(notes))

    def compare(self, halves: Halves, ours: Recomputed) -> Comparison:
        """
        Put the numbers of a file beside the store's.

        What the file rounded them by is allowed on top of what `ours` allows.

        Args:
            halves: As many numbers as were aligned.
            ours: Of every row of the reading.
        """
        numbers = [*halves.prompt, *halves.response]
        tolerance = ours.tolerance[self.rows] + shown_rounding(numbers)
        theirs = np.array(numbers)[self.kept]
        return Comparison(theirs, ours.values[self.rows], tolerance, self.places)
