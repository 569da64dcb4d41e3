"""The tensors of a `.safetensors` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tistore.datasets.foreign.vectors_tensors import Contents, Leaf, view_bytes
from tistore.datasets.torch_files.source import Refused, SourceFile, naming

MOST_HEADER_BYTES = 4 << 20
"""Of JSON; room for some 40,000 tensors. The format itself allows 100 MB."""

_LENGTH_BYTES = 8

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    **{f"{letter}{bits}": f"{name}{bits}"
       for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
}  # fmt: skip


def read_safetensors(path: Path) -> Contents:
    """
    List the tensors of a file, with its metadata beside each.

    Raises:
        ForeignFileError: The file is no safetensors file, damaged, or claims sizes it cannot have.

    Source:
        The format's description in huggingface/safetensors.
    """
    with naming(path):
        source = SourceFile.identify(path)
        header, start = _read_header(source)
        metadata = header.pop("__metadata__", {})
        facts = metadata if isinstance(metadata, dict) else {}
        leaves = tuple(
            Leaf((name,), _view(source, start, name, entry), facts)
            for name, entry in sorted(header.items())
        )
        if sum(leaf.nbytes for leaf in leaves) > source.size:
            raise Refused("its tensors overlap", "write it anew with safetensors")
        return Contents("safetensors", leaves)


def _read_header(source: SourceFile) -> tuple[dict[str, Any], int]:
    with source.open() as file:
        length = int.from_bytes(file.bytes_at(0, _LENGTH_BYTES), "little")
        if length > MOST_HEADER_BYTES:
            raise Refused(
                f"its header claims {length:,} bytes, more than the {MOST_HEADER_BYTES:,} that a "
                "file of vectors needs: it is no safetensors file, or of something else"
            )
        content = file.bytes_at(_LENGTH_BYTES, length)
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused("its header is no JSON: it is no safetensors file, or damaged") from error
    if not isinstance(header, dict):
        raise Refused("its header is no JSON object")
    return header, _LENGTH_BYTES + length


def _view(source: SourceFile, start: int, name: str, entry: Any) -> Any:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if code not in _DTYPES:
                raise Refused(f"{ascii(name[:80])} is of {ascii(code[:20])}, which is not known")
            if not 0 <= begin <= end:
                raise Refused(f"{ascii(name[:80])} ends at {end}, before its start at {begin}")
            return view_bytes(source, (start + begin, end - begin), _DTYPES[code], shape)
    raise Refused(f"its header says of {ascii(name[:80])} no dtype, shape and offsets")
