"""How much of a difference the model makes, and how much its words: author by reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells
from tistore.audit.effects.intervals import RESAMPLES
from tistore.audit.effects.studentized import bootstrap_means
from tistore.audit.statistics.known import average_known, known_or_none
from tistore.errors import QueryError

Scores = NDArray[np.float64]
Order = Literal["reader first", "text first", "average"]

PARTS = ("total", "model_part", "text_part", "interaction")

_SIDES = ("own", "replay", "base")
_BITS = 48
"""Of a score that count. Sums and differences of so few are exact in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """
    Scores of two texts by two readers; arrays are of one shape, with vectors along the last axis.

    Attributes:
        own: S(o, y_o), the organism reads its own text.
        replay: S(i, y_o), the baseline reads that text.
        base: S(i, y_i), the baseline reads its own text.
        swapped: S(o, y_i), the organism reads that one; NaN where it has not.
    """

    own: Scores
    replay: Scores
    base: Scores
    swapped: Scores

    def parts(self, order: Order) -> dict[str, Scores]:
        """
        Split S(o, y_o) − S(i, y_i); the model's part and the text's add up to it, bit by bit.

        "reader first" takes the model's part on the organism's text, and the text's part by the
        baseline's reading; "text first" the model's part on the baseline's text, and the text's by
        the organism's reading. "average" is the mean of both, which favours neither (Shapley). The
        interaction is what the two orders differ by: how much more the organism departs on its
        own text than on the baseline's.
        """
        total = self.own - self.base
        first, last = self.own - self.replay, self.swapped - self.base
        model = {"reader first": first, "text first": last, "average": (first + last) / 2}[order]
        return dict(zip(PARTS, (total, model, total - model, first - last), strict=True))

    def mean(self) -> Corners:
        """Average over the first axis, NaN left out, on the scores' own grid."""
        sides = [getattr(self, name) for name in ("own", "replay", "base", "swapped")]
        return on_grid(Corners(*(average_known(side) for side in sides)), like=self)


def on_grid(corners: Corners, like: Corners | None = None) -> Corners:
    """
    Round scores to multiples of a power of two, so that no later sum or difference is rounded.

    What is dropped is some 10⁻¹⁴ of the largest score of a vector, far below a score's own
    precision.

    Args:
        corners: Scores.
        like: Take the grid of these, such as the prompts that a mean is of.
    """
    sides = [getattr(like or corners, name) for name in ("own", "replay", "base", "swapped")]
    width = sides[0].shape[-1]
    sizes = np.abs(np.concatenate([np.nan_to_num(side).reshape(-1, width) for side in sides]))
    shift = _BITS - np.frexp(sizes.max(axis=0, initial=0.0))[1]

    def snap(side: Scores) -> Scores:
        return np.asarray(np.ldexp(np.rint(np.ldexp(side, shift)), -shift))

    return Corners(*map(snap, (corners.own, corners.replay, corners.base, corners.swapped)))


def decompose(cells: Cells, *, resamples: int = RESAMPLES, seed: int = 0) -> list[dict[str, Any]]:
    """
    Split each organism's difference from the baseline, trait by trait, into model and text.

    Prompts are the unit, samples averaged; only responses that all readings of an order are there
    for. Intervals are by bootstrap over clusters of prompts, 95 %.

    Args:
        cells: Scores, of one organism or several.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        A dict for each organism, trait and order: `organism, trait, reference, baseline, order,
        n_prompts, n_clusters, deviation`, then `total, model_part, text_part, interaction`, each
        with `_low` and `_high`, in score units. `deviation` is the standard deviation of the
        total over prompts (n − 1). Orders other than "reader first" are there only where the
        organism has read the baseline's answers; without those the interaction is None.

    Raises:
        QueryError: The baseline has not read an organism's texts, or has not answered its prompts.

    Source:
        Shapley (1953) for the average of the orders; with two causes it is the two-way analysis
        of variance's main effects of reader and of text.
    """
    rows: list[dict[str, Any]] = []
    for organism in cells.organisms:
        found = list(_decompose_one(cells.of(organism), resamples, seed))
        if not found:
            raise explain_lack(cells.of(organism), organism)
        rows += sorted(found, key=lambda row: cells.traits.index(row["trait"]))
    return rows


