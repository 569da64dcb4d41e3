"""What a report is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tistore.errors import ConfigError
from tistore.query.span_question import quote
from tistore.schemas.model import BASE_READER


@dataclass(frozen=True, slots=True)
class ReportQuestion:
    """
    Whom a report is about, and how it is made.

    Attributes:
        organism: Its subject; every other organism of the store is what it is held against.
        baseline: Whose scores are taken off.
        traits: Vector references; every trait's chosen vector when None.
        prompt_sets: Prompts looked at; every set but those of scenarios when None.
        families: A file or a regular expression that says which organisms are variants of one
            behaviour; see `tistore.audit.families.read_families`.
        blind: Whether names of organisms, labels and notes are left out.
        any_pairing: Whether organisms are kept that differ from the baseline in precision,
            template or tokenizer.
        q: Share of the findings that may be false.
        seed: Of permutations, resamples, and of the responses shown at random.

    Raises:
        ConfigError: That makes no report.
    """

    organism: str
    baseline: str = BASE_READER
    traits: Sequence[str] | None = None
    prompt_sets: Sequence[str] | None = None
    families: str | None = None
    blind: bool = False
    any_pairing: bool = False
    q: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no report."""
        if self.seed < 0:
            raise ConfigError(f"a seed is 0 or more, not {self.seed}")
        if self.organism == self.baseline:
            raise ConfigError(
                f"{self.organism!r} is the baseline itself", mend="name an organism to report on"
            )

    def to_log(self) -> dict[str, Any]:
        """Lay out what decides the numbers, for the log of analyses."""
        left_out = ("blind",)
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @property
    def where(self) -> str | None:
        """The SQL condition on `responses` that keeps the prompt sets."""
        if self.prompt_sets is None:
            return None
        return f"prompt_set IN ({', '.join(map(quote, self.prompt_sets))})"
