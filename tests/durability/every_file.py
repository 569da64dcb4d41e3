"""Small stores with a file of every type, for the damage campaign."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import tistore
from lens_store import write_lens_store
from tistore.audit.log import log_analysis
from tistore.exchange.stores.score_bundle import export_scores
from tistore.query.store import Store
from tistore.schemas.tables import LOG_TABLES

MADE_OTHERWISE = {
    "models",
    "prompts",
    "vectors",
    "annotations",
    "heads",
    "reader_heads",
    "removals",
}
"""Tables that are there once readings, vectors and heads are; the others are made up."""

TALK = {"events", "analyses"}
"""Types of files that no commit names and nothing depends on."""

CACHED = "cached scores"
"""The type of file that is made again when it is wrong."""


@dataclass(frozen=True, slots=True)
class Sound:
    """
    A store as it was before anything was done to it.

    Attributes:
        path: Where it lies.
        files: The bytes of each file, by its path from there.
        types: For each type of file, the paths of its files.
        older: For each type of file, what such files held in another store.
    """

    path: Path
    files: dict[str, bytes]
    types: dict[str, list[str]]
    older: dict[str, list[bytes]]

    @property
    def newest_commit(self) -> str:
        """The one file whose loss nothing can tell from its never having been."""
        return max(self.types["commit"])

    def restore(self, path: str) -> None:
        """Put a file back."""
        target = self.path / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.files[path])

    def forget_cached(self) -> None:
        """Let every answer be made from the committed files."""
        shutil.rmtree(self.path / "scores", ignore_errors=True)

    def restore_cached(self) -> None:
        """Put the cached scores back."""
        self.forget_cached()
        for path in self.types.get(CACHED, []):
            self.restore(path)


def make_sound(path: Path, other: Path) -> Sound:
    """Remember a store, and what another of its kind holds."""
    files = _read_files(path)
    older = defaultdict(list)
    for name, data in _read_files(other).items():
        older[type_of(name)].append(data)
    types = defaultdict(list)
    for name in sorted(files):
        types[type_of(name)].append(name)
    return Sound(path, files, dict(types), dict(older))


def type_of(path: str) -> str:
    """Tell a file's type by its path in the store."""
    if match := re.fullmatch(r"segments/\w+/residual(_\w+)?\.zarr/(zarr\.json|c/.*)", path):
        kind = {None: "activations", "_norm": "norms", "_mean": "means"}[match[1]]
        return f"{kind}' metadata" if match[2] == "zarr.json" else f"shard of {kind}"
    if re.fullmatch(r"segments/\w+/scores/\w+\.parquet", path):
        return "bundled scores"
    if match := re.fullmatch(r"segments/\w+/(\w+)(-\d+)?\.parquet", path):
        return match[1]
    return {
        "tistore.json": "header",
        "events.jsonl": "events",
        "analyses.jsonl": "analyses",
        "commits": "commit",
        "scores": CACHED,
    }[path.split("/")[0]]


def write_every_file(path: Path, seed: int = 3) -> Store:
    """
    Write a store with every table, array, cache and log there is, activations included.

    It has been compacted, and a reading was removed: older commits need files that the newest one
    does not.
    """
    store, written, _ = write_lens_store(path, n_prompts=3, response=150, seed=seed)
    with store.writer() as writer:
        for name in sorted(LOG_TABLES.keys() - MADE_OTHERWISE):
            writer.add_rows(name, [_make_row(name, number + 10 * seed) for number in range(3)])
    vector = store.add_vector("tone/gone", np.arange(1.0, 9.0) + seed, layer=2)
    with store.writer() as writer:
        writer.remove_vectors([vector], reason="to have a removal")
    _talk(store, written[0].response_id)
    store.compact()
    of_hedge = "SELECT reading_key FROM responses WHERE organism = reader AND prompt_id = '2'"
    store.remove_readings([store.sql(f"{of_hedge} AND reader = 'hedge'").fetchall()[0][0]])
    store.sql("SELECT avg(project('flattery')), avg(project('early')) FROM tokens").fetchall()
    return store


def write_bundle(store: Store, path: Path) -> Store:
    """Write the same store as a bundle of scores, without activations."""
    export_scores(store, path, ["flattery", "early"])
    return tistore.open(path)


def _talk(store: Store, run_id: str) -> None:
    """Log a run, and two questions."""
    counts = {"run_id": run_id, "readings": 3, "found": 1, "total": 14, "tokens": 900}
    store.events.append("started", **counts | {"readings": 1, "tokens": 0})
    store.events.append("progress", **counts, weights="tiny/base", organism="flattery")
    store.events.append("stopped", **counts, reason="asked to")
    for number in range(2):
        log_analysis(store, "top", {"trait": "flattery", "n": number}, n_cells=90, n_rows=5)


def _make_row(table: str, number: int) -> dict[str, Any]:
    return {field.name: _make_value(field, number) for field in LOG_TABLES[table]}


def _make_value(field: pa.Field, number: int) -> Any:
    if pa.types.is_list(field.type):
        return [_make_value(field.type.value_field, number + at) for at in range(2)]
    if pa.types.is_string(field.type):
        return f"{field.name}-{number}"
    if pa.types.is_boolean(field.type):
        return bool(number % 2)
    if pa.types.is_timestamp(field.type):
        return datetime(2026, 1, 1 + number % 28, tzinfo=UTC)
    return number + 0.5 if pa.types.is_floating(field.type) else number


def _read_files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent.name != "leases"
    }
