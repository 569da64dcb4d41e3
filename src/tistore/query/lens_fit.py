"""Whether states and heads belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tistore.errors import QueryError
from tistore.query.relations import Extent
from tistore.schemas.head import Head
from tistore.schemas.model import find_original
from tistore.store.snapshot import Snapshot


def find_heads(extent: Extent, snapshot: Snapshot) -> list[Head | None]:
    """Find the head of each reading's reader, for every reading of the store."""
    codes = extent.readings.codes("reader")
    names = extent.readings.table["reader"].combine_chunks().dictionary.to_pylist()
    # A copy, which noise or precision is measured by, has its original's head.
    known = snapshot.reader_heads
    hashes = (known.get(name) or known.get(find_original(name), "") for name in names)
    by_code = [snapshot.heads.get(head_hash) for head_hash in hashes]
    return [by_code[code] for code in codes]


def check_heads(
    extent: Extent,
    layers: Mapping[int, Sequence[int]],
    heads: Sequence[Head | None],
    takes_products: bool,
) -> Iterator[str]:
    """
    Check that readings have states, and their readers heads of the same width.

    Args:
        extent: The readings.
        layers: For each of their segments, the layers whose residual states are there.
        heads: For each reading of the store, its reader's head.
        takes_products: Whether heads are needed.

    Yields:
        For how many readings states or heads are missing.

    Raises:
        QueryError: They are missing for all of them, or a head is of another width.
    """
    if not len(extent.ids):
        return
    readings = extent.readings
    lacks_states = np.array([not layers[int(place)] for place in readings.segment[extent.ids]])
    if lacks_states.all():
        places = np.unique(readings.segment[extent.ids])
        is_bundle = any("residual" in readings.segments[int(at)].components for at in places)
        raise QueryError(
            "lens: none of the readings this query needs has residual activations",
            mend="ask the store that this bundle was exported from"
            if is_bundle
            else "the lens is put to the residual stream: capture it",
        )
    if n_lacking := int(lacks_states.sum()):
        yield (
            f"lens has no rows for {n_lacking} of {len(extent.ids)} readings: "
            "residual was not captured for them"
        )
    if not takes_products:
        return
    lacks_head = np.array([heads[int(place)] is None for place in extent.ids])
    if lacks_head.all():
        names = sorted(set(readings.table["reader"].take(pa.array(extent.ids)).to_pylist()))
        shown = ", ".join(names[:5]) + ("…" if len(names) > 5 else "")
        raise QueryError(
            f"lens: the store holds no final norm and unembedding of the readers this query needs "
            f"({shown})",
            mend="keep them: `tistore lens STORE --heads CONFIG`, with a run of these readers",
        )
    if n_lacking := int((lacks_head & ~lacks_states).sum()):
        yield (
            f"lens is NULL for {n_lacking} of {len(extent.ids)} readings: "
            "their readers' final norm and unembedding are not in the store"
        )
    for reading in extent.ids[~lacks_head & ~lacks_states]:
        head = heads[int(reading)]
        width = readings.segments[readings.segment[reading]].width("residual")
        if head is not None and head.hidden != width:
            raise QueryError(
                f"lens: the states of {readings.describe(int(reading))} are {width} wide, its "
                f"reader's head {head.hidden}",
                mend="the head of that reader is another model's: leave the reader out",
            )
