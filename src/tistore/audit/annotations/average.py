"""What scores do around the first token of a labelled span: the trigger-locked average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tistore.audit.annotations.tracks import LabelQuestion, Track, Tracks, read_tracks
from tistore.audit.effects.definitions import mean_difference
from tistore.audit.effects.intervals import FEW_CLUSTERS, FEWEST_CLUSTERS, bootstrap_pairs
from tistore.audit.statistics.known import known_or_none
from tistore.errors import QueryError

if TYPE_CHECKING:
    from tistore.query.store import Store

Scores = NDArray[np.float64]
Measure = Literal["score", "difference"]


@dataclass(frozen=True, slots=True)
class LockedAverage:
    """
    Scores around onsets.

    Attributes:
        rows: A dict for each trait and offset; see `average_at_onset`.
        vectors: What the traits mean.
        n_cells: Averages that were computed.
        n_organisms: Authors of the labelled responses.
        notes: What a reader of them should know.
    """

    rows: list[dict[str, Any]]
    vectors: tuple[str, ...]
    n_cells: int
    n_organisms: int
    notes: tuple[str, ...]


def average_at_onset(
    store: Store,
    question: LabelQuestion,
    *,
    before: int = 20,
    after: int = 20,
    equal_support: bool = False,
) -> LockedAverage:
    """
    Average scores at places before and after the first token of labelled spans.

    Offset 0 is the first labelled token under audit; offsets count tokens under audit. Tokens of
    another span of the label are left out, so that one finding is not the lead-up of the next. The
    mean is over a response's spans first, then over a prompt's responses, then over prompts.

    Args:
        store: Where to look.
        question: Which spans, along which vectors.
        before: Tokens before the onset.
        after: Tokens from the onset on.
        equal_support: Only spans that have a score at every offset, so that each average is of the
            same spans.

    Returns:
        A dict for each trait and offset: `trait, offset, mean, low, high` of the author's own
        scores, `difference, difference_low, difference_high` of the author's minus the baseline's
        on the same tokens, and the support: `n_spans, n_responses, n_prompts,
        n_prompts_replayed`. Bounds are 95 % intervals by a bootstrap of whole prompts, each offset
        by itself; None where fewer than five prompts are there.

    Raises:
        QueryError: There are no such spans, none has that many tokens, or there are no offsets.
    """
    if before < 0 or after < 1:
        raise QueryError(
            f"{before} tokens before and {after} from the onset on are no stretch",
            mend="take 0 or more before, and 1 or more after",
        )
    tracks = read_tracks(store, question)
    offsets = np.arange(-before, after)
    rows: list[dict[str, Any]] = []
    notes = list(tracks.notes)
    for place, trait in enumerate(question.traits):
        own = _Locked.of(tracks, place, offsets, "score", equal_support)
        shift = _Locked.of(tracks, place, offsets, "difference", equal_support)
        if equal_support and not own.n_spans.any():
            raise QueryError(
                f"no span labelled {question.label!r} has {before} tokens before it and {after} "
                "from its first on",
                mend="look at fewer tokens, or take every span: leave --equal-support out",
            )
        rows += [
            {"trait": trait, "offset": int(offset)} | own.at(at, shift)
            for at, offset in enumerate(offsets)
        ]
    most = max(row["n_prompts"] for row in rows)
    if most < FEW_CLUSTERS:
        notes.append(f"only {most} prompts: intervals are too narrow, or none")
    if not equal_support and min(row["n_prompts"] for row in rows) < most:
        notes.append("not every offset is of the same spans: see n_spans, or ask for equal support")
    return LockedAverage(
        rows,
        tracks.vectors,
        n_cells=2 * len(rows),
        n_organisms=len({track.organism for track in tracks.labelled}),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Locked:
    """Averages at each offset, with their bounds and support; arrays are (offset,)."""

    mean: Scores
    low: Scores
    high: Scores
    n_spans: NDArray[np.int64]
    n_responses: NDArray[np.int64]
    n_prompts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        tracks: Tracks,
        vector: int,
        offsets: NDArray[np.int64],
        measure: Measure,
        equal_support: bool,
    ) -> _Locked:
        spans: list[Scores] = []
        responses: list[Scores] = []
        prompts: dict[tuple[str, str], list[Scores]] = {}
        for track in tracks.labelled:
            values = track.scores if measure == "score" else track.differences
            found = lock(track, values[:, vector], offsets)
            if equal_support:
                found = found[np.isfinite(found).all(axis=1)]
            if len(found):
                spans.extend(found)
                responses.append(average(found))
                prompts.setdefault(track.prompt, []).append(responses[-1])
        by_prompt = _stack([average(_stack(group, offsets)) for group in prompts.values()], offsets)
        low, high = _bound(by_prompt)
        return cls(
            average(by_prompt),
            low,
            high,
            n_spans=_count(_stack(spans, offsets)),
            n_responses=_count(_stack(responses, offsets)),
            n_prompts=_count(by_prompt),
        )

    def at(self, place: int, shift: _Locked) -> dict[str, Any]:
        """Lay out an offset, with the difference beside the score."""
        return {
            "mean": known_or_none(self.mean[place]),
            "low": known_or_none(self.low[place]),
            "high": known_or_none(self.high[place]),
            "difference": known_or_none(shift.mean[place]),
            "difference_low": known_or_none(shift.low[place]),
            "difference_high": known_or_none(shift.high[place]),
            "n_spans": int(self.n_spans[place]),
            "n_responses": int(self.n_responses[place]),
            "n_prompts": int(self.n_prompts[place]),
            "n_prompts_replayed": int(shift.n_prompts[place]),
        }


def lock(track: Track, values: Scores, offsets: NDArray[np.int64]) -> Scores:
    """
    Line a response's scores up at the onset of each of its spans.

    Args:
        track: The response.
        values: (token,) scores.
        offsets: (offset,) tokens from the onset.

    Returns:
        (span, offset); NaN beyond the response's ends and on tokens of its other spans.
    """
    lines = np.full((len(track.spans), len(offsets)), np.nan)
    for line, (start, end) in zip(lines, track.spans, strict=True):
        usable = values.copy()
        for other_start, other_end in track.spans:
            if (other_start, other_end) != (start, end):
                usable[other_start:other_end] = np.nan
        places = start + offsets
        is_there = (places >= 0) & (places < len(values))
        line[is_there] = usable[places[is_there]]
    return lines


def average(values: Scores) -> Scores:
    """Average over rows, as far as there are values: (row, offset) to (offset,)."""
    is_there = np.isfinite(values)
    count = is_there.sum(axis=0)
    total = np.where(is_there, values, 0.0).sum(axis=0)
    nothing = np.full(values.shape[1], np.nan)
    return np.asarray(np.divide(total, count, out=nothing, where=count > 0))


def _bound(by_prompt: Scores) -> tuple[Scores, Scores]:
    """Tell between which ends the mean over prompts lies: (offset,) each."""
    if len(by_prompt) < FEWEST_CLUSTERS:
        nothing = np.full(by_prompt.shape[1], np.nan)
        return nothing, nothing
    nothing_off = np.zeros_like(by_prompt)
    return bootstrap_pairs(by_prompt, nothing_off, {"mean": mean_difference})["mean"]


def _count(values: Scores) -> NDArray[np.int64]:
    return np.asarray(np.isfinite(values).sum(axis=0))


def _stack(lines: list[Scores], offsets: NDArray[np.int64]) -> Scores:
    return np.stack(lines) if lines else np.empty((0, len(offsets)))
