"""Evaluating vectors of a store on the scenarios it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tistore.errors import (
    AmbiguousVectorError,
    ConfigError,
    FitError,
    NotStoredError,
    QueryError,
)
from tistore.query.massive import MassiveDims
from tistore.query.references import match_vectors, resolve
from tistore.query.store import Store
from tistore.schemas.evaluation import Evaluation, VectorEvaluation
from tistore.schemas.model import BASE_READER
from tistore.schemas.prompt import SCENARIO_SETS
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import FOLDS
from tistore.vectors.evaluation.evaluate import (
    FULL,
    Effort,
    evaluate,
    evaluate_as_it_is,
    massive_energy,
)
from tistore.vectors.evaluation.refit import is_position, is_refittable, plan_refit
from tistore.vectors.scenario_readings import find_stored_trait
from tistore.vectors.scenario_rows import ScenarioRows, open_scenarios

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """
    Evaluations of stored vectors.

    Attributes:
        evaluations: One a vector, in the order asked for.
        notes: What a reader of them should know.
    """

    evaluations: tuple[VectorEvaluation, ...]
    notes: tuple[str, ...]


def evaluate_vectors(
    store: Store,
    references: Sequence[str] | None = None,
    *,
    every: bool = False,
    on: str | None = None,
    reader: str | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    effort: Effort = FULL,
    tell: Tell = lambda message: None,
) -> Evaluated:
    """
    Evaluate vectors of a store, and commit the figures to its table `evaluations`.

    A vector's method is fitted anew on parts of the scenarios it was fitted on, at its site and
    position, and scores the parts left out. With `on` the vector itself is scored, as it is, on
    the scenarios of another trait. What is evaluated before something fails, or is interrupted,
    is committed.

    Args:
        store: Holds the vectors and the scenarios.
        references: Vector references; when None, every trait's own, but for that of `on`.
        every: Evaluate every vector that answers to a reference, not the chosen one.
        on: Trait whose scenarios to score instead, `category/name`.
        reader: Whose readings of them; the vector's own model's when None.
        folds: See `evaluate`.
        seed: See `evaluate`.
        effort: See `evaluate`.
        tell: Told what is being evaluated.

    Raises:
        UnknownVectorError: No vector answers to a reference.
        AmbiguousVectorError: Several do, and nothing tells which is meant.
        NotStoredError: A vector's scenarios are not in the store, or there is no vector; nothing
            was evaluated.
        QueryError: `on` would score a vector on scenarios it was fitted on.
        ConfigError: There are fewer scenarios than folds on a side; or a reader goes without `on`.
        FitError: A method finds no direction on the rows of some folds.
    """
    if reader is not None and on is None:
        raise ConfigError(
            "a vector's own scenarios are scored as its own model reads them",
            mend="leave the reader out, or name other scenarios: --on TRAIT",
        )
    vectors, notes = select_vectors(store, references, every=every)
    if references is None:
        vectors = [vector for vector in vectors if vector.trait != on]
    opened, left_out = _open_all(store, vectors, on, reader, is_named=references is not None)
    notes += left_out
    notes += _describe_staleness(opened) if on is None else _describe_overlap(store, opened, on)
    massive = MassiveDims(store.snapshot)
    found: dict[int, VectorEvaluation] = {}
    with store.writer() as writer:
        for place, rows, vector, contrast in _walk(opened):
            tell(f"{vector.reference}, {len(found) + 1} of {len(opened)}")
            measure = refit_and_score if on is None else score_as_it_is
            figures = measure(vector, contrast, folds, seed, effort)
            figures = with_massive_energy(figures, vector, massive)
            found[place] = record(vector, rows, figures, is_refitted=on is None)
            writer.add_rows("evaluations", [found[place].to_row()])
    store.refresh()
    return Evaluated(tuple(found[place] for place in sorted(found)), tuple(notes))


def refit_and_score(
    vector: Vector, contrast: Contrast, folds: int, seed: int, effort: Effort
) -> Evaluation:
    """
    Evaluate a vector's method, fitted anew, on the rows the vector was fitted on.

    Raises:
        ConfigError: There are fewer scenarios than folds on a side.
        FitError: The method finds no direction on the rows of some folds.
    """
    planned = plan_refit(vector, contrast)
    try:
        return evaluate(*planned, folds=folds, seed=seed, effort=effort)
    except (ConfigError, FitError) as error:
        raise type(error)(f"{vector.reference}: {error.message}", mend=error.mend) from error


def score_as_it_is(
    vector: Vector, contrast: Contrast, folds: int, seed: int, effort: Effort
) -> Evaluation:
    """Evaluate a vector itself on rows that had no part in it; there are no folds then."""
    return evaluate_as_it_is(contrast, vector, seed=seed, effort=effort)


def _open_all(
    store: Store, vectors: Sequence[Vector], on: str | None, reader: str | None, *, is_named: bool
) -> tuple[list[tuple[Vector, ScenarioRows]], list[str]]:
    """Find the rows of each vector, and say which have none, where nobody named these."""
    problems: list[NotStoredError] = []
    opened: list[tuple[Vector, ScenarioRows]] = []
    for vector in vectors:
        try:
            opened.append((vector, _open(store, vector, on, reader)))
        except NotStoredError as error:
            problems.append(error)
    if problems and (is_named or not opened):
        raise _join(problems)
    return opened, [problem.message for problem in problems]


def select_vectors(
    store: Store, references: Sequence[str] | None, *, every: bool = False
) -> tuple[list[Vector], list[str]]:
    """
    Find the vectors that are meant; of every trait its own, where that is known.

    Returns:
        The vectors, and which traits were left out, and why.

    Raises:
        UnknownVectorError: No vector answers to a reference.
        AmbiguousVectorError: Several do, and nothing tells which is meant.
        NotStoredError: There is no vector.
        QueryError: A reference is an expression, which was not fitted on anything.
    """
    vectors = store.snapshot.vectors()
    if not vectors:
        raise NotStoredError(
            "this store holds no vectors", mend="fit some: tistore vectors extract STORE TRAIT"
        )
    if every and references is None:
        return list(vectors), []
    if every:
        listed = [_match_some(reference, vectors) for reference in references or []]
        return list({id(one): one for many in listed for one in many}.values()), []
    if references is not None:
        return [_resolve(store, reference) for reference in references], []
    chosen, undecided = [], []
    for trait in sorted({vector.trait for vector in vectors}):
        try:
            chosen.append(_resolve(store, trait))
        except AmbiguousVectorError:
            undecided.append(trait)
    if not chosen:
        raise NotStoredError(
            f"no trait's vector is known to be the best: {', '.join(undecided)}",
            mend="choose them: tistore vectors best STORE; or evaluate all of them: --all",
        )
    left_out = f"left out, because no vector is chosen: {', '.join(undecided)}"
    return chosen, [left_out] if undecided else []


def record(
    vector: Vector, rows: ScenarioRows, figures: Evaluation, *, is_refitted: bool
) -> VectorEvaluation:
    """Put figures to their vector and scenarios."""
    return VectorEvaluation.of(
        vector,
        figures,
        tested_on=rows.trait,
        fitted_on=rows.fitted_on if is_refitted else vector.fitted_on,
        evaluated_at=datetime.now(UTC),
    )


def with_massive_energy(figures: Evaluation, vector: Vector, massive: MassiveDims) -> Evaluation:
    """Add how much of the vector lies on massive dimensions, where these have been measured."""
    try:
        dims = massive.find(["massive"], vector, vector.site).dims
    except QueryError:  # not calibrated, or readers disagree: not known
        return figures
    return replace(figures, massive_energy=massive_energy(vector.values, dims))


def open_own_scenarios(store: Store, vector: Vector) -> ScenarioRows:
    """
    Find the rows a vector was fitted on.

    Raises:
        NotStoredError: They are not in the store, or how it was fitted is not known.
    """
    if not is_refittable(vector):
        raise NotStoredError(
            f"{vector.reference} cannot be fitted again: its method is {vector.method!r}, its "
            f"position {vector.position!r}",
            mend="score it as it is, on scenarios it was not fitted on: tistore vectors eval "
            "STORE VECTOR --on TRAIT",
        )
    return _open_at(store, vector, vector.trait)


def open_other_scenarios(
    store: Store, vector: Vector, trait: str, reader: str | None = None
) -> ScenarioRows:
    """
    Find the rows of another trait, at the vector's position.

    Where its position is not known, they are means over the response.

    Args:
        store: Where.
        vector: The vector.
        trait: The trait.
        reader: Whose readings; the vector's own model's when None.

    Raises:
        NotStoredError: They are not in the store.
        QueryError: They are those it was fitted on.
    """
    placed = replace(vector, model=reader or vector.model)
    if not is_position(vector.position):
        placed = replace(placed, position="response[:]")
    rows = _open_at(store, placed, trait)
    if rows.trait == vector.trait and vector.fitted_on in (None, rows.fitted_on):
        if vector.fitted_on is not None or is_refittable(vector):
            raise QueryError(
                f"{vector.reference} was fitted on the scenarios of {trait}: scored on them as it "
                "is, it would look better than it is",
                mend="leave --on out: parts of them are held out then",
            )
    return rows


def _open(store: Store, vector: Vector, on: str | None, reader: str | None) -> ScenarioRows:
    if on is None:
        return open_own_scenarios(store, vector)
    return open_other_scenarios(store, vector, find_stored_trait(store.snapshot, on), reader)


def _open_at(store: Store, vector: Vector, trait: str) -> ScenarioRows:
    reader = vector.model or BASE_READER
    try:
        rows = open_scenarios(store, trait, reader=reader, position=vector.position)
    except NotStoredError as error:
        raise NotStoredError(f"{vector.reference}: {error.message}", mend=error.mend) from error
    if vector.site not in rows.sites:
        raise NotStoredError(
            f"{vector.reference}: scenarios of {trait} were not read at {vector.site}, only at "
            f"{', '.join(map(str, rows.sites))}",
            mend="read them there: tistore vectors extract STORE TRAIT --config RUN.toml",
        )
    return rows


def _walk(
    opened: Sequence[tuple[Vector, ScenarioRows]],
) -> Iterator[tuple[int, ScenarioRows, Vector, Contrast]]:
    """Read each site of each set of rows once, for all vectors that are there."""
    sets: dict[tuple[str, str, str], dict[Site, list[int]]] = {}
    for place, (vector, rows) in enumerate(opened):
        key = (rows.trait, rows.reader, str(rows.position))
        sets.setdefault(key, {}).setdefault(vector.site, []).append(place)
    for by_site in sets.values():
        shared = opened[next(iter(by_site.values()))[0]][1]
        for site, contrast in shared.contrasts(sorted(by_site)):
            for place in by_site[site]:
                yield place, opened[place][1], opened[place][0], contrast


def _resolve(store: Store, reference: str) -> Vector:
    vector = resolve(reference, None, store.snapshot.vectors()).vector
    if vector.expression is not None:
        raise QueryError(
            f"{reference!r} is made of other vectors, and was not fitted on anything",
            mend="evaluate its parts",
        )
    return vector


def _match_some(reference: str, vectors: Sequence[Vector]) -> list[Vector]:
    # Where nothing answers, `resolve` knows what may have been meant.
    return match_vectors(reference, vectors) or [resolve(reference, None, vectors).vector]


def _join(problems: Sequence[NotStoredError]) -> NotStoredError:
    return NotStoredError("\n".join(one.message for one in problems), mend=problems[0].mend)


def _describe_staleness(opened: Sequence[tuple[Vector, ScenarioRows]]) -> list[str]:
    return [
        f"{vector.reference} was fitted on other scenarios than are here now; the figures are "
        "of its method on these"
        for vector, rows in opened
        if vector.fitted_on not in (None, rows.fitted_on)
    ]


def _describe_overlap(
    store: Store, opened: Sequence[tuple[Vector, ScenarioRows]], on: str
) -> list[str]:
    """Tell where scenarios to test on are word for word scenarios of the vector's own trait."""
    tested = _list_texts(store, on)
    notes = []
    for trait in sorted({vector.trait for vector, _ in opened} - {on}):
        if shared := len(tested & _list_texts(store, trait)):
            notes.append(
                f"{shared} of {len(tested)} scenarios of {on} are scenarios of {trait} as well: "
                "on these the figures are too good"
            )
    return notes


def _list_texts(store: Store, trait: str) -> set[tuple[str, str | None]]:
    start = f"{SCENARIO_SETS}{trait}/"
    return {
        (row["text"], row["system_prompt"])
        for row in store.snapshot.table("prompts").to_pylist()
        if row["prompt_set"].startswith(start)
    }
