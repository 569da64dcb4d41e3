"""
Imported projections checked: trait-interp's scores, computed again from what the store holds.

A score agrees when it lies within the tolerance of the one computed in float64: half of the last
decimal that the file shows, and what float32 and the rounding to float16 may have moved it by, as
`recompute_scores` derives. Nothing is passed over: what cannot be checked says why.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tistore.datasets.trait_interp.experiment import Experiment, open_experiment
from tistore.datasets.trait_interp.files import ProjectionFile
from tistore.datasets.trait_interp.projections import (
    Projection,
    ProjectionDocument,
    read_projections,
)
from tistore.errors import DatasetError
from tistore.exchange.trait_interp.components import explain_absence, find_component
from tistore.exchange.trait_interp_check.comparison import Alignment, Comparison, Unchecked
from tistore.exchange.trait_interp_check.imported import (
    ImportedFiles,
    ImportedReading,
    name_reading,
)
from tistore.exchange.trait_interp_check.recomputed import (
    Recomputed,
    StoredStates,
    cast_vector,
    recompute_norms,
    recompute_scores,
)
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.base import BaseStore

_FILES_AT_ONCE = 50_000

Verdict = Literal["agreed", "differs", "unchecked"]


@dataclass(frozen=True, slots=True)
class CheckRow:
    """
    How a projection file compares with the store.

    Attributes:
        path: Relative to the experiment, with "/".
        schema: "P0" to "P4"; None where the file cannot be read.
        verdict: "agreed" where something was compared and all of it agrees; "differs" where any
            number lies outside its tolerance; "unchecked" where nothing could be compared.
        trait: By the path.
        organism: Author of the response; None where its reading is not imported.
        reader: Model whose states were projected; None where it is not imported.
        prompt_set: By the path, without a replay's suffix.
        prompt_id: By the path.
        n_projections: How many the file holds: one a vector, or a layer and sublayer.
        n_checked: How many of them were compared.
        n_scores: Scores compared.
        n_norms: Token norms compared.
        largest_difference: Between a score of the file's and the store's.
        largest_relative: The same, over the largest score of its projection in the store.
        tolerance: Allowed where the difference is largest.
        correlation: Pearson's, of all scores compared; None where either side is constant.
        largest_norm_difference: Between a token norm of the file's and the store's.
        reason: What differs most, and what was not compared and why; None where all agrees.
    """

    path: str
    schema: str | None
    verdict: Verdict
    trait: str
    organism: str | None
    reader: str | None
    prompt_set: str
    prompt_id: str
    n_projections: int = 0
    n_checked: int = 0
    n_scores: int = 0
    n_norms: int = 0
    largest_difference: float | None = None
    largest_relative: float | None = None
    tolerance: float | None = None
    correlation: float | None = None
    largest_norm_difference: float | None = None
    reason: str | None = None

    def to_row(self) -> dict[str, Any]:
        """Lay it out for printing."""
        return asdict(self)


def summarise_checks(rows: Sequence[CheckRow]) -> list[dict[str, Any]]:
    """
    Count the files of each schema by what became of them.

    Returns:
        For each schema, verdict and, where nothing was compared, reason: `schema, verdict, files,
        scores, norms, largest_difference, tolerance, reason`; the tolerance is that of the file
        with the largest difference.
    """
    groups: dict[tuple[Any, ...], list[CheckRow]] = {}
    for row in rows:
        reason = row.reason if row.verdict == "unchecked" else None
        groups.setdefault((row.schema, row.verdict, reason), []).append(row)
    summary = []
    for (schema, verdict, reason), group in groups.items():
        compared = [row for row in group if row.largest_difference is not None]
        worst = max(compared, key=lambda row: row.largest_difference or 0.0, default=None)
        summary.append(
            {
                "schema": schema,
                "verdict": verdict,
                "files": len(group),
                "scores": sum(row.n_scores for row in group),
                "norms": sum(row.n_norms for row in group),
                "largest_difference": worst and worst.largest_difference,
                "tolerance": worst and worst.tolerance,
                "reason": reason,
            }
        )
    return sorted(summary, key=lambda row: (str(row["schema"]), row["verdict"], -row["files"]))


def check_projections(store: BaseStore, experiment_path: Path) -> list[CheckRow]:
    """
    Compare every projection file of an imported experiment with the store; see `check_each`.

    Raises:
        ConfigError: The path is no experiment.
        NotStoredError: No experiment of this name was imported.
    """
    return list(check_each(store, experiment_path))


def check_each(store: BaseStore, experiment_path: Path) -> Iterator[CheckRow]:
    """
    Compare projection files with the store, one after the other, those of a reading together.

    Of the two ways trait-interp has projected, with the vector as it was saved or rounded to the
    states' type, the one that fits counts.

    Args:
        store: What the experiment was imported into.
        experiment_path: Its folder. Only its projections are read.

    Yields:
        A row a file, whatever is in it.

    Raises:
        ConfigError: The path is no experiment.
        NotStoredError: No experiment of this name was imported.
    """
    experiment = open_experiment(experiment_path)
    imported = ImportedFiles(store.snapshot, experiment)
    files = (file for file in experiment.walk() if isinstance(file, ProjectionFile))
    while batch := list(islice(files, _FILES_AT_ONCE)):
        # A folder is of one trait: of many traits, a reading's states are read once.
        groups: dict[Hashable, list[ProjectionFile]] = {}
        for file in batch:
            groups.setdefault(name_reading(file), []).append(file)
        for group in groups.values():
            reading = imported.find_reading(group[0])
            for file in group:
                yield _check_file(experiment, imported, file, reading)


@dataclass(frozen=True, slots=True, eq=False)
class _Checked:
    """
    One projection of a file, compared.

    Attributes:
        scores: Its scores.
        norms: Its token norms, where it has some that can be compared.
        notes: What of it was left out.
        label: What to call it.
    """

    scores: Comparison
    norms: Comparison | None
    notes: tuple[str, ...]
    label: str


def _check_file(
    experiment: Experiment,
    imported: ImportedFiles,
    file: ProjectionFile,
    reading: ImportedReading | None,
) -> CheckRow:
    try:
        document = read_projections(file.path)
    except DatasetError as error:
        unreadable = Unchecked(f"cannot be read: {error.message}")
        return _make_row(experiment, file, reading, None, [], [unreadable])
    checked: list[_Checked] = []
    left_out: list[Unchecked] = []
    for projection in document.projections:
        try:
            checked.append(_check_projection(imported, file, reading, projection))
        except Unchecked as why:
            left_out.append(why)
    return _make_row(experiment, file, reading, document, checked, left_out)


def _check_projection(
    imported: ImportedFiles,
    file: ProjectionFile,
    reading: ImportedReading | None,
    projection: Projection,
) -> _Checked:
    """
    Compare one projection.

    Raises:
        Unchecked: It cannot be compared.
    """
    if not projection.scores.prompt and not projection.scores.response:
        raise Unchecked("no scores")
    if reading is None:
        raise Unchecked("its reading was not imported")
    states = _find_states(reading, projection)
    vectors = _find_vectors(imported, file, projection, states.hidden)
    aligned = Alignment.of(projection.scores, reading)
    found = [
        (vector, aligned.compare(projection.scores, ours))
        for vector in vectors
        for ours in _recompute(states, vector, projection, reading.source["source_dtype"])
    ]
    vector, scores = min(found, key=lambda pair: pair[1].excess)
    notes = list(aligned.notes)
    if len(vectors) > 1:
        notes.append(
            f"{len(vectors)} vectors answer to what the file says: compared with that of "
            f"{vector.position}, {vector.method}, model {vector.model}"
        )
    norms = _compare_norms(reading, aligned, projection, notes)
    label = f"{vector.method}@{projection.layer}"
    return _Checked(scores, norms, tuple(notes), label)


def _find_states(reading: ImportedReading, projection: Projection) -> StoredStates:
    component = find_component(projection.component)
    if component is None:
        raise Unchecked(explain_absence(projection.component))
    states = reading.states(Site(component, projection.layer))
    if states is not None:
        return states
    where = f"{projection.component}@{projection.layer}"
    if projection.scores.is_all_zero:
        raise Unchecked("placeholder zeros, nothing was captured there", where)
    raise Unchecked("not stored for this reading", where)


def _find_vectors(
    imported: ImportedFiles, file: ProjectionFile, projection: Projection, hidden: int
) -> list[Vector]:
    """Find the vectors that may be meant: a file does not always say all that names one."""
    source = projection.vector
    name = projection.component
    if file.stream is not None:  # every sublayer was projected on the vector of the stream
        name = "attn_out" if file.stream == "attn" else "residual"
    component = find_component(name)
    layer = projection.layer if source.layer is None else source.layer
    if component is None:
        raise Unchecked(explain_absence(name))
    trait = source.trait or file.trait
    found = imported.find_vectors(trait, source.method, Site(component, layer), source.position)
    if not found:
        said = [source.method, f"{name}@{layer}", source.position]
        full = ", ".join(part for part in (trait, *said) if part)
        raise Unchecked(f"its vector was not imported: {full}")
    fitting = [vector for vector in found if vector.hidden == hidden]
    if not fitting:
        raise Unchecked(f"its vector is {found[0].hidden} wide, the states {hidden}")
    return fitting


def _recompute(
    states: StoredStates, vector: Vector, projection: Projection, source_dtype: str | None
) -> Iterator[Recomputed]:
    """Compute the scores with the vector as it was saved, and as the later path rounded it."""
    baseline = 0.0
    if projection.centered:
        known = vector.midpoint if projection.baseline is None else projection.baseline
        if known is None:
            raise Unchecked("centred on a baseline that neither the file nor its vector has")
        baseline = known
    yield recompute_scores(states, vector.values, baseline)
    cast = cast_vector(vector.values, source_dtype)
    if cast is not None:
        yield recompute_scores(states, cast, baseline)


def _compare_norms(
    reading: ImportedReading, aligned: Alignment, projection: Projection, notes: list[str]
) -> Comparison | None:
    """Compare the norms, which are of the residual stream whatever was projected."""
    norms = projection.token_norms
    if norms is None:
        return None
    states = reading.states(Site("residual", projection.layer))
    if states is None:
        notes.append(f"token norms: residual at layer {projection.layer} is not stored")
        return None
    return aligned.compare(norms, recompute_norms(states))


def _make_row(
    experiment: Experiment,
    file: ProjectionFile,
    reading: ImportedReading | None,
    document: ProjectionDocument | None,
    checked: Sequence[_Checked],
    left_out: Sequence[Unchecked],
) -> CheckRow:
    scores = [each.scores for each in checked]
    norms = [each.norms for each in checked if each.norms is not None]
    worst = max(scores, key=lambda each: each.largest_difference, default=None)
    differing = [
        f"{each.label}: {comparison.describe(what)}"
        for each in checked
        for what, comparison in (("scores", each.scores), ("token norms", each.norms))
        if comparison is not None and comparison.excess > 1
    ]
    verdict: Verdict = "differs" if differing else "agreed" if checked else "unchecked"
    return CheckRow(
        path=file.path.relative_to(experiment.path).as_posix(),
        schema=document.schema if document else None,
        verdict=verdict,
        trait=file.trait,
        organism=reading.row["organism"] if reading else None,
        reader=reading.row["reader"] if reading else None,
        prompt_set=file.prompt_set,
        prompt_id=file.prompt_id,
        n_projections=len(document.projections) if document else 0,
        n_checked=len(checked),
        n_scores=sum(len(each.ours) for each in scores),
        n_norms=sum(len(each.ours) for each in norms),
        largest_difference=worst.largest_difference if worst else None,
        largest_relative=max((each.relative for each in scores), default=None),
        tolerance=float(worst.tolerance[worst.differences.argmax()]) if worst else None,
        correlation=_correlate(scores),
        largest_norm_difference=max((each.largest_difference for each in norms), default=None),
        reason=_give_reasons(differing, checked, left_out),
    )


def _correlate(scores: Sequence[Comparison]) -> float | None:
    if not scores:
        return None
    theirs = np.concatenate([each.theirs for each in scores])
    ours = np.concatenate([each.ours for each in scores])
    if theirs.std() == 0 or ours.std() == 0:
        return None
    return float(np.corrcoef(theirs, ours)[0, 1])


def _give_reasons(
    differing: Sequence[str], checked: Sequence[_Checked], left_out: Sequence[Unchecked]
) -> str | None:
    """Join what differs with what was left out; a reason is given once for all it holds for."""
    notes = dict.fromkeys(note for each in checked for note in each.notes)
    reasons = dict.fromkeys(each.reason for each in left_out)
    parts = [*differing, *notes]
    for reason in reasons:
        alike = [each for each in left_out if each.reason == reason]
        count = f"{len(alike)} not checked: " if checked or len(alike) < len(left_out) else ""
        places = ", ".join(each.place for each in alike if each.place)
        parts.append(f"{count}{reason}" + (f" ({places})" if places else ""))
    return "; ".join(parts) or None
