"""
The `.npy` format: a header that is a Python literal, and the values.

Parsed here rather than by NumPy: the header is held against the file before anything is allocated,
the values are read only where asked for, and pickled objects are refused before a pickle is seen.

Source: the description in `numpy.lib.format`; NumPy Enhancement Proposal 1.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tistore.datasets.foreign.sample import refusing
from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.datasets.torch_files.tensor import DTYPES, Storage, TensorView, view_tensor

MAGIC = b"\x93NUMPY"
MOST_HEADER_BYTES = 10_000
"""As NumPy itself limits it: a longer literal can crash the interpreter that parses it."""

_DESCRIPTION = re.compile(r"([<>|=]?)([a-zA-Z])([0-9]*)")
_SAVE_ANEW = "write it anew with numpy.save, as an array of numbers"
_COPY_AGAIN = "copy or download the file again"
_LARGEST = 2**62
_MOST_AXES = 64


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """
    What stands before the values.

    Attributes:
        kind: NumPy's letter for the element type: "f", "i", "u", "b", "c", "V".
        itemsize: Bytes of an element.
        is_big_endian: The values were written on, or for, a big-endian machine.
        is_fortran: The first axis varies fastest.
        shape: Length of each axis.
        n_bytes: Length of the header itself: where the values begin.
    """

    kind: str
    itemsize: int
    is_big_endian: bool
    is_fortran: bool
    shape: tuple[int, ...]
    n_bytes: int

    @property
    def value_bytes(self) -> int:
        """How long the values are."""
        return math.prod(self.shape) * self.itemsize

    def dtype(self, hint: str | None) -> str:
        """
        Name the element type.

        Args:
            hint: What the file's metadata calls it: NumPy writes bfloat16 as bytes without a type.

        Raises:
            Refused: It is no type of numbers, or not the one that is hinted.
        """
        if (self.kind, self.itemsize) == ("V", 2):
            if hint != "bfloat16":
                raise Refused(
                    "its elements are 2 bytes without a type: bfloat16, perhaps",
                    'say so in the JSON beside it: "dtype": "bfloat16"',
                )
            return hint
        name = "bool" if self.kind == "b" else np.dtype(f"{self.kind}{self.itemsize}").name
        if name not in DTYPES:
            raise Refused(f"its elements are {name}", "write float16 or float32")
        if hint is not None and hint != name:
            raise Refused(f"its elements are {name}, but {hint} by the JSON beside it")
        return name

    def view(self, storage: Storage, hint: str | None) -> TensorView:
        """Describe the values, which begin where the storage does."""
        lengths = self.shape[::-1] if self.is_fortran else self.shape
        steps = [math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
        stride = steps[::-1] if self.is_fortran else steps
        return view_tensor(storage, self.dtype(hint), 0, self.shape, stride)


def read_npy(path: Path, dtype: str | None = None) -> TensorView:
    """
    Read a file's header; costs the header, not the file.

    Args:
        path: A `.npy` file.
        dtype: What other metadata calls its element type; see `NpyHeader.dtype`.

    Raises:
        ForeignFileError: The file is cut short, holds objects, or its header lies.
    """
    with refusing(path):
        source = SourceFile.identify(path)
        with source.open() as file:
            header = parse_header(file.bytes_at(0, min(file.size, MOST_HEADER_BYTES + 12)))
        left = source.size - header.n_bytes
        if header.value_bytes != left:
            raise Refused(
                f"it claims {header.value_bytes:,} bytes of values, but has {left:,}", _COPY_AGAIN
            )
        storage = Storage(source, header.n_bytes, left, None, big_endian=header.is_big_endian)
        return header.view(storage, dtype)


def parse_header(head: bytes) -> NpyHeader:
    """
    Parse the beginning of a file: at least its header.

    Raises:
        Refused: It is no `.npy` file, holds objects or records, or claims an impossible shape.
    """
    if not head.startswith(MAGIC) or len(head) < 12:
        raise Refused("it does not begin like a .npy file", _SAVE_ANEW)
    if head[6] not in (1, 2, 3):
        raise Refused(f"it is of version {head[6]} of the .npy format, which is unknown")
    place, size = (10, "<H") if head[6] == 1 else (12, "<I")
    (n_bytes,) = struct.unpack_from(size, head, 8)
    if n_bytes > MOST_HEADER_BYTES:
        raise Refused(f"its header claims {n_bytes:,} bytes, more than {MOST_HEADER_BYTES:,}")
    if place + n_bytes > len(head):
        raise Refused("it is cut short within its header", _COPY_AGAIN)
    fields = _parse_literal(head[place : place + n_bytes])
    kind, itemsize, is_big_endian = _parse_description(fields["descr"])
    shape = fields["shape"]
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        raise Refused("its shape is no tuple of lengths", _SAVE_ANEW)
    if any(type(length) is not int or not 0 <= length <= _LARGEST for length in shape):
        raise Refused(f"its shape is {ascii(shape)[:60]}, not whole numbers from 0", _SAVE_ANEW)
    if type(fields["fortran_order"]) is not bool:
        raise Refused("its fortran_order is neither True nor False", _SAVE_ANEW)
    return NpyHeader(kind, itemsize, is_big_endian, fields["fortran_order"], shape, place + n_bytes)


def _parse_literal(content: bytes) -> dict[str, Any]:
    try:
        fields = ast.literal_eval(content.decode("utf-8"))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise Refused("its header is no Python literal", _SAVE_ANEW) from error
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise Refused("its header has not just descr, fortran_order, shape", _SAVE_ANEW)
    return fields


def _parse_description(description: Any) -> tuple[str, int, bool]:
    if not isinstance(description, str):
        raise Refused("its elements are records, not numbers", _SAVE_ANEW)
    match = _DESCRIPTION.fullmatch(description)
    if match and match[2] == "O":
        raise Refused("it holds pickled Python objects, which are not read", _SAVE_ANEW)
    if not match or match[2] not in "fiubcVU" or not match[3] or len(match[3]) > 8:
        raise Refused(f"its elements are {ascii(description)[:40]}, not numbers", _SAVE_ANEW)
    itemsize = int(match[3]) * (4 if match[2] == "U" else 1)
    if match[2] in "fiubc" and itemsize not in (1, 2, 4, 8, 16):
        raise Refused(f"its elements are {ascii(description)}, not numbers", _SAVE_ANEW)
    return match[2], itemsize, match[1] == ">"
