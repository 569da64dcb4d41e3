"""
Vectors that other tools wrote: what a file holds, and which block each direction belongs to.

A number beside a vector may count blocks from 0, or Hugging Face's `hidden_states`, whose first is
the embedding. Where a file does not tell, the reader does not guess: `Numbering` says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tistore.datasets.foreign.vectors_gguf import read_gguf
from tistore.datasets.foreign.vectors_naming import (
    VECTOR_KEYS,
    Naming,
    read_facts,
    read_file_name,
    read_keys,
)
from tistore.datasets.foreign.vectors_npy import read_npy
from tistore.datasets.foreign.vectors_safetensors import read_safetensors
from tistore.datasets.foreign.vectors_tensors import Contents, Key, Leaf
from tistore.datasets.torch_files import TensorView, read_torch_file
from tistore.errors import ForeignFileError, nearest

FirstRow = Literal["embedding", "block-0"]
FIRST_ROWS: tuple[FirstRow, ...] = ("embedding", "block-0")

MOST_BYTES = 256 << 20
"""Of the vectors of one file."""

MOST_ROWS = 1024
"""Rows of a stack: more than any model has blocks."""


_OF_EMBEDDING = "it is of the embedding, which is no block's output"
_AFTER_NORM = "hidden_states[{}] is after the final norm, which is no block's output"


@dataclass(frozen=True, slots=True)
class Numbering:
    """
    How the layers of a file are counted.

    Attributes:
        first_row: What 0 is: the embedding (as in `hidden_states`), or block 0's output. None
            leaves it to the file: to `n_blocks`, its name, or the tool that wrote it; a layer that
            is named is a block from 0 otherwise.
        n_blocks: Blocks of the model, where known.
    """

    first_row: FirstRow | None = None
    n_blocks: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ForeignVector:
    """
    One direction of a file, not yet read.

    Attributes:
        label: How the file names it: "row 12", "layer.12"; empty where it is the whole file.
        naming: What the file, its names and its metadata tell.
        layer: Block whose output it belongs to; None where nothing says.
        leaf: The tensor it lies in.
        row: Which row of the tensor; None where it is all of it.
        note: What to know of its layer.
    """

    label: str
    naming: Naming
    layer: int | None
    leaf: Leaf
    row: int | None = None
    note: str | None = None

    @property
    def dtype(self) -> str:
        """Element type in the file, by torch's name."""
        return self.leaf.dtype

    @property
    def hidden(self) -> int:
        """Width."""
        return self.leaf.shape[-1]

    def read(self) -> NDArray[Any]:
        """
        Read the values, (hidden,), in the file's own element type.

        Raises:
            ForeignFileError: The bytes are not those that were written.
        """
        values = self.leaf.values
        return values if self.row is None else values[self.row]


@dataclass(frozen=True, slots=True)
class RefusedVector:
    """A tensor, or a row of one, that is no direction of the store: its name, and why."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class VectorFile:
    """
    The vectors of a file.

    Attributes:
        path: The file.
        variety: What kind it is: "pt", "safetensors", "npy", "gguf".
        vectors: In the order of the file.
        refused: What is there and is no direction, with the reason.
    """

    path: Path
    variety: str
    vectors: tuple[ForeignVector, ...]
    refused: tuple[RefusedVector, ...]


def read_vector_file(path: Path, numbering: Numbering = Numbering()) -> VectorFile:  # noqa: B008
    """
    Find the vectors of a file; their values are read one by one, by `ForeignVector.read`.

    Args:
        path: A `.pt`, `.pth` or `.bin` of torch.save, a `.safetensors`, an `.npy`, or a `.gguf`.
        numbering: How its layers are counted.

    Raises:
        ForeignFileError: It is none of these, damaged, hostile or larger than vectors are, holds no
            vector, or does not tell how its layers are counted.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ForeignFileError(
            f"cannot read {path}: {path.suffix or 'a file without an ending'} is no kind of file "
            f"that vectors are read from; {nearest(path.suffix, _READERS)}",
            mend="give the file the ending of what it is",
        )
    contents = read(path)
    _check_size(path, contents)
    own = read_file_name(path.stem)
    refused = [RefusedVector(*entry) for entry in contents.refused]
    vectors: list[ForeignVector] = []
    for leaf in contents.leaves:
        for found in _find_vectors(path, leaf, own, numbering):
            if isinstance(found, RefusedVector):
                refused.append(found)
            else:
                vectors.append(found)
    if not vectors and not refused:
        raise ForeignFileError(f"cannot read {path}: it holds no tensor", mend="leave the file out")
    return VectorFile(path, contents.variety, tuple(vectors), tuple(refused))


