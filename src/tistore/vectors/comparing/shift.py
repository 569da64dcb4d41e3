"""How far finetuning has moved a model along vectors: the mean shift, and its angle to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.errors import NotStoredError, VectorMismatchError, nearest
from tistore.query.readings import SAME, Ids, Readings
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.snapshot import Snapshot
from tistore.vectors.comparing.directions import cosine


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """
    The mean difference between two readers of the same responses.

    Attributes:
        site: Where.
        values: (width,) float64, reader minus baseline, in the site's activation units.
        n_responses: Responses it is the mean over, each counting once.
    """

    site: Site
    values: NDArray[np.float64]
    n_responses: int


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """
    A vector and a shift.

    Attributes:
        vector: The vector.
        shift: The shift at its site.
        cosine: Of the angle between them.
        projection: The shift along the vector, in score units: the mean of what `project` gives on
            `response_diffs`.
        random_95: What the size of the cosine stays below for 95 % of directions that are
            uniform on the sphere. Activations are not uniform, and the shifts of unrelated
            finetunings often pass it: compare organisms with each other too.
    """

    vector: Vector
    shift: Shift
    cosine: float
    projection: float
    random_95: float


def measure_shift(
    snapshot: Snapshot, site: Site, organism: str, baseline: str, readings: Readings | None = None
) -> Shift:
    """
    Measure how an organism's reading of its own responses differs from a baseline's, on average.

    From the stored means over responses; no token is read. Pairs that differ in precision,
    template or tokenizer are left out.

    Args:
        snapshot: Where the readings are.
        site: Where in the model.
        organism: Author and reader.
        baseline: Who else has read the same tokens.
        readings: The snapshot's, where they are at hand.

    Raises:
        NotStoredError: There is no such pair of readings at that site.
        VectorMismatchError: The readings differ in width.
    """
    readings = readings or Readings(snapshot.segments, lambda: snapshot.models)
    pairs = readings.pairs
    table = readings.table
    is_wanted = np.ones(len(pairs.reader), dtype=np.bool_)
    for column, ids, name in (
        ("organism", pairs.reader, organism),
        ("reader", pairs.reader, organism),
        ("reader", pairs.baseline, baseline),
    ):
        values = pc.equal(table[column].cast("string"), name).to_numpy(zero_copy_only=False)
        is_wanted &= values[ids]
    chosen = pairs.take(np.flatnonzero(is_wanted))
    has_site = np.array([segment.has(site) for segment in readings.segments], dtype=np.bool_)
    is_there = (
        has_site[readings.segment[chosen.reader]] & has_site[readings.segment[chosen.baseline]]
    )
    chosen = chosen.take(np.flatnonzero(is_there))
    if len(chosen.reader):
        is_alike = pc.equal(readings.pairing(chosen).cast("string"), SAME)
        chosen = chosen.take(np.flatnonzero(is_alike.to_numpy(zero_copy_only=False)))
    if not len(chosen.reader):
        known = set(table["reader"].unique().to_pylist())
        raise NotStoredError(
            f"no response of {organism!r} was read by itself and by {baseline!r} alike at {site}",
            mend=next(
                (nearest(name, known) for name in (organism, baseline) if name not in known),
                'capture replays: readers = ["self", "base"]',
            ),
        )
    differences = _read_means(readings, site, chosen.reader)
    differences -= _read_means(readings, site, chosen.baseline)
    # A response without audited tokens has no mean.
    differences = differences[np.isfinite(differences).all(axis=1)]
    if not len(differences):
        raise NotStoredError(f"no response of {organism!r} has audited tokens at {site}")
    return Shift(site, differences.mean(axis=0), len(differences))


def agree(
    snapshot: Snapshot, vectors: Sequence[Vector], organism: str, baseline: str
) -> list[Agreement]:
    """
    Compare vectors with the shift of one organism, each at its own site.

    Raises:
        NotStoredError: The organism's and the baseline's readings are not there at a site.
        VectorMismatchError: A vector and the readings differ in width.
    """
    from scipy.stats import beta

    readings = Readings(snapshot.segments, lambda: snapshot.models)
    shifts: dict[Site, Shift] = {}
    found = []
    for vector in vectors:
        if vector.site not in shifts:
            shifts[vector.site] = measure_shift(snapshot, vector.site, organism, baseline, readings)
        shift = shifts[vector.site]
        if len(shift.values) != vector.hidden:
            raise VectorMismatchError(
                f"{vector.reference} is {vector.hidden} wide, and the readings of {organism!r} "
                f"{len(shift.values)}"
            )
        # The square of a random direction's cosine has this distribution.
        limit = float(np.sqrt(beta.ppf(0.95, 0.5, (vector.hidden - 1) / 2)))
        unit = vector.values.astype(np.float64) / np.linalg.norm(vector.values.astype(np.float64))
        size = np.linalg.norm(shift.values)
        angle = cosine(shift.values, unit) if size else 0.0
        found.append(Agreement(vector, shift, angle, float(shift.values @ unit), limit))
    return found


def _read_means(readings: Readings, site: Site, ids: Ids) -> NDArray[np.float64]:
    """Read the response means of some readings, in their order: (reading, width) float64."""
    widths = {readings.segments[place].width(site.component) for place in readings.segments_of(ids)}
    if len(widths) > 1:
        raise VectorMismatchError(
            f"the readings at {site} are {' and '.join(map(str, sorted(widths)))} wide"
        )
    rows = np.empty((len(ids), widths.pop()), dtype=np.float64)
    for place in readings.segments_of(ids):
        is_here = readings.segment[ids] == place
        rows[is_here] = readings.segments[place].means(site)[ids[is_here] - readings.offsets[place]]
    return rows
