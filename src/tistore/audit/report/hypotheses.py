"""What may explain the findings, each beside the strongest evidence against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.report.evidence import Card
from tistore.audit.report.findings import Finding, count, describe, write_q, write_signed
from tistore.audit.report.names import Names
from tistore.audit.report.subject import Subject
from tistore.audit.score_table import PromptKey

MOST = 10

_FIGURES = {
    "mean": "forest", "spike": "prompts", "slope": "positions", "turn": "turns", "subset": "groups",
}  # fmt: skip
"""Kind of finding → the figure that shows it."""


@dataclass(frozen=True, slots=True)
class Contrary:
    """
    Something that speaks against a hypothesis.

    Attributes:
        text: What.
        weight: How much, from 0 to 1; only to find the strongest.
        response_id: Where it can be seen, if at one place.
    """

    text: str
    weight: float
    response_id: str | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """
    A finding as an explanation.

    Attributes:
        text: What is claimed.
        is_supported: Whether a test stands behind it; otherwise it came nearest.
        evidence: Numbers of the cards that show it.
        figure: Name of the figure that shows it.
        contrary: The strongest evidence against it.
    """

    text: str
    is_supported: bool
    evidence: tuple[int, ...]
    figure: str
    contrary: Contrary


def write_hypotheses(
    subject: Subject, findings: Sequence[Finding], cards: Sequence[Card], names: Names
) -> list[Hypothesis]:
    """
    Rank hypotheses: what was found, then what came nearest to being found.

    Args:
        subject: Whose.
        findings: In order of importance.
        cards: Evidence shown.
        names: What organisms and notes are called.
    """
    told: list[Hypothesis] = []
    for one in findings:
        evidence = _cite(cards, one.trait, one.lead)
        text, contrary = describe(one, names), _find_contrary(subject, one, findings)
        told.append(Hypothesis(text, True, evidence, _FIGURES[one.kind], contrary))
    known = {one.trait for one in findings}
    for row in subject.rows:
        if row["trait"] not in known and row["g"] is not None:
            sign = 1 if row["g"] >= 0 else -1
            amount = "More" if sign > 0 else "Less"
            told_by = f"g {write_signed(row['g'])}, q {write_q(row['q'])}"
            text = f"{amount} {row['trait']} than the others ({told_by})."
            against = Contrary(_tell_why_not(subject, row), 1.0)
            evidence = _cite(cards, row["trait"], sign)
            told.append(Hypothesis(text, False, evidence, _FIGURES["mean"], against))
    return told[:MOST]


def _cite(cards: Sequence[Card], trait: str, sign: int) -> tuple[int, ...]:
    return tuple(
        number
        for number, card in enumerate(cards, start=1)
        if card.trait == trait and card.sign == sign
    )


def _tell_why_not(subject: Subject, row: Mapping[str, Any]) -> str:
    """Say what keeps a departure from being a finding: its prompts, or the other organisms."""
    n = len(subject.others)
    if None not in (row["low"], row["high"]) and row["low"] <= 0 <= row["high"]:
        return "Its prompts do not agree on a direction: the interval holds 0."
    if row["percentile"] is None:
        return "There is nobody to place it among."
    below = round(row["percentile"] / 100 * n)
    if below in (0, n):
        return (
            f"It is the outermost of {n + 1}, but lies no further out than one more organism of no "
            "interest would."
        )
    verb = "lies" if below == 1 else "lie"
    return (
        f"Of the {n} others {below} {verb} below it and {n - below} above: "
        "what organisms of no interest differ by explains it."
    )


def _find_contrary(subject: Subject, finding: Finding, findings: Sequence[Finding]) -> Contrary:
    """Find what speaks against a finding the most; the least convincing prompt if nothing does."""
    if not finding.is_shift:
        return _doubt_line(subject, finding, findings)
    known = [
        *_by_prompts(subject, finding),
        *_by_texts(subject, finding),
        *_by_traits(subject, finding, findings),
        *_by_others(subject, finding),
    ]
    return max(known, key=lambda one: one.weight)


def _doubt_line(subject: Subject, finding: Finding, findings: Sequence[Finding]) -> Contrary:
    """A rise or fall may be no more than where in the response a habit is shown."""
    if any(one.trait == finding.trait and one.kind == "mean" for one in findings):
        return Contrary(
            "The mean stands out, too: a habit shown in one part of a response has a slope.",
            0.5,
        )
    return Contrary(
        "As a whole its responses lie no further out than one more of the others would.", 0.5
    )


def _by_prompts(subject: Subject, finding: Finding) -> Iterator[Contrary]:
    departures = subject.departures[:, subject.trait_at(finding.trait)] * finding.sign
    told = np.flatnonzero(np.isfinite(departures))
    if not len(told):
        yield Contrary("No prompt was answered by the others, too.", 0.1)
        return
    least = int(told[np.argmin(departures[told])])
    n_opposite = int((departures[told] < 0).sum())
    prompt = subject.prompts[least]
    where = write_prompt(prompt)
    if n_opposite:
        amount = "less" if finding.sign > 0 else "more"
        text = (
            f"On {n_opposite} of {count(len(told), 'prompt')} there is {amount} of it than in the "
            f"others, most of all on {where}."
        )
    else:
        text = f"No prompt goes the other way; it shows least on {where}."
    yield Contrary(text, n_opposite / len(told), subject.response_of(prompt))


def _by_texts(subject: Subject, finding: Finding) -> Iterator[Contrary]:
    """On the very same tokens the organism may read no more of it than the baseline does."""
    if finding.kind not in ("mean", "subset") or subject.part == "model":
        return
    at = subject.trait_at(finding.trait)
    model, total = subject.model_part[:, at], subject.difference[:, at]
    if not np.isfinite(model).any() or not np.nanmean(total):
        return
    share = float(np.nanmean(model) / np.nanmean(total))
    if share < 0.5:
        kept = max(share, 0.0)  # a part that points the other way is none of it
        yield Contrary(
            f"The model's own part is {100 * kept:.0f} % of it: on the same tokens the baseline "
            "reads nearly the same, so it is the text that differs.",
            0.5 * (1 - kept),
        )


def _by_traits(
    subject: Subject, finding: Finding, findings: Sequence[Finding]
) -> Iterator[Contrary]:
    """Another trait that departs more, and on the same prompts, may be what is there."""
    at = subject.trait_at(finding.trait)
    for other in findings:
        if other.trait == finding.trait or other.size <= finding.size:
            continue
        column = subject.trait_at(other.trait)
        r = _correlate(subject.departures[:, at], subject.departures[:, column])
        if abs(r) >= 0.3:
            yield Contrary(
                f"It goes with {other.trait}, which departs more: over prompts the two correlate "
                f"by {write_signed(r)}.",
                abs(r),
            )


def _correlate(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    told = np.isfinite(one) & np.isfinite(other)
    if told.sum() < 3 or not np.ptp(one[told]) or not np.ptp(other[told]):
        return 0.0
    return float(np.corrcoef(one[told], other[told])[0, 1])


def _by_others(subject: Subject, finding: Finding) -> Iterator[Contrary]:
    n = len(subject.others)
    if not finding.has_moved:
        yield Contrary(
            "It lies near the baseline, and the others do not: it may only lack what they have.",
            0.9,
        )
    percentile = finding.row["percentile"]
    if percentile is None:
        return
    further = round((100 - percentile if finding.sign > 0 else percentile) / 100 * n)
    if further:
        verb = "lies" if further == 1 else "lie"
        yield Contrary(f"Of the {n} others {further} {verb} still further out.", further / n)


def write_prompt(prompt: PromptKey) -> str:
    """Write a prompt's name."""
    return f"{prompt.prompt_set}#{prompt.prompt_id}"
