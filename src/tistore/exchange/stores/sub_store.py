"""A store of some readings, layers and sets of another, value for value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tistore.errors import ConfigError, KeyConflictError, StoreNotFoundError
from tistore.exchange.files.samples import PartRows
from tistore.exchange.selection import Part, Selection, select
from tistore.exchange.stores.copy_groups import group_parts
from tistore.exchange.stores.export_run import describe_run
from tistore.exchange.stores.log_rows import select_log_rows
from tistore.query.store import Store
from tistore.schemas.response import CaptureSettings, ResponseSlot, identify_reading
from tistore.schemas.site import Site
from tistore.store.copies import Extract, SegmentCopy, copy_readings
from tistore.store.copy_log import CopyLog
from tistore.store.half import HalfArray, to_half
from tistore.store.reading import hash_content as hash_content

_PLACE = ["organism", "prompt_set", "prompt_id", "sample", "reader", "rows"]


@dataclass(frozen=True, slots=True)
class SubStoreReport:
    """
    What went into a store.

    Attributes:
        destination: Where it is.
        readings: Readings copied now.
        present: Readings that were there already.
        without_layers: Readings that the condition picks, but that have none of the layers.
        commits: Commits made.
    """

    destination: str
    readings: int
    present: int
    without_layers: int
    commits: int


def export_store(
    store: Store,
    destination: str | Path,
    selection: Selection,
    progress: Callable[[int], None] = lambda n_readings: None,
) -> SubStoreReport:
    """
    Copy readings into a store of their own, with all that belongs to them.

    Values, norms, means, tokens and clauses are copied as they are stored. A reading that keeps
    all its layers keeps its key and its content hash; one that loses some gets those it would
    have had, had only these layers been captured (of it, `n_underflow` still counts all layers).
    It may be run again: what is there is left out, so that one that was killed goes on.

    Args:
        store: Where to read.
        destination: A new store, or one to go on with.
        selection: Which readings, and which of their layers.
        progress: Called with the readings of each commit once they are there.

    Raises:
        NotStoredError: Nothing is selected, a layer is not there, or activations are not.
        QueryError: The condition is malformed.
        ConfigError: The destination is the store itself.
        KeyConflictError: The destination holds other readings under the same keys.
        NoRoomError: The disk is full; the same call goes on later.
    """
    selected = select(store, selection, with_second_readings=True)
    for part in selected.parts:
        for site in part.sites:
            part.segment.exponent(site)  # raises where activations were left behind
    target = _open_or_create(destination, store)
    with CopyLog(target) as log:
        before = target.snapshot.number
        new_keys = {old: new for part in selected.parts for old, new in _rename(part)}
        tables = select_log_rows(store, selected, new_keys)
        run = describe_run(
            store, target, "store", {"where": selection.where, "layers": selection.layers}
        )
        heads = tables.pop("heads")
        for place, head_hash in enumerate(heads["head_hash"].to_pylist()):
            log.commit(
                tables={"heads": heads.slice(place, 1)},
                streamed=store.snapshot.unembedding(head_hash).copied(),
            )
        gone = store.snapshot.gone("vectors")
        log.commit(tables=tables, known=store.snapshot.keys, gone=gone)
        log.commit(tables={"runs": run})
        lacking = _Lacking(dict(target.snapshot.keys.get("readings", {})))
        n_copied = 0
        for group in group_parts(lacking.find(selected.parts)):
            copy = SegmentCopy(
                extracts=[Extract(part.segment, part.places) for part in group],
                layers=group[0].layers,
                components=group[0].components,
                responses=pa.concat_tables(lacking.responses.pop(part) for part in group),
                scores={},
            )
            log.commit([copy])
            n_copied += copy.responses.num_rows
            progress(copy.responses.num_rows)
    return SubStoreReport(
        destination=str(target.path),
        readings=n_copied,
        present=selected.n_readings - n_copied,
        without_layers=selected.n_without_sites,
        commits=target.snapshot.number - before,
    )


class _Lacking:
    """
    Finds the readings that are not there yet.

    Args:
        committed: For each reading's key, the hash of its content; grows with what is found.

    Attributes:
        responses: For each part given out, its rows of `responses`, named as they will be.
    """

    def __init__(self, committed: dict[str, str]) -> None:
        self._committed = committed
        self.responses: dict[Part, pa.Table] = {}

    def find(self, parts: tuple[Part, ...]) -> Iterator[Part]:
        """
        Give out what of each part is lacking.

        Raises:
            KeyConflictError: A reading is there with other activations.
        """
        for part in parts:
            table = _identify(part)
            keys, contents = table["reading_key"].to_pylist(), table["content_hash"].to_pylist()
            is_new = []
            for key, content in zip(keys, contents, strict=True):
                if self._committed.get(key, content) != content:
                    raise KeyConflictError(
                        f"reading {key} is in the destination with other activations",
                        mend="choose another destination; or, where one model has read a response "
                        "under several settings, narrow the condition to one of them",
                    )
                is_new.append(key not in self._committed)
                self._committed[key] = content
            if any(is_new):
                kept = replace(part, places=part.places[np.array(is_new)])
                self.responses[kept] = table.filter(pa.array(is_new))
                yield kept


def _identify(part: Part) -> pa.Table:
    """Gather a part's rows of `responses`, with the key and the hash of what is kept."""
    table = copy_readings([Extract(part.segment, part.places)])
    if _is_whole(part):
        return table
    rows = table.to_pylist()
    columns = {
        "reading_key": [key for _, key in _rename(part)],
        "settings_hash": [_settings(part, row["rows"]).settings_hash for row in rows],
        "content_hash": list(_hash_again(part, rows)),
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, pa.string()))
    return table


def _is_whole(part: Part) -> bool:
    segment = part.segment
    return part.layers == segment.layers and len(part.components) == len(segment.components)


def _rename(part: Part) -> Iterator[tuple[str, str]]:
    """Give each reading's key, and the one it has with the layers that are kept."""
    table = part.segment.table("responses", ["reading_key", *_PLACE]).take(part.places)
    is_whole = _is_whole(part)
    for row in table.to_pylist():
        slot = ResponseSlot(row["organism"], row["prompt_set"], row["prompt_id"], row["sample"])
        new = identify_reading(slot, row["reader"], _settings(part, row["rows"]))
        yield row["reading_key"], row["reading_key"] if is_whole else new


def _settings(part: Part, rows: str) -> CaptureSettings:
    return CaptureSettings(part.layers, tuple(sorted(part.components)), rows)  # type: ignore[arg-type]


def _hash_again(part: Part, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Hash each reading's values at the layers that are kept, one reading at a time."""
    readers = {
        component: PartRows(part.segment, [Site(component, layer) for layer in part.layers])
        for component in part.components
    }
    for row in rows:
        start, stop = row["row_start"], row["row_start"] + row["n_rows"]
        halves: dict[str, HalfArray] = {
            component: to_half(reader.read(start, stop), part.layers, row["reader"])
            for component, reader in readers.items()
        }
        yield hash_content(row["response_id"], halves)


def _open_or_create(destination: str | Path, store: Store) -> Store:
    try:
        target = Store.open(destination)
    except StoreNotFoundError:
        return Store.create(destination)
    if target.header.uuid == store.header.uuid:
        raise ConfigError(f"{destination} is the store itself", mend="choose another destination")
    return target
