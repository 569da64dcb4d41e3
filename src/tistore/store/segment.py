"""A committed segment, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.errors import IntegrityError, NotStoredError
from tistore.schemas.site import Component, Site
from tistore.schemas.tables import SEGMENT_TABLES
from tistore.store.arrays import ArrayReader
from tistore.store.chunks import Chunk, ShardLayout, ShardReader
from tistore.store.files import FileRecord, Files, read_checked
from tistore.store.layout import array_folder, mean_array, norm_array
from tistore.store.log import list_segment_files
from tistore.store.score_files import decode_scores
from tistore.store.shards import METADATA
from tistore.store.table_cache import TableCache
from tistore.store.tables import decode_table

SegmentTable = Literal["tokens", "responses", "clauses"]

_BLOCK_ROWS = 1024


class Segment:
    """
    One segment as its commit declares it. Immutable; everything is read when asked for.

    Args:
        files: The store's files.
        entry: The segment's entry in its commit.
        kept: Columns of tables read before; a cache of its own when None.

    Attributes:
        scored: Keys of the directions whose scores are part of the segment; see `scores`.
    """

    def __init__(
        self, files: Files, entry: Mapping[str, Any], kept: TableCache | None = None
    ) -> None:
        self._files = files
        self._entry = entry
        self._kept = TableCache() if kept is None else kept
        self._arrays: dict[str, ArrayReader] = {}
        self._shards: dict[str, ShardReader | None] = {}
        self.uuid: str = entry["uuid"]
        self.n_rows: int = entry["n_rows"]
        self.n_readings: int = entry["n_readings"]
        self.layers: tuple[int, ...] = tuple(entry["layers"])
        self.components: tuple[Component, ...] = tuple(entry["components"])
        self.scored: frozenset[str] = frozenset(entry.get("scores", ()))

    @cached_property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the segment."""
        return tuple(list_segment_files(self._entry))

    def table(self, name: SegmentTable, columns: Sequence[str] | None = None) -> pa.Table:
        """
        Read a table, in the row order of the arrays.

        Args:
            name: Which.
            columns: Columns wanted, in this order; all when None.

        Raises:
            IntegrityError: The file is missing, or its bytes are not the committed ones.
        """
        record = FileRecord.from_json(self._entry["tables"][name])
        wanted = SEGMENT_TABLES[name].names if columns is None else list(columns)
        found = {column: self._kept.find((record.path, column)) for column in wanted}
        if lacking := [column for column, values in found.items() if values is None]:
            read = decode_table(read_checked(self._files, record), lacking)
            for column in lacking:
                found[column] = read[column]
                self._kept.keep((record.path, column), read[column])
        schema = pa.schema([SEGMENT_TABLES[name].field(column) for column in wanted])
        return pa.table([found[column] for column in wanted], schema=schema)

    def column(self, name: SegmentTable, column: str) -> NDArray[Any]:
        """Read one column of a table."""
        values: NDArray[Any] = self.table(name, [column])[column].to_numpy()
        return values

    def has(self, site: Site) -> bool:
        """Whether the site was captured; its activations may have been left behind since."""
        return site.layer in self.layers and site.component in self.components

    def width(self, component: Component) -> int:
        """
        Width of a component's activations.

        Raises:
            NotStoredError: It was not captured.
        """
        if component not in self.components:
            raise NotStoredError(
                f"{component} was not captured in segment {self.uuid}; "
                f"it has {', '.join(self.components)}"
            )
        return int(self._entry.get("widths", {}).get(component, self._entry["hidden"]))

    def has_activations(self, component: Component) -> bool:
        """Whether the activations are here, and not only norms, means and scores of them."""
        return component in self._entry["arrays"]

    def scores(self, direction: str) -> NDArray[np.float32]:
        """
        Read scores that are part of the segment.

        Args:
            direction: One of `scored`.

        Returns:
            (row,) float32, in the activations' true units.

        Raises:
            IntegrityError: The file is missing, or its bytes are not the committed ones.
        """
        record = FileRecord.from_json(self._entry["scores"][direction])
        scores = decode_scores(read_checked(self._files, record), direction, self.uuid, self.n_rows)
        if scores is None:
            raise IntegrityError(f"{record.path} does not hold the scores it was committed for")
        return scores

    def read(self, site: Site, start: int = 0, stop: int | None = None) -> NDArray[np.float16]:
        """
        Read stored activations.

        Returns:
            [row, width] float16, contiguous. The true value is this times 2**exponent(site).

        Raises:
            NotStoredError: The site was not captured.
            IntegrityError: A chunk is missing or damaged.
        """
        self._require_activations(site)
        values = self._read(site.component, site, start, self.n_rows if stop is None else stop)
        return np.asarray(values, dtype=np.float16)

    def stream(self, site: Site) -> SiteStream:
        """
        Open a site to be read from its first row to its last, block by block.

        Raises:
            NotStoredError: The site was not captured.
            IntegrityError: A file is missing, or the shard's index is damaged.
        """
        place = self._place(site)
        self._require_activations(site)
        shard = self._shard(site.component)
        return SiteStream(self, site, shard, place)

    def exponent(self, site: Site) -> int:
        """
        Power of two by which stored values are to be multiplied.

        Raises:
            NotStoredError: The site was not captured, or its activations are not here.
        """
        self._require_activations(site)
        return int(self._entry["arrays"][site.component]["exponents"][self._place(site)])

    def means(self, site: Site) -> NDArray[np.float32]:
        """Mean activation of each reading's audited tokens: [reading, width]; NaN for none."""
        return self._read(mean_array(site.component), site, 0, self.n_readings)

    def norms(self, site: Site) -> NDArray[np.float32]:
        """Euclidean norm of each token's activation: [row]."""
        return self._read(norm_array(site.component), site, 0, self.n_rows)

    def site_bytes(self, site: Site) -> int:
        """Bytes on disk of one layer's activations; none where they are not here."""
        if not self.has_activations(site.component):
            return 0
        return self._layer_bytes(site.component, site)

    def norm_bytes(self, site: Site) -> int:
        """Bytes on disk of one layer's token norms."""
        return self._layer_bytes(norm_array(site.component), site)

    def mean_bytes(self, site: Site) -> int:
        """Bytes on disk of one layer's response means."""
        return self._layer_bytes(mean_array(site.component), site)

    def _read(self, array: str, site: Site, start: int, stop: int) -> NDArray[Any]:
        place = self._place(site)
        if start == stop:
            shape = self._entry["arrays"][array]["shape"]
            return np.empty((0, *shape[2:]), dtype=np.float32)
        shard = self._shard(array)
        if shard is not None:
            return shard.read_rows(place, start, stop)
        if array not in self._arrays:
            folder = array_folder(self.uuid, array)
            self._arrays[array] = ArrayReader(self._files.key_value_store(folder), folder)
        return self._arrays[array].read(place, start, stop)

    def _shard(self, array: str) -> ShardReader | None:
        """Open an array's shard; None when it has none, or only Zarr can read it."""
        if array not in self._shards:
            layout = ShardLayout.read(self._check_files(array))
            shard = self._shard_record(array)
            self._shards[array] = (
                ShardReader(self._files, shard.path, shard.size_bytes, layout)
                if layout and shard
                else None
            )
        return self._shards[array]

    def _shard_record(self, array: str) -> FileRecord | None:
        records = map(FileRecord.from_json, self._entry["arrays"][array]["files"])
        found = [record for record in records if not record.path.endswith(METADATA)]
        return found[0] if len(found) == 1 else None

    def _check_files(self, array: str) -> bytes:
        """Check that an array's files are there; gives its metadata."""
        metadata = b""
        for file in self._entry["arrays"][array]["files"]:
            record = FileRecord.from_json(file)
            if record.path.endswith(METADATA):
                # A flipped byte in the metadata could reinterpret every value without a sound; and
                # it says which checksum every chunk must have.
                metadata = read_checked(self._files, record)
            elif self._files.size(record.path) != record.size_bytes:
                raise IntegrityError(f"{record.path} is missing or was cut short")
        return metadata

    def _place(self, site: Site) -> int:
        if not self.has(site):
            layers = ", ".join(map(str, self.layers))
            raise NotStoredError(
                f"{site} was not captured in segment {self.uuid}; "
                f"it has {', '.join(self.components)} at layers {layers}"
            )
        return self.layers.index(site.layer)

    def _require_activations(self, site: Site) -> None:
        if site.component in self.components and not self.has_activations(site.component):
            raise NotStoredError(
                f"the activations of {site} are not in this bundle, only scores, norms and means",
                mend="ask the store that it was exported from",
            )

    def _layer_bytes(self, array: str, site: Site) -> int:
        """Count the bytes of a layer's chunks; where only Zarr knows them, an even share."""
        shard = self._shard(array)
        if shard is not None:
            return shard.size_bytes(self._place(site))
        whole = sum(int(file["bytes"]) for file in self._entry["arrays"][array]["files"])
        return whole // len(self.layers)


