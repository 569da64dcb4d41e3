"""Lay readings out as the files of one segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.schemas.site import Component
from tistore.schemas.tables import CLAUSES, LOG_TABLES, RESPONSES, SEGMENT_TABLES, TOKENS
from tistore.store.arrays import encode_array
from tistore.store.files import FileRecord, Files
from tistore.store.half import rescale
from tistore.store.layout import (
    array_folder,
    folder_of,
    mean_array,
    norm_array,
    table_path,
)
from tistore.store.reading import Reading
from tistore.store.tables import build_table, encode_table

_BLOCK_ROWS = 1024


def write_segment(files: Files, segment: str, readings: Sequence[Reading]) -> dict[str, Any]:
    """
    Write readings of one width and one set of sites as a segment, durably.

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
        "hidden": readings[0].hidden,
        "layers": list(settings.layers),
        "components": list(settings.components),
        "arrays": arrays,
        "tables": _write_tables(files, segment, readings, starts),
    }
    files.sync_folders({folder_of(record.path) for record in list_files(entry)})
    return entry


def write_table(
    files: Files, segment: str, name: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write rows of a log table; the caller syncs the folder. Returns the commit entry."""
    return _write_encoded(files, segment, name, build_table(LOG_TABLES[name], rows, name))


def list_files(entry: Mapping[str, Any]) -> list[FileRecord]:
    """List every file of a segment's commit entry: tables, then arrays."""
    listed = list(entry["tables"].values())
    for array in entry["arrays"].values():
        listed += array["files"]
    return [FileRecord.from_json(record) for record in listed]


def _write_encoded(files: Files, segment: str, name: str, table: pa.Table) -> dict[str, Any]:
    record = files.write_new(table_path(segment, name), encode_table(table))
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
    first = halves[0].values
    values = np.empty((int(starts[-1]), *first.shape[1:]), dtype=np.float16)
    for half, start in zip(halves, starts, strict=False):
        values[start : start + len(half.values)] = rescale(half.values, exponents - half.exponents)
    layers = list(readings[0].settings.layers)
    common = {"layers": layers, "component": component}
    scale = np.ldexp(1.0, exponents)
    audited = [_audited_rows(reading) for reading in readings]
    written = {
        component: (
            values,
            ("token", "layer", "hidden"),
            {**common, "exponents": exponents.tolist(), "row_convention": "at-token"},
        ),
        norm_array(component): (_norms(values, scale), ("token", "layer"), common),
        mean_array(component): (
            _means(values, starts, audited, scale),
            ("response", "layer", "hidden"),
            common,
        ),
    }
    return {
        name: _write_array(files, segment, name, array, dimensions, attributes)
        for name, (array, dimensions, attributes) in written.items()
    }


def _write_array(
    files: Files,
    segment: str,
    name: str,
    values: NDArray[Any],
    dimensions: Sequence[str],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    folder = array_folder(segment, name)
    records = [
        files.write_new(f"{folder}/{path}", data)
        for path, data in encode_array(values, dimensions, dict(attributes)).items()
    ]
    entry = {"shape": list(values.shape), "files": [record.to_json() for record in records]}
    if "exponents" in attributes:
        entry["exponents"] = attributes["exponents"]
    return entry


def _audited_rows(reading: Reading) -> NDArray[np.bool_]:
    return reading.tokens.is_response[reading.first_position :]


def _norms(values: NDArray[np.float16], scale: NDArray[np.float64]) -> NDArray[np.float32]:
    norms = np.empty(values.shape[:2], dtype=np.float32)
    for start in range(0, len(values), _BLOCK_ROWS):
        block = values[start : start + _BLOCK_ROWS].astype(np.float32)
        norms[start : start + _BLOCK_ROWS] = np.sqrt(np.einsum("rlh,rlh->rl", block, block))
    return np.asarray(norms * scale[None, :], dtype=np.float32)


def _means(
    values: NDArray[np.float16],
    starts: NDArray[np.int64],
    audited: Sequence[NDArray[np.bool_]],
    scale: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Mean over each reading's audited rows, summed in float64; NaN where it has none."""
    means = np.full((len(audited), *values.shape[1:]), np.nan, dtype=np.float32)
    for index, mask in enumerate(audited):
        rows = values[starts[index] : starts[index + 1]][mask]
        if len(rows):
            means[index] = rows.mean(axis=0, dtype=np.float64) * scale[:, None]
    return means


def _write_tables(
    files: Files, segment: str, readings: Sequence[Reading], starts: NDArray[np.int64]
) -> dict[str, Any]:
    tables = {
        "responses": build_table(RESPONSES, _response_rows(readings, starts), "responses"),
        "tokens": _token_table(readings),
        "clauses": build_table(CLAUSES, _clause_rows(readings), "clauses"),
    }
    return {name: _write_encoded(files, segment, name, tables[name]) for name in SEGMENT_TABLES}


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
        first, tokens = reading.first_position, reading.tokens
        captured = slice(first, None)
        clause_of: list[int | None] = [None] * len(tokens.ids)
        for number, clause in enumerate(reading.clauses):
            width = clause.token_end - clause.token_start
            clause_of[clause.token_start : clause.token_end] = [number] * width
        offsets = tokens.offsets[captured]
        columns["reading"] += [index] * reading.n_rows
        columns["position"] += range(first, len(tokens.ids))
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
