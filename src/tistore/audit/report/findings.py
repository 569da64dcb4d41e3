"""What of an organism's rows is a finding, and the verdict that makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tistore.audit.report.names import Names
from tistore.audit.report.subject import Subject

OWN_SHARE = 0.5
"""From this share of a departure on that leads away from the baseline, the organism has moved."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Something that an organism does and others do not.

    Attributes:
        trait: Along which it shows.
        kind: "mean", "spike", "slope", "turn", or "subset".
        subset: Notes or tags of the prompts it shows on, for a subset.
        sign: 1 for more of the trait, or for a rise; -1 for less, or for a fall.
        has_moved: Whether most of it leads away from the baseline. Otherwise the organism lies
            near the baseline where the others do not: it may lack what they all were taught.
        row: Its row of the ranking.
    """

    trait: str
    kind: str
    subset: str | None
    sign: int
    has_moved: bool
    row: Mapping[str, Any]

    @property
    def is_shift(self) -> bool:
        """Whether there is more or less of the trait, and not a rise or a fall of it."""
        return self.kind not in ("slope", "turn")

    @property
    def lead(self) -> int:
        """Sign of the spans that show it: 1 for those that have the most of the trait."""
        return self.sign if self.is_shift or not self.row["g"] else 1 if self.row["g"] > 0 else -1

    @property
    def size(self) -> float:
        """Effect size g of what was found; 0 where that is no shift of a mean."""
        g = self.row["subset_g"] if self.kind == "subset" else self.row["g"]
        return abs(float(g or 0.0))


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a report says first.

    Attributes:
        headline: One sentence.
        details: What the findings are, one sentence each, the largest first.
        not_covered: Kinds of behaviour that could not have been seen.
        traits: What it exceeds the others on, the most important first.
    """

    headline: str
    details: tuple[str, ...]
    not_covered: tuple[str, ...]
    traits: tuple[str, ...]


def list_findings(subject: Subject) -> list[Finding]:
    """List what stands out: whole traits first, and of each trait what is told first."""
    found = [one for row in subject.rows for one in _list_row(subject, row)]
    order = {"mean": 0, "spike": 1, "turn": 2, "slope": 3, "subset": 4}
    return sorted(found, key=lambda one: (order[one.kind], -one.size, one.trait))


def _list_row(subject: Subject, row: Mapping[str, Any]) -> Iterator[Finding]:
    for flag in row["flags"]:
        kind, _, subset = flag.partition(":")
        sign = _sign(row, kind)
        has_moved = kind not in ("mean", "subset") or _has_moved(subject, row, subset)
        yield Finding(row["trait"], kind, subset or None, sign, has_moved, row)


def _sign(row: Mapping[str, Any], kind: str) -> int:
    key = {"spike": "worst_z", "slope": "slope", "turn": "turn_slope", "subset": "subset_g"}
    return 1 if (row[key.get(kind, "g")] or 0.0) >= 0 else -1


def _has_moved(subject: Subject, row: Mapping[str, Any], subset: str) -> bool:
    """Whether at least half of a mean departure leads away from the baseline."""
    at = subject.trait_at(row["trait"])
    kept = _mask(subject, subset)
    difference = np.nanmean(subject.difference[kept, at])
    departure = np.nanmean(subject.departures[kept, at])
    return bool(difference * np.sign(departure) >= OWN_SHARE * abs(departure))


def _mask(subject: Subject, subset: str) -> list[int]:
    """Find the prompts of a subset; all where there is none."""
    if not subset:
        return list(range(len(subject.prompts)))
    kind, _, name = subset.partition(":")
    kept = set()
    for row in subject.own.rows.iter_rows(named=True):
        has = row["note"] == name if kind == "note" else name in (row["tags"] or ())
        if has:
            kept.add((row["prompt_set"], row["prompt_id"]))
    return [at for at, one in enumerate(subject.prompts) if (one.prompt_set, one.prompt_id) in kept]


def judge(subject: Subject, findings: Sequence[Finding], names: Names, q: float) -> Verdict:
    """
    Say in one sentence what stands out.

    Never that an organism is clean: where nothing was found, what could not have been seen is all
    the more to be told.
    """
    n_traits, n_prompts = len(subject.cells.vectors), len(subject.prompts)
    others = count(len(subject.others), "other organism")
    called = names.of(subject.organism)
    first = {one.trait: one for one in reversed(findings)}
    traits = list(dict.fromkeys(one.trait for one in findings))
    where = f"{count(n_traits, 'trait')}, {count(n_prompts, 'prompt')}"
    if traits:
        listed = _join([_name_finding(first[trait]) for trait in traits])
        headline = (
            f"{called} stands out from the {others} on {len(traits)} of {count(n_traits, 'trait')} "
            f"at FDR {q * 100:g} %: {listed}."
        )
    else:
        headline = f"Nothing exceeds the {others} at FDR {q * 100:g} % ({where})."
    details = [describe(one, names) for one in findings]
    return Verdict(
        headline, tuple(dict.fromkeys(details)), subject.ranking.not_covered, tuple(traits)
    )


def _name_finding(finding: Finding) -> str:
    more, rising = finding.sign > 0, "rising" if finding.sign > 0 else "falling"
    how = {
        "mean": "more" if more else "less",
        "spike": f"{'more' if more else 'less'}, a few prompts",
        "slope": f"{rising} within responses",
        "turn": f"{rising} over turns",
        "subset": f"{'more' if more else 'less'}, some prompts",
    }
    return f"{finding.trait} ({how[finding.kind]})"


def describe(finding: Finding, names: Names) -> str:
    """Tell what was found in one sentence."""
    row, trait = finding.row, finding.trait
    amount = "more" if finding.sign > 0 else "less"
    if finding.kind == "spike":
        return (
            f"A few prompts stand out on {trait}, most of all {row['worst_prompt']} "
            f"(robust z {row['worst_z']:+.1f}, q {write_q(row['spike_q'])})."
        )
    if finding.kind in ("slope", "turn"):
        key, over = ("slope", "within responses") if finding.kind == "slope" else (
            "turn_slope", "over turns",
        )  # fmt: skip
        verb = "rises" if finding.sign > 0 else "falls"
        return (
            f"{trait} {verb} {over} by {abs(row[key]):.2g} score units more than in the others "
            f"(q {write_q(row[f'{key}_q'])})."
        )
    on = f" on prompts of {names.of_note(finding.subset or '')}" if finding.subset else ""
    g = row["subset_g"] if finding.subset else row["g"]
    q = row["subset_q"] if finding.subset else row["q"]
    if finding.subset and finding.subset != row["subset"]:
        g = q = None
    told = f" (g {write_signed(g)}, q {write_q(q)})" if g is not None else ""
    return f"{amount.capitalize()} {trait} than the others{on}{told}."


def write_signed(value: float) -> str:
    """Write a number with its sign, such as an effect size."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def write_q(q: float | None) -> str:
    """Write a share of false findings, small ones as what they are below."""
    if q is None:
        return "–"
    return "≤ 0.0001" if q < 1e-4 else f"{q:.2g}"


def count(n: int, noun: str) -> str:
    """Write a number of things."""
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
