"""
Reading a shard chunk by chunk, as a scan does: each is decoded into a buffer that is used again.

A general reader of Zarr gives out a new array for every read; touching that memory for the first
time costs as much as the decoding. TensorStore reads arbitrary stretches of rows (see `arrays`);
this reads whole chunks, twice as fast, and has them still in the processor's cache when they are
multiplied.

Source:
    Zarr v3 sharding_indexed and blosc codecs: https://zarr-specs.readthedocs.io.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from tistore.errors import IntegrityError, TistoreError
from tistore.store.files import Files

_CHECKSUM_BYTES = 4
_RESIDUE = 0x48674BC7
"""CRC-32C of any data followed by its own CRC-32C: no copy without the checksum is needed."""
_INDEX_ENTRY_BYTES = 16
_BLOSC_HEADER_BYTES = 16
_INNER_CODECS = ["bytes", "blosc", "crc32c"]
_INDEX_CODECS = ["bytes", "crc32c"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    One chunk of one layer.

    Attributes:
        start: Its first row.
        stop: One past its last.
        offset: Where it lies in the shard.
        size_bytes: Its length there, checksum included.
    """

    start: int
    stop: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """
    How an array lies in its one shard file.

    Attributes:
        shape: Rows, layers, and hidden where the array has it.
        dtype: Of its values.
        chunk_shape: Of an inner chunk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_shape: tuple[int, ...]

    @classmethod
    def read(cls, metadata: bytes) -> ShardLayout | None:
        """Read an array's `zarr.json`; None when it is laid out in a way only Zarr can read."""
        content = json.loads(metadata)
        codecs = content["codecs"]
        if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
            return None
        sharding = codecs[0]["configuration"]
        names = [[codec["name"] for codec in sharding[key]] for key in ("codecs", "index_codecs")]
        if names != [_INNER_CODECS, _INDEX_CODECS]:
            return None
        if sharding.get("index_location", "end") != "end":
            return None
        shape, chunk = tuple(content["shape"]), tuple(sharding["chunk_shape"])
        shard = content["chunk_grid"]["configuration"]["chunk_shape"]
        is_one_shard = all(length <= whole for length, whole in zip(shape, shard, strict=True))
        if not is_one_shard or shape[0] == 0 or chunk[1:] != (1, *shape[2:]):
            return None
        return cls(shape, np.dtype(content["data_type"]), chunk)

    @property
    def chunk_rows(self) -> int:
        """Chunks on the row axis."""
        return -(-self.shape[0] // self.chunk_shape[0])

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return int(np.prod(self.chunk_shape)) * self.dtype.itemsize


class ShardReader:
    """
    A shard whose chunks are read one by one.

    Args:
        files: The store's files.
        path: The shard file.
        size_bytes: Its committed length.
        layout: How the array lies in it.

    Raises:
        IntegrityError: The index at its end is damaged.
    """

    def __init__(self, files: Files, path: str, size_bytes: int, layout: ShardLayout) -> None:
        self._files = files
        self._path = path
        self.layout = layout
        n_layers = layout.shape[1]
        length = layout.chunk_rows * n_layers * _INDEX_ENTRY_BYTES + _CHECKSUM_BYTES
        encoded = _check(files.read_range(path, size_bytes - length, length), path, "the index")
        index = np.frombuffer(encoded, dtype="<u8").reshape(layout.chunk_rows, n_layers, 2)
        if (index.sum(axis=2) > size_bytes).any():
            raise _damaged(path, "the index points outside the file")
        self._index = index

    def chunks(self, layer: int) -> list[Chunk]:
        """List the chunks of the layer at a place on the layer axis, in row order."""
        rows, n_rows = self.layout.chunk_shape[0], self.layout.shape[0]
        return [
            Chunk(place * rows, min((place + 1) * rows, n_rows), int(offset), int(size))
            for place, (offset, size) in enumerate(self._index[:, layer])
        ]

    def size_bytes(self, layer: int) -> int:
        """Count the bytes of a layer's chunks."""
        return int(self._index[:, layer, 1].sum())

    def expect(self, layer: int) -> None:
        """Tell the system that a layer is about to be read whole."""
        chunks = self.chunks(layer)
        first = min(chunk.offset for chunk in chunks)
        last = max(chunk.offset + chunk.size_bytes for chunk in chunks)
        self._files.expect_range(self._path, first, last - first)

    def buffer(self) -> NDArray[Any]:
        """Make room for a decoded chunk: [row, …]."""
        rows, _, *rest = self.layout.chunk_shape
        return np.empty((rows, *rest), dtype=self.layout.dtype)

    def read(self, chunk: Chunk, out: NDArray[Any]) -> NDArray[Any]:
        """
        Decode a chunk.

        Args:
            chunk: One of `chunks`.
            out: A `buffer`, which is overwritten.

        Returns:
            The chunk's rows, a part of `out`.

        Raises:
            IntegrityError: Its checksum does not match, or it is of another size.
        """
        encoded = self._files.read_range(self._path, chunk.offset, chunk.size_bytes)
        if len(encoded) < chunk.size_bytes:
            raise _damaged(self._path, "it was cut short")
        data = _check(encoded, self._path, f"the chunk at byte {chunk.offset}")
        # The size is checked before anything is decoded: a few bytes could claim gigabytes.
        if _decoded_bytes(data) != out.nbytes:
            raise _damaged(self._path, f"the chunk at byte {chunk.offset} is of another size")
        try:
            blosc.decompress(data, out)
        except RuntimeError as error:
            raise _damaged(self._path, f"a chunk cannot be decoded: {error}") from error
        return out[: chunk.stop - chunk.start]

    def read_layer(self, layer: int) -> NDArray[Any]:
        """Decode all rows of a layer: [row, …], contiguous."""
        shape = (self.layout.shape[0], *self.layout.shape[2:])
        values = np.empty(shape, dtype=self.layout.dtype)
        buffer = self.buffer()
        for chunk in self.chunks(layer):
            values[chunk.start : chunk.stop] = self.read(chunk, buffer)
        return values


def _check(encoded: bytes, path: str, what: str) -> memoryview:
    """Compare with the checksum at the end, and take it off."""
    if len(encoded) < _CHECKSUM_BYTES or google_crc32c.value(encoded) != _RESIDUE:
        raise _damaged(path, f"{what} is not what was written")
    return memoryview(encoded)[:-_CHECKSUM_BYTES]


def _decoded_bytes(data: memoryview) -> int:
    """Read what a Blosc buffer says of its content's size: the second word of its header."""
    return int(struct.unpack_from("<I", data, 4)[0]) if len(data) >= _BLOSC_HEADER_BYTES else -1


def _damaged(path: str, problem: str) -> TistoreError:
    return IntegrityError(
        f"{path} is damaged: {problem}",
        mend="run `tistore verify` on the store to see what else is",
    )
