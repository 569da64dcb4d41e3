"""
The safetensors format, read without trusting its header.

A file is the header's length (8 bytes), a JSON object that gives every tensor's type, shape and
bytes, and those bytes, tensor after tensor without a gap. Read here rather than with the
safetensors package: its NumPy side has no bfloat16, and it is no dependency of a store.

Source: the format's description in the safetensors README; its limits are those of the reference
reader, and a header beyond 16 MiB is refused where that takes 100 MB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tistore.datasets.foreign.json_objects import MAX_CHARACTERS, describe, parse_object
from tistore.datasets.foreign.sample import refusing
from tistore.datasets.torch_files.source import OpenFile, Refused, SourceFile
from tistore.datasets.torch_files.tensor import DTYPES, Storage, TensorView, view_tensor

DTYPE_NAMES = {
    "BOOL": "bool",
    **{f"{sign}{bits}": f"{kind}{bits}" for sign, kind in (("I", "int"), ("U", "uint"))
       for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
}  # fmt: skip
"""What each of the format's element types is in torch's words."""

_LENGTH_BYTES = 8
_LARGEST = 2**62
_MOST_AXES = 64
_WRITE_ANEW = "write it anew with the safetensors package"
_COPY_AGAIN = "copy or download the file again"


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """
    What a file holds.

    Attributes:
        source: The file.
        metadata: Its texts by name.
        tensors: Its tensors by name, not yet read.
    """

    source: SourceFile
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorView]


def read_safetensors(path: Path) -> SafetensorsFile:
    """
    Read a file's header; costs the header, not the file.

    Raises:
        ForeignFileError: The file is cut short, or its header is not what the format asks for;
            the message names the file, what and why.
    """
    with refusing(path):
        source = SourceFile.identify(path)
        with source.open() as file:
            header, start = _read_header(file, path)
        metadata = _check_metadata(header.pop("__metadata__", None))
        tensors = {
            name: _view(name, fields, Storage(source, start, source.size - start, None))
            for name, fields in header.items()
        }
        _check_layout(header, source.size - start)
        return SafetensorsFile(source, metadata, tensors)


def _read_header(file: OpenFile, path: Path) -> tuple[dict[str, Any], int]:
    """Parse the header; also tell where the values begin."""
    if file.size < _LENGTH_BYTES + 2:
        raise Refused(f"it has {file.size} bytes, too few for a safetensors file", _COPY_AGAIN)
    n_bytes = int.from_bytes(file.bytes_at(0, _LENGTH_BYTES), "little")
    if n_bytes > MAX_CHARACTERS:
        raise Refused(
            f"its header claims {n_bytes:,} bytes, more than the {MAX_CHARACTERS:,} that are read",
            "is it a safetensors file? keep numbers in tensors, not in the metadata",
        )
    if n_bytes > file.size - _LENGTH_BYTES:
        raise Refused(
            f"it is cut short: its header claims {n_bytes:,} bytes, and it has {file.size:,}",
            _COPY_AGAIN,
        )
    content = file.bytes_at(_LENGTH_BYTES, n_bytes)
    if content[:1] != b"{":
        raise Refused("its header does not begin with {", "is it a safetensors file?")
    return parse_object(content, f"{path}: its header"), _LENGTH_BYTES + n_bytes


def _check_metadata(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise Refused(f"its __metadata__ is {describe(metadata)}, not an object", _WRITE_ANEW)
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise Refused(
                f"its __metadata__ holds {describe(value)} as {describe(name)}, not text",
                _WRITE_ANEW,
            )
    return metadata


def _view(name: str, fields: Any, storage: Storage) -> TensorView:
    shown = describe(name)
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"its tensor {shown} has not just dtype, shape, data_offsets", _WRITE_ANEW)
    dtype = DTYPE_NAMES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        known = ", ".join(DTYPE_NAMES)
        raise Refused(f"its tensor {shown} is {describe(fields['dtype'])}", f"write one of {known}")
    shape = _check_numbers(fields["shape"], f"shape of {shown}")
    offsets = _check_numbers(fields["data_offsets"], f"data_offsets of {shown}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Refused(f"the data_offsets of {shown} are {offsets}, no range", _WRITE_ANEW)
    start, stop = offsets
    if stop > storage.n_bytes:
        raise Refused(
            f"its tensor {shown} ends at byte {stop:,} of {storage.n_bytes:,}: cut short?",
            _COPY_AGAIN,
        )
    itemsize = DTYPES[dtype].itemsize
    if math.prod(shape) * itemsize != stop - start:
        raise Refused(
            f"its tensor {shown} is {dtype} of shape {shape}, but has {stop - start:,} bytes",
            _WRITE_ANEW,
        )
    # A storage of its own: a tensor may begin anywhere, not only at multiples of its itemsize.
    own = Storage(storage.source, storage.start + start, stop - start, dtype)
    stride = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return view_tensor(own, dtype, 0, shape, stride)


def _check_numbers(values: Any, what: str) -> list[int]:
    # Lengths are multiplied: without a limit, that alone could take for ever.
    is_short = isinstance(values, list) and len(values) <= _MOST_AXES
    if not is_short or any(type(v) is not int or not 0 <= v <= _LARGEST for v in values):
        raise Refused(f"the {what} is {describe(values)}, not whole numbers from 0", _WRITE_ANEW)
    return list(values)


def _check_layout(header: Mapping[str, Any], n_bytes: int) -> None:
    """Check that the tensors follow one another and fill the file: nothing shared or hidden."""
    end = 0
    for start, stop in sorted(fields["data_offsets"] for fields in header.values()):
        if start != end:
            what = "overlap" if start < end else "leave a gap"
            raise Refused(f"its tensors {what} at byte {min(start, end):,}", _WRITE_ANEW)
        end = stop
    if end != n_bytes:
        raise Refused(
            f"its tensors end at byte {end:,}, but {n_bytes:,} follow its header", _COPY_AGAIN
        )
