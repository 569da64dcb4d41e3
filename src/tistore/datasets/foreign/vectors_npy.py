"""The array of an `.npy` file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from tistore.datasets.foreign.vectors_tensors import Contents, Leaf, view_bytes
from tistore.datasets.torch_files.source import Refused, SourceFile, naming
from tistore.datasets.torch_files.tensor import DTYPES

_MOST_HEADER_BYTES = 16 << 10
_PARSING_ERRORS = (
    *(ValueError, TypeError, SyntaxError, RecursionError, MemoryError, KeyError, TokenError),
)
"""What parsing a Python literal raises; NumPy, whose headers are such, lets it through."""

_MAGIC = b"\x93NUMPY"


def read_npy(path: Path) -> Contents:
    """
    Describe the array of a file; a lying header allocates nothing.

    Raises:
        ForeignFileError: The file is no `.npy`, damaged, claims sizes it cannot have, or holds
            something else than numbers.
    """
    with naming(path):
        source = SourceFile.identify(path)
        with source.open() as file:
            head = BytesIO(file.bytes_at(0, min(source.size, _MOST_HEADER_BYTES)))
        shape, is_fortran, dtype = _read_header(head)
        name = dtype.newbyteorder("=").name
        if dtype.hasobject:
            raise Refused("it holds Python objects, which are not read", "save numbers instead")
        if name not in DTYPES:
            raise Refused(
                f"it holds {dtype}, not plain numbers; NumPy writes bfloat16 as bytes without a "
                "name",
                "save it as float32",
            )
        view = view_bytes(
            source,
            (head.tell(), source.size - head.tell()),
            name,
            shape,
            is_fortran=is_fortran,
            is_big_endian=dtype.byteorder == ">",
        )
        return Contents("npy", (Leaf((), view),))


def _read_header(head: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if not head.getvalue().startswith(_MAGIC):
        raise Refused("it is no .npy file", "give it the ending of what it is")
    try:
        version = np.lib.format.read_magic(head)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise Refused(f"it is .npy of version {version}, which plain numbers never need")
        return read(head)
    except _PARSING_ERRORS as error:
        raise Refused("its header is damaged", "copy or download the file again") from error
