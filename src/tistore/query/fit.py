"""Whether a vector and the readings it is asked of belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tistore.errors import VectorMismatchError
from tistore.query.measures import Measurement
from tistore.query.readings import Ids
from tistore.query.references import Direction
from tistore.query.relations import Extent
from tistore.schemas.model import name_base, share_base
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.snapshot import Snapshot


def check_fit(extent: Extent, measurement: Measurement, snapshot: Snapshot) -> Iterator[str]:
    """
    Check width, layer and model of everything an extent needs, before anything is read.

    Yields:
        Notes for a reader of the answer.

    Raises:
        VectorMismatchError: A width or a base model differs, or no reading has the layer.
    """
    direction = measurement.direction
    if direction.note:
        yield direction.note
    if len(extent.ids) == 0:
        return
    has_site = _find_site(extent, direction)
    if not has_site[extent.all_ids].any():
        raise VectorMismatchError(_describe_missing(extent, direction))
    needed = np.unique(extent.all_ids[has_site[extent.all_ids]])
    _check_width(extent, direction, needed)
    _check_model(extent, direction, needed, snapshot)


def count_nulls(extent: Extent, measurements: Iterable[Measurement]) -> Iterator[str]:
    """Tell, site by site, for how many readings of an extent measurements are NULL."""
    if len(extent.ids) == 0:
        return
    at_site: dict[Site, list[Measurement]] = {}
    for measurement in measurements:
        at_site.setdefault(measurement.direction.site, []).append(measurement)
    for site, together in at_site.items():
        has_site = _find_site(extent, together[0].direction)
        is_measured = has_site[extent.ids]
        if extent.baselines is not None:
            is_measured &= has_site[extent.baselines]
        if n_lacking := int((~is_measured).sum()):
            first = f"{together[0].measure}({together[0].direction})"
            others = len(together) - 1
            whole = f"{first} and {others} more are" if others else f"{first} is"
            what = "readings" if extent.baselines is None else "pairs of readings"
            yield (
                f"{whole} NULL for {n_lacking} of {len(extent.ids)} {what} in "
                f"{extent.relation}: {site} was not captured for them"
            )


def _find_site(extent: Extent, direction: Direction) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each reading of the store, whether the direction's site was captured for it."""
    readings = extent.readings
    of_segment = np.array([segment.has(direction.site) for segment in readings.segments])
    return np.asarray(of_segment[readings.segment])


def _describe_missing(extent: Extent, direction: Direction) -> str:
    segments = [extent.readings.segments[place] for place in extent.segments]
    layers = sorted({layer for segment in segments for layer in segment.layers})
    components = sorted({name for segment in segments for name in segment.components})
    return (
        f"{direction}: {direction.site} was not captured for any reading this query needs; "
        f"they have {', '.join(components)} at layers {', '.join(map(str, layers))}"
    )


def _check_width(extent: Extent, direction: Direction, needed: Ids) -> None:
    for place in extent.readings.segments_of(needed):
        width = extent.readings.segments[place].width(direction.site.component)
        if width != direction.vector.hidden:
            reading = int(needed[extent.readings.segment[needed] == place][0])
            raise VectorMismatchError(
                f"{direction.vector.reference} is {direction.vector.hidden} wide, but the "
                f"{direction.site.component} activations of {extent.readings.describe(reading)} "
                f"are {width} wide",
                mend="narrow the query to the readings of the vector's own model"
                if direction.site.component != "attention"
                else "narrow the query to readings of about one length: patterns of up to 64, "
                "128, … tokens are as wide as each other",
            )


def _check_model(extent: Extent, direction: Direction, needed: Ids, snapshot: Snapshot) -> None:
    for vector in direction.fitted_vectors:
        _check_base(extent, vector, needed, snapshot)


def _check_base(extent: Extent, vector: Vector, needed: Ids, snapshot: Snapshot) -> None:
    fitted_on = snapshot.models.get(vector.model or "")
    if fitted_on is None:
        return
    readers = extent.readings.codes("reader")[needed]
    for code in np.unique(readers):
        reading = int(needed[readers == code][0])
        reader = snapshot.models.get(extent.readings.table["reader"][reading].as_py())
        if reader is not None and share_base(fitted_on, reader) is False:
            raise VectorMismatchError(
                f"{vector.reference} was fitted on {fitted_on.name}, whose base is "
                f"{name_base(fitted_on)}; the base of {extent.readings.describe(reading)} "
                f"is {name_base(reader)}",
                mend="narrow the query to readers of the vector's own base model",
            )
