"""Choosing by held-out scenarios, with an estimate from scenarios that did not choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tistore.errors import (
    ChoiceError,
    ConfigError,
    FitError,
    InvalidRecordError,
    NotStoredError,
    QueryError,
)
from tistore.query.massive import MassiveDims
from tistore.query.store import Store
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.candidates import Candidates
from tistore.vectors.choosing.pick import Pick, Quality, Settings
from tistore.vectors.evaluation.nested import Candidate, NestedEvaluation, nested
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.on_clean import ON_CLEAN
from tistore.vectors.methods.registry import METHODS, find_method
from tistore.vectors.methods.rotation_invariant import ROTATION_INVARIANT, in_span
from tistore.vectors.scenario_rows import ScenarioRows, open_scenarios


def pick_by_nested(store: Store, candidates: Candidates, settings: Settings) -> Pick:
    """
    Take the vector whose method, layer and position separate held-out scenarios best.

    By AUROC, then by Hedges' g. What is reported as quality is of nested evaluation: what choosing
    in this way achieves on scenarios that had no part in the choice.

    Raises:
        ChoiceError: The scenarios are not in the store, are too few, or no method of this version
            made the vectors.
    """
    try:
        by_position = _open(store, candidates)
        vectors = [vector for _, some in by_position for vector in some]
        found = nested(
            _walk(store, by_position), folds=settings.folds, inner_folds=settings.folds,
            seed=settings.seed,
        )  # fmt: skip
    except (ConfigError, FitError, InvalidRecordError, NotStoredError, QueryError) as error:
        raise ChoiceError(f"{candidates}: {error.message}", mend=error.mend) from error
    if found.merits[found.best].auroc < 0:
        raise ChoiceError(f"{candidates}: too few scenarios are held out to compare its vectors")
    best = next(vector for vector in vectors if _name(vector) == found.best)
    n_stale = sum(
        vector.fitted_on not in (None, rows.fitted_on)
        for rows, some in by_position
        for vector in some
    )
    return Pick(
        vector=best,
        rule="nested",
        reason=_explain(found, len(vectors), settings.folds, n_stale),
        n_candidates=len(vectors),
        selected_by="auroc",
        score=found.merits[found.best].auroc,
        quality=Quality(
            found.evaluation.auroc,
            found.evaluation.g,
            found.evaluation.g_low,
            found.evaluation.g_high,
        ),
    )


_Placed = tuple[ScenarioRows, list[Vector]]
"""The scenarios at a position, and the vectors that can be fitted anew on them."""


def _open(store: Store, candidates: Candidates) -> list[_Placed]:
    if candidates.model is None:
        raise ChoiceError(
            f"{candidates}: the model its vectors were fitted on is not known, and so not whose "
            "readings of scenarios would tell"
        )
    made = [vector for vector in candidates.fitted if _is_known(vector.method)]
    if not made:
        methods = sorted({vector.method for vector in candidates.fitted})
        raise ChoiceError(
            f"{candidates}: its vectors were made by {', '.join(methods)}, and nothing here can "
            "fit them anew on a part of the scenarios"
        )
    placed = []
    for position in sorted({vector.position for vector in made}):
        rows = open_scenarios(store, candidates.trait, reader=candidates.model, position=position)
        there = set(rows.sites)
        of_position = [vector for vector in made if vector.position == position]
        placed.append((rows, [vector for vector in of_position if vector.site in there]))
    if not any(vectors for _, vectors in placed):
        raise ChoiceError(f"{candidates}: its scenarios were not read where its vectors lie")
    return placed


def _walk(store: Store, placed: Sequence[_Placed]) -> Iterator[Candidate]:
    """Give each vector's method with the rows of its site, one site in memory at a time."""
    massive = MassiveDims(store.snapshot)
    for rows, vectors in placed:
        by_site: dict[Site, list[Vector]] = {}
        for vector in vectors:
            by_site.setdefault(vector.site, []).append(vector)
        for site, contrast in rows.contrasts(sorted(by_site)):
            turned = None
            for vector in by_site[site]:
                method = _find_method(vector, massive)
                if method in ROTATION_INVARIANT:
                    turned = turned or in_span(contrast)
                    yield Candidate(_name(vector), turned, method)
                else:
                    yield Candidate(_name(vector), contrast, method)


def _find_method(vector: Vector, massive: MassiveDims) -> Method:
    if not vector.method.endswith(ON_CLEAN):
        return find_method(vector.method)
    return find_method(vector.method, massive.find(["massive"], vector, vector.site).dims)


def _is_known(method: str) -> bool:
    return method.removesuffix(ON_CLEAN) in METHODS


def _name(vector: Vector) -> str:
    """Name a vector among those of its trait and model."""
    return f"{vector.reference} ({vector.component}, {vector.position})"


def _explain(found: NestedEvaluation, n_vectors: int, folds: int, n_stale: int) -> str:
    merit, held_out = found.merits[found.best], found.evaluation
    among = f"the best of {n_vectors}" if n_vectors > 1 else "the only one that could be tested"
    reason = (
        f"AUROC {merit.auroc:.3f} and g {merit.g:.2f} on held-out scenarios, {among}, and best in "
        f"{found.wins.get(found.best, 0)} of {folds} folds"
    )
    if held_out.auroc is not None and held_out.g is not None:
        reason += (
            f"; on scenarios without a part in it, choosing so reaches AUROC {held_out.auroc:.3f} "
            f"and g {held_out.g:.2f}"
        )
    return reason + (f"; {n_stale} were fitted on other rows than are there now" if n_stale else "")
