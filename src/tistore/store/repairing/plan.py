"""What a repair keeps of a state of which some files are damaged, and what goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import TABLE_KEYS
from tistore.store.copies import Extract, copy_parts
from tistore.store.files import Files
from tistore.store.keys import row_key, slot_key
from tistore.store.layout import table_path
from tistore.store.log import Keys
from tistore.store.repairing.mended_segment import MendedSegment
from tistore.store.rewriting.remove import RemovedGroup
from tistore.store.rewriting.rewrite import NewSegment, NewTableFile, Rewrite
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot
from tistore.store.unembedding import TABLE as UNEMBEDDING

_SLOT = ("organism", "prompt_set", "prompt_id", "sample")
_GROUP = ("organism", "reader", "prompt_set", "n_rows")
_OF_HEADS = ("heads", UNEMBEDDING)


@dataclass(frozen=True, slots=True, eq=False)
class Salvage:
    """
    What is kept of a segment.

    Attributes:
        segment: The segment, as far as it can be read.
        kept: Its readings that stay, by their rows in `responses`.
        is_touched: Whether it has to be written anew, or dropped.
    """

    segment: Segment
    kept: NDArray[np.int64]
    is_touched: bool

    @property
    def lost(self) -> int:
        """How many of its readings go."""
        return self.segment.n_readings - len(self.kept)


@dataclass(slots=True, eq=False)
class RepairPlan:
    """
    What a repair makes of a state.

    Attributes:
        salvaged: Every segment, in the order of the store.
        dropped_tables: Files of tables of the log whose rows go.
        tables: Files that take the place of others.
        removed: Keys of what is not there any more, with the content it had.
    """

    salvaged: list[Salvage]
    dropped_tables: list[str] = field(default_factory=list)
    tables: list[NewTableFile] = field(default_factory=list)
    removed: Keys = field(default_factory=dict)

    @property
    def replaces(self) -> bool:
        """Whether there is anything for a commit to say."""
        is_touched = any(one.is_touched for one in self.salvaged)
        return bool(is_touched or self.dropped_tables or self.removed)

    def rewrite(self) -> Rewrite:
        """Lay the plan out as a commit that replaces."""
        touched = [one for one in self.salvaged if one.is_touched]
        return Rewrite(
            "repair",
            segments=[
                NewSegment((one.segment.uuid,), copy_parts([Extract(one.segment, one.kept)]))
                for one in touched
                if len(one.kept)
            ],
            dropped_segments=[one.segment.uuid for one in touched if not len(one.kept)],
            tables=self.tables,
            dropped_tables=self.dropped_tables,
            removed=self.removed,
        )

    def group_lost(self, damaged: Collection[str]) -> tuple[RemovedGroup, ...]:
        """Tell whose readings go, where the tables that say so can be read."""
        counts: Counter[tuple[str, str, str]] = Counter()
        tokens: Counter[tuple[str, str, str]] = Counter()
        for one in self.salvaged:
            if not one.lost or _lacks_readings(one.segment, damaged):
                continue
            is_lost = np.ones(one.segment.n_readings, dtype=np.bool_)
            is_lost[one.kept] = False
            rows = one.segment.table("responses", _GROUP).filter(pa.array(is_lost))
            for *group, n_rows in zip(
                *(column.to_pylist() for column in rows.columns), strict=True
            ):
                counts[tuple(group)] += 1
                tokens[tuple(group)] += n_rows
        return tuple(RemovedGroup(*one, counts[one], tokens[one]) for one in sorted(counts))


def plan_repair(files: Files, snapshot: Snapshot, damaged: Collection[str]) -> RepairPlan:
    """
    Plan what is kept of a state.

    Args:
        files: The store's files.
        snapshot: The state.
        damaged: Paths of files that are not as committed and cannot be restored.
    """
    plan = RepairPlan(_salvage(files, snapshot, damaged))
    _drop_tables(plan, snapshot, damaged)
    _free_keys(plan, snapshot)
    return plan


def _salvage(files: Files, snapshot: Snapshot, damaged: Collection[str]) -> list[Salvage]:
    """
    Find what is whole of each segment.

    Where a commit is lost that replaced segments, what it replaced is back, beside what took its
    place: of a reading that is there twice, the one that was written last stays.
    """
    found: list[Salvage] = []
    seen: set[str] = set()
    numbers = _written_at(snapshot)
    for segment in sorted(snapshot.segments, key=lambda one: numbers[one.uuid], reverse=True):
        is_damaged = any(record.path in damaged for record in segment.files)
        if is_damaged:
            entry = snapshot.contents.segments[segment.uuid]
            mended = MendedSegment(files, entry, damaged)
            segment, kept = mended, mended.kept
        else:
            kept = np.arange(segment.n_readings)
        if len(kept):
            keys = segment.table("responses", ["reading_key"])["reading_key"].to_pylist()
            whole, kept = len(kept), kept[[keys[place] not in seen for place in kept]]
            seen.update(keys[place] for place in kept)
            is_damaged |= len(kept) < whole
        found.append(Salvage(segment, kept, is_damaged))
    order = {uuid: place for place, uuid in enumerate(snapshot.contents.segments)}
    return sorted(found, key=lambda one: order[one.segment.uuid])


def _written_at(snapshot: Snapshot) -> dict[str, int]:
    return {
        entry["uuid"]: commit.number
        for commit in snapshot.commits
        for entry in commit.body["segments"]
    }


def _lacks_readings(segment: Segment, damaged: Collection[str]) -> bool:
    return table_path(segment.uuid, "responses") in damaged


def _drop_tables(plan: RepairPlan, snapshot: Snapshot, damaged: Collection[str]) -> None:
    """Drop damaged files; a head goes with its unembedding, and what names it goes with both."""
    there = [file for files in snapshot.contents.tables.values() for file in files.values()]
    headless = {
        file.number for file in there if file.table in _OF_HEADS and file.record.path in damaged
    }
    for file in there:
        if file.record.path in damaged or (file.table in _OF_HEADS and file.number in headless):
            plan.dropped_tables.append(file.record.path)
    if not headless:
        return
    dropped = set(plan.dropped_tables)
    heads = [
        hash_
        for file in snapshot.table_files("heads")
        if file.record.path not in dropped
        for hash_ in snapshot.live_rows(file)["head_hash"].to_pylist()
    ]
    for file in snapshot.table_files("reader_heads"):
        if file.record.path in dropped:
            continue
        rows = snapshot.live_rows(file)
        left = rows.filter(pc.is_in(rows["head_hash"], pa.array(heads, pa.string())))
        if left.num_rows < rows.num_rows:
            plan.tables.append(NewTableFile("reader_heads", left, (file.record.path,)))


def _free_keys(plan: RepairPlan, snapshot: Snapshot) -> None:
    """Free the keys of everything that is not there any more."""
    live: dict[str, set[str]] = {"readings": set(), "slots": set()}
    for one in plan.salvaged:
        if len(one.kept):
            rows = one.segment.table("responses", ["reading_key", *_SLOT]).take(pa.array(one.kept))
            for key, *slot in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                live["readings"].add(key)
                live["slots"].add(slot_key(ResponseSlot(*slot)))
    is_touched = any(one.is_touched for one in plan.salvaged)
    going = {*plan.dropped_tables, *(path for new in plan.tables for path in new.replaced)}
    gone: Keys = {}
    for name in ("readings", "slots"):
        gone[name] = _lacking(snapshot, name, live[name]) if is_touched else {}
    for name in TABLE_KEYS:
        files = snapshot.table_files(name)
        left = [file for file in files if file.record.path not in going]
        if len(left) < len(files):
            tables = [new.rows for new in plan.tables if new.table == name]
            tables += [snapshot.live_rows(file) for file in left]
            gone[name] = _lacking(snapshot, name, _list_keys(name, tables))
    plan.removed = {kind: keys for kind, keys in gone.items() if keys}


def _list_keys(name: str, tables: Sequence[pa.Table]) -> set[str]:
    columns = TABLE_KEYS[name]
    return {
        row_key(name, row)
        for table in tables
        for row in table.select([one for one in columns if one in table.column_names]).to_pylist()
    }


def _lacking(snapshot: Snapshot, kind: str, live: set[str]) -> dict[str, str]:
    return {key: held for key, held in snapshot.keys.get(kind, {}).items() if key not in live}
