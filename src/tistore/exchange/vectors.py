"""Vectors that other tools wrote, brought into a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from tistore.datasets.foreign.vectors import (
    ENDINGS,
    ForeignVector,
    Numbering,
    VectorFile,
    read_vector_file,
)
from tistore.datasets.foreign.vectors_naming import LAYER_TYPES
from tistore.errors import (
    ConfigError,
    DatasetError,
    ForeignFileError,
    InvalidRecordError,
    nearest,
)
from tistore.query.store import Store
from tistore.schemas.site import COMPONENTS, Component
from tistore.schemas.vector import Vector
from tistore.store.info import list_widths

SOURCE_FORMAT = "vectors"

BATCH_BYTES = 64 << 20
"""Values that wait for one commit."""

NAME_PLACE = "{name}"
"""In `Told.trait`: what the file calls the vector."""

_TAKEN = "the store holds another vector of that name: give it another --trait or --method"

Outcome = Literal["imported", "present", "refused"]


@dataclass(frozen=True, slots=True)
class Told:
    """
    What the user says of the vectors; None leaves it to the files.

    Attributes:
        trait: Their trait; `{name}` in it stands for what the file calls each.
        layer: Block of a vector that has none; of several layers, the one to take.
        method: How they were fitted.
        component: What was read.
        position: Tokens they were fitted on.
        model: Model they were fitted on.
    """

    trait: str | None = None
    layer: int | None = None
    method: str | None = None
    component: str | None = None
    position: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class VectorOutcome:
    """
    What became of one vector, or of a file that could not be read.

    Attributes:
        path: The file.
        label: How the file names the vector; empty where it is the whole file.
        outcome: A dry run says "imported" of what it would import.
        reference: How SQL names it in the store; None when refused.
        layer: Its block.
        hidden: Its width.
        source_dtype: Its element type in the file.
        note: Why it was refused, or what to know of it.
    """

    path: str
    label: str
    outcome: Outcome
    reference: str | None = None
    layer: int | None = None
    hidden: int | None = None
    source_dtype: str | None = None
    note: str | None = None

    def to_row(self) -> dict[str, Any]:
        """Lay it out flat."""
        return asdict(self)


@dataclass(slots=True)
class VectorImport:
    """What an import did, or would do: everything seen, in the order of the files."""

    outcomes: list[VectorOutcome] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        """Count the vectors that came out so."""
        return sum(seen.outcome == outcome for seen in self.outcomes)


def import_vectors(
    store: Store,
    source: Path,
    told: Told = Told(),  # noqa: B008
    numbering: Numbering = Numbering(),  # noqa: B008
    *,
    is_dry_run: bool = False,
) -> VectorImport:
    """
    Import the vectors of a file, or of every file below a folder.

    A vector of a folder is called after its place: `tone/evil.pt` is the trait `tone/evil`. What is
    in the store already is left as it is, so a second import adds nothing. Each new vector has a
    row in `sources`.

    Args:
        store: Where to.
        source: A file that `read_vector_file` reads, or a folder of them.
        told: What the files do not say.
        numbering: How the files count layers.
        is_dry_run: Only report.

    Raises:
        DatasetError: There is no such file, or none in the folder.
        ForeignFileError: The one file is damaged, hostile, of no known kind, or has no vector at
            the layer asked for; of a folder, such files are refused in the report.
        ConfigError: There is no such component, or the trait has other braces than `{name}`.
    """
    if told.component is not None and told.component not in COMPONENTS:
        raise ConfigError(f"no component {told.component!r}; {nearest(told.component, COMPONENTS)}")
    if told.trait is not None and {"{", "}"} & set(told.trait.replace(NAME_PLACE, "")):
        raise ConfigError(
            f"the trait {told.trait!r} has braces around something else than name",
            mend=f"write {NAME_PLACE} for what the file calls each vector, and no other braces",
        )
    importer = _Importer(store, told, is_dry_run)
    for path, folder in _list_files(source):
        try:
            importer.add_file(read_vector_file(path, numbering), folder)
        except ForeignFileError as error:
            if not source.is_dir():
                raise
            importer.report.outcomes.append(
                VectorOutcome(str(path), "", "refused", note=_on_one_line(error))
            )
    importer.commit()
    return importer.report


def read_one_vector(path: Path, layer: int) -> NDArray[Any]:
    """
    Read the one vector of a file, or its one vector at a layer.

    Returns:
        (hidden,), in the file's element type.

    Raises:
        ForeignFileError: The file cannot be read, or holds no vector at that layer.
        ConfigError: It holds several.
    """
    file = read_vector_file(path)
    found = [vector for vector in file.vectors if vector.layer in (layer, None)]
    if len(found) == 1:
        return found[0].read()
    if not file.vectors:
        reasons = "; ".join(f"{entry.label}: {entry.reason}" for entry in file.refused[:3])
        raise ForeignFileError(f"{path} holds no vector: {reasons}")
    if found:
        labels = ", ".join(vector.label for vector in found[:6])
        raise ConfigError(
            f"{path} holds {len(found)} vectors at layer {layer}: {labels}",
            mend="tistore import vectors brings in all of them",
        )
    raise _no_such_layer(file, layer)


def from_steering_vector(
    steering_vector: Any,
    *,
    trait: str,
    method: str = "unknown",
    position: str = "unknown",
    model: str | None = None,
) -> tuple[Vector, ...]:
    """
    Turn an object of the steering-vectors package into vectors, one a layer.

    Its layers are blocks from 0, as the store's are.

    Args:
        steering_vector: Anything with `layer_activations` and `layer_type`.
        trait: `category/name`.
        method: How it was fitted, such as "mean_diff".
        position: Tokens it was fitted on.
        model: Model it was fitted on.

    Raises:
        InvalidRecordError: It is no such object, is of a kind of layer that the store has no
            component for, or holds what is no direction.
    """
    layers = getattr(steering_vector, "layer_activations", None)
    if not isinstance(layers, dict) or not layers:
        raise InvalidRecordError(
            f"{type(steering_vector).__name__} is no steering vector: it has no layer_activations"
        )
    kind = getattr(steering_vector, "layer_type", "decoder_block")
    component = LAYER_TYPES.get(kind)
    if component is None:
        raise InvalidRecordError(
            f"vectors at {kind!r} have no component in the store; "
            f"there are {', '.join(LAYER_TYPES)}"
        )
    return tuple(
        Vector(
            trait=trait,
            values=_as_float32(values),
            layer=layer,
            component=cast(Component, component),
            method=method,
            position=position,
            model=model,
        )
        for layer, values in sorted(layers.items())
    )


def add_steering_vector(store: Store, steering_vector: Any, **told: Any) -> tuple[Vector, ...]:
    """
    Commit an object of the steering-vectors package; see `from_steering_vector`.

    Raises:
        InvalidRecordError: It is no such object.
        KeyConflictError: The store holds other vectors of that name.
    """
    vectors = from_steering_vector(steering_vector, **told)
    store.add_rows("vectors", [vector.to_row() for vector in vectors])
    return vectors


class _Importer:
    """Takes vectors file by file, and commits them together."""

    def __init__(self, store: Store, told: Told, is_dry_run: bool) -> None:
        self.store = store
        self.told = told
        self.is_dry_run = is_dry_run
        self.report = VectorImport()
        store.refresh()
        self.held = {vector.key: vector.content_hash for vector in store.snapshot.vectors()}
        self.widths = list_widths(store.snapshot.segments)
        self.vectors: list[dict[str, Any]] = []
        self.sources: list[dict[str, Any]] = []
        self.waiting_bytes = 0

    def add_file(self, file: VectorFile, folder: str) -> None:
        """Take a file's vectors, and report on all that is in it."""
        wanted = [vector for vector in file.vectors if self._is_wanted(vector)]
        if file.vectors and not wanted:
            raise _no_such_layer(file, self.told.layer)
        digest = _hash(file.path) if wanted else ""
        for found in wanted:
            self._add(file, found, folder, digest)
        for entry in file.refused:
            self.report.outcomes.append(
                VectorOutcome(str(file.path), entry.label, "refused", note=entry.reason)
            )

    def commit(self) -> None:
        """Commit what waits: vectors, and where each came from, in one."""
        if not self.vectors:
            return
        with self.store.writer() as writer:
            writer.add_rows("vectors", self.vectors)
            writer.add_rows("sources", self.sources)
        self.vectors, self.sources, self.waiting_bytes = [], [], 0

    def _is_wanted(self, found: ForeignVector) -> bool:
        return self.told.layer is None or found.layer in (self.told.layer, None)

    def _add(self, file: VectorFile, found: ForeignVector, folder: str, digest: str) -> None:
        seen = VectorOutcome(
            path=str(file.path),
            label=found.label,
            outcome="refused",
            layer=found.layer,
            hidden=found.hidden,
            source_dtype=found.dtype,
        )
        try:
            vector = self._make(found, folder)
        except (DatasetError, InvalidRecordError) as error:
            self.report.outcomes.append(replace(seen, note=_on_one_line(error)))
            return
        seen = replace(seen, layer=vector.layer, reference=vector.reference)
        held = self.held.get(vector.key)
        if held is None:
            seen = replace(seen, outcome="imported", note=self._note(found, vector))
            self.held[vector.key] = vector.content_hash
            self._keep(file, vector, digest, seen)
        elif held == vector.content_hash:
            seen = replace(seen, outcome="present", note=found.note)
        else:
            seen = replace(seen, note=_TAKEN)
        self.report.outcomes.append(seen)

    def _make(self, found: ForeignVector, folder: str) -> Vector:
        told, naming = self.told, found.naming
        layer = told.layer if found.layer is None else found.layer
        if layer is None:
            raise DatasetError("nothing says its layer: give it with --layer")
        component = told.component or naming.component or "residual"
        if component not in COMPONENTS:
            raise DatasetError(f"no component {component!r}: say which with --component")
        return Vector(
            trait=self._name(naming.trait, folder),
            values=_as_float32(found.read()),
            layer=layer,
            component=component,
            method=told.method or naming.method or "unknown",
            position=told.position or naming.position or "unknown",
            model=told.model or naming.model,
        )

    def _name(self, name: str | None, folder: str) -> str:
        placed = "/".join(part for part in (folder, name) if part)
        template = NAME_PLACE if self.told.trait is None else self.told.trait
        if NAME_PLACE in template and not placed:
            raise DatasetError("nothing says its trait: give it with --trait")
        return template.replace(NAME_PLACE, placed)

    def _note(self, found: ForeignVector, vector: Vector) -> str | None:
        notes = [found.note]
        widths = self.widths.get(vector.component, ())
        if widths and vector.hidden not in widths:
            stored = ", ".join(map(str, widths))
            notes.append(f"it is {vector.hidden} wide, and the store's readings {stored}")
        if not np.array_equal(vector.values, found.read()):
            notes.append(f"rounded from {found.dtype} to float32")
        return "; ".join(note for note in notes if note) or None

    def _keep(self, file: VectorFile, vector: Vector, digest: str, outcome: VectorOutcome) -> None:
        if self.is_dry_run:
            return
        self.vectors.append(vector.to_row())
        self.sources.append(
            {
                "source_format": SOURCE_FORMAT,
                # One row a vector: a file may hold many, and give more under other options later.
                "path": f"{file.path.resolve()}#{vector.reference}:{vector.key[:8]}",
                "sha256": digest,
                "size_bytes": file.path.stat().st_size,
                "kind": "vector",
                "variety": file.variety,
                "vector_hash": vector.content_hash,
                "source_dtype": outcome.source_dtype,
                "note": "; ".join(filter(None, (outcome.label, outcome.note))) or None,
            }
        )
        self.waiting_bytes += vector.values.nbytes
        if self.waiting_bytes >= BATCH_BYTES:
            self.commit()


def _list_files(source: Path) -> Iterator[tuple[Path, str]]:
    """Walk the files to read, each with the folder its vectors are called after."""
    if not source.is_dir():
        if not source.exists():
            raise DatasetError(f"nothing lies at {source}", mend="check the path")
        yield source, ""
        return
    found = sorted(
        path for path in source.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not found:
        endings = ", ".join(sorted(ENDINGS))
        raise DatasetError(f"no file below {source} ends in {endings}", mend="check the path")
    for path in found:
        folder = path.parent.relative_to(source)
        yield path, "" if folder == Path() else folder.as_posix()


def _no_such_layer(file: VectorFile, layer: int | None) -> ForeignFileError:
    layers = sorted({found.layer for found in file.vectors if found.layer is not None})
    return ForeignFileError(
        f"{file.path} has no vector at layer {layer}; it has {', '.join(map(str, layers))}",
        mend="ask for one of these, or leave the layer out",
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_float32(values: Any) -> NDArray[np.float32]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)


def _on_one_line(error: DatasetError | InvalidRecordError) -> str:
    return f"{error.message}: {error.mend}" if error.mend else error.message
