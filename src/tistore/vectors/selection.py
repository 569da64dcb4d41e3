"""Rows to fit on: one mean activation for each reading of a prompt set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.errors import NotStoredError, VectorMismatchError, nearest
from tistore.query.store import Store
from tistore.schemas.site import Site
from tistore.store.segment import Segment
from tistore.vectors.position import Position


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """
    Mean activations of one side of a contrast.

    Attributes:
        rows: (reading, hidden) float64.
        prompt_ids: Prompt of each row; rows of two sides with the same id are a pair.
    """

    rows: NDArray[np.float64]
    prompt_ids: tuple[str, ...]


def select_means(
    store: Store, prompt_set: str, reader: str, site: Site, position: Position
) -> Selection:
    """
    Average each reading of a prompt set over the tokens of a position.

    Args:
        store: Where the readings are.
        prompt_set: Which prompts.
        reader: Whose readings.
        site: Component and layer.
        position: Which tokens.

    Returns:
        One row a reading, ordered by prompt id.

    Raises:
        NotStoredError: The reader has read nothing of that set, or not at that site, or a
            reading has no token at that position.
        VectorMismatchError: The readings differ in width, as attention patterns do.
    """
    rows: dict[tuple[str, int], NDArray[np.float64]] = {}
    for segment, index, response in _walk(store, prompt_set, reader):
        if segment.has(site):
            key = (response["prompt_id"], response["sample"])
            rows[key] = _average(segment, index, response, site, position)
    if not rows:
        raise NotStoredError(
            f"{reader} has no readings of {prompt_set} at {site}",
            mend=_suggest(store, prompt_set),
        )
    if len(widths := sorted({len(row) for row in rows.values()})) > 1:
        raise VectorMismatchError(
            f"{reader}'s readings of {prompt_set} are {' and '.join(map(str, widths))} wide at "
            f"{site}, and no direction fits them all",
            mend="fit at a component whose width does not depend on the length of a text",
        )
    ordered = sorted(rows, key=lambda key: (len(key[0]), key))
    return Selection(
        np.stack([rows[key] for key in ordered]), tuple(prompt_id for prompt_id, _ in ordered)
    )


def _walk(
    store: Store, prompt_set: str, reader: str
) -> Iterator[tuple[Segment, int, dict[str, Any]]]:
    columns = ["prompt_set", "reader", "prompt_id", "sample", "prompt_length"]
    columns += ["token_ids", "row_start", "n_rows", "first_position"]
    for segment in store.snapshot.segments:
        responses = segment.table("responses", columns).to_pylist()
        for index, response in enumerate(responses):
            if response["prompt_set"] == prompt_set and response["reader"] == reader:
                yield segment, index, response


def _average(
    segment: Segment, index: int, response: dict[str, Any], site: Site, position: Position
) -> NDArray[np.float64]:
    first, n_rows = response["first_position"], response["n_rows"]
    wanted = position.select(response["prompt_length"], len(response["token_ids"]))
    label = f"{response['prompt_set']}#{response['prompt_id']}"
    if not wanted:
        raise NotStoredError(f"{label} has no token at {position}")
    # The last tokens of readings from elsewhere may have no state.
    wanted = range(wanted.start, min(wanted.stop, first + n_rows))
    if not wanted:
        raise NotStoredError(f"{label} has no activations at {position}")
    if wanted.start < first:
        raise NotStoredError(
            f"{label}: only the response's tokens were captured, and {position} needs others",
            mend='capture with rows = "all"',
        )
    start = response["row_start"] - first
    values = segment.read(site, start + wanted.start, start + wanted.stop)
    mean = values.mean(axis=0, dtype=np.float64)
    return np.asarray(np.ldexp(mean, segment.exponent(site)), dtype=np.float64)


def _suggest(store: Store, prompt_set: str) -> str:
    known = {
        name
        for segment in store.snapshot.segments
        for name in segment.table("responses", ["prompt_set"])["prompt_set"].unique().to_pylist()
    }
    return nearest(prompt_set, known)
