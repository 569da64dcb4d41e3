"""
Arrays of a segment: sharded Zarr v3, encoded and decoded by TensorStore.

An array is one shard file. Its inner chunks hold one layer of some hundreds of tokens, with all
of hidden, so that one layer is read alone. Each carries a crc32c, checked whenever it is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from tistore.errors import IntegrityError

_CHUNK_BYTES = 1 << 20
_MIN_CHUNK_ROWS, _MAX_CHUNK_ROWS = 64, 512


def encode_array(
    values: NDArray[Any], dimension_names: Sequence[str], attributes: dict[str, Any]
) -> dict[str, bytes]:
    """
    Encode an array as the files of a Zarr v3 array.

    Args:
        values: [row, layer] or [row, layer, hidden], float16 or float32.
        dimension_names: One name an axis.
        attributes: User attributes of the array, JSON-like.

    Returns:
        File content by name: `zarr.json`, and one shard unless there are no rows.
    """
    # A context of its own: the encoder's memory goes when this function returns.
    context = ts.Context()
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory", "path": "array/"},
        "metadata": _metadata(values, dimension_names, attributes),
        # A chunk equal to the fill value must be there all the same: a missing one is damage.
        "store_data_equal_to_fill_value": True,
    }
    array = ts.open(spec, create=True, context=context).result()
    if values.shape[0]:
        # The values outlive the write, so that they need not be copied first.
        array.write(values, can_reference_source_data_indefinitely=True).result()
    store = ts.KvStore.open(spec["kvstore"], context=context).result()
    return {key.decode(): store.read(key).result().value for key in sorted(store.list().result())}


class ArrayReader:
    """
    A committed array.

    Args:
        key_value_store: TensorStore's name for the array's folder.
        label: What errors call it.
    """

    def __init__(self, key_value_store: dict[str, Any], label: str) -> None:
        self._label = label
        spec = {"driver": "zarr3", "kvstore": key_value_store, "fill_missing_data_reads": False}
        try:
            self._array = ts.open(spec, open=True, read=True).result()
        except ValueError as error:
            raise IntegrityError(f"{label} cannot be opened: {error}") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, layers, and hidden where the array has it."""
        return tuple(self._array.shape)

    def read(self, layer: int, start: int, stop: int) -> NDArray[Any]:
        """
        Read rows of one layer.

        Args:
            layer: Place on the layer axis.
            start: First row.
            stop: One past the last row.

        Raises:
            IntegrityError: A chunk is missing or its checksum does not match.
        """
        try:
            values = self._array[start:stop, layer].read().result()
        except ValueError as error:
            raise IntegrityError(
                f"{self._label} is damaged: {error}", mend="run `tistore verify` on the store"
            ) from error
        return np.asarray(values)


def _metadata(
    values: NDArray[Any], dimension_names: Sequence[str], attributes: dict[str, Any]
) -> dict[str, Any]:
    chunk = _chunk_shape(values)
    shard = [max(1, -(-values.shape[0] // chunk[0])) * chunk[0], *values.shape[1:]]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "typesize": values.dtype.itemsize,
        "blocksize": 0,
    }
    sharding = {
        "chunk_shape": chunk,
        "codecs": [little, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": list(values.shape),
        "data_type": values.dtype.name,
        "fill_value": "NaN",
        "dimension_names": list(dimension_names),
        "attributes": attributes,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def _chunk_shape(values: NDArray[Any]) -> list[int]:
    row_bytes = int(np.prod(values.shape[2:], dtype=np.int64)) * values.dtype.itemsize
    rows = min(max(_CHUNK_BYTES // row_bytes, _MIN_CHUNK_ROWS), _MAX_CHUNK_ROWS)
    if values.ndim == 2:
        # One number a row: a chunk of 512 would be smaller than its own bookkeeping.
        rows = _CHUNK_BYTES // row_bytes
    return [max(1, min(rows, values.shape[0])), 1, *values.shape[2:]]
