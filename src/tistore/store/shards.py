"""
Writing the arrays of a segment: sharded Zarr v3, encoded chunk by chunk as it is written.

An array is one shard file. Its inner chunks hold one layer of some hundreds of tokens, with all
of hidden, so that one layer is read alone; a layer's chunks lie together. Each chunk carries a
crc32c, checked whenever it is decoded. The array's metadata, which the log names by its hash,
repeats them all: a sound chunk from another place, or a whole shard of another array, is not taken
for this one.

Source:
    Zarr v3 core, and its sharding_indexed, blosc and crc32c codecs: https://zarr-specs.readthedocs.io.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from tistore.store.threads import Threads

METADATA = "zarr.json"

CHECKSUMS = "chunk_crc32c"
"""Attribute of an array: the CRC-32C of every chunk, in the order of the shard's index."""

_CHUNK_BYTES = 1 << 20
_MIN_CHUNK_ROWS, _MAX_CHUNK_ROWS = 64, 512
_COMPRESSOR, _LEVEL = "lz4", 5
_CHECKSUM = struct.Struct("<I")

ReadRows = Callable[[int, int, int], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class ArrayLayout:
    """
    How an array is laid out, whatever its values.

    Attributes:
        shape: Rows, layers, and hidden where it has that axis.
        dtype: Of its values.
        dimension_names: One name an axis.
        attributes: User attributes, JSON-like.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dimension_names: Sequence[str]
    attributes: Mapping[str, Any]

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of an inner chunk: about 1 MB of one layer."""
        row_bytes = int(np.prod(self.shape[2:], dtype=np.int64)) * self.dtype.itemsize
        rows = full_chunk_rows(row_bytes)
        if len(self.shape) == 2:
            # One number a row: a chunk of 512 would be smaller than its own bookkeeping.
            rows = _CHUNK_BYTES // row_bytes
        return (max(1, min(rows, self.shape[0])), 1, *self.shape[2:])

    @property
    def chunk_rows(self) -> int:
        """How many chunks follow each other on the row axis; at least one."""
        return max(1, -(-self.shape[0] // self.chunk_shape[0]))

    @property
    def shard_name(self) -> str | None:
        """Name of the one shard file in the array's folder; None for an array without rows."""
        return "/".join(["c", *"0" * len(self.shape)]) if self.shape[0] else None


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource(ArrayLayout):
    """
    An array to be written, which need never be in memory whole.

    Attributes:
        read: Gives rows `start` to `stop` of the layer at a place on the layer axis.
    """

    read: ReadRows


def full_chunk_rows(row_bytes: int) -> int:
    """Count the rows of a chunk of an array that has enough of them."""
    return min(max(_CHUNK_BYTES // row_bytes, _MIN_CHUNK_ROWS), _MAX_CHUNK_ROWS)


def encode_metadata(source: ArrayLayout, checksums: Sequence[int]) -> bytes:
    """
    Encode an array's `zarr.json`.

    Args:
        source: The array.
        checksums: The CRC-32C of every chunk, in the order of the index; none without a shard.
    """
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    compressor = {
        "cname": _COMPRESSOR,
        "clevel": _LEVEL,
        "shuffle": "bitshuffle",
        "typesize": source.dtype.itemsize,
        "blocksize": 0,
    }
    checksum = {"name": "crc32c"}
    sharding = {
        "chunk_shape": source.chunk_shape,
        "codecs": [little, {"name": "blosc", "configuration": compressor}, checksum],
        "index_codecs": [little, checksum],
        "index_location": "end",
    }
    shard_shape = (source.chunk_rows * source.chunk_shape[0], *source.shape[1:])
    content = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": source.shape,
        "data_type": source.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {**source.attributes, **({CHECKSUMS: checksums} if checksums else {})},
        "dimension_names": list(source.dimension_names),
    }
    return json.dumps(content, indent=1).encode()


class ShardEncoder:
    """
    An array on its way to being its shard.

    Args:
        source: The array.
    """

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        self._checksums = np.zeros((source.chunk_rows, source.shape[1]), dtype=np.uint32)

    @property
    def checksums(self) -> list[int]:
        """The CRC-32C of every chunk, in the order of the index, once all pieces are taken."""
        checksums: list[int] = self._checksums.ravel().tolist()
        return checksums

    def pieces(self) -> Generator[bytes]:
        """
        Encode the shard piece by piece: every chunk, then the index.

        Chunks are compressed side by side; only a few are in memory at a time. It has threads:
        close it when it is not used up.
        """
        n_rows, n_layers = self._checksums.shape
        places = [(row, layer) for layer in range(n_layers) for row in range(n_rows)]
        index = np.empty((n_rows, n_layers, 2), dtype="<u8")
        offset = 0
        workers = os.cpu_count() or 1
        waiting: deque[Future[bytes]] = deque()
        coming = iter(places)
        with Threads(workers) as threads:
            for place in places:
                while len(waiting) < 2 * workers and (following := next(coming, None)) is not None:
                    waiting.append(threads.submit(_encode_chunk, self._source, *following))
                chunk = waiting.popleft().result()
                index[place] = offset, len(chunk)
                self._checksums[place] = read_checksum(chunk)
                offset += len(chunk)
                yield chunk
        yield encode_index(index)


def _encode_chunk(source: ArraySource, row: int, layer: int) -> bytes:
    shape = source.chunk_shape
    start = row * shape[0]
    values = source.read(start, min(start + shape[0], source.shape[0]), layer)
    if len(values) < shape[0]:
        filled = np.full((shape[0], *values.shape[1:]), np.nan, dtype=source.dtype)
        filled[: len(values)] = values
        values = filled
    contiguous = np.ascontiguousarray(values)
    return _with_checksum(
        blosc.compress(contiguous, _COMPRESSOR.encode(), _LEVEL, blosc.BITSHUFFLE, 0)
    )


def encode_index(index: NDArray[Any]) -> bytes:
    """Encode what a shard ends with: for each chunk, where it begins and how long it is."""
    return _with_checksum(index.astype("<u8").tobytes())


def read_checksum(chunk: bytes) -> int:
    """Read the checksum that a chunk carries as its last four bytes."""
    (checksum,) = _CHECKSUM.unpack_from(chunk, len(chunk) - _CHECKSUM.size)
    return int(checksum)


def _with_checksum(data: bytes) -> bytes:
    return data + _CHECKSUM.pack(google_crc32c.value(data))
