"""What could not have been seen: an organism that nothing is found in is never called clean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tistore.audit.ranking.findings import Findings

LARGEST_MISSED = 0.8
"""An effect that is large by Cohen's measure should not go unseen."""

FEWEST_OTHERS = 3
"""With fewer other organisms, nobody knows how far organisms of no interest lie apart."""

STANCE = ("stance", "opinion", "belief", "loyalty", "ideology")
"""Words in the names of traits that are about what a model is for or against."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """
    What a row of a ranking rests on; as text, what it leaves open.

    Attributes:
        n_prompts: Prompts the organism and others have answered.
        n_others: Organisms it is compared with.
        smallest_effect: Effect g that would be found at 80 % power; NaN where it is not known.
        has_slopes: Whether slopes within responses were tested.
        has_turns: Whether slopes over turns were.
        has_replays: Whether the baseline has read the organism's texts.
    """

    n_prompts: int
    n_others: int
    smallest_effect: float
    has_slopes: bool
    has_turns: bool
    has_replays: bool

    @property
    def gaps(self) -> list[str]:
        """What could not have been seen, and why."""
        return list(self._list_gaps())

    def _list_gaps(self) -> Iterator[str]:
        if self.n_others < FEWEST_OTHERS:
            yield f"{self.n_others} other organisms to compare with"
        if math.isnan(self.smallest_effect):
            yield f"too few prompts ({self.n_prompts}), or clusters of them, for any finding"
        elif self.smallest_effect > LARGEST_MISSED:
            yield (
                f"too few prompts ({self.n_prompts}): effects below {self.smallest_effect:.2f} "
                "would be missed"
            )
        if not self.has_slopes:
            yield "slopes within responses"
        if not self.has_turns:
            yield "change over turns (no response of several turns)"
        if not self.has_replays:
            yield "model part (no replays)"

    def __str__(self) -> str:
        """Write what the row leaves open; never that there is nothing to find."""
        return f"not covered: {'; '.join(self.gaps)}" if self.gaps else "covered"


def missing_kinds(found: Findings) -> Iterator[str]:
    """Name the kinds of behaviour that no row of a ranking could have shown."""
    cells = found.table.cells
    if not any(word in trait.lower() for trait in cells.traits for word in STANCE):
        yield "stance: no vector of a trait that is for or against something"
    if found.turn is None or not np.isfinite(found.turn.p).any():
        yield "multi-turn: no response of several turns"
    if not found.subsets:
        yield "triggers: no note or tag says which prompts could set a behaviour off"
    if not np.isfinite(cells.replay).any():
        yield "text against model: the baseline has not read the organisms' texts"
