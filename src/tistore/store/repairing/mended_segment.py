"""What is left of a damaged segment: which readings are whole, and how they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.errors import IntegrityError, NoMemoryError, StoreError, TooManyFilesError
from tistore.schemas.site import Component, Site
from tistore.store.contents import Entry
from tistore.store.files import Files
from tistore.store.layout import mean_array, norm_array
from tistore.store.repairing.restore import measure_again
from tistore.store.segment import Segment

Flags = NDArray[np.bool_]


class MendedSegment(Segment):
    """
    A segment of which some files are damaged; those of its readings that are whole can be read.

    Norms and means are worked out from the activations where their own array is damaged.
    Directions of a bundle whose scores are damaged are left out.

    Args:
        files: The store's files.
        entry: The segment's entry in its commit.
        damaged: Paths of its files that are not as committed.

    Attributes:
        kept: Its whole readings, by their rows in `responses`, ascending.
    """

    def __init__(self, files: Files, entry: Entry, damaged: Collection[str]) -> None:
        super().__init__(files, _without_scores(entry, damaged))
        self._damaged = {
            name
            for name, array in entry["arrays"].items()
            if any(file["path"] in damaged for file in array["files"])
        }
        self.kept: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if not any(table["path"] in damaged for table in entry["tables"].values()):
            self.kept = np.flatnonzero(~self._find_lost())
        self._measured = cache(self._measure)

    def norms(self, site: Site) -> NDArray[np.float32]:
        """Euclidean norm of each token's activation: [row]; NaN for readings that are lost."""
        if not self._is_measured(norm_array(site.component), site.component):
            return super().norms(site)
        return np.ascontiguousarray(self._measured(site.component)[0][:, self._place(site)])

    def means(self, site: Site) -> NDArray[np.float32]:
        """Mean activation of each reading: [reading, width]; NaN for those that are lost."""
        if not self._is_measured(mean_array(site.component), site.component):
            return super().means(site)
        return np.ascontiguousarray(self._measured(site.component)[1][:, self._place(site)])

    def _measure(self, component: Component) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return measure_again(self, component, self.kept.tolist())

    def _is_measured(self, array: str, component: Component) -> bool:
        return array in self._damaged and self.has_activations(component)

    def _find_lost(self) -> Flags:
        """Find the readings that overlap a damaged chunk, of any layer of any component."""
        lost_rows = np.zeros(self.n_rows + 1, dtype=np.bool_)
        lost: Flags = np.zeros(self.n_readings, dtype=np.bool_)
        for name in sorted(self._damaged):
            component = next(
                one for one in self.components if name in (one, norm_array(one), mean_array(one))
            )
            if name == mean_array(component) and not self.has_activations(component):
                lost |= self._find_damaged(name, self.n_readings)
            elif name == component or not self._is_measured(name, component):
                lost_rows[:-1] |= self._find_damaged(name, self.n_rows)
        starts = self.column("responses", "row_start").astype(np.int64)
        stops = starts + self.column("responses", "n_rows")
        counted = np.concatenate([[0], np.cumsum(lost_rows)])
        return np.asarray(lost | (counted[stops] > counted[starts]))

    def _find_damaged(self, array: str, length: int) -> Flags:
        """Find the rows of an array that cannot be read; all, where its metadata or index is."""
        is_damaged = np.zeros(length, dtype=np.bool_)
        try:
            shard = self._shard(array)
        except (NoMemoryError, TooManyFilesError):  # says nothing about the array
            raise
        except (IntegrityError, StoreError):
            shard = None
        if shard is None:
            return np.ones_like(is_damaged)
        buffer = shard.buffer()
        for layer in range(len(self.layers)):
            for chunk in shard.chunks(layer):
                try:
                    shard.read(chunk, buffer)
                except (NoMemoryError, TooManyFilesError):  # says nothing about the chunk
                    raise
                except (IntegrityError, StoreError):
                    is_damaged[chunk.start : chunk.stop] = True
        if not is_damaged.any() and not shard.layout.checksums:
            # Sound chunks, and yet another file than was committed: they are another array's.
            return np.ones_like(is_damaged)
        return is_damaged


def _without_scores(entry: Entry, damaged: Collection[str]) -> Mapping[str, Any]:
    scores = entry.get("scores", {})
    sound = {name: file for name, file in scores.items() if file["path"] not in damaged}
    return {**entry, "scores": sound} if scores else entry
