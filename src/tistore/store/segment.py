"""A committed segment, read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.errors import IntegrityError, NotStoredError
from tistore.schemas.site import Component, Site
from tistore.store.arrays import ArrayReader
from tistore.store.files import FileRecord, Files, read_checked
from tistore.store.layout import array_folder, mean_array, norm_array
from tistore.store.segment_writer import list_files
from tistore.store.shards import METADATA
from tistore.store.tables import decode_table

SegmentTable = Literal["tokens", "responses", "clauses"]


class Segment:
    """
    One segment as its commit declares it. Immutable; everything is read when asked for.

    Args:
        files: The store's files.
        entry: The segment's entry in its commit.
    """

    def __init__(self, files: Files, entry: Mapping[str, Any]) -> None:
        self._files = files
        self._entry = entry
        self._tables: dict[str, pa.Table] = {}
        self._arrays: dict[str, ArrayReader] = {}
        self.uuid: str = entry["uuid"]
        self.n_rows: int = entry["n_rows"]
        self.n_readings: int = entry["n_readings"]
        self.hidden: int = entry["hidden"]
        self.layers: tuple[int, ...] = tuple(entry["layers"])
        self.components: tuple[Component, ...] = tuple(entry["components"])

    @cached_property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the segment."""
        return tuple(list_files(self._entry))

    def table(self, name: SegmentTable) -> pa.Table:
        """
        Read a table, in the row order of the arrays.

        Raises:
            IntegrityError: The file is missing, or its bytes are not the committed ones.
        """
        if name not in self._tables:
            record = FileRecord.from_json(self._entry["tables"][name])
            self._tables[name] = decode_table(read_checked(self._files, record))
        return self._tables[name]

    def has(self, site: Site) -> bool:
        """Whether the site was captured."""
        return site.layer in self.layers and site.component in self.components

    def read(self, site: Site, start: int = 0, stop: int | None = None) -> NDArray[np.float16]:
        """
        Read stored activations.

        Returns:
            [row, hidden] float16, contiguous. The true value is this times 2**exponent(site).

        Raises:
            NotStoredError: The site was not captured.
            IntegrityError: A chunk is missing or damaged.
        """
        values = self._read(site.component, site, start, self.n_rows if stop is None else stop)
        return np.asarray(values, dtype=np.float16)

    def exponent(self, site: Site) -> int:
        """Power of two by which stored values are to be multiplied."""
        return int(self._entry["arrays"][site.component]["exponents"][self._place(site)])

    def means(self, site: Site) -> NDArray[np.float32]:
        """Mean activation of each reading's audited tokens: [reading, hidden]; NaN for none."""
        return self._read(mean_array(site.component), site, 0, self.n_readings)

    def norms(self, site: Site) -> NDArray[np.float32]:
        """Euclidean norm of each token's activation: [row]."""
        return self._read(norm_array(site.component), site, 0, self.n_rows)

    def site_bytes(self, site: Site) -> int:
        """Bytes on disk of one layer's activations: the array's bytes shared out evenly."""
        return self._array_bytes(site.component) // len(self.layers)

    def mean_bytes(self, site: Site) -> int:
        """Bytes on disk of one layer's response means."""
        return self._array_bytes(mean_array(site.component)) // len(self.layers)

    def _read(self, array: str, site: Site, start: int, stop: int) -> NDArray[Any]:
        place = self._place(site)
        if start == stop:
            shape = self._entry["arrays"][array]["shape"]
            return np.empty((0, *shape[2:]), dtype=np.float32)
        if array not in self._arrays:
            self._arrays[array] = self._open(array)
        return self._arrays[array].read(place, start, stop)

    def _open(self, array: str) -> ArrayReader:
        entry = self._entry["arrays"][array]
        for file in entry["files"]:
            record = FileRecord.from_json(file)
            if record.path.endswith(METADATA):
                # A flipped byte in the metadata could reinterpret every value without a sound;
                # the chunks carry checksums of their own.
                read_checked(self._files, record)
            elif self._files.size(record.path) != record.size_bytes:
                raise IntegrityError(f"{record.path} is missing or was cut short")
        folder = array_folder(self.uuid, array)
        return ArrayReader(self._files.key_value_store(folder), folder)

    def _place(self, site: Site) -> int:
        if not self.has(site):
            layers = ", ".join(map(str, self.layers))
            raise NotStoredError(
                f"{site} was not captured in segment {self.uuid}; "
                f"it has {', '.join(self.components)} at layers {layers}"
            )
        return self.layers.index(site.layer)

    def _array_bytes(self, array: str) -> int:
        return sum(file["bytes"] for file in self._entry["arrays"][array]["files"])
