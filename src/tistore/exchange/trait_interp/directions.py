"""Vectors: a tensor and its metadata become a direction of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tistore.datasets.torch_files import TensorView, read_torch_file
from tistore.datasets.trait_interp.vectors import VectorRecord, read_loose_vectors
from tistore.errors import DatasetError, ForeignFileError
from tistore.exchange.trait_interp.components import explain_absence, find_component
from tistore.exchange.trait_interp.found import Found
from tistore.exchange.trait_interp.roster import Roster
from tistore.schemas.vector import Vector

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class VectorName:
    """What steering results call a vector by, within a trait."""

    layer: int
    component: str
    method: str
    position: str


def find_direction(record: VectorRecord, model: str | None) -> Found:
    """
    Read a vector.

    The metadata's `baseline` is the mean of the two training sides' scores along the unit vector,
    which is what the store calls the midpoint. Its `norm` is of the direction before it was
    normalised and saved, which no column holds: it becomes part of the note.

    Raises:
        DatasetError: The tensor is no direction, or of a component the store has not.
        InvalidRecordError: It is zero or not finite, or its trait cannot be a trait's name.
    """
    component = find_component(record.component)
    if component is None:
        raise DatasetError(
            f"{record.path}: no component for {explain_absence(record.component)}",
            mend="leave it out",
        )
    tensor = read_torch_file(record.path)
    if not isinstance(tensor, TensorView) or len(tensor.shape) != 1:
        shape = list(tensor.shape) if isinstance(tensor, TensorView) else type(tensor).__name__
        raise ForeignFileError(
            f"{record.path}: it holds {shape}, not a tensor [hidden]", mend="leave it out"
        )
    vector = Vector(
        record.trait,
        tensor.read().astype("float32"),
        record.layer,
        component,
        method=record.method,
        position=record.position,
        model=model,
        midpoint=record.midpoint,
    )
    return Found(
        rows=(("vectors", vector.to_row()),),
        vector_hash=vector.content_hash,
        source_dtype=tensor.dtype,
        note="; ".join(_note(record)) or None,
    )


def name_vector(record: VectorRecord) -> VectorName:
    """Name a vector as steering results do."""
    return VectorName(record.layer, record.component, record.method, record.position)


def name_fitted_model(record: VectorRecord, roster: Roster, extraction: str | None) -> str | None:
    """Name the model a vector was fitted on: its path's variant, else the one that extracts."""
    variant = record.variant or extraction
    return roster.name(variant) if variant else record.model


def find_loose(path: Path) -> Iterator[VectorRecord]:
    """
    Find the vectors of a manifest, or of the folder it lies in.

    Raises:
        DatasetError: There is no manifest, it is malformed, or a tensor it names is missing.
    """
    manifest = path / MANIFEST if path.is_dir() else path
    yield from read_loose_vectors(manifest)


def _note(record: VectorRecord) -> Iterator[str]:
    facts = {
        "norm before it was saved": record.norm,
        "bias": record.bias,
        "training accuracy": record.train_accuracy,
        "steering delta": record.delta,
        "steering coefficient": record.coefficient,
    }
    yield from (f"{name} {value:g}" for name, value in facts.items() if value is not None)
    if record.fitted_at:
        yield f"fitted at {record.fitted_at}"
    if record.position_is_lossy:
        yield f"the position {record.position} is a guess"
    yield from record.doubts
