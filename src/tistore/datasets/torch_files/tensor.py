"""Tensors as a file describes them: a dtype, a shape and strides over a stretch of bytes."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tistore.datasets.torch_files.source import OpenFile, Refused, SourceFile, naming

DTYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.bool_),
    **{
        name: np.dtype(name)
        for name in (
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64", "complex64", "complex128"),
        )
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in (
            *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz"),
            *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        )
    },
}
"""What each of torch's element types is in NumPy."""

BLOCK_BYTES = 16 << 20
"""Most bytes held at once for a view that is not contiguous, besides the values."""

GAP_BYTES = 64 << 10
"""A stretch this short is read whole, even where few of its bytes are values."""

_LARGEST = 2**62
_MOST_DIMENSIONS = 64  # NumPy's own limit


@dataclass(frozen=True, slots=True)
class Storage:
    """
    The raw elements that one or many tensors look into.

    Attributes:
        source: The file.
        start: Byte of the file where the elements begin.
        n_bytes: How many bytes they are; checked to lie inside the file.
        dtype: Element type; None when untyped.
        crc32: Checksum of all of them, where the file has one.
        big_endian: The file was written on a big-endian machine.
    """

    source: SourceFile
    start: int
    n_bytes: int
    dtype: str | None
    crc32: int | None = None
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class TensorView:
    """
    A tensor of a file, not yet read.

    Attributes:
        dtype: Element type by torch's name: "bfloat16".
        shape: Length of each axis.
        stride: Elements of the storage from one index to the next, for each axis.
        offset: Element of the storage where the tensor begins.
        storage: What it looks into; often far larger than the tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage = field(repr=False)

    @property
    def nbytes(self) -> int:
        """How many bytes the values are, once read."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self) -> NDArray[Any]:
        """
        Read the values, and of the storage no more than they need.

        Returns:
            Of the tensor's shape, C-contiguous, own memory, in this machine's byte order; bfloat16
            and float8 as `ml_dtypes` has them.

        Raises:
            ForeignFileError: The file changed since it was opened, or its bytes are not those it
                was written with.
        """
        with naming(self.storage.source.path), self.storage.source.open() as file:
            return self._read(file)

    def _read(self, file: OpenFile) -> NDArray[Any]:
        dtype = DTYPES[self.dtype]
        # A byte that is neither 0 nor 1 is no NumPy boolean; torch takes it as true.
        raw = np.dtype(np.uint8) if self.dtype == "bool" else dtype
        # Axes that repeat (stride 0) are read once and repeated in memory.
        shape = tuple(
            1 if step == 0 else n for n, step in zip(self.shape, self.stride, strict=True)
        )
        values: NDArray[Any] = np.empty(shape, raw)
        if values.size:
            steps = tuple(step * raw.itemsize for step in self.stride)
            _fill(file, self.storage.start + self.offset * raw.itemsize, steps, values)
            self._check_sum(values)
        if self.storage.big_endian:
            _swap_bytes(values)
        if shape != self.shape:
            values = np.broadcast_to(values, self.shape).copy()
        return values != 0 if self.dtype == "bool" else values

    def _check_sum(self, values: NDArray[Any]) -> None:
        # Only the whole storage has a checksum; a view into it would have to read all of it.
        whole = values.nbytes == self.storage.n_bytes and _is_contiguous(
            values.shape, self.stride, itemsize=1
        )
        if self.storage.crc32 is None or not whole:
            return
        if zlib.crc32(_as_bytes(values)) != self.storage.crc32:
            raise Refused(
                f"the values at byte {self.storage.start} do not match their checksum",
                "copy or download the file again",
            )


def view_tensor(
    storage: Storage, dtype: str, offset: object, shape: object, stride: object
) -> TensorView:
    """
    Describe a tensor, having checked that all of it lies inside its storage.

    Nothing is allocated: a file may claim any shape.

    Raises:
        Refused: A number is no length, or the tensor reaches beyond its storage.
    """
    lengths, steps = _lengths(shape, "shape"), _lengths(stride, "stride")
    (first,) = _lengths((offset,), "offset")
    if len(lengths) != len(steps):
        raise Refused(f"a tensor has {len(lengths)} axes but {len(steps)} strides")
    itemsize = DTYPES[dtype].itemsize
    if math.prod(n for n in lengths if n) * itemsize > _LARGEST:
        raise Refused(f"a tensor claims the shape {list(lengths)}, more than any machine holds")
    view = TensorView(dtype, lengths, steps, first, storage)
    if view.nbytes:
        end = (first + 1 + _reach(lengths, steps)) * itemsize
        if end > storage.n_bytes:
            raise Refused(
                f"a tensor of shape {list(lengths)} ends at byte {end} of a storage of "
                f"{storage.n_bytes}"
            )
        _refuse_wide_overlap(view)
    return view


def _lengths(values: object, label: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > _MOST_DIMENSIONS:
        raise Refused(
            f"a tensor's {label} is no list of numbers, or has more than {_MOST_DIMENSIONS}"
        )
    if any(type(value) is not int or not 0 <= value <= _LARGEST for value in values):
        raise Refused(f"a tensor's {label} has something else than whole numbers from 0 to 2^62")
    return tuple(values)


def _reach(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Count the elements from the first value to the last."""
    return sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def _refuse_wide_overlap(view: TensorView) -> None:
    """Refuse windows that overlap over a long stretch: reading them could take for ever."""
    itemsize = DTYPES[view.dtype].itemsize
    if _is_read_at_once((_reach(view.shape, view.stride) + 1) * itemsize, view.nbytes):
        return
    axes = sorted(
        (step, n) for n, step in zip(view.shape, view.stride, strict=True) if step and n > 1
    )
    reach = 0
    for step, n in axes:
        if step <= reach:
            raise Refused(
                f"a tensor of shape {list(view.shape)} has overlapping strides {list(view.stride)}",
                "save it with .contiguous()",
            )
        reach += (n - 1) * step


def _is_read_at_once(span: int, n_bytes: int) -> bool:
    return span <= BLOCK_BYTES and span <= max(GAP_BYTES, 2 * n_bytes)


def _fill(file: OpenFile, start: int, steps: tuple[int, ...], values: NDArray[Any]) -> None:
    """Read strided values into an array: whole where dense, in halves where wide or sparse."""
    span = _reach(values.shape, steps) + values.itemsize
    if values.flags.c_contiguous and _is_contiguous(values.shape, steps, values.itemsize):
        file.fill(start, _as_bytes(values))
    elif _is_read_at_once(span, values.nbytes):
        raw = file.bytes_at(start, span)
        values[...] = np.ndarray(values.shape, values.dtype, raw, strides=steps)
    else:
        axis = max(range(values.ndim), key=lambda a: (values.shape[a] - 1) * steps[a])
        middle = values.shape[axis] // 2
        before, after = np.split(values, [middle], axis)
        _fill(file, start, steps, before)
        _fill(file, start + middle * steps[axis], steps, after)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...], itemsize: int) -> bool:
    expected = itemsize
    for n, step in zip(reversed(shape), reversed(stride), strict=True):
        if n != 1:
            if step != expected:
                return False
            expected *= n
    return True


def _as_bytes(values: NDArray[Any]) -> memoryview:
    return values.reshape(-1).view(np.uint8).data


def _swap_bytes(values: NDArray[Any]) -> None:
    flat = values.reshape(-1)
    # A complex number is two numbers, each swapped by itself.
    width = values.itemsize // 2 if values.dtype.kind == "c" else values.itemsize
    flat.view(f"u{width}").byteswap(inplace=True)
