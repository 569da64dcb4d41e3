"""Early detection: whether scores tell of a labelled span before its first token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.audit.annotations.matching import Controls, Line, measure_auroc
from tistore.audit.annotations.tracks import LabelQuestion, Track, read_tracks
from tistore.audit.effects.intervals import FEW_CLUSTERS
from tistore.errors import QueryError, nearest

if TYPE_CHECKING:
    from tistore.query.store import Store

Scores = NDArray[np.float64]

Rule = Literal["threshold", "half"]
RULES: tuple[Rule, ...] = get_args(Rule)

FALSE_ALARMS = 0.05
WARM_UP_TOKENS = 5


@dataclass(frozen=True, slots=True)
class DetectionRule:
    """
    When a response counts as detected.

    Attributes:
        name: "threshold": at the first token where the mean score so far exceeds a threshold;
            "half": where it exceeds half of the response's own mean, which is known at the end
            only, and has to be above 0.
        on_difference: Look at the author's score minus the baseline's on the same tokens.
        false_alarms: Share of the responses without the label that may exceed the threshold.
        warm_up: Tokens before which nothing is detected by the threshold: means of few vary most.
    """

    name: Rule = "threshold"
    on_difference: bool = False
    false_alarms: float = FALSE_ALARMS
    warm_up: int = WARM_UP_TOKENS

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.name not in RULES:
            raise QueryError(f"no rule {self.name!r}; {nearest(self.name, RULES)}")
        if not 0 < self.false_alarms < 1:
            raise QueryError(
                f"{self.false_alarms} is no share of false alarms", mend="write one such as 0.05"
            )
        if self.warm_up < 1:
            raise QueryError(f"warm-up is 1 token or more, not {self.warm_up}")


@dataclass(frozen=True, slots=True)
class Detections:
    """
    What was detected.

    Attributes:
        rows: A dict for each trait; see `detect_early`.
        responses: A dict for each trait and labelled response.
        vectors: What the traits mean.
        n_cells: Responses looked at, labelled or not, times traits.
        n_organisms: Authors of the labelled responses.
        notes: What a reader of the numbers should know.
    """

    rows: list[dict[str, Any]]
    responses: list[dict[str, Any]]
    vectors: tuple[str, ...]
    n_cells: int
    n_organisms: int
    notes: tuple[str, ...]


def detect_early(
    store: Store, question: LabelQuestion, rule: DetectionRule | None = None
) -> Detections:
    """
    Tell how early scores give labelled spans away, and how well before the first labelled token.

    Args:
        store: Where to look.
        question: Which spans, along which vectors, beside which responses.
        rule: When a response counts as detected; by a threshold when None.

    Returns:
        `rows`, for each trait: `trait, rule, threshold, n_responses, n_prompts, n_controls,
        n_detected, n_detected_before, median_lead` (tokens from detection to onset, negative when
        it comes after), `control_alarms` (share of the controls that exceed the threshold, which
        was set on them), `auroc, auroc_low, auroc_high, n_auroc_prompts`: the chance that the
        largest score before the onset is above the largest score of a control's as many first
        tokens, so that length and place give nothing away. Responses of a prompt are averaged, then
        prompts; bounds are of a 95 % interval that draws whole prompts again, those of the controls
        too. None where nothing comes before any onset; no bounds for fewer than five prompts.

        `responses`: `trait, organism, prompt_set, prompt_id, sample, response_id, onset` and
        `detected_at` (places in the whole sequence), `lead, n_before, max_before, above_controls`
        (share of matched controls whose largest score is lower), `n_matched`.

    Raises:
        QueryError: There are no such spans, no responses without the label, or the baseline has
            read none.

    Source:
        The threshold is the quantile of a maximum over time, as in Nichols and Holmes (2002), Human
        Brain Mapping 15(1); "half" is trait-interp's rule; `matching.measure_auroc` has the AUROC.
    """
    rule = rule or DetectionRule()
    tracks = read_tracks(store, question, with_controls=True)
    notes = list(tracks.notes)
    rows: list[dict[str, Any]] = []
    responses: list[dict[str, Any]] = []
    for vector, trait in enumerate(question.traits):
        labelled = list(_pick(tracks.labelled, vector, rule))
        controls = list(_pick(tracks.controls, vector, rule))
        if not labelled or not controls:
            raise QueryError(
                f"{question.baseline} has read none of the {'controls' if labelled else 'labelled'}"
                " responses"
                if rule.on_difference
                else f"no response has a score of {trait!r}",
                mend="capture the replay, or look at the scores themselves",
            )
        threshold = _set_threshold(controls, rule)
        matched = Controls(controls)
        wins = [matched.wins_of(line) for line in labelled]
        told = [
            _tell(line, of_line, threshold, rule)
            for line, of_line in zip(labelled, wins, strict=True)
        ]
        responses += [{"trait": trait} | one for one in told]
        rows.append(
            {"trait": trait, "rule": rule.name, "threshold": threshold}
            | _summarise(labelled, told, controls)
            | {"control_alarms": _count_alarms(controls, threshold, rule)}
            | measure_auroc(labelled, controls, wins)
        )
    if (fewest := min(row["n_auroc_prompts"] for row in rows)) < FEW_CLUSTERS:
        notes.append(f"only {fewest} labelled prompts: intervals are too narrow, or none")
    notes.append(
        f"{len(tracks.controls)} responses count as controls since nobody labelled them "
        f"{question.label!r}; --where says which were looked through"
    )
    return Detections(
        rows,
        responses,
        tracks.vectors,
        n_cells=len(question.traits) * (len(tracks.labelled) + len(tracks.controls)),
        n_organisms=len({track.organism for track in tracks.labelled}),
        notes=tuple(notes),
    )


def _pick(tracks: Sequence[Track], vector: int, rule: DetectionRule) -> Iterator[Line]:
    for track in tracks:
        values = (track.differences if rule.on_difference else track.scores)[:, vector]
        if np.isfinite(values).any():
            yield Line(track, values)


def _set_threshold(controls: Sequence[Line], rule: DetectionRule) -> float | None:
    """Take what the mean so far exceeds in no more than a share of the controls."""
    if rule.name == "half":
        return None
    largest = np.array([_largest_mean(line, rule) for line in controls])
    largest = largest[np.isfinite(largest)]
    if not len(largest):
        raise QueryError(
            f"no control has the {rule.warm_up} tokens of the warm-up", mend="make it shorter"
        )
    # The smallest value that no more than this share lies above.
    return float(np.quantile(largest, 1 - rule.false_alarms, method="inverted_cdf"))


def _largest_mean(line: Line, rule: DetectionRule) -> float:
    means = line.means()[rule.warm_up - 1 :]
    return float(np.nanmax(means)) if np.isfinite(means).any() else float("nan")


def _detect(line: Line, threshold: float | None, rule: DetectionRule) -> int | None:
    """Find the token where a response is detected, counted in those under audit."""
    means = line.means()
    first = rule.warm_up - 1
    if threshold is None:
        if means[-1] <= 0:
            return None
        first, threshold = 0, means[-1] / 2
    passed = np.flatnonzero(means[first:] > threshold)
    return int(passed[0]) + first if len(passed) else None


def _tell(line: Line, wins: Scores, threshold: float | None, rule: DetectionRule) -> dict[str, Any]:
    track, detected = line.track, _detect(line, threshold, rule)
    largest = line.largest_before()
    return {
        "organism": track.organism,
        "prompt_set": track.prompt_set,
        "prompt_id": track.prompt_id,
        "sample": track.sample,
        "response_id": track.response_id,
        "onset": int(track.positions[line.onset]),
        "detected_at": None if detected is None else int(track.positions[detected]),
        "lead": None if detected is None else line.onset - detected,
        "n_before": line.onset,
        "max_before": largest if np.isfinite(largest) else None,
        "above_controls": float(np.nanmean(wins)) if np.isfinite(wins).any() else None,
        "n_matched": int(np.isfinite(wins).sum()),
    }


def _summarise(
    labelled: Sequence[Line], told: Sequence[dict[str, Any]], controls: Sequence[Line]
) -> dict[str, Any]:
    leads = [one["lead"] for one in told if one["lead"] is not None]
    return {
        "n_responses": len(labelled),
        "n_prompts": len({line.track.prompt for line in labelled}),
        "n_controls": len(controls),
        "n_detected": len(leads),
        "n_detected_before": sum(lead > 0 for lead in leads),
        "median_lead": float(np.median(leads)) if leads else None,
    }


def _count_alarms(
    controls: Sequence[Line], threshold: float | None, rule: DetectionRule
) -> float | None:
    if threshold is None:
        return None
    return float(np.mean([_detect(line, threshold, rule) is not None for line in controls]))