def decompose_notes(cells: Cells) -> list[str]:
    """Say what readers of a decomposition should know: what was left out of it, and why."""
    notes = []
    for organism in cells.organisms:
        one = cells.of(organism)
        is_whole = np.all([np.isfinite(getattr(one, name)) for name in _SIDES], axis=0)
        traits = [
            trait for trait, any_is in zip(cells.traits, is_whole.any(axis=0), strict=True)
            if not any_is
        ]  # fmt: skip
        if traits:
            notes.append(f"{organism}: nothing was read for {', '.join(traits)}: left out")
        if lost := int((~is_whole.any(axis=1)).sum()):
            notes.append(
                f"{organism}: {lost} of {len(one.rows)} responses lack the baseline's reading or "
                "its own answer: left out"
            )
    lacking = [name for name in cells.organisms if not np.isfinite(cells.of(name).swapped).any()]
    if lacking:
        notes.append(
            f"{', '.join(lacking)} has not read the answers of {cells.baseline!r}, so that one "
            'order is there only: for the other, add readers = ["self", "organisms"] to [base] '
            "in the run's config, and give the same command again"
        )
    return notes


def _decompose_one(cells: Cells, resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    yield from _split(cells, ("reader first",), _SIDES, resamples, seed)
    yield from _split(cells, ("text first", "average"), (*_SIDES, "swapped"), resamples, seed)


def _split(
    cells: Cells, orders: Sequence[Order], needed: Sequence[str], resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    complete = cells.complete(needed)
    lacks_any = (np.isfinite(complete.own) & ~np.isfinite(complete.swapped)).any(axis=0)
    # An interaction over some of the prompts would not belong to the parts over all of them.
    complete = replace(complete, swapped=np.where(lacks_any, np.nan, complete.swapped))
    prompts = complete.by_prompt()
    clusters = np.unique(prompts.rows["cluster"].to_numpy().astype(str), return_inverse=True)[1]
    corners = on_grid(Corners(prompts.own, prompts.replay, prompts.base, prompts.swapped))
    means = corners.mean()
    is_there = np.isfinite(corners.own)
    for order in orders:
        each, whole = corners.parts(order), means.parts(order)
        stacked = np.concatenate(list(each.values()), axis=1)
        ends = bootstrap_means(stacked, clusters, resamples=resamples, seed=seed)
        low, high = (side.reshape(len(PARTS), -1) for side in ends)
        for place, vector in enumerate(cells.vectors):
            n = int(is_there[:, place].sum())
            if not n:
                continue
            totals = each["total"][is_there[:, place], place]
            row = {
                "organism": cells.organisms[0],
                "trait": vector.trait,
                "reference": vector.reference,
                "baseline": cells.baseline,
                "order": order,
                "n_prompts": n,
                "n_clusters": len(np.unique(clusters[is_there[:, place]])),
                "deviation": float(totals.std(ddof=1)) if n > 1 else None,
            }
            for at, part in enumerate(PARTS):
                row[part] = known_or_none(whole[part][place])
                row[f"{part}_low"] = known_or_none(low[at, place])
                row[f"{part}_high"] = known_or_none(high[at, place])
            yield row


def explain_lack(cells: Cells, organism: str) -> QueryError:
    """Say why an organism's difference cannot be split."""
    if not np.isfinite(cells.base).any():
        return QueryError(
            f"{cells.baseline!r} has answered no prompt that {organism!r} has answered",
            mend="capture both on the same prompt set",
        )
    return QueryError(
        f"{cells.baseline!r} has read none of the texts of {organism!r}",
        mend='capture replays: readers = ["self", "base"]',
    )
