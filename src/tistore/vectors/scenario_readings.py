"""A trait's scenarios as the store holds them: which readings they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tistore.datasets.scenarios import SIDES, Side
from tistore.errors import NotStoredError, nearest
from tistore.schemas.prompt import SCENARIO_SETS
from tistore.schemas.response import ResponseSlot
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot

SCENARIO_AUTHOR = "scenarios"
"""Author of scenarios that people wrote to the end."""


def scenario_set(trait: str, side: str) -> str:
    """Name the prompt set that holds one side, "positive" or "negative", of a trait."""
    return f"{SCENARIO_SETS}{trait}/{side}"


@dataclass(frozen=True, slots=True, eq=False)
class StoredReading:
    """
    One reading of a scenario.

    Attributes:
        segment: Where it lies.
        index: Its place among the segment's readings.
        row: Its row in that segment's `responses`; without text.
    """

    segment: Segment
    index: int
    row: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class StoredScenario:
    """
    A scenario, and every reading of it by one reader.

    Attributes:
        side: Whether it shows the trait.
        slot: Who wrote its response, and which scenario it is.
        response_id: Identifies its tokens.
        group: Number of the pair it belongs to, counted over both sides.
        readings: In commit order; several where capture settings differ.
    """

    side: Side
    slot: ResponseSlot
    response_id: str
    group: int
    readings: tuple[StoredReading, ...]


def find_scenarios(
    snapshot: Snapshot,
    trait: str,
    reader: str,
    author: str | None = None,
    kept: Collection[str] | None = None,
) -> list[StoredScenario]:
    """
    Find a trait's scenarios that a reader has read, positives first, by their number.

    Args:
        snapshot: Where.
        trait: `category/name`.
        reader: Who read them.
        author: Who wrote the responses; when None, each scenario's are those of the reader itself
            where it was asked to respond, else those that come with the scenario.
        kept: Ids of the responses to keep; all when None.

    Raises:
        NotStoredError: A side has none; the message says what there is.
    """
    sets: dict[str, Side] = {scenario_set(trait, side): side for side in SIDES}
    readings = [
        (sets[reading.row["prompt_set"]], reading)
        for reading in walk_readings(snapshot, list(sets), reader)
    ]
    numbers = _number(reading.row["prompt_id"] for _, reading in readings)
    found: dict[tuple[Side, str], dict[ResponseSlot, list[StoredReading]]] = {}
    for side, reading in readings:
        slot = ResponseSlot(*(reading.row[name] for name in ResponseSlot.__slots__))
        is_kept = kept is None or reading.row["response_id"] in kept
        if is_kept and author in (None, slot.organism):
            of_scenario = found.setdefault((side, slot.prompt_id), {})
            of_scenario.setdefault(slot, []).append(reading)
    for side in SIDES:
        if not any(has_side == side for has_side, _ in found):
            raise _describe_missing(snapshot, trait, side, reader, author, kept is not None)
    scenarios = [
        StoredScenario(side, slot, many[0].row["response_id"], numbers[prompt_id], tuple(many))
        for (side, prompt_id), slots in found.items()
        for slot, many in _of_one_author(slots, reader)
    ]
    return sorted(scenarios, key=lambda one: (SIDES.index(one.side), one.group, one.slot))


def walk_readings(
    snapshot: Snapshot, prompt_sets: Sequence[str], reader: str
) -> Iterator[StoredReading]:
    """Walk through one reader's readings of some prompt sets, in commit order."""
    columns = ["organism", "prompt_set", "prompt_id", "sample", "reader", "response_id"]
    columns += ["prompt_length", "token_ids", "rows", "row_start", "n_rows", "first_position"]
    wanted = pa.array(prompt_sets, pa.string())
    for segment in snapshot.segments:
        names = segment.table("responses", ["prompt_set", "reader"])
        is_wanted = pc.and_(
            pc.is_in(names["prompt_set"], value_set=wanted), pc.equal(names["reader"], reader)
        )
        places = np.flatnonzero(is_wanted.to_numpy())
        if len(places):
            rows = segment.table("responses", columns).take(places).to_pylist()
            for place, row in zip(places, rows, strict=True):
                yield StoredReading(segment, int(place), row)


def list_stored_traits(snapshot: Snapshot) -> list[str]:
    """List the traits whose scenarios have been read, in name order."""
    sets = {
        name
        for segment in snapshot.segments
        for name in segment.table("responses", ["prompt_set"])["prompt_set"].unique().to_pylist()
    }
    ends = tuple(f"/{side}" for side in SIDES)
    return sorted(
        {
            name.removeprefix(SCENARIO_SETS).rpartition("/")[0]
            for name in sets
            if name.startswith(SCENARIO_SETS) and name.endswith(ends)
        }
    )


def find_stored_trait(snapshot: Snapshot, name: str) -> str:
    """
    Find the trait a name means among those whose scenarios have been read.

    Args:
        snapshot: Where they are.
        name: `category/name`, or the name alone where no other category has it.

    Returns:
        `category/name`; what was given where no such scenarios are known.
    """
    known = list_stored_traits(snapshot)
    named = [one for one in known if one.rpartition("/")[2] == name]
    return named[0] if name not in known and len(named) == 1 else name


def _number(prompt_ids: Iterable[str]) -> dict[str, int]:
    """Number scenarios as people would: 2 goes before 10."""
    ordered = sorted(set(prompt_ids), key=lambda prompt_id: (len(prompt_id), prompt_id))
    return {prompt_id: number for number, prompt_id in enumerate(ordered)}


def _of_one_author(
    slots: dict[ResponseSlot, list[StoredReading]], reader: str
) -> list[tuple[ResponseSlot, list[StoredReading]]]:
    """Keep the samples of one author: the reader itself, else people, else by name."""
    order = {reader: 0, SCENARIO_AUTHOR: 1}
    author = min((slot.organism for slot in slots), key=lambda name: (order.get(name, 2), name))
    return [(slot, many) for slot, many in slots.items() if slot.organism == author]


def _describe_missing(
    snapshot: Snapshot, trait: str, side: Side, reader: str, author: str | None, is_chosen: bool
) -> NotStoredError:
    known = list_stored_traits(snapshot)
    readers = _list_readers(snapshot, [scenario_set(trait, one) for one in SIDES])
    if trait not in known:
        what = f"no scenarios of {trait} have been read; {nearest(trait, known)}"
    elif reader not in readers:
        what = f"{reader} has read no scenarios of {trait}, only {', '.join(readers)}"
    else:
        written = f" with responses by {author}" if author else ""
        chosen = " that are to be kept" if is_chosen else ""
        what = f"{reader} has read no {side} scenarios of {trait}{written}{chosen}"
    return NotStoredError(
        what, mend="read them first: tistore vectors extract STORE TRAIT --config RUN.toml"
    )


def _list_readers(snapshot: Snapshot, prompt_sets: Sequence[str]) -> list[str]:
    wanted = pa.array(prompt_sets)
    found: set[str] = set()
    for segment in snapshot.segments:
        names = segment.table("responses", ["prompt_set", "reader"])
        read = names.filter(pc.is_in(names["prompt_set"], value_set=wanted))
        found |= set(read["reader"].to_pylist())
    return sorted(found)
