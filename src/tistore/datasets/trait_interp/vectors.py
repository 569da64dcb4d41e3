"""Vectors, their tensors left out: what folders, names and metadata tell of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tistore.datasets.trait_interp.documents import Node, find_problem, read_document
from tistore.datasets.trait_interp.files import VectorFile
from tistore.datasets.trait_interp.positions import decode_position, encode_position
from tistore.errors import DatasetError

DEFAULT_POSITION = "response[:]"
"""Tokens that the layout without positions fitted on: the mean of the whole response."""


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """
    A vector and what is known of it.

    Attributes:
        trait: `category/name`, by its path.
        layer: Block it was fitted at.
        component: As trait-interp names it: "residual", "attn_out", "attn_contribution", …
        method: How it was fitted.
        position: Tokens it was fitted on.
        position_is_lossy: Whether the position was guessed: from a folder's name that
            trait-interp reads otherwise, or from the layout that did not keep it.
        path: The tensor: one-dimensional, (hidden,).
        variant: Variant of the experiment it was fitted on, where the path says.
        model: Hub id of the model, where the metadata says.
        norm: Length before the tensor was saved, where known.
        midpoint: Mean of the two training sides' scores (`baseline`), where known.
        bias: Intercept of a probe, where known.
        train_accuracy: Share of training examples on their side, where known.
        fitted_at: When, as the metadata says.
        delta: What steering along it changed, for loose vectors.
        coefficient: Its steering coefficient; a negative one steers against it.
        doubts: What in its metadata is missing, or disagrees with the path, which wins.
    """

    trait: str
    layer: int
    component: str
    method: str
    position: str
    position_is_lossy: bool
    path: Path
    variant: str | None = None
    model: str | None = None
    norm: float | None = None
    midpoint: float | None = None
    bias: float | None = None
    train_accuracy: float | None = None
    fitted_at: str | None = None
    delta: float | None = None
    coefficient: float | None = None
    doubts: tuple[str, ...] = ()


def read_vectors(files: Iterable[VectorFile]) -> Iterator[VectorRecord]:
    """
    Read what is known of vectors; metadata shared by neighbours is read once.

    Args:
        files: Vectors of one experiment, in the order of its walk.

    Raises:
        DatasetError: A metadata file is malformed.
    """
    path: Path | None = None
    metadata: Node | None = None
    for file in files:
        if file.metadata != path:
            path = file.metadata
            metadata = read_document(path) if path.is_file() else None
        yield read_vector(file, metadata)


def read_vector(file: VectorFile, metadata: Node | None) -> VectorRecord:
    """
    Join a vector's path with its metadata.

    Args:
        file: The vector.
        metadata: What was read of `file.metadata`; None where there is no such file.

    Raises:
        DatasetError: The metadata is malformed.
    """
    doubts: list[str] = []
    metadata = metadata or Node(file.metadata, "", {})
    if not metadata.fields():
        doubts.append("no metadata")
    details = _find_details(file, metadata, doubts)
    position, is_lossy = _find_position(file, metadata, doubts)
    _compare(file, metadata, doubts)
    numbers = {
        key: _read_number(details, names, doubts)
        for key, names in {
            "norm": ("norm", "vector_norm"),
            "midpoint": ("baseline",),
            "bias": ("bias",),
            "train_accuracy": ("train_acc",),
        }.items()
    }
    return VectorRecord(
        trait=file.trait,
        layer=file.layer,
        component=file.component,
        method=file.method,
        position=position,
        position_is_lossy=is_lossy,
        path=file.path,
        variant=file.variant,
        model=metadata.get_known("model") or metadata.get_known("extraction_model"),
        fitted_at=metadata.get_text("timestamp"),
        doubts=tuple(doubts),
        **numbers,
    )


def read_loose_vectors(manifest: Path) -> tuple[VectorRecord, ...]:
    """
    Read the manifest of loose vectors: `{trait}.pt` or `{category}__{trait}.pt` beside it.

    The tensors lie in the manifest's folder, or in `vectors/` there; one that is missing is named.

    Raises:
        DatasetError: The manifest is malformed, or a tensor it names is missing.
    """
    node = read_document(manifest)
    position, component = node.get_text("position"), node.get_text("component")
    return tuple(
        VectorRecord(
            trait=_read_trait(entry, trait),
            layer=entry.require("layer").integer(),
            component=entry.get_text("component") or component or "residual",
            method=entry.require("method").text(),
            position=entry.get_text("position") or position or DEFAULT_POSITION,
            position_is_lossy=not (entry.get_text("position") or position),
            path=_find_tensor(manifest.parent, entry, trait),
            model=node.get_known("extraction_model") or node.get_known("model"),
            delta=entry.get_number("delta"),
            coefficient=entry.get_number("coefficient"),
        )
        for trait, entry in node.require("traits").entries()
    )


def _find_details(file: VectorFile, metadata: Node, doubts: list[str]) -> Node:
    """Find the numbers of one layer: one file held a layer's, later a method's."""
    layers = metadata.get("layers")
    if layers is None:
        return metadata
    details = layers.get(str(file.layer))
    if details is None:
        doubts.append(f"the metadata has no layer {file.layer}")
        return Node(metadata.path, "layers", {})
    return details


def _find_position(file: VectorFile, metadata: Node, doubts: list[str]) -> tuple[str, bool]:
    """Take the position from the metadata where it gives the folder's name, which loses some."""
    written = metadata.get_text("position")
    if file.position_code is None:
        return (written, False) if written else (DEFAULT_POSITION, True)
    if written and encode_position(written) == file.position_code:
        return written, False
    if written:
        doubts.append(f"the metadata says position {written}")
    decoded = decode_position(file.position_code)
    return decoded.text, decoded.is_lossy


def _compare(file: VectorFile, metadata: Node, doubts: list[str]) -> None:
    """Note where the metadata tells of another vector: folders were renamed, it was not."""
    for key in ("trait", "method", "component"):
        written = metadata.get_text(key)
        if written and written != getattr(file, key):
            doubts.append(f"the metadata says {key} {written}")
    written_layer = metadata.get_integer("layer")
    if written_layer not in (None, file.layer):
        doubts.append(f"the metadata says layer {written_layer}")


def _read_number(details: Node, names: tuple[str, ...], doubts: list[str]) -> float | None:
    """Read the first number there is; one that is not finite counts as unknown."""
    for name in names:
        if found := details.get(name):
            number = found.finite_or_none()
            if number is None:
                doubts.append(f"{name} is not finite")
            return number
    return None


def _read_trait(entry: Node, trait: str) -> str:
    if any(find_problem(part) for part in trait.split("/")):
        entry.fail(f"{trait!r} cannot name a trait")
    return trait


def _find_tensor(folder: Path, entry: Node, trait: str) -> Path:
    named = entry.get_text("file")
    names = [named] if named else [f"{trait.replace('/', '__')}.pt", f"{trait.split('/')[-1]}.pt"]
    for part in (part for name in names for part in name.split("/")):
        if problem := find_problem(part):
            entry.fail(f"{part!r} cannot name a tensor: {problem}")
    tried = [base / name for name in names for base in (folder, folder / "vectors")]
    for path in tried:
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise DatasetError(
        f"{entry.path}: no tensor for {trait}", mend=f"put {names[0]} beside the manifest"
    )
