"""All that was tested of some organisms and traits, and which of them stand out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Part
from tistore.audit.ranking.comparison import Comparison
from tistore.audit.score_table import Mask, ScoreTable

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """One organism on one trait, by their places among those asked about."""

    organism: int
    trait: int

    @property
    def at(self) -> tuple[int, int]:
        """Where the cell lies in a matrix of (organism, trait)."""
        return self.organism, self.trait


@dataclass(frozen=True, slots=True, eq=False)
class SubsetTest:
    """
    The mean over some of the prompts, compared with the other organisms'.

    Attributes:
        tested: The comparison; its own q is of this subset alone.
        q: Adjusted for all subsets, (organism, trait).
        mask: Its prompts.
    """

    tested: Comparison
    q: Scores
    mask: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """
    Five kinds of tests of every cell; matrices are (organism asked about, trait).

    Attributes:
        table: Where the scores lie.
        chosen: Places of the organisms asked about.
        part: What was compared.
        level: Of q, at which a cell stands out.
        mean: Of the means over all prompts.
        low: Low ends of the intervals of g.
        high: High ends.
        p_max: p of the means, adjusted for all cells by max-T.
        mde: Smallest effect g that would have been found.
        spike_z: (organism, prompt, trait), see `robust_z`.
        spike_q: Of the few most extreme prompts.
        slope: Of slopes within responses.
        turn: Of slopes over turns.
        subsets: Of the means over subsets of the prompts, by name.
    """

    table: ScoreTable
    chosen: NDArray[np.int64]
    part: Part
    level: float
    mean: Comparison
    low: Scores
    high: Scores
    p_max: Scores
    mde: Scores
    spike_z: Scores
    spike_q: Scores
    slope: Comparison | None
    turn: Comparison | None
    subsets: dict[str, SubsetTest]

    @property
    def n_tests(self) -> int:
        """Count the tests that gave a q."""
        kinds = [self.mean.q, self.spike_q, *(one.q for one in self.subsets.values())]
        kinds += [one.q for one in (self.slope, self.turn) if one is not None]
        return sum(int(np.isfinite(one).sum()) for one in kinds)

    @property
    def cells(self) -> Iterator[Cell]:
        """Walk all cells."""
        for organism in range(len(self.chosen)):
            for trait in range(len(self.table.cells.vectors)):
                yield Cell(organism, trait)

    def flags(self, cell: Cell) -> list[str]:
        """Name the kinds of tests that a cell stands out in."""
        found = ["mean"] if self.mean.found(self.level)[cell.at] else []
        if self.spike_q[cell.at] <= self.level:
            found.append("spike")
        for name, tested in (("slope", self.slope), ("turn", self.turn)):
            if tested is not None and tested.found(self.level)[cell.at]:
                found.append(name)
        return found + [
            f"subset:{name}" for name, one in self.subsets.items() if self._is_its_own(one, cell)
        ]

    def _is_its_own(self, subset: SubsetTest, cell: Cell) -> bool:
        """Whether a cell stands out on a subset, and not as it does on the other prompts anyway."""
        from scipy.stats import ttest_ind

        if not (subset.q[cell.at] <= self.level and subset.tested.is_outside[cell.at]):
            return False
        departures = self.mean.departures.values[cell.organism, :, cell.trait]
        here, rest = departures[subset.mask], departures[~subset.mask]
        here, rest = here[np.isfinite(here)], rest[np.isfinite(rest)]
        if min(len(here), len(rest)) < 2:
            return False
        return bool(ttest_ind(here, rest, equal_var=False).pvalue <= self.level)
