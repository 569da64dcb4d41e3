"""The tensors of a file that holds vectors, not yet read, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.datasets.torch_files.tensor import DTYPES, Storage, TensorView, view_tensor

Key = str | int

MOST_WIDTH = 1 << 20
"""Numbers in one vector: many times the width of any model."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """
    A tensor of a file, and how the file names it.

    Attributes:
        keys: Names from the outermost container to the tensor; empty where it is the whole file.
        tensor: Where its values lie, or the values themselves.
        facts: Plain values that stand beside it, by their names in the file.
    """

    keys: tuple[Key, ...]
    tensor: TensorView | NDArray[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How the file names it; empty where it is the whole file."""
        return ".".join(str(key) for key in self.keys)

    @property
    def dtype(self) -> str:
        """Element type by torch's name."""
        kind = self.tensor.dtype
        return kind if isinstance(kind, str) else kind.name

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Its axes, without those of length 1 before the last."""
        shape = tuple(self.tensor.shape)
        return (*(n for n in shape[:-1] if n != 1), *shape[-1:])

    @property
    def nbytes(self) -> int:
        """Bytes of its values, once read."""
        return int(self.tensor.nbytes)

    @cached_property
    def values(self) -> NDArray[Any]:
        """Its values, of `shape`; read once, whole, so that a checksum covers them."""
        values = self.tensor.read() if isinstance(self.tensor, TensorView) else self.tensor
        return values.reshape(self.shape)

    def find_problem(self) -> str | None:
        """Say why its values cannot be directions; None where they can."""
        kind = DTYPES.get(self.dtype)
        if kind is None or kind.kind in "bc":
            return f"it holds {self.dtype}, not real numbers"
        if not self.shape or 0 in self.shape:
            return f"its shape {list(self.tensor.shape)} is no (hidden,)"
        if self.shape[-1] > MOST_WIDTH:
            return f"it is {self.shape[-1]:,} wide, more than any model"
        return None


@dataclass(frozen=True, slots=True)
class Contents:
    """
    What a reader found in a file.

    Attributes:
        variety: Kind of file: "pt", "safetensors", "npy", "gguf".
        leaves: Its tensors.
        refused: Tensors that cannot be read: name, and why.
    """

    variety: str
    leaves: tuple[Leaf, ...]
    refused: tuple[tuple[str, str], ...] = ()


def view_bytes(
    source: SourceFile,
    place: tuple[int, int],
    dtype: str,
    shape: object,
    *,
    is_fortran: bool = False,
    is_big_endian: bool = False,
) -> TensorView:
    """
    Describe a dense tensor that fills a stretch of a file.

    Args:
        source: The file.
        place: Its first byte, and how many there are.
        dtype: By torch's name.
        shape: As the file claims it.
        is_fortran: The first axis moves fastest.
        is_big_endian: Bytes of each number come most significant first.

    Raises:
        Refused: The stretch does not lie in the file, or is not what the shape needs.
    """
    start, n_bytes = place
    if start < 0 or n_bytes < 0 or start + n_bytes > source.size:
        raise Refused(
            f"it is cut short: a tensor claims bytes {start} to {start + n_bytes} of {source.size}",
            "copy or download the file again",
        )
    storage = Storage(source, start, n_bytes, dtype, big_endian=is_big_endian)
    view = view_tensor(storage, dtype, 0, shape, _steps(shape, is_fortran))
    if view.nbytes != n_bytes:
        raise Refused(
            f"a tensor of shape {list(view.shape)} and {dtype} has {n_bytes:,} bytes, "
            f"not {view.nbytes:,}",
            "copy or download the file again",
        )
    return view


def _steps(shape: object, is_fortran: bool) -> tuple[int, ...] | None:
    if not isinstance(shape, list | tuple):
        return None
    lengths = list(shape) if is_fortran else list(reversed(shape))
    steps, step = [], 1
    for n in lengths:
        steps.append(step)
        # What is no length is refused with the shape; here it must only not matter.
        step *= n if type(n) is int and 0 < n < 2**62 else 1
        step = min(step, 2**62)
    return tuple(steps if is_fortran else reversed(steps))
