"""What a rule says, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tistore.query.store import Store
from tistore.schemas.choice import Choice
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.candidates import Candidates


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What rules can be told.

    Attributes:
        coherence: Steered answers count from this mean coherence on, of 100.
        offset: Layers that the incumbent's rule goes on from the best vector's.
        folds: Parts that nested evaluation splits the scenarios into.
        seed: Of that split, and of intervals.
    """

    coherence: float = 77.0
    offset: int = 0
    folds: int = 5
    seed: int = 0


DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class Quality:
    """
    Quality on scenarios that had no part in a choice; see `Choice`.

    Attributes:
        auroc: Chance that a scenario with the trait scores higher than one without.
        g: Hedges' g.
        g_low: Lower end of its interval.
        g_high: Upper end.
    """

    auroc: float | None = None
    g: float | None = None
    g_low: float | None = None
    g_high: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """
    The vector a rule takes.

    Attributes:
        vector: The vector.
        rule: Name of the rule.
        reason: One sentence for people, with the figures that decided.
        n_candidates: Vectors it was taken from.
        selected_by: What was compared.
        score: The vector's value of that.
        quality: What is known from scenarios that had no part in it.
    """

    vector: Vector
    rule: str
    reason: str
    n_candidates: int
    selected_by: str | None = None
    score: float | None = None
    quality: Quality = Quality()

    def to_choice(self, now: datetime) -> Choice:
        """Make it what the store records."""
        vector = self.vector
        return Choice(
            trait=vector.trait,
            model=vector.model,
            vector_hash=vector.content_hash,
            component=vector.component,
            layer=vector.layer,
            method=vector.method,
            position=vector.position,
            rule=self.rule,
            reason=self.reason,
            n_candidates=self.n_candidates,
            selected_by=self.selected_by,
            selection_score=self.score,
            auroc=self.quality.auroc,
            g=self.quality.g,
            g_low=self.quality.g_low,
            g_high=self.quality.g_high,
            chosen_at=now,
        )


Rule = Callable[[Store, Candidates, Settings], Pick]
"""
A way to choose among a trait's vectors of one model. The same store gives the same pick.

Raises:
    ChoiceError: What it compares is not known of them; the message says what would make it known.
"""
