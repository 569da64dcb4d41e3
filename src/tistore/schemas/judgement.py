"""What a judge made of one text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

ScoreSource = Literal["logprobs", "text"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    How strongly a response shows a trait, as one judge sees it under one rubric.

    Attributes:
        response_id: The response.
        trait: `category/name`.
        side: Side of the trait the response was to be on: "positive" or "negative". The judge is
            not told.
        judge: Name of the judging model.
        endpoint: Host that served it.
        rubric_hash: What it was told; the text is in `rubrics`.
        score: 0 (absent) to 100 (beyond doubt); None where the answer held no score.
        weight: Probability that the answer begins with a number from 0 to 100; None where the
            endpoint gives no probabilities.
        source: What the score is made of: "logprobs" (mean over those numbers, weighted by their
            probabilities) or "text" (the number in the answer); None where there is no score.
        raw: The answer, word for word; the last one where it was asked for again.
        n_words: Words of the response that were shown.
        n_asked: How often it was asked: 2 where the first answer held no score.
        judged_at: When.
    """

    response_id: str
    trait: str
    side: str
    judge: str
    endpoint: str
    rubric_hash: str
    score: float | None
    weight: float | None
    source: ScoreSource | None
    raw: str
    n_words: int
    n_asked: int
    judged_at: datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a row of the `judgements` table."""
        return cls(**row)

    def to_row(self) -> dict[str, Any]:
        """Lay the judgement out as a row of the `judgements` table."""
        return {name: getattr(self, name) for name in self.__slots__}
