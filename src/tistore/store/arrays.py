"""
Reading arrays that are laid out otherwise than `shards` lays them: by TensorStore.

It takes any sound chunk, wherever it comes from; `chunks` reads what tistore has written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.errors import IntegrityError


class ArrayReader:
    """
    A committed array.

    Args:
        key_value_store: TensorStore's name for the array's folder.
        label: What errors call it.
    """

    def __init__(self, key_value_store: dict[str, Any], label: str) -> None:
        import tensorstore as ts  # few stores need it, and every command would wait for it

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
