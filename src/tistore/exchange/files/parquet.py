"""Activations as Parquet: a row a token, and beside them a row a reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tistore.exchange.destination import Destination
from tistore.exchange.files.identities import IDENTITY, build_identity_row
from tistore.exchange.files.samples import Identities, Sample, walk_samples
from tistore.exchange.files.shards import (
    SHARD_BYTES,
    Shard,
    exceeds_half,
    name_shard,
    require_one_width,
    split_into_shards,
)
from tistore.exchange.selection import Selected
from tistore.schemas.site import Component
from tistore.schemas.tables import TOKENS

READINGS = "readings.parquet"
"""File with a row a reading: its identity and its token ids."""

_OF_READING = ("reading_key", "organism", "reader", "prompt_set", "prompt_id", "sample")
_OF_TOKEN = ("position", "token_id", "token", "role", "turn", "is_response", "clause", "logprob")
_GROUP_BYTES = 32 * 2**20

Tell = Callable[[int], None]
"""Told how many readings are done."""


def write_parquet(
    destination: Destination,
    selected: Selected,
    component: Component,
    identities: Identities,
    tell: Tell,
    limit_bytes: int = SHARD_BYTES,
) -> int:
    """
    Write `tokens-*.parquet` and `readings.parquet`.

    A layer is a column, `layer_26`: a list of fixed size; null where a reading lacks the layer.

    Returns:
        How many readings were there already.

    Raises:
        ConfigError: The readings differ in width.
    """
    schema = build_schema(selected, component)
    shards = split_into_shards(selected.parts, limit_bytes)
    if not destination.holds(READINGS):
        _write_readings(destination, selected, component, identities)
    n_before = 0
    for place, shard in enumerate(shards):
        name = name_shard("tokens", place, len(shards), ".parquet")
        n_readings = sum(len(part.places) for part in shard)
        if destination.holds(name):
            n_before += n_readings
        else:
            _write_shard(destination, name, shard, component, schema)
        tell(n_readings)
    return n_before


def build_schema(selected: Selected, component: Component) -> pa.Schema:
    """
    Lay out the columns: of the reading, of the token, and one for each layer.

    Raises:
        ConfigError: The readings differ in width.
    """
    hidden = require_one_width(selected)
    of_reading = [IDENTITY.field(name) for name in _OF_READING]
    of_token = [TOKENS.field(name).with_nullable(True) for name in _OF_TOKEN]
    of_layers = []
    for layer in selected.layers:
        wide = exceeds_half(selected.parts, component, layer)
        number = pa.field("item", pa.float32() if wide else pa.float16(), nullable=False)
        of_layers.append(pa.field(_name_layer(layer), pa.list_(number, hidden)))
    return pa.schema([*of_reading, *of_token, *of_layers])


def _write_readings(
    destination: Destination, selected: Selected, component: Component, identities: Identities
) -> None:
    with (
        destination.write(READINGS) as file,
        pq.ParquetWriter(file, IDENTITY, compression="zstd") as writer,
    ):
        for part in selected.parts:
            rows = [
                build_identity_row(sample, identities.identify(sample))
                for sample in walk_samples([part], component)
            ]
            writer.write_table(pa.Table.from_batches(rows, schema=IDENTITY).combine_chunks())


def _write_shard(
    destination: Destination, name: str, shard: Shard, component: Component, schema: pa.Schema
) -> None:
    words = [*_OF_READING, *_OF_TOKEN]
    waiting: list[pa.Table] = []
    with (
        destination.write(name) as file,
        # BYTE_STREAM_SPLIT would be smaller and faster, but DuckDB cannot read it for float16.
        pq.ParquetWriter(
            file, schema, compression="zstd", compression_level=1, use_dictionary=words
        ) as writer,
    ):
        for sample in walk_samples(shard, component):
            waiting.append(build_tokens(sample, schema))
            if sum(table.nbytes for table in waiting) > _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def build_tokens(sample: Sample, schema: pa.Schema) -> pa.Table:
    """Lay one reading's tokens out: a row for each row of its states."""
    n_rows = sample.tokens.num_rows
    states = sample.read()
    columns: list[Any] = [pa.repeat(pa.scalar(sample.row[name]), n_rows) for name in _OF_READING]
    columns += [sample.tokens[name] for name in _OF_TOKEN]
    places = {_name_layer(layer): place for place, layer in enumerate(sample.layers)}
    for field in schema.names[len(columns) :]:
        kind = schema.field(field).type
        if field in places:
            columns.append(_build_lists(states[:, places[field]], kind))
        else:
            columns.append(pa.nulls(n_rows, kind))
    return pa.table(
        {
            name: column.cast(schema.field(name).type) if name in _OF_READING else column
            for name, column in zip(schema.names, columns, strict=True)
        },
        schema=schema,
    )


def _build_lists(states: NDArray[Any], kind: pa.DataType) -> pa.FixedSizeListArray:
    wanted = np.float32 if kind.value_type == pa.float32() else np.float16
    flat = np.ascontiguousarray(states, dtype=wanted).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)


def _name_layer(layer: int) -> str:
    return f"layer_{layer}"
