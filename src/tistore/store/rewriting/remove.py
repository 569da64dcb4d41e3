"""
Removing readings: segments are written anew without them, and their keys are free again.

Nothing is hidden: whoever opens the store finds whole segments without these readings, and whoever
opens it as of an earlier commit finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from tistore.errors import NotStoredError
from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import REMOVALS
from tistore.store.committing import Committer
from tistore.store.copies import Extract, copy_parts
from tistore.store.files import Files
from tistore.store.keys import slot_key
from tistore.store.log import Keys
from tistore.store.rewriting.rewrite import (
    NewSegment,
    NewTableFile,
    Rewrite,
    rewrite_persistently,
    segment_bytes,
    take_over_scores,
)
from tistore.store.score_files import ScoreFolder
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot

_SLOT = ("organism", "prompt_set", "prompt_id", "sample")


@dataclass(frozen=True, slots=True)
class RemovedGroup:
    """
    Readings of one reader of an organism's responses to one prompt set.

    Attributes:
        organism: Who wrote the responses.
        reader: Who read them.
        prompt_set: What was asked.
        readings: How many.
        tokens: Their rows.
    """

    organism: str
    reader: str
    prompt_set: str
    readings: int
    tokens: int


@dataclass(frozen=True, slots=True)
class RemoveReport:
    """
    What was removed, or would be.

    Attributes:
        groups: Which readings.
        readings: How many.
        responses: Responses of which no reading is left; their slots are free again.
        segments_dropped: Segments that go whole.
        segments_rewritten: Segments that are written anew without them.
        freed_bytes: Bytes that `gc` may free then, about.
        kept_readings: Readings that stay in the store.
    """

    groups: tuple[RemovedGroup, ...]
    readings: int
    responses: int
    segments_dropped: int
    segments_rewritten: int
    freed_bytes: int
    kept_readings: int


def remove(
    files: Files,
    committer: Committer,
    snapshot: Snapshot,
    scores: ScoreFolder,
    keys: Collection[str],
    *,
    reason: str | None = None,
    dry_run: bool = False,
) -> RemoveReport:
    """
    Remove readings; see `BaseStore.remove_readings`.

    Args:
        files: The store's files.
        committer: Who commits.
        snapshot: The store's newest state.
        scores: Where scores are cached; those of what stays are taken over.
        keys: The readings' keys.
        reason: For people; stored.
        dry_run: Only tell.
    """
    wanted = set(keys)
    plan = _plan(snapshot, wanted, reason)
    report = _report(snapshot, wanted, plan)
    if dry_run or not wanted:
        return report
    ended = rewrite_persistently(
        files, committer, snapshot, lambda newer: _plan(newer, wanted, reason)
    )
    take_over_scores(scores, ended)
    return report


def free_keys(snapshot: Snapshot, wanted: Collection[str]) -> Keys:
    """
    List the keys that are free once some readings are gone: theirs, and those of emptied slots.

    Args:
        snapshot: The state they are part of.
        wanted: The readings' keys.
    """
    going: set[tuple[Any, ...]] = set()
    staying: set[tuple[Any, ...]] = set()
    for segment in snapshot.segments:
        table = segment.table("responses", ["reading_key", *_SLOT])
        for key, *slot in zip(*(column.to_pylist() for column in table.columns), strict=True):
            (going if key in wanted else staying).add(tuple(slot))
    contents, responses = snapshot.keys["readings"], snapshot.keys["slots"]
    emptied = sorted(slot_key(ResponseSlot(*slot)) for slot in going - staying)
    return {
        "readings": {key: contents[key] for key in sorted(wanted)},
        "slots": {key: responses[key] for key in emptied},
    }


def describe_removals(
    names: Collection[tuple[str, str]], table: str, reason: str | None
) -> NewTableFile:
    """
    Note for people what goes.

    Args:
        names: What, in words, and the hash of its content.
        table: Where it was.
        reason: Why.
    """
    now = datetime.now(UTC)
    rows = [
        {"table": table, "name": name, "content": content, "reason": reason, "removed_at": now}
        for name, content in names
    ]
    return NewTableFile("removals", pa.Table.from_pylist(rows, schema=REMOVALS))


def _plan(snapshot: Snapshot, wanted: set[str], reason: str | None) -> Rewrite:
    held = snapshot.keys.get("readings", {})
    if lacking := sorted(wanted - held.keys()):
        raise NotStoredError(
            f"{len(lacking)} of {len(wanted)} readings are not in this store, such as {lacking[0]}"
        )
    dropped, new, names = [], [], []
    for segment in snapshot.segments:
        is_going = _find(segment, wanted)
        if not is_going.any():
            continue
        names += _name(segment, is_going)
        if is_going.all():
            dropped.append(segment.uuid)
        else:
            kept = Extract(segment, np.flatnonzero(~is_going))
            new.append(NewSegment((segment.uuid,), copy_parts([kept])))
    return Rewrite(
        "remove",
        segments=new,
        tables=[describe_removals(names, "responses", reason)],
        dropped_segments=dropped,
        removed=free_keys(snapshot, wanted) if wanted else {},
    )


def _find(segment: Segment, wanted: set[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    keys = segment.table("responses", ["reading_key"])["reading_key"].to_pylist()
    return np.array([key in wanted for key in keys], dtype=np.bool_)


def _name(segment: Segment, is_going: np.ndarray[Any, np.dtype[np.bool_]]) -> list[tuple[str, str]]:
    columns = [*_SLOT, "reader", "content_hash"]
    rows = segment.table("responses", columns).filter(pa.array(is_going)).to_pylist()
    return [
        (
            f"{ResponseSlot(*(row[name] for name in _SLOT))}, read by {row['reader']}",
            row["content_hash"],
        )
        for row in rows
    ]


def _report(snapshot: Snapshot, wanted: set[str], plan: Rewrite) -> RemoveReport:
    counts: Counter[tuple[str, str, str]] = Counter()
    tokens: Counter[tuple[str, str, str]] = Counter()
    freed = n_readings = 0.0
    columns = ["organism", "reader", "prompt_set", "n_rows"]
    for segment in snapshot.segments:
        is_going = _find(segment, wanted)
        n_readings += len(is_going)
        rows = segment.table("responses", columns).filter(pa.array(is_going)).to_pylist()
        for row in rows:
            group = row["organism"], row["reader"], row["prompt_set"]
            counts[group] += 1
            tokens[group] += row["n_rows"]
        share = len(rows) / max(len(is_going), 1)
        freed += share * segment_bytes(snapshot.contents.segments[segment.uuid])
    return RemoveReport(
        groups=tuple(
            RemovedGroup(*group, readings=counts[group], tokens=tokens[group])
            for group in sorted(counts)
        ),
        readings=len(wanted),
        responses=len(plan.removed.get("slots", {})),
        segments_dropped=len(plan.dropped_segments),
        segments_rewritten=len(plan.segments),
        freed_bytes=int(freed),
        kept_readings=int(n_readings) - len(wanted),
    )
