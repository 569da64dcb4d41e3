"""A store as its data: opening, writing, reading back, verifying. Questions come a floor above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Component, Site
from tistore.schemas.vector import Vector
from tistore.store.events import EventLog
from tistore.store.info import StoreInfo, describe
from tistore.store.layout import ANALYSES
from tistore.store.snapshot import StoredResponse, read_activations
from tistore.store.upkeep import KeptStore
from tistore.store.writer import FLUSH_BYTES, FLUSH_SECONDS, Writer


class BaseStore(KeptStore):
    """An open store: what is written to it, and what is read back; see `OpenStore`."""

    @property
    def events(self) -> EventLog:
        """What runs say about themselves."""
        return EventLog(self.path)

    @property
    def analyses(self) -> EventLog:
        """What has been asked of the store, for `tistore log --analyses`."""
        return EventLog(self.path, ANALYSES)

    def info(self) -> StoreInfo:
        """Count what the store holds."""
        return describe(str(self.path), self.header, self._snapshot)

    def writer(
        self, *, flush_bytes: int = FLUSH_BYTES, flush_seconds: float = FLUSH_SECONDS
    ) -> Writer:
        """
        Open a writer; see `Writer`.

        Raises:
            StoreError: The store is read-only, or open at an older commit.
        """
        self._require_unpinned()
        self._require_writable()
        self.refresh()
        return _FollowedWriter(self, flush_bytes, flush_seconds)

    def add_vector(
        self,
        trait: str,
        values: ArrayLike,
        *,
        layer: int,
        component: Component = "residual",
        method: str = "unknown",
        position: str = "unknown",
        model: str | None = None,
        separation: float | None = None,
        midpoint: float | None = None,
    ) -> Vector:
        """
        Commit a direction. The same vector again is a no-op.

        Args:
            trait: `category/name`.
            values: (hidden,), in the site's activation units; any length, only its direction
                counts in scores.
            layer: Block it was fitted at.
            component: Component it was fitted at.
            method: How it was fitted, such as "mean_diff".
            position: Tokens it was fitted on, such as "response[:5]".
            model: Name of the model it was fitted on.
            separation: Held-out effect size; see `Vector`.
            midpoint: See `Vector`.

        Raises:
            InvalidRecordError: The values are not a finite, non-zero direction.
            KeyConflictError: The same name holds another direction.
        """
        vector = Vector(
            trait=trait,
            values=_as_direction(values),
            layer=layer,
            component=component,
            method=method,
            position=position,
            model=model,
            separation=separation,
            midpoint=midpoint,
        )
        self.add_rows("vectors", [vector.to_row()])
        return vector

    def add_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Commit rows of a table of the log; see `Writer.add_rows`."""
        with self.writer() as writer:
            writer.add_rows(table, rows)

    def holds(self, reading_key: str) -> bool:
        """Whether a reading with this key is committed; see `identify_reading`."""
        return reading_key in self._snapshot.keys.get("readings", {})

    def stored_response(self, slot: ResponseSlot) -> StoredResponse | None:
        """Look up the committed response of a slot."""
        return self._snapshot.find_response(slot)

    def activations(
        self, response_id: str, *, reader: str, layer: int, component: Component = "residual"
    ) -> NDArray[Any]:
        """
        Read one reading's activations.

        Returns:
            [rows, width] float16; float32 where the layer exceeds float16 and is stored with an
            exponent. What is there for each head lies head by head.

        Raises:
            NotStoredError: No such response, reader, layer or component.
        """
        return read_activations(self._snapshot, response_id, reader, Site(component, layer))


class _FollowedWriter(Writer):
    """A writer whose commits move its store's snapshot on."""

    def __init__(self, store: BaseStore, flush_bytes: int, flush_seconds: float) -> None:
        super().__init__(
            store._files, store.header.sha256, store._read_newest, flush_bytes, flush_seconds
        )
        self._store = store

    def commit(self) -> int:
        """Commit, and let the store see it."""
        number = super().commit()
        self._store.refresh()
        # Whoever asks the store whether it holds something may leave it out.
        self._committer.confirm(self._store.snapshot)
        return number


def _as_direction(values: ArrayLike) -> NDArray[np.float32]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)
