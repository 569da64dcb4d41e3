"""Lay readings out as the files of one segment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.schemas.site import Component
from tistore.schemas.tables import CLAUSES, LOG_TABLES, RESPONSES, SEGMENT_TABLES, TOKENS
from tistore.store.files import FileRecord, Files
from tistore.store.half import rescale
from tistore.store.layout import (
    array_folder,
    folder_of,
    mean_array,
    norm_array,
    table_path,
)
from tistore.store.log import list_segment_files
from tistore.store.moments import measure
from tistore.store.reading import Reading
from tistore.store.shards import METADATA, ArraySource, ShardEncoder, encode_metadata
from tistore.store.tables import build_table, encode_table
from tistore.store.threads import Threads
from tistore.store.unembedding import StreamedFile


def write_segment(files: Files, segment: str, readings: Sequence[Reading]) -> dict[str, Any]:
    """
    Write readings of one shape as a segment, durably: of the same sites, and as wide at each.

    Nothing of it is part of the store until a commit names it.

    Returns:
        The segment's entry for a commit.
    """
    settings = readings[0].settings
    starts = np.cumsum([0, *(reading.n_rows for reading in readings)])
    arrays: dict[str, Any] = {}
    for component in settings.components:
        arrays |= _write_component(files, segment, component, readings, starts)
    entry = {
        "uuid": segment,
        "n_rows": int(starts[-1]),
        "n_readings": len(readings),
        **describe_widths(readings[0].widths),
        "layers": list(settings.layers),
        "components": list(settings.components),
        "arrays": arrays,
        "tables": _write_tables(files, segment, readings, starts),
    }
    files.sync_folders({folder_of(record.path) for record in list_segment_files(entry)})
    return entry


def describe_widths(widths: Mapping[Component, int]) -> dict[str, Any]:
    """
    Say how wide a segment's components are, for its commit entry.

    `hidden` is the width of the stream, or of the first component where it was not captured;
    `widths` names those that have another, and is left out where none has.
    """
    hidden = widths.get("residual", next(iter(widths.values())))
    others = {component: width for component, width in widths.items() if width != hidden}
    return {"hidden": hidden} | ({"widths": others} if others else {})


def write_table(
    files: Files, segment: str, name: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write rows of a log table; the caller syncs the folder. Returns the commit entry."""
    return write_encoded(files, segment, name, build_table(LOG_TABLES[name], rows, name))


def write_streamed(files: Files, segment: str, streamed: StreamedFile) -> dict[str, Any]:
    """Write a file of a log table piece by piece; the caller syncs the folder. Gives its entry."""
    record = files.write_new(table_path(segment, streamed.table), streamed.pieces())
    return {"table": streamed.table, **record.to_json(), "rows": streamed.n_rows}


def write_encoded(files: Files, segment: str, name: str, table: pa.Table) -> dict[str, Any]:
    """Write a table; the caller syncs the folder. Gives its entry."""
    record = files.write_new(table_path(segment, name), [encode_table(table)])
    return {**record.to_json(), "rows": table.num_rows}


def _write_component(
    files: Files,
    segment: str,
    component: Component,
    readings: Sequence[Reading],
    starts: NDArray[np.int64],
) -> dict[str, Any]:
    halves = [reading.halves[component] for reading in readings]
    exponents = np.max([half.exponents for half in halves], axis=0)
    values = [rescale(half.values, exponents - half.exponents) for half in halves]
    scale = np.ldexp(1.0, exponents)
    audited = [reading.tokens.is_response[reading.captured] for reading in readings]
    with Threads(os.cpu_count() or 1) as threads:
        measured = list(threads.map(partial(measure, scale=scale), values, audited))
    norms = np.concatenate([norms for norms, _ in measured])
    means = np.stack([mean for _, mean in measured])
    common = {"layers": list(readings[0].settings.layers), "component": component}
    sources = {
        component: ArraySource(
            shape=(int(starts[-1]), *values[0].shape[1:]),
            dtype=np.dtype(np.float16),
            read=partial(_gather, values, starts),
            dimension_names=("token", "layer", "hidden"),
            attributes={
                **common,
                "exponents": exponents.tolist(),
                "row_convention": "at-token",
            },
        ),
        norm_array(component): _in_memory(norms, ("token", "layer"), common),
        mean_array(component): _in_memory(means, ("response", "layer", "hidden"), common),
    }
    return {name: write_array(files, segment, name, source) for name, source in sources.items()}


def _in_memory(
    values: NDArray[Any], dimension_names: Sequence[str], attributes: Mapping[str, Any]
) -> ArraySource:
    def read(start: int, stop: int, layer: int) -> NDArray[Any]:
        return values[start:stop, layer]

    return ArraySource(values.shape, values.dtype, dimension_names, attributes, read)


