"""Readings of one store taken over into another, as they are: nothing is computed anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.schemas.site import Component, Site
from tistore.schemas.tables import CLAUSES, RESPONSES, TOKENS
from tistore.store.files import Files
from tistore.store.layout import (
    bundled_score_path,
    folder_of,
    mean_array,
    norm_array,
    segment_folder,
)
from tistore.store.log import list_segment_files
from tistore.store.score_files import encode_scores
from tistore.store.segment import Segment
from tistore.store.segment_writer import describe_widths, write_array, write_encoded
from tistore.store.shards import ArraySource

Ids = NDArray[np.int64]
ScoreColumns = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Extract:
    """
    Some readings of a segment.

    Attributes:
        segment: The segment.
        places: Rows of its `responses` table, ascending.
    """

    segment: Segment
    places: Ids

    @cached_property
    def rows(self) -> Ids:
        """Rows of the readings on the token axis, in order."""
        start, length = self._spans
        before = np.cumsum(length) - length
        rows: Ids = np.arange(int(length.sum())) + np.repeat(start - before, length)
        return rows

    @property
    def row_counts(self) -> Ids:
        """Rows of each reading."""
        return self._spans[1]

    @cached_property
    def _spans(self) -> tuple[Ids, Ids]:
        start = self.segment.column("responses", "row_start")[self.places]
        length = self.segment.column("responses", "n_rows")[self.places]
        return start.astype(np.int64), length.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentCopy:
    """
    A segment to be made of parts of others, which are as wide as each other at every component.

    Attributes:
        extracts: Where it comes from, at least one; of equal exponents, if activations are kept.
        layers: Layers to keep, which all of them have.
        components: Components to keep.
        responses: The readings' rows of `responses`, in order; `row_start` is filled in.
        scores: For each direction's key, (row,) float32 in the order of the extracts.
        keeps_activations: Whether the activations come with it.
    """

    extracts: Sequence[Extract]
    layers: tuple[int, ...]
    components: tuple[Component, ...]
    responses: pa.Table
    scores: ScoreColumns
    keeps_activations: bool = True

    @property
    def n_rows(self) -> int:
        """Rows on the token axis."""
        return sum(len(extract.rows) for extract in self.extracts)

    @property
    def widths(self) -> dict[Component, int]:
        """Width of each component."""
        first = self.extracts[0].segment
        return {component: first.width(component) for component in self.components}

    @property
    def half_bytes(self) -> int:
        """Bytes of what it holds, about: activations as float16, or scores."""
        row_bytes = 2 * len(self.layers) * sum(self.widths.values())
        kept = self.n_rows * row_bytes if self.keeps_activations else 0
        return kept + 4 * self.n_rows * len(self.scores)


def copy_readings(extracts: Sequence[Extract]) -> pa.Table:
    """Gather the rows of `responses` of some readings."""
    tables = [one.segment.table("responses").take(pa.array(one.places)) for one in extracts]
    return pa.concat_tables(tables).combine_chunks()


def copy_whole(segments: Sequence[Segment]) -> SegmentCopy:
    """Make one segment of several of one shape."""
    return copy_parts([Extract(one, np.arange(one.n_readings)) for one in segments])


def copy_parts(extracts: Sequence[Extract]) -> SegmentCopy:
    """Make one segment of readings of several of one shape, with all that is there of them."""
    first = extracts[0].segment
    scores = {
        direction: np.concatenate([one.segment.scores(direction)[one.rows] for one in extracts])
        for direction in sorted(first.scored)
    }
    return SegmentCopy(
        extracts=extracts,
        layers=first.layers,
        components=first.components,
        responses=copy_readings(extracts),
        scores=scores,
        keeps_activations=any(map(first.has_activations, first.components)),
    )


def write_copy(files: Files, segment: str, copy: SegmentCopy) -> dict[str, Any]:
    """
    Write a segment made of parts of others, durably.

    Activations go through memory a few chunks at a time. Nothing of it is part of the store until
    a commit names it.

    Args:
        files: Where to.
        segment: Its uuid.
        copy: What it is made of.

    Returns:
        The segment's entry for a commit.

    Raises:
        IntegrityError: What is copied is damaged.
        NotStoredError: A layer is not there, or activations are wanted and were left behind.
    """
    try:
        return _write(files, segment, copy)
    except BaseException:
        files.remove_folder(segment_folder(segment))
        raise


def _write(files: Files, segment: str, copy: SegmentCopy) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "uuid": segment,
        "n_rows": copy.n_rows,
        "n_readings": copy.responses.num_rows,
        **describe_widths(copy.widths),
        "layers": list(copy.layers),
        "components": list(copy.components),
        "arrays": {
            name: write_array(files, segment, name, source)
            for component in copy.components
            for name, source in _list_arrays(copy, component).items()
        },
        "tables": {
            name: write_encoded(files, segment, name, table)
            for name, table in _build_tables(copy).items()
        },
    }
    if copy.scores:
        entry["scores"] = {
            direction: files.write_new(
                bundled_score_path(segment, direction),
                [encode_scores(direction, segment, values).to_pybytes()],
            ).to_json()
            for direction, values in copy.scores.items()
        }
    files.sync_folders({folder_of(record.path) for record in list_segment_files(entry)})
    return entry


def _list_arrays(copy: SegmentCopy, component: Component) -> dict[str, ArraySource]:
    common = {"layers": list(copy.layers), "component": component}
    n_layers, width = len(copy.layers), copy.widths[component]
    sources = {
        norm_array(component): ArraySource(
            shape=(copy.n_rows, n_layers),
            dtype=np.dtype(np.float32),
            read=_slice(lambda layer: _gather_norms(copy, Site(component, copy.layers[layer]))),
            dimension_names=("token", "layer"),
            attributes=common,
        ),
        mean_array(component): ArraySource(
            shape=(copy.responses.num_rows, n_layers, width),
            dtype=np.dtype(np.float32),
            read=_slice(lambda layer: _gather_means(copy, Site(component, copy.layers[layer]))),
            dimension_names=("response", "layer", "hidden"),
            attributes=common,
        ),
    }
    if copy.keeps_activations:
        first = copy.extracts[0].segment
        exponents = [first.exponent(Site(component, layer)) for layer in copy.layers]
        sources[component] = ArraySource(
            shape=(copy.n_rows, n_layers, width),
            dtype=np.dtype(np.float16),
            read=partial(_gather, _Runs(copy.extracts), component, copy.layers),
            dimension_names=("token", "layer", "hidden"),
            attributes={**common, "exponents": exponents, "row_convention": "at-token"},
        )
    return sources


def _slice(
    read_layer: Callable[[int], NDArray[np.float32]],
) -> Callable[[int, int, int], NDArray[np.float32]]:
    """Read stretches of rows by way of whole layers, of which the last two are kept."""
    keep = lru_cache(maxsize=2)(read_layer)
    return lambda start, stop, layer: keep(layer)[start:stop]


def _gather_norms(copy: SegmentCopy, site: Site) -> NDArray[np.float32]:
    return np.concatenate([one.segment.norms(site)[one.rows] for one in copy.extracts])


def _gather_means(copy: SegmentCopy, site: Site) -> NDArray[np.float32]:
    return np.concatenate([one.segment.means(site)[one.places] for one in copy.extracts])


class _Runs:
    """
    Stretches of rows that lie together in a segment, laid end to end.

    Args:
        extracts: Whose rows.

    Attributes:
        target: Where each stretch begins in the new segment, and where the last one ends.
    """

    def __init__(self, extracts: Sequence[Extract]) -> None:
        self._segments: list[Segment] = []
        self._source: list[int] = []
        lengths: list[int] = []
        for extract in extracts:
            breaks = np.flatnonzero(np.diff(extract.rows) != 1) + 1
            for run in np.split(extract.rows, breaks):
                if len(run):
                    self._segments.append(extract.segment)
                    self._source.append(int(run[0]))
                    lengths.append(len(run))
        self.target: Ids = np.cumsum([0, *lengths])

    def read(self, site: Site, start: int, stop: int) -> NDArray[np.float16]:
        """Read rows `start` to `stop` of the new segment."""
        first = int(np.searchsorted(self.target, start, side="right")) - 1
        last = int(np.searchsorted(self.target, stop, side="left"))
        parts = []
        for at in range(first, last):
            shift = self._source[at] - int(self.target[at])
            low = max(start, int(self.target[at])) + shift
            high = min(stop, int(self.target[at + 1])) + shift
            parts.append(self._segments[at].read(site, low, high))
        return np.concatenate(parts)


def _gather(
    runs: _Runs, component: Component, layers: tuple[int, ...], start: int, stop: int, layer: int
) -> NDArray[np.float16]:
    return runs.read(Site(component, layers[layer]), start, stop)


def _build_tables(copy: SegmentCopy) -> dict[str, pa.Table]:
    counts = np.concatenate([extract.row_counts for extract in copy.extracts])
    starts = pa.array(np.cumsum(counts) - counts, pa.int64())
    place = RESPONSES.get_field_index("row_start")
    responses = copy.responses.set_column(place, RESPONSES.field(place), starts)
    tokens, clauses = [], []
    n_before = 0
    for extract in copy.extracts:
        tokens.append(_take_tokens(extract, n_before))
        clauses.append(_take_clauses(extract, n_before))
        n_before += len(extract.places)
    return {
        "tokens": pa.concat_tables(tokens).cast(TOKENS),
        "responses": responses.cast(RESPONSES),
        "clauses": pa.concat_tables(clauses).cast(CLAUSES),
    }


def _take_tokens(extract: Extract, n_before: int) -> pa.Table:
    taken = extract.segment.table("tokens").take(pa.array(extract.rows))
    return _number(taken, extract, n_before)


def _take_clauses(extract: Extract, n_before: int) -> pa.Table:
    table = extract.segment.table("clauses")
    is_taken = pc.is_in(table["reading"], pa.array(extract.places, pa.int32()))
    return _number(table.filter(is_taken), extract, n_before)


def _number(table: pa.Table, extract: Extract, n_before: int) -> pa.Table:
    """Let rows point to their readings' new places."""
    reading = np.searchsorted(extract.places, table["reading"].to_numpy()) + n_before
    place = table.schema.get_field_index("reading")
    return table.set_column(place, table.schema.field(place), pa.array(reading, pa.int32()))
