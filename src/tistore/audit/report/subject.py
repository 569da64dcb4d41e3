"""The organism a report is about, its scores, and how it ranks among the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells, Part, read_cells
from tistore.audit.families import read_families
from tistore.audit.rank import Ranking, rank
from tistore.audit.ranking.noise import read_noise
from tistore.audit.report.question import ReportQuestion
from tistore.audit.score_table import PromptKey, ScoreTable
from tistore.audit.slopes import read_slopes
from tistore.audit.statistics.reference import depart, find_usual
from tistore.errors import QueryError, nearest

if TYPE_CHECKING:
    from tistore.query.store import Store

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """
    An organism, and all there is to hold it against.

    Attributes:
        organism: Its name.
        cells: Response scores of every organism, samples apart.
        ranking: Every organism × trait; see `rank`.
        prompts: Prompts of the matrices below, in order.
        part: What is compared: "total"; "model" where the baseline has answered no prompt.
        difference: (prompt, trait), that part of organism minus baseline, samples averaged.
        model_part: (prompt, trait), its score minus the baseline's of the same tokens.
        departures: (prompt, trait), difference minus the other organisms' at the same prompt.
    """

    organism: str
    cells: Cells
    ranking: Ranking
    prompts: list[PromptKey]
    part: Part
    difference: Scores
    model_part: Scores
    departures: Scores

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its rows of the ranking, what stands out first."""
        return [row for row in self.ranking.rows if row["organism"] == self.organism]

    @property
    def others(self) -> list[str]:
        """The organisms it is held against, its own family left out."""
        families = dict(self.cells.rows.select("organism", "family").unique().iter_rows())
        own = families[self.organism]
        return [name for name in self.cells.organisms if families[name] != own]

    @property
    def own(self) -> Cells:
        """Its own cells."""
        return self.cells.of(self.organism)

    def trait_at(self, trait: str) -> int:
        """Find the column of a trait."""
        return self.cells.traits.index(trait)

    def response_of(self, prompt: PromptKey) -> str:
        """Name its first response to a prompt."""
        rows = self.own.rows
        is_it = (rows["prompt_set"] == prompt.prompt_set) & (rows["prompt_id"] == prompt.prompt_id)
        return str(rows.filter(is_it)["response_id"][0])


def read_subject(store: Store, question: ReportQuestion) -> Subject:
    """
    Read all scores, and rank every organism on every trait.

    Raises:
        QueryError: There is no such organism, nobody to hold it against, or no vector.
        PairingError: An organism and the baseline differ in more than their weights.
        ConfigError: The families cannot be read.
    """
    cells = read_cells(
        store,
        question.traits,
        baseline=question.baseline,
        where=question.where,
        any_pairing=question.any_pairing,
    )
    if question.organism not in cells.organisms:
        known = nearest(question.organism, cells.organisms)
        raise QueryError(f"no organism {question.organism!r}; {known}")
    if question.families is not None:
        cells = cells.with_families(read_families(question.families, cells.organisms))
    part = choose_part(cells)
    ranking = rank(
        cells,
        slopes=read_slopes(store, cells, part, any_pairing=question.any_pairing),
        noise=read_noise(store, cells),
        part=part,
        q=question.q,
        seed=question.seed,
    )
    return summarise(cells, ranking, question.organism)


def choose_part(cells: Cells) -> Part:
    """Choose what to compare: all that differs, if the baseline's own answers are there."""
    return "total" if np.isfinite(cells.base).any() else "model"


def summarise(cells: Cells, ranking: Ranking, organism: str) -> Subject:
    """Lay one organism's scores out by prompt, beside its departures from the others."""
    table = ScoreTable(cells)
    part = choose_part(cells)
    model_part = table.lay_out(cells.model_part)
    difference = table.lay_out(cells.total) if part == "total" else model_part
    departures = depart(difference, table.families, find_usual(difference)).values
    at = table.organisms.index(organism)
    answered = np.isfinite(table.lay_out(cells.own)[at]).any(axis=1)
    return Subject(
        organism=organism,
        cells=cells,
        ranking=ranking,
        prompts=[one for one, told in zip(table.prompts, answered, strict=True) if told],
        part=part,
        difference=difference[at][answered],
        model_part=model_part[at][answered],
        departures=departures[at][answered],
    )