def _check_size(path: Path, contents: Contents) -> None:
    n_bytes = sum(leaf.nbytes for leaf in contents.leaves)
    if n_bytes > MOST_BYTES:
        raise ForeignFileError(
            f"cannot read {path}: its tensors take {n_bytes:,} bytes, and vectors at most "
            f"{MOST_BYTES:,}",
            mend="it holds something else, or split it",
        )


def _find_vectors(
    path: Path, leaf: Leaf, own: Naming, numbering: Numbering
) -> Iterator[ForeignVector | RefusedVector]:
    naming = read_keys(leaf.keys).or_else(read_facts(leaf.facts)).or_else(own)
    if problem := leaf.find_problem() or _find_stranger(leaf):
        yield RefusedVector(leaf.label, problem)
    elif len(leaf.shape) == 1:
        if n_listed := leaf.facts.get(_LISTED):
            # A list of layers is a stack.
            first = _find_first_row(path, n_listed, naming, numbering)
            n_blocks = numbering.n_blocks or n_listed - (first == "embedding")
            numbering = Numbering(first, n_blocks)
        yield _place(leaf, naming, numbering)
    elif len(leaf.shape) == 2 and leaf.shape[0] <= MOST_ROWS and naming.layer is None:
        yield from _unstack(path, leaf, naming, numbering)
    else:
        yield RefusedVector(leaf.label, f"its shape {list(leaf.tensor.shape)} is no vector's")


def _find_stranger(leaf: Leaf) -> str | None:
    """Say of a tensor beside a dict's vector that it is another thing."""
    vector = leaf.facts.get(_BESIDE)
    if vector is None or leaf.keys[-1] == vector:
        return None
    return f"it lies beside {vector!r}, which is the vector"


# Facts of the walk itself; put in last, so that no file can set them.
_BESIDE = "\0vector"
"""Which of a dict's tensors is its vector, for those that lie beside it."""
_LISTED = "\0listed"
"""How long the list is that the tensor lies in."""


def _place(leaf: Leaf, naming: Naming, numbering: Numbering) -> ForeignVector | RefusedVector:
    """Find the block of a vector that stands by itself."""
    if naming.layer is None:
        return ForeignVector(leaf.label, naming, None, leaf)
    layer, note = naming.layer + naming.shift, None
    if numbering.first_row == "embedding":
        layer -= 1
    elif numbering.first_row is None and leaf.facts.get("layer_count_is_signed"):
        layer -= 1
        note = f"llama.cpp's generator fits direction.{naming.layer} to block {layer}"
    elif naming.layer == leaf.facts.get("layer_count"):
        note = "repeng fits the last block's direction after the final norm"
    if layer < 0:
        return RefusedVector(leaf.label, _OF_EMBEDDING)
    if numbering.first_row == "embedding" and naming.layer == numbering.n_blocks:
        return RefusedVector(leaf.label, _AFTER_NORM.format(naming.layer))
    if problem := _find_beyond(layer, numbering):
        return RefusedVector(leaf.label, problem)
    return ForeignVector(leaf.label, naming, layer, leaf, note=note)


def _find_beyond(layer: int, numbering: Numbering) -> str | None:
    n_blocks = numbering.n_blocks
    if n_blocks is None or layer < n_blocks:
        return None
    return f"the model has {n_blocks} blocks, and none is {layer}"


