"""
Reading a shard chunk by chunk, as a scan does: each is decoded into a buffer that is used again.

A general reader of Zarr gives out a new array for every read; touching that memory for the first
time costs as much as the decoding. This has a chunk still in the processor's cache when it is
multiplied, and compares it with the checksum that was committed for its place: a general reader
takes any sound chunk, wherever it comes from. Arrays laid out otherwise are left to one (see
`arrays`).

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

from tistore.errors import IntegrityError, NotStoredError, TistoreError
from tistore.store.files import Files
from tistore.store.shards import CHECKSUMS, read_checksum

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
        checksum: The CRC-32C it was committed with; None where an older writer did not note it.
    """

    start: int
    stop: int
    offset: int
    size_bytes: int
    checksum: int | None = None


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """
    How an array lies in its one shard file.

    Attributes:
        shape: Rows, layers, and hidden where the array has it.
        dtype: Of its values.
        chunk_shape: Of an inner chunk.
        checksums: Of every chunk, in the order of the index; none where they were not noted.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_shape: tuple[int, ...]
    checksums: tuple[int, ...] = ()

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
        checksums = tuple(content.get("attributes", {}).get(CHECKSUMS, ()))
        return cls(shape, np.dtype(content["data_type"]), chunk, checksums)

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
        if layout.checksums and len(layout.checksums) != index.size // 2:
            raise _damaged(path, "it has other chunks than its metadata says")
        self._index = index

    def chunks(self, layer: int) -> list[Chunk]:
        """List the chunks of the layer at a place on the layer axis, in row order."""
        return [self._chunk(place, layer) for place in range(self.layout.chunk_rows)]

    def _chunk(self, place: int, layer: int) -> Chunk:
        rows, (n_rows, n_layers) = self.layout.chunk_shape[0], self.layout.shape[:2]
        offset, size = self._index[place, layer].tolist()
        checksums = self.layout.checksums
        return Chunk(
            start=place * rows,
            stop=min((place + 1) * rows, n_rows),
            offset=offset,
            size_bytes=size,
            checksum=checksums[place * n_layers + layer] if checksums else None,
        )

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
            IntegrityError: Its checksum does not match, it is another chunk than the one that was
                committed at its place, or it is of another size.
        """
        encoded = self._files.read_range(self._path, chunk.offset, chunk.size_bytes)
        if len(encoded) < chunk.size_bytes:
            raise _damaged(self._path, "it was cut short")
        data = _check(encoded, self._path, f"the chunk at byte {chunk.offset}")
        if chunk.checksum is not None and read_checksum(encoded) != chunk.checksum:
            raise _damaged(self._path, f"the chunk at byte {chunk.offset} is another one's")
        # The size is checked before anything is decoded: a few bytes could claim gigabytes.
        if _decoded_bytes(data) != out.nbytes:
            raise _damaged(self._path, f"the chunk at byte {chunk.offset} is of another size")
        try:
            blosc.decompress(data, out)
        except RuntimeError as error:
            raise _damaged(self._path, f"a chunk cannot be decoded: {error}") from error
        return out[: chunk.stop - chunk.start]

    def read_rows(self, layer: int, start: int, stop: int) -> NDArray[Any]:
        """
        Decode rows `start` to `stop` of a layer: [row, …], contiguous.

        Raises:
            NotStoredError: The array has no such rows.
            IntegrityError: A chunk they lie in is damaged.
        """
        n_rows = self.layout.shape[0]
        if not 0 <= start <= stop <= n_rows:
            raise NotStoredError(f"{self._path} has no rows {start} to {stop}, only {n_rows}")
        values = np.empty((stop - start, *self.layout.shape[2:]), dtype=self.layout.dtype)
        length = self.layout.chunk_shape[0]
        buffer = None  # for the chunks at both ends; those between are decoded in place
        for place in range(start // length, -(-stop // length)):
            chunk = self._chunk(place, layer)
            first, last = max(start, chunk.start), min(stop, chunk.stop)
            target = values[first - start : last - start]
            if len(target) == length:
                self.read(chunk, target)
            else:
                buffer = self.buffer() if buffer is None else buffer
                target[:] = self.read(chunk, buffer)[first - chunk.start : last - chunk.start]
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
