"""Which scenarios stay, by what a judge said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tistore.datasets.scenarios import SIDES, Side
from tistore.errors import ConfigError, DatasetError, NotStoredError, nearest
from tistore.schemas.judgement import Judgement
from tistore.schemas.model import BASE_READER
from tistore.store.snapshot import Snapshot
from tistore.vectors.scenario_readings import StoredScenario, find_scenarios

Verdict = Literal["kept", "too low", "too high", "no score", "not judged", "without its pair"]


@dataclass(frozen=True, slots=True)
class KeepRule:
    """
    What makes a scenario stay.

    Attributes:
        positive_min: Least score on the side that shows the trait, 0 to 100.
        negative_max: Largest score on the side that does not.
        paired: Whether a scenario goes when no scenario of the same number stays on the other
            side.
        minimum: Scenarios a side must keep.
    """

    positive_min: float = 60.0
    negative_max: float = 40.0
    paired: bool = False
    minimum: int = 10

    def __post_init__(self) -> None:
        """Check that the thresholds are scores, and part the sides."""
        if not 0 <= self.negative_max < self.positive_min <= 100:
            raise ConfigError(
                f"thresholds {self} are not two scores of 0 to 100, the first above the second",
                mend="write positive/negative: 60/40",
            )
        if self.minimum < 1:
            raise ConfigError(f"a side cannot do with {self.minimum} scenarios")

    def judge(self, side: Side, score: float | None) -> Verdict:
        """Say what becomes of a scenario of a side."""
        if score is None:
            return "no score"
        if side == "positive":
            return "kept" if score >= self.positive_min else "too low"
        return "kept" if score <= self.negative_max else "too high"

    def __str__(self) -> str:
        """Write the thresholds as the command line does."""
        return f"{self.positive_min:g}/{self.negative_max:g}"


@dataclass(frozen=True, slots=True)
class VettedScenario:
    """
    A scenario and what became of it.

    Attributes:
        side: Its side.
        prompt_id: Its number; the same on the other side is its pair.
        sample: Which of several responses to it.
        response_id: Its response.
        score: What the judge gave; None without a score.
        verdict: "kept", or why it went.
    """

    side: Side
    prompt_id: str
    sample: int
    response_id: str
    score: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Vetted:
    """
    A trait's scenarios after vetting.

    Attributes:
        trait: `category/name`.
        judge: Model whose judgements these are.
        rubric_hash: What it was told.
        rule: What made scenarios stay.
        scenarios: All of them, positives first, by number.
    """

    trait: str
    judge: str
    rubric_hash: str
    rule: KeepRule
    scenarios: tuple[VettedScenario, ...]

    @property
    def kept(self) -> tuple[VettedScenario, ...]:
        """Those that stay."""
        return tuple(one for one in self.scenarios if one.verdict == "kept")

    @property
    def response_ids(self) -> frozenset[str]:
        """Responses of those that stay."""
        return frozenset(one.response_id for one in self.kept)

    def count(self, side: Side) -> Counter[Verdict]:
        """Count the verdicts of a side."""
        return Counter(one.verdict for one in self.scenarios if one.side == side)

    def n_kept(self, side: Side) -> int:
        """Scenarios of a side that stay."""
        return self.count(side)["kept"]

    @property
    def is_enough(self) -> bool:
        """Whether each side keeps as many as the rule asks for."""
        return all(self.n_kept(side) >= self.rule.minimum for side in SIDES)

    def require_enough(self) -> None:
        """
        Refuse to go on with too few.

        Raises:
            DatasetError: A side keeps fewer scenarios than the rule asks for.
        """
        if self.is_enough:
            return
        sides = "; ".join(self._describe(side) for side in SIDES)
        raise DatasetError(
            f"too few scenarios of {self.trait} stay after vetting by {self.judge} at {self.rule}"
            f": {sides}; each side needs {self.rule.minimum}",
            mend="write scenarios that show the trait more plainly, or move --threshold or "
            "--minimum; `tistore vectors vet --json` lists every score",
        )

    def _describe(self, side: Side) -> str:
        counts = self.count(side)
        gone = ", ".join(
            f"{number} {verdict}" for verdict, number in counts.items() if verdict != "kept"
        )
        return f"{counts['kept']} of {counts.total()} {side}" + (f" ({gone})" if gone else "")


def kept_scenarios(
    snapshot: Snapshot,
    trait: str,
    *,
    rule: KeepRule | None = None,
    reader: str = BASE_READER,
    author: str | None = None,
    judge: str | None = None,
    rubric_hash: str | None = None,
) -> Vetted:
    """
    Apply a rule to what a judge has said; nobody is asked anything.

    Args:
        snapshot: Where the judgements are.
        trait: `category/name`.
        rule: What makes a scenario stay; 60/40 when None.
        reader: Who read the scenarios.
        author: Who wrote the responses; see `find_scenarios`.
        judge: Whose judgements; of the one whose judgement came last when None.
        rubric_hash: Under which rubric; the last one's when None.

    Raises:
        NotStoredError: The scenarios have not been read, or not been judged so.
        DatasetError: A side keeps fewer scenarios than the rule asks for.
    """
    vetted = apply_rule(
        snapshot, trait, rule=rule, reader=reader, author=author, judge=judge,
        rubric_hash=rubric_hash,
    )  # fmt: skip
    vetted.require_enough()
    return vetted


def apply_rule(
    snapshot: Snapshot,
    trait: str,
    *,
    rule: KeepRule | None = None,
    reader: str = BASE_READER,
    author: str | None = None,
    judge: str | None = None,
    rubric_hash: str | None = None,
) -> Vetted:
    """
    Do as `kept_scenarios`, however few stay.

    Raises:
        NotStoredError: The scenarios have not been read, or not been judged so.
    """
    rule = rule or KeepRule()
    scenarios = find_scenarios(snapshot, trait, reader, author)
    responses = {one.response_id for one in scenarios}
    judgements = [one for one in read_judgements(snapshot, trait) if one.response_id in responses]
    chosen = _choose(trait, judgements, judge, rubric_hash)
    scores = {one.response_id: one for one in chosen}
    vetted = [_vet(scenario, scores, rule) for scenario in scenarios]
    if rule.paired:
        vetted = _keep_pairs(vetted)
    return Vetted(trait, chosen[0].judge, chosen[0].rubric_hash, rule, tuple(vetted))


def read_judgements(snapshot: Snapshot, trait: str | None = None) -> list[Judgement]:
    """Read what judges have said, in commit order, of one trait or of all."""
    rows = snapshot.table("judgements").to_pylist()
    return [Judgement.from_row(row) for row in rows if trait in (None, row["trait"])]


def _choose(
    trait: str, judgements: Sequence[Judgement], judge: str | None, rubric_hash: str | None
) -> list[Judgement]:
    """Keep what one judge said under one rubric: scores of two are not comparable."""
    fitting = [
        one
        for one in judgements
        if judge in (None, one.judge) and rubric_hash in (None, one.rubric_hash)
    ]
    if not fitting:
        judges = {one.judge for one in judgements}
        whose = f" by {judge}" if judge else ""
        how = "under that rubric" if judge in judges or not judge else nearest(judge, judges)
        raise NotStoredError(
            f"no scenario of {trait} has been judged{whose}" + (f"; {how}" if judgements else ""),
            mend="judge them first: tistore vectors vet STORE TRAIT --judge URL --judge-model NAME",
        )
    last = fitting[-1]
    return [
        one for one in fitting if (one.judge, one.rubric_hash) == (last.judge, last.rubric_hash)
    ]


def _vet(
    scenario: StoredScenario, judgements: Mapping[str, Judgement], rule: KeepRule
) -> VettedScenario:
    judgement = judgements.get(scenario.response_id)
    verdict = rule.judge(scenario.side, judgement.score) if judgement else "not judged"
    return VettedScenario(
        side=scenario.side,
        prompt_id=scenario.slot.prompt_id,
        sample=scenario.slot.sample,
        response_id=scenario.response_id,
        score=judgement.score if judgement else None,
        verdict=verdict,
    )


def _keep_pairs(vetted: Sequence[VettedScenario]) -> list[VettedScenario]:
    """Let go what has no counterpart of its number among those that stay on the other side."""
    staying = {
        side: {one.prompt_id for one in vetted if (one.side, one.verdict) == (side, "kept")}
        for side in SIDES
    }
    pairs = staying["positive"] & staying["negative"]
    return [
        replace(one, verdict="without its pair")
        if one.verdict == "kept" and one.prompt_id not in pairs
        else one
        for one in vetted
    ]
