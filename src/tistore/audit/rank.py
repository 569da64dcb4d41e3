"""Which organisms stand out on which traits: each held against the other organisms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells, Part, check_parts
from tistore.audit.effects.definitions import hedges_g_z
from tistore.audit.effects.intervals import RESAMPLES, bootstrap_pairs
from tistore.audit.opponents import check_organisms
from tistore.audit.ranking.comparison import ENOUGH_OTHERS, Comparison, compare_with_others
from tistore.audit.ranking.coverage import missing_kinds
from tistore.audit.ranking.findings import Findings, SubsetTest
from tistore.audit.ranking.rows import Noise, lay_out, prominence
from tistore.audit.score_table import Mask, ScoreTable
from tistore.audit.slopes import ResponseSlopes
from tistore.audit.statistics.discoveries import adjust_bh
from tistore.audit.statistics.power import smallest_effect
from tistore.audit.statistics.reference import find_usual, keep_shared
from tistore.audit.statistics.sign_flip import PERMUTATIONS, max_t_p
from tistore.audit.statistics.spikes import robust_z, spike_p
from tistore.errors import ConfigError, QueryError

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """
    Every organism × trait, what stands out first.

    Attributes:
        rows: Flat dicts of the same keys; see `rank`.
        notes: What a reader of the numbers should know.
        not_covered: Kinds of behaviour that nothing here could have shown.
        n_cells: Organisms × traits that were looked at.
        n_tests: All tests that were made of them.
    """

    rows: list[dict[str, Any]]
    notes: tuple[str, ...]
    not_covered: tuple[str, ...]
    n_cells: int
    n_tests: int


def rank(
    cells: Cells,
    *,
    slopes: ResponseSlopes | None = None,
    noise: Noise | None = None,
    organisms: Sequence[str] | None = None,
    subsets: Sequence[str] | None = None,
    part: Part = "total",
    q: float = 0.05,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """
    Hold every organism against the others outside its family, trait by trait.

    An organism's departure at a prompt is its score minus the mean of the other organisms' at the
    same prompt; those whose own mean on the trait stands out are no control. What all organisms
    share, such as a persona, is thereby nothing. Prompts are the unit of every test, samples of a
    prompt are averaged. Five kinds of tests, each of them one family of Benjamini and Hochberg's
    over all organisms and traits asked about: of the mean, of few prompts, of the slope within
    responses, of the slope over turns, of the means over subsets declared beforehand.

    Args:
        cells: Scores; families and clusters as they are set there.
        slopes: Lines within the responses; without them slopes are not covered.
        noise: (organism, trait) → how far a second reading moves a response's score, in score
            units.
        organisms: Organisms asked about; the others stay controls. Every one when None.
        subsets: Notes and tags, such as "note:money"; every one of several prompts when None.
        part: What to compare: the total, or the model's or the text's part of it.
        q: Share of the findings that may be false.
        permutations: Of the signs, for `p_max`.
        resamples: Of the prompts, for the interval.
        seed: Of both.

    Returns:
        Row keys: `organism, family, trait, vector, part`; `flags` (any of "mean", "spike", "slope",
        "turn", "subset:…"); `g` (mean departure over its standard deviation, corrected for small
        samples), its 95 % interval `low, high`; `mean` (in score units), `p`, `q`, `p_max` (of the
        prompts' signs, adjusted for all cells by max-T); `spread_z` (place among the other
        organisms' means) and `percentile`; `worst_prompt`, its `worst_z` and `spike_q`; `slope` and
        `slope_q`, `turn_slope` and `turn_slope_q` (mean departures of rises within a response, in
        score units); `subset`, `subset_g`, `subset_q` (the subset of the smallest q); `n_prompts,
        n_others`; `mde` (the effect g that would be found at 80 % power were it the only one);
        `noise_floor` (in units of g); `coverage` ("covered", or "not covered: " and what could not
        have been seen). What is not known is None.

    Raises:
        QueryError: There is no other organism to compare with, no such organism or subset, or no
            reading of the part asked for.
        ConfigError: A number makes no sense.
    """
    _check(cells, organisms, part, q, permutations, resamples)
    table = ScoreTable(cells)
    values = table.lay_out(_pick(cells, part))
    masks = table.subsets(subsets)
    asked = organisms if organisms is not None else table.organisms
    chosen = np.array([table.organisms.index(name) for name in dict.fromkeys(asked)])
    tests = _Tests(table, chosen)
    mean, tested_subsets = tests.means(values, masks)
    shape = mean.p.shape
    nothing_off = np.zeros_like(mean.columns)
    low, high = bootstrap_pairs(
        mean.columns, nothing_off, {"g": hedges_g_z}, table.clusters, resamples=resamples, seed=seed
    )["g"]
    p_max = max_t_p(mean.columns, table.clusters, permutations=permutations, seed=seed)
    n_tests = max(int(np.isfinite(mean.p).sum()), 1)
    spike_z, spike_q = tests.spikes(values)
    found = Findings(
        table=table,
        chosen=chosen,
        part=part,
        level=q,
        mean=mean,
        low=low.reshape(shape),
        high=high.reshape(shape),
        p_max=p_max.reshape(shape),
        mde=smallest_effect(
            mean.means.n / np.maximum(mean.means.design_effect, 1.0),
            q / n_tests,
            mean.means.n_clusters,
        ),
        spike_z=spike_z,
        spike_q=spike_q,
        slope=tests.compare(table.lay_out(slopes.position)) if slopes is not None else None,
        turn=tests.compare(table.lay_out(slopes.turn)) if slopes is not None else None,
        subsets=tested_subsets,
    )
    rows = sorted((lay_out(found, cell, noise or {}) for cell in found.cells), key=prominence)
    return Ranking(
        rows=rows,
        notes=(*cells.notes, *_remark(found)),
        not_covered=tuple(missing_kinds(found)),
        n_cells=len(rows),
        n_tests=found.n_tests,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tests:
    """Puts the organisms asked about to tests; matrices are (organism, prompt, trait)."""

    table: ScoreTable
    chosen: NDArray[np.int64]

    def compare(
        self,
        values: Scores,
        usual: NDArray[np.bool_] | None = None,
        mask: Mask | slice = slice(None),
    ) -> Comparison:
        """Compare means over prompts with the other organisms'."""
        families, clusters = self.table.families, self.table.clusters[mask]
        return compare_with_others(values[:, mask], families, clusters, self.chosen, usual)

    def means(
        self, values: Scores, masks: Mapping[str, Mask]
    ) -> tuple[Comparison, dict[str, SubsetTest]]:
        """Compare means over all prompts and over subsets; who stands out in any is no control."""
        values = keep_shared(values, self.table.families)
        usual = find_usual(values)
        for mask in masks.values():
            usual &= find_usual(values[:, mask])
        parts = [self.compare(values, usual, mask) for mask in masks.values()]
        together = adjust_bh(np.array([one.p for one in parts]))
        subsets = {
            name: SubsetTest(one, q, mask)
            for (name, mask), one, q in zip(masks.items(), parts, together, strict=True)
        }
        return self.compare(values, usual), subsets

    def spikes(self, values: Scores) -> tuple[Scores, Scores]:
        """Hold the prompts one by one against the other organisms': their z, and q."""
        families = self.table.families
        z = robust_z(values, families)
        p = spike_p(z, families, self.table.clusters)
        return z[self.chosen], adjust_bh(p[self.chosen])


def _check(
    cells: Cells,
    organisms: Sequence[str] | None,
    part: str,
    q: float,
    permutations: int,
    resamples: int,
) -> None:
    known = cells.organisms
    if len(set(cells.rows["family"])) < 2:
        raise QueryError(
            f"there is nothing to compare {', '.join(known)} with: all are of one family",
            mend="capture other organisms on the same prompts, or compare with the baseline alone: "
            "tistore compare",
        )
    check_organisms(organisms or (), known)
    check_parts([part])
    if not 0 < q < 1:
        raise ConfigError(f"q = {q} is no share of findings", mend="write one between 0 and 1")
    for what, number in (("permutations", permutations), ("resamples", resamples)):
        if number < 100:
            raise ConfigError(f"{number} {what} tell nothing", mend="take 100 or more")


def _pick(cells: Cells, part: Part) -> Scores:
    matrix = cells.of_part(part)
    if np.isfinite(matrix).any():
        return matrix
    if part == "model" or np.isfinite(cells.base).any():
        raise QueryError(
            f"there is no {part} part: {cells.baseline!r} has not read the organisms' texts",
            mend='capture replays: readers = ["self", "base"]',
        )
    raise QueryError(
        f"{cells.baseline!r} has answered none of the prompts the organisms have",
        mend="capture its own answers to them, or rank by the model's part: part='model', "
        "--part model",
    )


def _remark(found: Findings) -> Iterator[str]:
    n_others = int(np.median(found.mean.departures.n_others))
    if n_others < ENOUGH_OTHERS:
        yield (
            f"cells are compared with {n_others} other organisms, as a rule; with fewer than "
            f"{ENOUGH_OTHERS} it is known roughly only how far organisms of no interest lie apart"
        )
