"""
The directions of a GGUF control vector, as llama.cpp and repeng write them.

The header is read here rather than by the `gguf` package, which follows every length and count a
file claims before anything can be checked; what is then left to read is plain float32.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

from tistore.datasets.foreign.vectors_tensors import Contents, Leaf, view_bytes
from tistore.datasets.torch_files.source import Refused, SourceFile, naming
from tistore.datasets.torch_files.tensor import DTYPES

MOST_HEADER_BYTES = 8 << 20
"""Metadata and names; a control vector's take some kilobytes."""

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_MOST_NAME_BYTES = 1024
_MOST_ALIGNMENT = 1 << 16
_DEFAULT_ALIGNMENT = 32

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_INT32, _STRING, _ARRAY = 5, 8, 9

_DTYPES = {0: "float32", 1: "float16", 28: "float64", 30: "bfloat16"}

_LAYER_COUNT = "controlvector.layer_count"
_DIRECTION = re.compile(r"direction\.[0-9]{1,4}")


class _Header:
    """The start of a file, walked number by number; a walk beyond it is refused."""

    def __init__(self, content: bytes, n_bytes: int) -> None:
        self.content = content
        self.n_bytes = n_bytes
        self.place = len(MAGIC)
        # Version 3 may be big-endian: its small version number then has empty low bytes.
        self.order = ">" if content[4:6] == b"\0\0" else "<"

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self.content) - self.place:
            if len(self.content) < self.n_bytes:
                raise Refused(
                    f"its header is longer than {MOST_HEADER_BYTES >> 20} MiB: it is a model, or "
                    "its lengths are wrong"
                )
            raise Refused(
                f"{n_bytes:,} bytes are announced at byte {self.place} and are not there",
                "copy or download the file again",
            )
        taken = self.content[self.place : self.place + n_bytes]
        self.place += n_bytes
        return taken

    def number(self, code: str) -> Any:
        layout = struct.Struct(self.order + code)
        return layout.unpack(self.take(layout.size))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Read a value; of an array, only step over it."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise Refused(f"its metadata has a value of the unknown kind {kind}")
        item, n_items = self.number("I"), self.number("Q")
        if item in _SCALARS:
            self.take(n_items * struct.calcsize("<" + _SCALARS[item]))
        elif item == _STRING:
            for _ in range(n_items):  # each takes 8 bytes at least, so this ends with the header
                self.take(self.number("Q"))
        else:
            raise Refused(f"its metadata has an array of the unknown kind {item}")
        return None


def read_gguf(path: Path) -> Contents:
    """
    List the directions of a control vector.

    Each leaf's facts: `layer_count_is_signed`, which tells llama.cpp's generator (true) from
    repeng (false), None where no count is given; `layer_count` and `model_hint`, as written.

    Raises:
        ForeignFileError: The file is no GGUF, damaged, or claims sizes it cannot have.

    Source:
        docs/gguf.md of ggml.
    """
    with naming(path):
        source = SourceFile.identify(path)
        with source.open() as file:
            content = file.bytes_at(0, min(source.size, MOST_HEADER_BYTES))
        if not content.startswith(MAGIC) or len(content) < 8:
            raise Refused("it is no GGUF file", "give it the ending of what it is")
        header = _Header(content, source.size)
        if (version := header.number("I")) not in _VERSIONS:
            raise Refused(f"it is GGUF of version {version}; versions 2 and 3 are read")
        n_tensors, n_pairs = header.number("Q"), header.number("Q")
        metadata = _read_metadata(header, n_pairs)
        infos = [_read_info(header) for _ in _counted(n_tensors)]
        alignment = _check_alignment(metadata.get("general.alignment", (None, 0))[1])
        start = -(-header.place // alignment) * alignment
        return _list_leaves(source, header, start, infos, _pick_facts(metadata))


def _counted(n: int) -> range:
    # Python itself refuses longer ranges with an error of its own.
    return range(min(n, 2**62))


def _read_metadata(header: _Header, n_pairs: int) -> dict[str, tuple[int, Any]]:
    metadata: dict[str, tuple[int, Any]] = {}
    for _ in _counted(n_pairs):
        key = header.text()
        kind = header.number("I")
        metadata[key] = (kind, header.value(kind))
    return metadata


def _read_info(header: _Header) -> tuple[str, list[int], int, int]:
    name = header.text()
    n_dimensions = header.number("I")
    if len(name) > _MOST_NAME_BYTES or n_dimensions > _MOST_DIMENSIONS:
        raise Refused(f"a tensor in it has {n_dimensions} axes, or a name without end")
    shape = [header.number("Q") for _ in range(n_dimensions)]
    return name, shape, header.number("I"), header.number("Q")


def _check_alignment(alignment: Any) -> int:
    if alignment in (None, 0):
        return _DEFAULT_ALIGNMENT
    if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT:
        raise Refused(f"its alignment is {alignment!r}")
    return alignment


def _pick_facts(metadata: dict[str, tuple[int, Any]]) -> dict[str, Any]:
    kind, count = metadata.get(_LAYER_COUNT, (None, None))
    return {
        "layer_count_is_signed": None if kind is None else kind == _INT32,
        "layer_count": count,
        "model_hint": metadata.get("controlvector.model_hint", (None, None))[1],
    }


def _list_leaves(
    source: SourceFile,
    header: _Header,
    start: int,
    infos: list[tuple[str, list[int], int, int]],
    facts: dict[str, Any],
) -> Contents:
    leaves: dict[str, Leaf] = {}
    refused = []
    for name, shape, kind, offset in infos:
        if name in leaves:
            raise Refused(f"it has two tensors named {ascii(name[:80])}")
        if not _DIRECTION.fullmatch(name):
            refused.append((name, "it is no direction.N"))
            continue
        if kind not in _DTYPES:
            refused.append((name, f"it is quantised (GGML type {kind}): no exact values"))
            continue
        n_bytes = math.prod(shape) * DTYPES[_DTYPES[kind]].itemsize
        view = view_bytes(
            source,
            (start + offset, n_bytes),
            _DTYPES[kind],
            shape[::-1],  # GGUF names the fastest axis first
            is_big_endian=header.order == ">",
        )
        leaves[name] = Leaf((name,), view, facts)
    if sum(leaf.nbytes for leaf in leaves.values()) > source.size:
        raise Refused("its tensors overlap", "write it anew with the gguf package")
    return Contents("gguf", tuple(leaves.values()), tuple(refused))
