"""Means over some tokens of stored readings, at one site."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local

import numpy as np
from numpy.typing import NDArray

from tistore.errors import NotStoredError
from tistore.query.scan import count_processors
from tistore.schemas.site import Site
from tistore.store.chunks import Chunk
from tistore.store.half import EXPONENT_GAP, widen
from tistore.store.segment import Segment
from tistore.vectors.position import Position
from tistore.vectors.scenario_readings import StoredReading

_BLOCK_BYTES = 1 << 20
"""Of float32 at a time, so that it is summed while it is in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """
    Some tokens of one reading.

    Attributes:
        segment: Where the reading lies.
        index: The reading's place among the segment's.
        rows: The tokens' rows in the segment, ascending; at least one.
        is_stored_mean: Whether the stored mean of the reading is over these very tokens.
    """

    segment: Segment
    index: int
    rows: NDArray[np.int64]
    is_stored_mean: bool


def find_stretch(reading: StoredReading, position: Position) -> Stretch:
    """
    Find a position's tokens in a reading.

    Raises:
        NotStoredError: The position has no token, or some that were not captured.
    """
    row, segment = reading.row, reading.segment
    first, n_rows, start = row["first_position"], row["n_rows"], row["row_start"]
    label = f"{row['prompt_set']}#{row['prompt_id']}"
    length = len(row["token_ids"])
    if first and (position.needs_roles or position.needs_turns):
        raise _lacks_prompt(label, position)
    roles, turns = _read_speakers(reading, position, length)
    wanted = np.array(position.select(row["prompt_length"], length, roles, turns), dtype=np.int64)
    if not len(wanted):
        raise NotStoredError(f"{label} has no token at {position}")
    # The last tokens of generations have no state.
    wanted = wanted[wanted < first + n_rows]
    if not len(wanted):
        raise NotStoredError(f"{label} has no activations at {position}")
    if wanted[0] < first:
        raise _lacks_prompt(label, position)
    is_audited = segment.column("tokens", "is_response")[start : start + n_rows]
    is_mean = np.array_equal(np.flatnonzero(is_audited) + first, wanted)
    return Stretch(segment, reading.index, wanted - first + start, is_mean)


def _read_speakers(
    reading: StoredReading, position: Position, length: int
) -> tuple[list[str] | None, NDArray[np.int64] | None]:
    """Read the role and the turn of each token of a sequence, where a position asks for them."""
    start, n_rows = reading.row["row_start"], reading.row["n_rows"]
    roles = turns = None
    if position.needs_roles:
        column = reading.segment.table("tokens", ["role"])["role"]
        roles = [*column.slice(start, n_rows).to_pylist(), *[""] * (length - n_rows)]
    if position.needs_turns:
        turns = np.full(length, -1, dtype=np.int64)
        turns[:n_rows] = reading.segment.column("tokens", "turn")[start : start + n_rows]
    return roles, turns


def _lacks_prompt(label: str, position: Position) -> NotStoredError:
    return NotStoredError(
        f"{label}: only the response's tokens were captured, and {position} needs others",
        mend='capture with rows = "all": tistore vectors extract does where a position asks for it',
    )


def read_means(stretches: Sequence[Stretch], site: Site) -> NDArray[np.float32]:
    """
    Average the activations of each stretch.

    Where means over the very tokens are stored, they are read; elsewhere every chunk that holds
    a token is decoded once, several at a time.

    Args:
        stretches: At least one, all of one width at the site.
        site: A site that all their segments have.

    Returns:
        (stretch, width) float32, in the activations' true units.

    Raises:
        NotStoredError: The tokens' activations are not here, but only scores and means of them.
        IntegrityError: A chunk is damaged.
    """
    width = stretches[0].segment.width(site.component)
    means = np.empty((len(stretches), width), dtype=np.float32)
    of_segments: dict[str, list[int]] = {}
    for place, stretch in enumerate(stretches):
        of_segments.setdefault(stretch.segment.uuid, []).append(place)
    for places in of_segments.values():
        segment = stretches[places[0]].segment
        known = [place for place in places if stretches[place].is_stored_mean]
        if known:
            indices = [stretches[place].index for place in known]
            means[known] = segment.means(site)[indices]
        rest = [place for place in places if not stretches[place].is_stored_mean]
        if rest:
            means[rest] = _average(segment, site, [stretches[place].rows for place in rest])
    return means


def _average(
    segment: Segment, site: Site, wanted: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Average rows of one segment: for each of `wanted`, the mean of its rows."""
    rows = np.concatenate(wanted)
    owners = np.repeat(np.arange(len(wanted)), [len(each) for each in wanted])
    order = np.argsort(rows, kind="stable")
    rows, owners = rows[order], owners[order]
    stream = segment.stream(site)
    stream.expect()
    totals = np.zeros((len(wanted), segment.width(site.component)))
    buffers = local()

    def sum_block(block: Chunk) -> dict[int, NDArray[np.float64]]:
        inside = slice(*np.searchsorted(rows, [block.start, block.stop]))
        values = stream.read(block, buffers.__dict__.setdefault("of_thread", {}))
        return {
            int(owner): _sum(values, rows[inside][owners[inside] == owner] - block.start)
            for owner in np.unique(owners[inside])
        }

    edges = ((block, np.searchsorted(rows, [block.start, block.stop])) for block in stream.blocks())
    blocks = [block for block, (start, stop) in edges if start < stop]
    with ThreadPoolExecutor(min(len(blocks), count_processors())) as threads:
        for sums in threads.map(sum_block, blocks):
            for owner, total in sums.items():
                totals[owner] += total
    counts = np.array([len(each) for each in wanted])
    return np.asarray(np.ldexp(totals / counts[:, None], segment.exponent(site)))


def _sum(values: NDArray[np.float16], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """
    Sum some rows of a block, in float64.

    Sums of float16 are exact there, as long as they stay below 2**29: so they are the same however
    rows are laid out in segments and blocks.
    """
    width = values.shape[1]
    height = max(1, _BLOCK_BYTES // (4 * width))
    total = np.zeros(width)
    for start in range(0, len(rows), height):
        part = np.ascontiguousarray(values[rows[start : start + height]])
        room = np.empty(part.shape, dtype=np.float32)
        widen(part, room)
        np.multiply(room, EXPONENT_GAP, out=room)
        total += room.sum(axis=0, dtype=np.float64)
    return total
