"""How a list of spans is chosen among all there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tistore.errors import QueryError
from tistore.query.span_question import SpanQuestion

Band = Literal["top", "bottom", "middle", "random"]


@dataclass(frozen=True, slots=True)
class SpanChoice:
    """
    How a list of spans is chosen among all there are; as the query ranks them unless told.

    Attributes:
        standardise: Rank by z, which is fair to spans of any length, and not by score.
        both: The highest, and the lowest after them.
        dedupe: Of spans that read nearly alike, keep the strongest, and count the others.
        per_prompt: Spans of one prompt at most, in each band.
        prose: Drop headings, code, list markers, and what chat templates add.
        quantiles: Beside the extremes, as many spans from the middle, and as many at random.
        seed: Of the random ones.
        with_answer: Add what the baseline itself answered to the same prompt.

    Raises:
        QueryError: That is no choice.
    """

    standardise: bool = False
    both: bool = False
    dedupe: bool = False
    per_prompt: int | None = None
    prose: bool = False
    quantiles: bool = False
    seed: int = 0
    with_answer: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.per_prompt is not None and self.per_prompt < 1:
            raise QueryError(f"of a prompt, 1 span or more is kept, not {self.per_prompt}")
        if self.seed < 0:
            raise QueryError(f"a seed is 0 or more, not {self.seed}")

    @property
    def is_plain(self) -> bool:
        """Whether the query's own order and limit give the list."""
        return replace(self, with_answer=False, seed=0) == SpanChoice()

    @property
    def is_worded(self) -> bool:
        """Whether it depends on what the spans say."""
        return self.dedupe or self.prose

    def check(self, question: SpanQuestion) -> None:
        """
        Refuse what does not go with a question.

        Raises:
            QueryError: It does not; the message says what would.
        """
        unit = question.unit.name
        if self.both and question.order != "highest":
            raise QueryError(
                f"both ends are asked for, and the order is {question.order!r}",
                mend="leave the order out: both ends are the highest and the lowest",
            )
        if self.standardise and question.rank_by != "mean":
            raise QueryError(
                f"only means are standardised, and spans are ranked by {question.rank_by}",
                mend="leave the statistic out, or rank by score",
            )
        if self.prose and unit in ("response", "turn"):
            raise QueryError(
                f"a {unit} may have headings and code in it, and is neither itself",
                mend="ask for prose by clause, token or window:10",
            )

    def adapt(self, question: SpanQuestion) -> SpanQuestion:
        """Give the question as this choice means it: a fair ranking needs no shortest length."""
        if self.standardise and question.min_tokens is None:
            return replace(question, min_tokens=1)
        return question

    @property
    def bands(self) -> tuple[Band, ...]:
        """The parts of the list, in order."""
        ends: tuple[Band, ...] = ("top", "bottom") if self.both else ("top",)
        return (*ends, "middle", "random") if self.quantiles else ends
