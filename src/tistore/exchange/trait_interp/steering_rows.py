"""Steering results: each run of one vector becomes a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tistore.datasets.trait_interp.files import SteeringFile
from tistore.datasets.trait_interp.positions import decode_position
from tistore.datasets.trait_interp.steering import SteeringRun, read_steering
from tistore.datasets.trait_interp.vectors import DEFAULT_POSITION
from tistore.errors import DatasetError
from tistore.exchange.trait_interp.directions import VectorName
from tistore.exchange.trait_interp.found import Found

FindVector = Callable[[str, VectorName], str | None]
"""Finds the content hash of a trait's vector; None where it was not imported."""


def find_steering(file: SteeringFile, experiment: str, find_vector: FindVector) -> Found:
    """
    Read steering results; runs that fit no row are told in the note.

    Raises:
        DatasetError: The file is malformed, its vectors are another experiment's, or no run of
            it can be stored.
    """
    results = read_steering(file.path)
    if results.vector_experiment not in (None, experiment):
        raise DatasetError(
            f"{file.path}: its vectors are those of the experiment {results.vector_experiment!r}",
            mend="import that experiment into the same store; its steering results come with it",
        )
    position = decode_position(file.position_code).text if file.position_code else None
    trait = results.vector_trait or results.trait or file.trait
    rows, left_out = [], [f"{place}: a {kind}" for place, kind in results.unread]
    for run in results.runs:
        reason = run.misfit
        vector_hash = None if reason else _find_hash(run, trait, position, find_vector)
        if vector_hash:
            rows.append(("steering", run.to_row(file.trait, vector_hash)))
        else:
            left_out.append(f"{run.place}: {reason or _describe_missing(run, trait, position)}")
    if not rows:
        raise _refuse(file.path, left_out)
    note = f"{len(left_out)} of {len(left_out) + len(rows)} left out: " + "; ".join(left_out)
    return Found(tuple(rows), variety=file.path.suffix[1:], note=note if left_out else None)


def _refuse(path: Path, left_out: list[str]) -> DatasetError:
    told = "; ".join(left_out[:3]) or "it has none"
    return DatasetError(f"{path}: no run of it fits a row: {told}", mend="leave it out")


def _name(run: SteeringRun, position: str | None) -> VectorName:
    steered = run.vectors[0]
    told = steered.position or position or DEFAULT_POSITION
    return VectorName(steered.layer, steered.component, steered.method, told)


def _find_hash(
    run: SteeringRun, trait: str, position: str | None, find_vector: FindVector
) -> str | None:
    return find_vector(trait, _name(run, position))


def _describe_missing(run: SteeringRun, trait: str, position: str | None) -> str:
    name = _name(run, position)
    return (
        f"the vector {trait}:{name.method}@{name.layer} of {name.component} at {name.position} "
        "is not in the store"
    )
