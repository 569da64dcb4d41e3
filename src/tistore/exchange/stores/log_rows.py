"""Rows of the log's tables that belong to some readings: prompts, models, runs, annotations, …"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa

from tistore.exchange.selection import Selected
from tistore.query.store import Store
from tistore.schemas.tables import LOG_TABLES

_COLUMNS = [
    "reading_key", "response_id", "organism", "reader", "prompt_set", "prompt_id", "sample",
    "run_id",
]  # fmt: skip


def select_log_rows(
    store: Store, selected: Selected, new_keys: Mapping[str, str]
) -> dict[str, pa.Table]:
    """
    Choose the rows that go along with readings.

    All of them, when all readings do. Else those that speak of the readings, their responses,
    prompts, models and runs; and vectors and steering, which speak of none.

    Args:
        store: Where the readings are.
        selected: The readings.
        new_keys: For each reading's key, the one it has where it goes.

    Returns:
        For each table of the log, its rows.
    """
    tables = {name: store.snapshot.table(name) for name in LOG_TABLES}
    if selected.selection.where is not None:
        belong = _Belonging(selected, tables["vectors"], store.snapshot.reader_heads)
        tables = {name: _keep(table, belong.tests.get(name)) for name, table in tables.items()}
    sources = _keep(tables["sources"], lambda row: row["reading_key"] in {None, *new_keys})
    keys = [key and new_keys[key] for key in sources["reading_key"].to_pylist()]
    place = sources.schema.get_field_index("reading_key")
    renamed = sources.set_column(place, sources.schema.field(place), pa.array(keys, pa.string()))
    return tables | {"sources": renamed}


class _Belonging:
    """Tells which rows of each table belong to selected readings."""

    def __init__(
        self, selected: Selected, vectors: pa.Table, reader_heads: Mapping[str, str]
    ) -> None:
        self._parts = selected.parts
        self._vectors = vectors
        self._reader_heads = reader_heads

    @cached_property
    def tests(self) -> dict[str, Callable[[dict[str, Any]], bool]]:
        """For each table of which some rows stay behind, what tells those that do not."""
        readings = list(self._walk())
        models = {row["organism"] for row in readings} | {row["reader"] for row in readings}
        models |= set(self._vectors["model"].to_pylist())
        prompts = {(row["prompt_set"], row["prompt_id"]) for row in readings}
        sets = {row["prompt_set"] for row in readings}
        responses = {row["response_id"] for row in readings}
        slots = {_slot(row) for row in readings}
        read_by = {(row["response_id"], row["reader"]) for row in readings}
        keys = {row["reading_key"] for row in readings}
        readers = {row["reader"] for row in readings}
        heads = {head for reader, head in self._reader_heads.items() if reader in readers}
        runs = {row["run_id"] for row in readings}
        return {
            "models": lambda row: row["name"] in models,
            "prompts": lambda row: (row["prompt_set"], row["prompt_id"]) in prompts,
            "prompt_sets": lambda row: row["prompt_set"] in sets,
            "annotations": lambda row: row["response_id"] in responses,
            "judgements": lambda row: row["response_id"] in responses,
            "parity": lambda row: (row["response_id"], row["reader"]) in read_by,
            "generations": lambda row: _slot(row) in slots,
            "sources": lambda row: row["reading_key"] is None or row["reading_key"] in keys,
            "runs": lambda row: row["run_id"] in runs,
            "reader_heads": lambda row: row["reader"] in readers,
            "heads": lambda row: row["head_hash"] in heads,
        }

    def _walk(self) -> Iterable[dict[str, Any]]:
        for part in self._parts:
            yield from part.segment.table("responses", _COLUMNS).take(part.places).to_pylist()


def _slot(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["organism"], row["prompt_set"], row["prompt_id"], row["sample"]


def _keep(table: pa.Table, test: Callable[[dict[str, Any]], bool] | None) -> pa.Table:
    if test is None:
        return table
    columns = [name for name in table.column_names if name != "values"]
    kept = [test(row) for row in table.select(columns).to_pylist()]
    return table.filter(pa.array(kept, pa.bool_()))
