"""Choosing by what vectors did to answers when they were added to the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from tistore.errors import ChoiceError
from tistore.query.store import Store
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.candidates import CONTROL, Candidates, order
from tistore.vectors.choosing.pick import Pick, Settings
from tistore.vectors.choosing.quality import find_quality

MIN_DELTA = 20.0
"""Points of 100 from which on the incumbent's rule takes a vector to work."""


@dataclass(frozen=True, slots=True, eq=False)
class SteeredRun:
    """
    Answers of a model to which a vector was added, as a judge scored them.

    Attributes:
        vector: The vector.
        coefficient: How many times it was added; below 0 against the trait.
        baseline: Mean trait score without steering, 0 to 100.
        trait: Mean trait score with it.
        coherence: Mean coherence score, 0 to 100.
        n: Answers that were scored.
    """

    vector: Vector
    coefficient: float
    baseline: float
    trait: float
    coherence: float
    n: int

    @property
    def delta(self) -> float:
        """Points the trait moved the way it was pushed; below 0 where it moved the other way."""
        return (self.trait - self.baseline) * math.copysign(1, self.coefficient)

    def __str__(self) -> str:
        """Tell what it did."""
        return (
            f"steering with it at {self.coefficient:g} moved the trait from {self.baseline:.1f} "
            f"to {self.trait:.1f} (coherence {self.coherence:.1f}, n = {self.n})"
        )


def find_runs(store: Store, candidates: Candidates, coherence: float) -> list[SteeredRun]:
    """
    List the steering results of vectors that can be compared.

    They have a baseline, a coefficient other than 0, and answers that are coherent enough; a run
    whose coherence was not judged does not count.

    Args:
        store: Where the results are.
        candidates: The vectors; of several with one content the first counts.
        coherence: Least mean coherence.
    """
    table = store.snapshot.table("steering")
    by_hash = {vector.content_hash: vector for vector in reversed(candidates.vectors)}
    rows = table.filter(pc.field("trait") == candidates.trait).to_pylist()
    return [
        SteeredRun(
            vector=by_hash[row["vector_hash"]],
            coefficient=row["coefficient"],
            baseline=row["baseline_mean"],
            trait=row["trait_mean"],
            coherence=row["coherence_mean"],
            n=row["n"],
        )
        for row in rows
        if row["vector_hash"] in by_hash
        and row["coefficient"]
        and row["baseline_mean"] is not None
        and row["coherence_mean"] is not None
        and row["coherence_mean"] >= coherence
    ]


def pick_by_steering(store: Store, candidates: Candidates, settings: Settings) -> Pick:
    """
    Take the vector whose best coherent run moved the trait most, the way it was pushed.

    The largest of many runs is larger than it would be if repeated (statistics: the winner's
    curse), and says so. Random directions never win. Where the vector has been evaluated, its
    figures on scenarios are reported: these had no part in the choice.

    Raises:
        ChoiceError: No run moved the trait the way it was pushed.
    """
    runs = find_runs(store, candidates, settings.coherence)
    runs = [run for run in runs if run.vector.method != CONTROL]
    if not runs:
        raise _describe_missing(store, candidates, settings.coherence)
    best = _find_best(runs)
    if best.delta <= 0:
        raise ChoiceError(
            f"{candidates}: none of {len(runs)} coherent steering runs moved the trait the way it "
            f"was pushed",
            mend="let scenarios choose: --rule nested; or name a vector: --pick REFERENCE",
        )
    n_vectors = len({run.vector.content_hash for run in runs})
    among = "the only coherent run"
    if len(runs) > 1:
        among = f"the most of {len(runs)} coherent runs with {_count(n_vectors)}"
        among += ", and the best of many is optimistic"
    return Pick(
        vector=best.vector,
        rule="steering",
        reason=f"{best}: {best.delta:+.1f}, {among}",
        n_candidates=n_vectors,
        selected_by="steering delta",
        score=best.delta,
        quality=find_quality(store, best.vector),
    )


def pick_as_incumbent(store: Store, candidates: Candidates, settings: Settings) -> Pick:
    """
    Take what trait-interp's `get_best_vector` takes.

    Among runs with a coherence of 77 or more (70 before February 2026), the largest change of the
    trait the way it was pushed, if it is 20 points or more; with an offset, that vector's
    counterpart so many layers further on, or at the nearest layer that has one.

    Raises:
        ChoiceError: No run reaches 20 points.

    Source:
        trait-interp, `utils/vector_selection.py`. Its naturalness scores are not stored here.
    """
    runs = find_runs(store, candidates, settings.coherence)
    if not runs:
        raise _describe_missing(store, candidates, settings.coherence)
    best = _find_best(runs)
    if best.delta < MIN_DELTA:
        raise ChoiceError(
            f"{candidates}: its best coherent steering run moved the trait by {best.delta:+.1f}, "
            f"and the incumbent's rule wants {MIN_DELTA:g} or more",
            mend="take the best all the same: --rule steering; or --rule nested",
        )
    vector, moved = _move(best.vector, candidates.vectors, settings.offset)
    return Pick(
        vector=vector,
        rule="incumbent",
        reason=f"{best}: {best.delta:+.1f}, the most of {len(runs)} runs{moved}",
        n_candidates=len({run.vector.content_hash for run in runs}),
        selected_by="steering delta",
        score=best.delta,
        quality=find_quality(store, vector),
    )


def _find_best(runs: Sequence[SteeredRun]) -> SteeredRun:
    """Take the largest change; of equal ones the more coherent, then the first by name."""
    return min(
        runs, key=lambda run: (-run.delta, -run.coherence, *order(run.vector), run.coefficient)
    )


def _move(best: Vector, vectors: Sequence[Vector], offset: int) -> tuple[Vector, str]:
    """Find the counterpart of a vector so many layers on, and tell of it."""
    if not offset:
        return best, ""
    wanted = best.layer + offset

    def is_counterpart(vector: Vector) -> bool:
        mine = (vector.component, vector.method, vector.position)
        return mine == (best.component, best.method, best.position)

    moved = min(
        filter(is_counterpart, vectors),
        key=lambda vector: (abs(vector.layer - wanted), order(vector)),
    )
    snapped = "" if moved.layer == wanted else f", the nearest to {wanted} that was fitted"
    return moved, f"; {offset:+d} layers from {best.layer} is {moved.layer}{snapped}"


def _describe_missing(store: Store, candidates: Candidates, coherence: float) -> ChoiceError:
    known = {vector.content_hash for vector in candidates.vectors}
    table = store.snapshot.table("steering")
    hashes = table.filter(pc.field("trait") == candidates.trait)["vector_hash"].to_pylist()
    there = sum(one in known for one in hashes)
    what = (
        f"none of {there} steering runs has a baseline and a coherence of {coherence:g} or more"
        if there
        else "none of its vectors has steering results"
    )
    return ChoiceError(
        f"{candidates}: {what}",
        mend="let scenarios choose: --rule nested; name a vector: --pick REFERENCE"
        + ("; or lower the gate: --coherence 70" if there else ""),
    )


def _count(n_vectors: int) -> str:
    return f"{n_vectors} vectors" if n_vectors > 1 else "one vector"
