"""Labelled responses beside those without the label, matched by the number of first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.annotations.tracks import Track
from tistore.audit.effects.intervals import FEWEST_CLUSTERS, RESAMPLES

Scores = NDArray[np.float64]

_ENDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One vector's scores of a response: (token,), NaN where there is none."""

    track: Track
    values: Scores

    @property
    def onset(self) -> int:
        """First labelled token, counted in those under audit."""
        return self.track.spans[0][0]

    def means(self) -> Scores:
        """Mean of the scores up to each token: (token,); NaN before the first score."""
        is_there = np.isfinite(self.values)
        count = is_there.cumsum()
        total = np.where(is_there, self.values, 0.0).cumsum()
        nothing = np.full(len(count), np.nan)
        return np.asarray(np.divide(total, count, out=nothing, where=count > 0))

    def maxima(self) -> Scores:
        """Largest score up to each token: (token,); NaN before the first score."""
        largest: Scores = np.fmax.accumulate(self.values)
        return largest

    def largest_before(self) -> float:
        """Largest score before the onset; NaN where there is none."""
        return float(self.maxima()[self.onset - 1]) if self.onset else float("nan")


class Controls:
    """Responses without the label, to be matched by the number of first tokens."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        longest = max(len(line.values) for line in lines)
        self._maxima = np.full((len(lines), longest), np.nan)
        for row, line in zip(self._maxima, lines, strict=True):
            row[: len(line.values)] = line.maxima()

    def wins_of(self, line: Line) -> Scores:
        """
        Tell over which controls a labelled response's scores before its onset win.

        Returns:
            (control,): whether its largest is above the largest of as many first tokens, a tie
            counting half; NaN where the control has not so many, or nothing comes before the onset.
        """
        if not 0 < line.onset <= self._maxima.shape[1]:
            return np.full(len(self.lines), np.nan)
        largest, matched = line.largest_before(), self._maxima[:, line.onset - 1]
        wins = (largest > matched) + 0.5 * (largest == matched)
        return np.where(np.isfinite(matched) & np.isfinite(largest), wins, np.nan)


def measure_auroc(
    labelled: Sequence[Line], controls: Sequence[Line], wins: Sequence[Scores]
) -> dict[str, Any]:
    """
    Measure how often a labelled response's scores before its onset are above a control's.

    Args:
        labelled: Responses with the label.
        controls: Those without it.
        wins: For each labelled response, (control,); see `Controls.wins_of`.

    Returns:
        `auroc`, `auroc_low`, `auroc_high`, `n_auroc_prompts`. Responses of a prompt are averaged,
        then prompts; the bounds are percentiles over draws of whole prompts, of both kinds at once,
        and None for fewer than five labelled prompts.

    Source:
        Stratified by place as in Janes and Pepe (2009), Biometrika 96(2); Efron and Tibshirani
        (1993), An Introduction to the Bootstrap, ch. 13.
    """
    by_prompt, pairs = _group(labelled, controls, wins)
    n_prompts = len(by_prompt)
    rng = np.random.default_rng(0)
    shares = np.full(n_prompts, 1 / n_prompts)
    drawn = _average(rng.multinomial(n_prompts, shares, size=RESAMPLES), by_prompt, pairs)
    found = _average(np.ones((1, n_prompts)), by_prompt, pairs)[0]
    n_labelled = int((pairs.sum(axis=1) > 0).sum())
    drawn = drawn[np.isfinite(drawn)]
    is_enough = n_labelled >= FEWEST_CLUSTERS
    low, high = np.quantile(drawn, _ENDS) if is_enough else (None, None)
    return {
        "auroc": float(found) if np.isfinite(found) else None,
        "auroc_low": None if low is None else float(low),
        "auroc_high": None if high is None else float(high),
        "n_auroc_prompts": n_labelled,
    }


def _group(
    labelled: Sequence[Line], controls: Sequence[Line], wins: Sequence[Scores]
) -> tuple[Scores, Scores]:
    """
    Average the wins of each prompt's labelled responses over each prompt's controls.

    Returns:
        Wins and whether there are any such pairs, (prompt, prompt) each.
    """
    prompts = sorted({line.track.prompt for line in (*labelled, *controls)})
    places = {prompt: place for place, prompt in enumerate(prompts)}
    total = np.zeros((len(prompts), len(prompts)))
    count = np.zeros_like(total)
    of_control = np.array([places[line.track.prompt] for line in controls])
    for line, of_line in zip(labelled, wins, strict=True):
        is_there = np.isfinite(of_line)
        row = places[line.track.prompt]
        np.add.at(total[row], of_control[is_there], of_line[is_there])
        np.add.at(count[row], of_control[is_there], 1)
    share = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return share, (count > 0).astype(np.float64)


def _average(counts: NDArray[Any], wins: Scores, pairs: Scores) -> Scores:
    """Average wins over controls' prompts, then labelled ones: one figure a resample."""
    weight = counts @ pairs.T
    share = np.divide(counts @ wins.T, weight, out=np.zeros(weight.shape), where=weight > 0)
    n = (counts * (weight > 0)).sum(axis=1)
    total = (counts * share).sum(axis=1)
    return np.asarray(np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0))
