"""Named sets of massive dimensions, as calibrations of the store have found them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow.compute as pc

from tistore.errors import AmbiguousVectorError, QueryError
from tistore.schemas.calibration import (
    N_TOP,
    PERSISTENT_LAYERS,
    DimensionCalibration,
    LayerCalibration,
)
from tistore.schemas.model import BASE_READER, is_copy
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.snapshot import Snapshot

SET_NAMES = ("massive", "sun", f"top{N_TOP}", f"top{N_TOP}-{PERSISTENT_LAYERS}layers")
"""
What can be named after 'without', besides dimensions by number.

`sun` is massive for some token at that layer, by the definition of Sun et al.; `top5` is among the
five largest means there; `top5-3layers` is so at three layers or more (another number may stand for
the 3); `massive` is `sun` and `top5-3layers` together.
"""

_TOP_AT = re.compile(rf"top{N_TOP}-(\d{{1,4}})layers")


def is_set_name(text: str) -> bool:
    """Whether a text names a set of dimensions."""
    return text in SET_NAMES or _TOP_AT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """
    The dimensions that names mean at a site.

    Attributes:
        dims: Dimensions, ascending; there may be none.
        reader: Model they were measured on.
    """

    dims: tuple[int, ...]
    reader: str


class MassiveDims:
    """
    The massive dimensions a snapshot knows of. Nothing is read before it is asked.

    Args:
        snapshot: Where the calibrations are; the newest of a reader at a site counts.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def find(self, names: Sequence[str], vector: Vector, site: Site) -> Found:
        """
        Find the dimensions that names mean for a vector applied to a site.

        Measured on the vector's own model, where it was calibrated; else on its clean base; else on
        any reader, as long as all of them say the same.

        Raises:
            QueryError: Nothing of the vector's width has been calibrated at the site.
            AmbiguousVectorError: Readers differ, and none of them goes first.
        """
        layers = {
            reader: layer
            for (reader, at), layer in self._layers.items()
            if at == site and layer.hidden == vector.hidden
        }
        if not layers:
            raise QueryError(self._describe_missing(names, vector, site), mend=_MEND)
        if reader := self._prefer(vector, sorted(layers)):
            return Found(self._dims(names, layers[reader]), reader)
        found = {reader: self._dims(names, layers[reader]) for reader in sorted(layers)}
        if len(set(found.values())) == 1:
            return Found(next(iter(found.values())), next(iter(found)))
        said = "; ".join(
            f"{reader}: {', '.join(map(str, dims)) or 'none'}" for reader, dims in found.items()
        )
        raise AmbiguousVectorError(
            f"what {', '.join(names)} means at {site} differs from reader to reader, and none "
            f"of them is the model or the clean base of {vector.reference} ({said})",
            mend=f"name the dimensions themselves: '{vector.reference} without …'",
        )

    @cached_property
    def _layers(self) -> dict[tuple[str, Site], LayerCalibration]:
        rows = self._snapshot.table("calibration_layers").to_pylist()
        layers = map(LayerCalibration.from_row, rows)  # in commit order: the last one stays
        return {(layer.reader, layer.site): layer for layer in layers}

    def _dims(self, names: Sequence[str], layer: LayerCalibration) -> tuple[int, ...]:
        is_its = (pc.field("calibration_id") == layer.calibration_id) & (
            pc.field("layer") == layer.layer
        )
        rows = self._snapshot.table("calibrations").filter(is_its).to_pylist()
        measured = map(DimensionCalibration.from_row, rows)
        return tuple(
            sorted(one.dim for one in measured if any(_belongs(one, name) for name in names))
        )

    def _prefer(self, vector: Vector, readers: Sequence[str]) -> str | None:
        """Choose the vector's own model, or the one clean base."""
        if vector.model in readers:
            return vector.model
        models = self._snapshot.models
        own = models.get(vector.model or "")
        base_id = own.base_id if own else None
        bases = [
            reader
            for reader in readers
            if not is_copy(reader)
            and (model := models.get(reader)) is not None
            and (reader == BASE_READER or (model.base_id and not model.adapter_id))
            and base_id in (None, model.base_id)
        ]
        if BASE_READER in bases:
            return BASE_READER
        return bases[0] if len(bases) == 1 else None

    def _describe_missing(self, names: Sequence[str], vector: Vector, site: Site) -> str:
        what = f"{vector.reference} without {', '.join(names)}"
        widths = sorted({one.hidden for (_, at), one in self._layers.items() if at == site})
        if widths:
            there = ", ".join(map(str, widths))
            return f"{what}: {site} was calibrated {there} wide, and the vector is {vector.hidden}"
        known = sorted({str(at) for _, at in self._layers})
        there = f"; calibrated are {', '.join(known)}" if known else ""
        return f"{what}: massive dimensions of {site} have not been measured{there}"


_MEND = "measure them first: tistore calibrate STORE"


def _belongs(one: DimensionCalibration, name: str) -> bool:
    if name == "sun":
        return one.n_massive > 0
    if name == f"top{N_TOP}":
        return one.top_rank is not None
    if match := _TOP_AT.fullmatch(name):
        return one.n_layers_top >= max(1, int(match[1]))
    return one.n_massive > 0 or one.n_layers_top >= PERSISTENT_LAYERS