def _unstack(
    path: Path, leaf: Leaf, naming: Naming, numbering: Numbering
) -> Iterator[ForeignVector | RefusedVector]:
    """Take a stack of one vector a layer apart."""
    n_rows = leaf.shape[0]
    first = _find_first_row(path, n_rows, naming, numbering)
    n_blocks = numbering.n_blocks or (n_rows - 1 if first == "embedding" else n_rows)
    for row in range(n_rows):
        label = f"{leaf.label} row {row}".strip()
        layer = row - 1 if first == "embedding" else row
        if layer < 0:
            yield RefusedVector(label, _OF_EMBEDDING)
        elif first == "embedding" and row == n_blocks:
            yield RefusedVector(label, _AFTER_NORM.format(row))
        else:
            yield ForeignVector(label, naming, layer, leaf, row)


def _find_first_row(path: Path, n_rows: int, naming: Naming, numbering: Numbering) -> FirstRow:
    n_blocks = numbering.n_blocks
    first = numbering.first_row
    if first is None and n_blocks is not None:
        first = {n_blocks: "block-0", n_blocks + 1: "embedding"}.get(n_rows)  # type: ignore[assignment]
    if first is None and n_blocks is None and naming.is_persona:
        # persona-vectors stacks all of hidden_states, the embedding first.
        first = "embedding"
    most = None if n_blocks is None else n_blocks + (first != "block-0")
    if most is not None and n_rows > most:
        raise ForeignFileError(
            f"cannot read {path}: it has {n_rows} rows, more than a model of {n_blocks} blocks",
            mend="mend the number of blocks, or leave it out",
        )
    if first is None and n_blocks is not None:
        raise ForeignFileError(
            f"cannot read {path}: it has {n_rows} rows, where {n_blocks} blocks have {n_blocks}, "
            f"or {n_blocks + 1} with the embedding",
            mend="mend --blocks, or say where the rows begin: --first-row embedding or block-0",
        )
    if first is None:
        raise ForeignFileError(
            f"cannot read {path}: its {n_rows} rows may begin with the embedding or with block 0",
            mend="say which: --first-row embedding or block-0, or --blocks with the model's "
            "number of blocks",
        )
    return first


def _read_torch(path: Path) -> Contents:
    try:
        tree = read_torch_file(path, limit_bytes=MOST_BYTES)
    except ForeignFileError as error:
        if "steering_vectors." in error.message:
            error.mend = (
                "it is an object of steering-vectors: load it in Python, then "
                "tistore.exchange.vectors.add_steering_vector(store, object, trait=…)"
            )
        raise
    return Contents("pt", tuple(_walk(tree, (), {})))


def _walk(tree: Any, keys: tuple[Key, ...], facts: Mapping[str, Any]) -> Iterator[Leaf]:
    """List the tensors of a tree, each with the plain values that stand beside and above it."""
    if isinstance(tree, TensorView | np.ndarray):
        yield Leaf(keys, tree, facts)
    elif isinstance(tree, dict):
        named = {key: value for key, value in tree.items() if isinstance(key, str | int)}
        plain = {key: value for key, value in named.items() if isinstance(value, str | int)}
        vector = next((key for key in VECTOR_KEYS if _is_tensor(named.get(key))), None)
        for key, value in named.items():
            # Only what lies right beside the vector is a stranger, not what lies below.
            marks = {_BESIDE: vector if _is_tensor(value) else None, _LISTED: None}
            yield from _walk(value, (*keys, key), _join(facts, plain, marks))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            listed: dict[str, Any] = {_BESIDE: None, _LISTED: len(tree)}
            yield from _walk(value, (*keys, index), _join(facts, listed))


def _join(*parts: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for part in parts for name, value in part.items()}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorView | np.ndarray)


_READERS: dict[str, Callable[[Path], Contents]] = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".bin": _read_torch,
    ".safetensors": read_safetensors,
    ".npy": read_npy,
    ".gguf": read_gguf,
}

ENDINGS = frozenset(_READERS)
"""Endings of the files that vectors are read from."""
