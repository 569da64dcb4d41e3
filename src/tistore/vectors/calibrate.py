"""Calibrating: finding a model's massive dimensions in the activations a store holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from tistore.errors import NotStoredError, QueryError, nearest
from tistore.query.product import one_thread_each
from tistore.query.progress import metered
from tistore.query.scan import count_processors
from tistore.query.span_question import check_condition
from tistore.query.store import Store
from tistore.schemas.calibration import Calibration, DimensionCalibration, LayerCalibration
from tistore.schemas.model import is_copy
from tistore.schemas.site import Component
from tistore.store.segment import Segment
from tistore.vectors.measuring import Measuring, ReaderReadings
from tistore.vectors.reading_rows import Rows


def calibrate(
    store: Store,
    *,
    readers: Sequence[str] | None = None,
    prompt_set: str | None = None,
    component: Component = "residual",
    where: str | None = None,
    n_threads: int | None = None,
) -> list[Calibration]:
    """
    Measure massive dimensions, reader by reader, and commit what is found.

    Activations are read twice, block by block: the second time for the distribution in the
    dimensions that the first has found. Memory does not grow with the store. What has been
    measured on the very same readings is not measured again.

    Args:
        store: Where the activations are.
        readers: Whose; every reader's when None, second readings of `tistore noise` left out.
        prompt_set: Only readings of this prompt set.
        component: Component.
        where: SQL condition on the columns of `responses`.
        n_threads: Threads; one for each processor when None.

    Returns:
        One a reader, in the order given, or by name.

    Raises:
        NotStoredError: There are no such readings, or none with the component.
        QueryError: The condition is malformed; or a reader's readings differ in width.
        IntegrityError: A chunk is damaged.

    Source:
        Sun et al., Massive Activations in Large Language Models, arXiv:2402.17762, for what is
        massive; means, magnitudes and spreads are those of trait-interp's calibration.
    """
    if where is not None:
        check_condition(where)
    known = _list_readers(store)
    wanted = readers or [reader for reader in known if not is_copy(reader)]
    chosen: list[ReaderReadings] = []
    for reader in dict.fromkeys(wanted):
        if reader not in known:
            raise NotStoredError(f"{reader!r} has read nothing here; {nearest(reader, known)}")
        picked = _pick(store, reader, prompt_set, where)
        if found := _choose(store, reader, component, picked):
            chosen.append(found)
        elif readers:
            raise _describe_nothing(store, reader, prompt_set, component, bool(picked))
    if not chosen:
        raise _describe_nothing(store, "any reader", prompt_set, component, False)
    return [_calibrate(store, one, where, n_threads or count_processors()) for one in chosen]


def _calibrate(
    store: Store, chosen: ReaderReadings, where: str | None, n_threads: int
) -> Calibration:
    if known := _find_known(store, chosen.calibration_id):
        return known
    total = sum(
        2 * 2 * chosen.width * segment.n_rows * len(segment.layers) for segment, _ in chosen.parts
    )
    with one_thread_each():
        measuring = Measuring(chosen, n_threads, metered(total, store.on_progress))
        found = measuring.run(where, store.snapshot.number)
    with store.writer() as writer:
        writer.add_rows("calibration_layers", [layer.to_row() for layer in found.layers])
        writer.add_rows("calibrations", [dimension.to_row() for dimension in found.dimensions])
    return found


def _list_readers(store: Store) -> list[str]:
    found = store.sql("SELECT DISTINCT reader FROM responses ORDER BY reader").fetchall()
    if not found:
        raise NotStoredError("this store holds no readings", mend="fill it first")
    return [reader for (reader,) in found]


def _pick(store: Store, reader: str, prompt_set: str | None, where: str | None) -> dict[str, str]:
    """Ask which readings are meant: for each key, the prompt set."""
    conditions = ["reader = $reader"]
    parameters = {"reader": reader}
    if prompt_set is not None:
        conditions.append("prompt_set = $prompt_set")
        parameters["prompt_set"] = prompt_set
    if where is not None:
        conditions.append(f"({where}\n)")  # the line break ends a comment it may end with
    query = f"SELECT reading_key, prompt_set FROM responses WHERE {' AND '.join(conditions)}"
    return dict(store.sql(query, parameters).fetchall())


def _choose(
    store: Store, reader: str, component: Component, picked: dict[str, str]
) -> ReaderReadings | None:
    """Find the readings that have the component; None where there are none."""
    parts = [
        (segment, places)
        for segment in store.snapshot.segments
        if component in segment.components and len(places := _find_places(segment, picked))
    ]
    if not parts:
        return None
    widths = sorted({segment.width(component) for segment, _ in parts})
    if len(widths) > 1:
        raise QueryError(
            f"the {component} of {reader} is {' and '.join(map(str, widths))} wide",
            mend="choose readings of one width with --where",
        )
    keys = tuple(
        key for segment, places in parts for key in _keys(segment).take(places).to_pylist()
    )
    sets = tuple(sorted({picked[key] for key in keys}))
    return ReaderReadings(reader, component, keys, sets, tuple(parts))


def _keys(segment: Segment) -> Any:
    return segment.table("responses", ["reading_key"])["reading_key"]


def _find_places(segment: Segment, keys: dict[str, str]) -> Rows:
    found = [at for at, key in enumerate(_keys(segment).to_pylist()) if key in keys]
    return np.array(found, dtype=np.int64)


def _describe_nothing(
    store: Store, reader: str, prompt_set: str | None, component: Component, has_readings: bool
) -> NotStoredError:
    sets = [name for (name,) in store.sql("SELECT DISTINCT prompt_set FROM responses").fetchall()]
    components = {name for segment in store.snapshot.segments for name in segment.components}
    if prompt_set is not None and prompt_set not in sets:
        what = f"nothing was read of {prompt_set!r}; {nearest(prompt_set, sets)}"
    elif has_readings or component not in components:
        what = f"no {component} of {reader} was captured; {nearest(component, components)}"
    else:
        what = f"no reading of {reader} satisfies the condition"
    return NotStoredError(what, mend="`tistore info` lists what the store holds")


def _find_known(store: Store, calibration_id: str) -> Calibration | None:
    is_its = pc.field("calibration_id") == calibration_id
    layers, dimensions = (
        store.snapshot.table(name).filter(is_its).to_pylist()
        for name in ("calibration_layers", "calibrations")
    )
    if not layers:
        return None
    return Calibration(
        tuple(map(LayerCalibration.from_row, layers)),
        tuple(map(DimensionCalibration.from_row, dimensions)),
        is_new=False,
    )