class SiteStream:
    """
    One site of a segment, to be read whole, block by block and from several threads.

    Args:
        segment: The segment.
        site: The site.
        shard: Its array's shard; None when TensorStore must read it.
        place: The site's place on the layer axis.
    """

    def __init__(self, segment: Segment, site: Site, shard: ShardReader | None, place: int) -> None:
        self._segment = segment
        self._site = site
        self._shard = shard
        self._place = place

    def blocks(self) -> list[Chunk]:
        """List the stretches of rows to read, in order."""
        if self._shard is not None:
            return self._shard.chunks(self._place)
        n_rows = self._segment.n_rows
        return [
            Chunk(start, min(start + _BLOCK_ROWS, n_rows), 0, 0)
            for start in range(0, n_rows, _BLOCK_ROWS)
        ]

    def expect(self) -> None:
        """Tell the system that all of it is about to be read."""
        if self._shard is not None:
            self._shard.expect(self._place)

    def read(self, block: Chunk, buffers: dict[tuple[int, ...], NDArray[Any]]) -> NDArray[Any]:
        """
        Read a block.

        Args:
            block: One of `blocks`.
            buffers: Room to decode into, by shape; made as needed, and overwritten by the next
                read with the same buffers.

        Returns:
            [row, width] float16, valid until the next read.

        Raises:
            IntegrityError: The block is damaged.
        """
        if self._shard is None:
            return self._segment.read(self._site, block.start, block.stop)
        shape = self._shard.layout.chunk_shape
        if shape not in buffers:
            buffers[shape] = self._shard.buffer()
        return self._shard.read(block, buffers[shape])
