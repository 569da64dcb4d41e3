"""What is asked of a difference: by which pieces or groups, and along which vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tistore.audit.cells import Part, check_parts
from tistore.audit.effects.intervals import RESAMPLES
from tistore.audit.prompt_clusters import ClusterBy, check_cluster
from tistore.errors import QueryError, nearest
from tistore.schemas.model import BASE_READER

By = Literal[
    "token", "clause", "prompt", "turn", "position", "slope", "note", "tag", "topic", "trigger"
]
BYS: tuple[By, ...] = get_args(By)

BIN_TOKENS = 16
TRIGGER = "trigger"


@dataclass(frozen=True, slots=True)
class Question:
    """
    Where does an organism depart from a baseline?

    Attributes:
        organism: Who departs.
        by: What a row is. "token", "clause" and "prompt": one of these. "turn": the nth answer of
            conversations; "position": a stretch of tokens; "note", "tag" and "topic": the prompts
            that have it; "slope": straight lines along positions and turns; "trigger": pairs of
            prompts with and without it.
        baseline: From whom.
        traits: Vector references; every trait's when None.
        parts: "total", "model" and "text", as in `Cells`; of everything above tokens, clauses and
            prompts.
        where: SQL condition on `clauses` by clause; on `tokens` by token, turn, position and
            slope; on `responses` otherwise.
        any_pairing: Compare models that differ in precision, template or tokenizer, too.
        cluster: What prompts share that are no independent evidence; see `label_clusters`.
        bin_tokens: Length of a stretch, in tokens under audit.
        until: Stretches end here, and only responses that come so far count, in all of them; as
            far as half the responses come when None.
        trigger: Note, tag or ending of an id that prompts with the trigger have.
        resamples: Of the intervals.
        seed: Of the intervals.

    Raises:
        QueryError: The question makes no sense.
    """

    organism: str
    by: By
    baseline: str = BASE_READER
    traits: Sequence[str] | None = None
    parts: Sequence[Part] = ("total", "model")
    where: str | None = None
    any_pairing: bool = False
    cluster: ClusterBy = "prompt"
    bin_tokens: int = BIN_TOKENS
    until: int | None = None
    trigger: str = TRIGGER
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.by not in BYS:
            raise QueryError(f"no breakdown by {self.by!r}; {nearest(self.by, BYS)}")
        check_parts(self.parts)
        if self.bin_tokens < 1:
            raise QueryError(f"a stretch has 1 token or more, not {self.bin_tokens}")
        if self.until is not None and self.by != "position":
            raise QueryError(
                f"rows by {self.by} have no stretches to end", mend="leave the end out"
            )
        if self.until is not None and self.until < self.bin_tokens:
            raise QueryError(
                f"no stretch of {self.bin_tokens} tokens ends by token {self.until}",
                mend="take shorter stretches, or go further",
            )
        check_cluster(self.cluster)
        if self.cluster != "prompt" and self.by in ("token", "clause", "prompt", "trigger"):
            raise QueryError(
                f"rows by {self.by} have no clusters of prompts", mend="leave the clusters out"
            )
