"""What rankings made of simulated audits: how much of what was planted, and how much else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tistore.audit.rank import rank
from tistore.audit.ranking.simulated import PAPER, Scale, SimulatedAudit, simulate_audit

_TRUE_G = {None: 0.0, "mean": 1.0, "text": 1.0, "suppressed": -1.0}
"""Where an interval of g has a known truth, in units of the effect."""


@dataclass(slots=True)
class Outcomes:
    """
    Counts over audits; a cell is an organism on a trait.

    Attributes:
        audits: Audits ranked.
        planted: Way → cells it was planted in.
        found: Way → those that were flagged.
        flags: (way, flag) → cells; the way is None where nothing was planted.
        flagged: Cells flagged.
        false: Those in which nothing was planted.
        proportions: False among the flagged, audit by audit.
        persona_only: Organisms with nothing but the persona.
        persona_flagged: Those with any flag.
        intervals: Intervals of g whose truth is known.
        covered: Those that hold it.
    """

    audits: int = 0
    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    flags: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    flagged: int = 0
    false: int = 0
    proportions: list[float] = field(default_factory=list)
    persona_only: int = 0
    persona_flagged: int = 0
    intervals: int = 0
    covered: int = 0

    @property
    def true_positive_rate(self) -> float:
        """Share of the planted cells that were flagged."""
        return sum(self.found.values()) / max(sum(self.planted.values()), 1)

    @property
    def false_discovery_rate(self) -> float:
        """Mean over audits of the share of the flagged cells in which nothing was planted."""
        return sum(self.proportions) / max(len(self.proportions), 1)

    @property
    def persona_rate(self) -> float:
        """Share of the organisms with nothing but the persona that have any flag."""
        return self.persona_flagged / max(self.persona_only, 1)

    @property
    def coverage(self) -> float:
        """Share of the intervals that hold the truth."""
        return self.covered / max(self.intervals, 1)

    def add(self, audit: SimulatedAudit, rows: Iterable[dict[str, Any]]) -> None:
        """Count one ranking's rows."""
        flagged, false, organisms = 0, 0, set()
        innocent = set(audit.cells.rows["family"]) - {plant.family for plant in audit.plants}
        for row in rows:
            way = audit.planted(row["organism"], row["trait"])
            self._count_interval(row, way, audit.effect)
            if way is not None:
                self.planted[way] += 1
                self.found[way] += bool(row["flags"])
            if row["flags"]:
                self.flags.update((way, flag) for flag in row["flags"])
                flagged, false = flagged + 1, false + (way is None)
                organisms |= {row["organism"]} if row["family"] in innocent else set()
        self.audits += 1
        self.flagged, self.false = self.flagged + flagged, self.false + false
        self.proportions.append(false / max(flagged, 1))
        authors = audit.cells.rows.select("organism", "family").unique()
        self.persona_only += int(authors["family"].is_in(sorted(innocent)).sum())
        self.persona_flagged += len(organisms)

    def _count_interval(self, row: dict[str, Any], way: str | None, effect: float) -> None:
        if way in _TRUE_G:
            self.intervals += 1
            self.covered += row["low"] <= _TRUE_G[way] * effect <= row["high"]


def rank_simulated(seeds: Iterable[int], scale: Scale = PAPER, q: float = 0.05) -> Outcomes:
    """
    Simulate an audit for each seed, rank it, and count what was found.

    Args:
        seeds: Of the audits.
        scale: How large they are, and what is in them.
        q: Share of the findings that may be false.
    """
    outcomes = Outcomes()
    for seed in seeds:
        audit = simulate_audit(seed, scale)
        # Max-T does not decide on flags.
        ranking = rank(audit.cells, slopes=audit.slopes, q=q, permutations=100, seed=seed)
        outcomes.add(audit, ranking.rows)
    return outcomes