def _gather(
    values: Sequence[NDArray[np.float16]],
    starts: NDArray[np.int64],
    start: int,
    stop: int,
    layer: int,
) -> NDArray[np.float16]:
    """Join rows of one layer across the readings they belong to."""
    first = int(np.searchsorted(starts, start, side="right")) - 1
    last = int(np.searchsorted(starts, stop, side="left"))
    parts = [
        values[at][max(0, start - starts[at]) : stop - starts[at], layer]
        for at in range(first, last)
    ]
    # Most chunks lie within one reading, and need not be copied.
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def write_array(files: Files, segment: str, name: str, source: ArraySource) -> dict[str, Any]:
    """Write an array's shard and its metadata; the caller syncs the folders. Gives its entry."""
    folder = array_folder(segment, name)
    shards: list[FileRecord] = []
    checksums: Sequence[int] = ()
    if source.shard_name is not None:
        encoder = ShardEncoder(source)
        # Closed here, whatever happens: left to the garbage collector, it would wait for its
        # threads at any moment, such as while another is being started.
        with closing(encoder.pieces()) as pieces:
            shards.append(files.write_new(f"{folder}/{source.shard_name}", pieces))
        checksums = encoder.checksums
    # Last, since it says what the shard holds.
    metadata = files.write_new(f"{folder}/{METADATA}", [encode_metadata(source, checksums)])
    records = [metadata, *shards]
    entry = {"shape": list(source.shape), "files": [record.to_json() for record in records]}
    if "exponents" in source.attributes:
        entry["exponents"] = source.attributes["exponents"]
    return entry


def _write_tables(
    files: Files, segment: str, readings: Sequence[Reading], starts: NDArray[np.int64]
) -> dict[str, Any]:
    tables = {
        "responses": build_table(RESPONSES, _response_rows(readings, starts), "responses"),
        "tokens": _token_table(readings),
        "clauses": build_table(CLAUSES, _clause_rows(readings), "clauses"),
    }
    return {name: write_encoded(files, segment, name, tables[name]) for name in SEGMENT_TABLES}


def _response_rows(readings: Sequence[Reading], starts: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {
            "reading_key": reading.key,
            "response_id": reading.response_id,
            "organism": reading.organism.name,
            "organism_fingerprint": reading.organism.fingerprint,
            "reader": reading.reader.name,
            "reader_fingerprint": reading.reader.fingerprint,
            "prompt_set": reading.slot.prompt_set,
            "prompt_id": reading.slot.prompt_id,
            "sample": reading.slot.sample,
            "text": reading.text,
            "finish_reason": reading.finish_reason,
            "token_ids": reading.tokens.ids,
            "prompt_length": reading.prompt_length,
            "n_tokens": int(reading.tokens.is_response.sum()),
            "rows": reading.settings.rows,
            "row_start": int(starts[index]),
            "n_rows": reading.n_rows,
            "first_position": reading.first_position,
            "settings_hash": reading.settings.settings_hash,
            "content_hash": reading.content_hash,
            "n_underflow": sum(half.n_underflow for half in reading.halves.values()),
            "run_id": reading.run_id,
        }
        for index, reading in enumerate(readings)
    ]


def _token_table(readings: Sequence[Reading]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in TOKENS.names}
    for index, reading in enumerate(readings):
        tokens, captured = reading.tokens, reading.captured
        clause_of: list[int | None] = [None] * len(tokens.ids)
        for number, clause in enumerate(reading.clauses):
            width = clause.token_end - clause.token_start
            clause_of[clause.token_start : clause.token_end] = [number] * width
        offsets = tokens.offsets[captured]
        columns["reading"] += [index] * reading.n_rows
        columns["position"] += range(captured.start, captured.stop)
        columns["token_id"] += tokens.ids[captured].tolist()
        columns["token"] += tokens.strings[captured]
        columns["role"] += tokens.roles[captured]
        columns["turn"] += tokens.turns[captured]
        columns["is_response"] += tokens.is_response[captured].tolist()
        columns["clause"] += clause_of[captured]
        columns["logprob"] += tokens.logprobs[captured]
        columns["char_start"] += [span and span[0] for span in offsets]
        columns["char_end"] += [span and span[1] for span in offsets]
    arrays = [pa.array(columns[field.name], type=field.type) for field in TOKENS]
    return pa.Table.from_arrays(arrays, schema=TOKENS)


def _clause_rows(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    return [
        {
            "reading": index,
            "clause": number,
            "token_start": clause.token_start,
            "token_end": clause.token_end,
            "n_tokens": clause.token_end - clause.token_start,
            "char_start": clause.char_start,
            "char_end": clause.char_end,
            "text": clause.text,
        }
        for index, reading in enumerate(readings)
        for number, clause in enumerate(reading.clauses)
    ]
