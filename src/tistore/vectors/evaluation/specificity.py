"""Every trait's vector over every trait's scenarios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tistore.errors import NotStoredError
from tistore.query.massive import MassiveDims
from tistore.query.store import Store
from tistore.schemas.evaluation import VectorEvaluation
from tistore.schemas.vector import Vector
from tistore.vectors.evaluation.cross_fit import FOLDS
from tistore.vectors.evaluation.evaluate import QUICK, Effort
from tistore.vectors.evaluation.stored import (
    Evaluated,
    Tell,
    open_other_scenarios,
    open_own_scenarios,
    record,
    refit_and_score,
    score_as_it_is,
    select_vectors,
    with_massive_energy,
)
from tistore.vectors.scenario_readings import list_stored_traits
from tistore.vectors.scenario_rows import ScenarioRows


def measure_specificity(
    store: Store,
    references: Sequence[str] | None = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    effort: Effort = QUICK,
    tell: Tell = lambda message: None,
) -> Evaluated:
    """
    Score every trait's scenarios along every trait's vector, and commit the figures.

    Its own scenarios are held out as in `evaluate_vectors`; those of the other traits have had no
    part in a vector, and are scored along it as it is, at its own site and position. A vector that
    separates other traits' scenarios as well as its own is not specific to it.

    Args:
        store: Holds the vectors and the scenarios.
        references: Vector references, two at least; when None, every trait's own, and what of it
            cannot be scored is left out and noted.
        folds: See `evaluate`.
        seed: See `evaluate`.
        effort: See `evaluate`.
        tell: Told which vector is at work.

    Returns:
        For each vector one evaluation on each trait's scenarios, in the same order of traits.

    Raises:
        NotStoredError: The scenarios of a vector that was named are not in the store, or not
            another's at its site and position; or fewer than two traits are left. Nothing was
            evaluated.
        QueryError: As `evaluate_vectors` does.
    """
    vectors, notes = select_vectors(store, references)
    if references is None:
        vectors, left_out = _with_scenarios(store, vectors)
        notes += left_out
    traits = list(dict.fromkeys(vector.trait for vector in vectors))
    if len(traits) < 2:
        raise NotStoredError(
            f"there are scenarios of {len(traits)} trait with a vector, and a comparison needs "
            "two or more",
            mend="extract others: tistore vectors extract STORE TRAIT --config RUN.toml",
        )
    opened, blank = _open_all(store, vectors, traits, is_strict=references is not None)
    notes += blank
    massive = MassiveDims(store.snapshot)
    found: list[VectorEvaluation] = []
    with store.writer() as writer:
        for place, (vector, sets) in enumerate(opened, start=1):
            tell(f"{vector.reference}, {place} of {len(vectors)}")
            for rows in sets:
                is_own = rows.trait == vector.trait
                measure = refit_and_score if is_own else score_as_it_is
                figures = measure(vector, rows.at(vector.site), folds, seed, effort)
                figures = with_massive_energy(figures, vector, massive)
                found.append(record(vector, rows, figures, is_refitted=is_own))
                writer.add_rows("evaluations", [found[-1].to_row()])
    store.refresh()
    return Evaluated(tuple(found), tuple(notes))


def lay_out_matrix(
    evaluations: Sequence[VectorEvaluation], figure: str = "g"
) -> list[dict[str, Any]]:
    """
    Lay evaluations out as a table: a row for each vector, a column for each trait's scenarios.

    Args:
        evaluations: From `measure_specificity`.
        figure: Name of a figure of `Evaluation`.
    """
    rows: dict[str, dict[str, Any]] = {}
    blank = dict.fromkeys(one.tested_on for one in evaluations)
    for one in evaluations:
        row = rows.setdefault(one.vector_hash, {"vector": one.reference, **blank})
        row[one.tested_on] = getattr(one.evaluation, figure)
    return list(rows.values())


def _open_all(
    store: Store, vectors: Sequence[Vector], traits: Sequence[str], *, is_strict: bool
) -> tuple[list[tuple[Vector, list[ScenarioRows]]], list[str]]:
    """Open every trait's scenarios for every vector; or note which were not read where it needs."""
    opened: list[tuple[Vector, list[ScenarioRows]]] = []
    notes = []
    for vector in vectors:
        sets: list[ScenarioRows] = []
        missing: dict[str, NotStoredError] = {}
        for trait in traits:
            try:
                sets.append(_open(store, vector, trait))
            except NotStoredError as error:
                if is_strict:
                    raise
                missing[trait] = error
        if missing:
            first = next(iter(missing.values()))
            notes.append(f"left blank for {', '.join(missing)}: {first.message}")
        opened.append((vector, sets))
    return opened, notes


def _open(store: Store, vector: Vector, trait: str) -> ScenarioRows:
    if trait == vector.trait:
        return open_own_scenarios(store, vector)
    return open_other_scenarios(store, vector, trait)


def _with_scenarios(store: Store, vectors: Sequence[Vector]) -> tuple[list[Vector], list[str]]:
    """Leave out vectors of traits whose scenarios nobody has read, as those of imported ones."""
    known = set(list_stored_traits(store.snapshot))
    kept = [vector for vector in vectors if vector.trait in known]
    left_out = sorted({vector.trait for vector in vectors} - known)
    note = f"left out, because their scenarios are not in the store: {', '.join(left_out)}"
    return kept, [note] if left_out else []
