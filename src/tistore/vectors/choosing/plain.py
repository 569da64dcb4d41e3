"""Rules that measure nothing: the only vector, the one somebody names, the recorded figures."""

from __future__ import annotations

from tistore.errors import ChoiceError
from tistore.query.store import Store
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.candidates import Candidates, order
from tistore.vectors.choosing.pick import Pick, Settings
from tistore.vectors.choosing.quality import find_quality


def pick_only(store: Store, candidates: Candidates) -> Pick:
    """Take the one vector there is."""
    (vector,) = candidates.vectors
    return Pick(
        vector=vector,
        rule="only",
        reason=f"it is the only vector of {candidates}",
        n_candidates=1,
        quality=find_quality(store, vector),
    )


def pick_named(vector: Vector, n_candidates: int) -> Pick:
    """Take the vector somebody names; nobody knows what had a part in that."""
    others = "the only vector" if n_candidates == 1 else f"one of {n_candidates} vectors"
    return Pick(
        vector=vector,
        rule="named",
        reason=f"named by hand, {others}",
        n_candidates=n_candidates,
    )


def pick_by_separation(store: Store, candidates: Candidates, settings: Settings) -> Pick:
    """
    Take the vector with the largest recorded separation.

    No estimate of quality comes with it: the same scenarios would choose and report.

    Raises:
        ChoiceError: The separation of some vector is not known.
    """
    vectors = candidates.fitted
    known = [(vector.separation, vector) for vector in vectors if vector.separation is not None]
    if len(known) < len(vectors):
        raise ChoiceError(
            f"{candidates}: the separation of {len(vectors) - len(known)} of {len(vectors)} "
            "vectors is not known",
            mend="name a vector: --pick REFERENCE",
        )
    largest, best = min(known, key=lambda one: (-one[0], order(one[1])))
    return Pick(
        vector=best,
        rule="separation",
        reason=f"its recorded separation of {largest:.2f} is the largest of {len(vectors)}; "
        "the largest of many is optimistic",
        n_candidates=len(vectors),
        selected_by="separation",
        score=largest,
    )
