"""Selected activations as files that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from tistore.errors import ConfigError, nearest
from tistore.exchange.destination import Destination
from tistore.exchange.files.hugging_face import build_features, import_datasets, write_hugging_face
from tistore.exchange.files.one_each import name_sample, write_npy, write_safetensors
from tistore.exchange.files.parquet import build_schema, write_parquet
from tistore.exchange.files.samples import Identities, walk_samples
from tistore.exchange.files.shards import SHARD_BYTES
from tistore.exchange.selection import Selected, Selection, select
from tistore.query.store import Store
from tistore.schemas.digest import digest
from tistore.schemas.site import Component

FileFormat = Literal["npy", "safetensors", "parquet", "hf-dataset"]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

_VERSION = 1
_SAMPLE_WRITERS = {"npy": (write_npy, ".json"), "safetensors": (write_safetensors, ".safetensors")}
"""By format: what writes a reading, and the suffix of the file it writes last."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """
    What an export wrote.

    Attributes:
        format: Which.
        destination: The folder.
        readings: Readings there now.
        readings_before: Those of them that were there already.
        readings_without_sites: Readings the condition picks that hold none of the layers, or not
            the component; they were left out.
        second_readings: Second readings of `tistore noise` that the condition picks, but does not
            name; they were left out, too.
        component: What was taken of each reading.
        layers: Layers that were taken.
        files: Files written.
        bytes: Their length together.
    """

    format: str
    destination: str
    readings: int
    readings_before: int
    readings_without_sites: int
    second_readings: int
    component: str
    layers: tuple[int, ...]
    files: int
    bytes: int


def export_files(
    store: Store,
    destination: str | Path,
    format: FileFormat,
    selection: Selection | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    tell: Callable[[int], None] = lambda readings: None,
) -> ExportReport:
    """
    Write activations as files: float16 as stored, float32 where a layer exceeds float16.

    A reading at a time is in memory. Stopped and called again, it goes on where it stopped.

    Args:
        store: Where the readings are.
        destination: A folder that is free, or holds the same export, unfinished.
        format: "npy" or "safetensors": a file a reading, `hidden_states` [row, layer, hidden] and
            `token_ids`. "parquet": a row a token, a column a layer. "hf-dataset": a folder for
            `datasets.load_from_disk`, a row a reading.
        selection: What to take; everything when None.
        shard_bytes: Bytes of states after which a Parquet or dataset file is closed.
        tell: Called with the number of readings that are done, each time some are.

    Raises:
        ConfigError: The destination is taken or cannot be written, or the readings do not fit
            the format; the message says how to narrow them.
        NotStoredError: Nothing is selected, or a layer or component is not stored.
        QueryError: As `store.sql` raises.
        NoRoomError: The disk is full; whole files stay.
        IntegrityError: Stored activations are damaged.
    """
    if format not in FORMATS:
        raise ConfigError(f"no format {format!r}; {nearest(format, FORMATS)}")
    selected = select(store, selection or Selection())
    component = selected.require_one_component()
    _check_shapes(selected, component, format)
    content = _describe(store, selected, format, shard_bytes)
    folder = Destination.open(Path(destination).expanduser(), content)
    if format != "parquet":  # compressed, it may need less
        folder.check_room(selected.half_bytes - folder.measure())
    identities = Identities(store.snapshot)
    if format == "parquet":
        before = write_parquet(folder, selected, component, identities, tell, shard_bytes)
    elif format == "hf-dataset":
        before = write_hugging_face(folder, selected, component, identities, tell, shard_bytes)
    else:
        before = _write_samples(folder, selected, component, identities, format, tell)
    return ExportReport(
        format=format,
        destination=str(folder.folder),
        readings=selected.n_readings,
        readings_before=before,
        readings_without_sites=selected.n_without_sites,
        second_readings=selected.n_second_readings,
        component=component,
        layers=selected.layers,
        files=folder.n_files,
        bytes=folder.size_bytes,
    )


def _check_shapes(selected: Selected, component: Component, format: FileFormat) -> None:
    """Refuse what the format cannot hold before a folder is made."""
    if format == "parquet":
        build_schema(selected, component)
    elif format == "hf-dataset":
        build_features(import_datasets(), selected, component)


def _describe(store: Store, selected: Selected, format: FileFormat, shard_bytes: int) -> bytes:
    """Say what tells this export from others: in a folder that says the same, it goes on."""
    said = {
        "tistore_export": _VERSION,
        "format": format,
        "store": store.header.uuid,
        **asdict(selected.selection),
        "shard_bytes": shard_bytes if format in ("parquet", "hf-dataset") else None,
        "readings": selected.n_readings,
        "readings_digest": digest(list(selected.keys())),
    }
    return json.dumps(said, indent=2).encode()


def _write_samples(
    folder: Destination,
    selected: Selected,
    component: Component,
    identities: Identities,
    format: FileFormat,
    tell: Callable[[int], None],
) -> int:
    write, suffix = _SAMPLE_WRITERS[format]
    n_before = 0
    for sample in walk_samples(selected.parts, component):
        name = name_sample(sample)
        if folder.holds(name + suffix):
            n_before += 1
        else:
            write(folder, name, sample, identities.identify(sample))
        tell(1)
    return n_before
