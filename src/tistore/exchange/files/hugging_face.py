"""
Activations as a Hugging Face dataset: a row a reading, in a folder that `load_from_disk` opens.

Shards are written as Arrow streams, a reading at a time, rather than by `save_to_disk`, which
would first want all of it in a cache.
"""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.errors import ConfigError
from tistore.exchange.destination import Destination
from tistore.exchange.files.identities import IDENTITY, build_identity_row
from tistore.exchange.files.one_each import STATES
from tistore.exchange.files.parquet import Tell
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

INFO = "dataset_info.json"
STATE = "state.json"
"""Written last: without it the folder is no dataset yet."""

_MOST_VALUES = 2**31 - 1


def write_hugging_face(
    destination: Destination,
    selected: Selected,
    component: Component,
    identities: Identities,
    tell: Tell,
    limit_bytes: int = SHARD_BYTES,
) -> int:
    """
    Write a dataset: `hidden_states` as `Array3D`, [row, layer, hidden], and the identity.

    Returns:
        How many readings were there already.

    Raises:
        ConfigError: `datasets` is not installed, or the readings differ in layers or width.
    """
    library = import_datasets()
    features = build_features(library, selected, component)
    shards = split_into_shards(selected.parts, limit_bytes)
    names = [name_shard("data", place, len(shards), ".arrow") for place in range(len(shards))]
    n_before = 0
    for name, shard in zip(names, shards, strict=True):
        n_readings = sum(len(part.places) for part in shard)
        if destination.holds(name):
            n_before += n_readings
        else:
            _write_shard(destination, name, shard, component, identities, features.arrow_schema)
        tell(n_readings)
    _write_state(destination, features, names, selected)
    return n_before


def import_datasets() -> ModuleType:
    """
    Load Hugging Face's `datasets`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        # By name: the package ships no types, and costs a second to load.
        return import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            f"a Hugging Face dataset needs the package `datasets`: {error}",
            mend="pip install datasets, or export parquet",
        ) from error


def build_features(library: ModuleType, selected: Selected, component: Component) -> Any:
    """
    Lay out the columns.

    Raises:
        ConfigError: The readings differ in layers or width, and one column cannot hold them.
    """
    hidden = require_one_width(selected)
    shapes = {part.layers for part in selected.parts}
    if len(shapes) > 1:
        listed = " and ".join(", ".join(map(str, layers)) for layers in sorted(shapes)[:4])
        raise ConfigError(
            f"these readings hold layers {listed}; one column holds one set of layers",
            mend="choose layers they share: --layers, or export parquet",
        )
    wide = any(exceeds_half(selected.parts, component, layer) for layer in selected.layers)
    shape = (None, len(selected.layers), hidden)
    features = library.Features.from_arrow_schema(IDENTITY)
    features[STATES] = library.Array3D(shape=shape, dtype="float32" if wide else "float16")
    return features


def _write_shard(
    destination: Destination,
    name: str,
    shard: Shard,
    component: Component,
    identities: Identities,
    schema: pa.Schema,
) -> None:
    with destination.write(name) as file, pa.ipc.new_stream(file, schema) as stream:
        for sample in walk_samples(shard, component):
            stream.write_batch(_build_row(sample, identities, schema))


def _build_row(sample: Sample, identities: Identities, schema: pa.Schema) -> pa.RecordBatch:
    row = build_identity_row(sample, identities.identify(sample))
    kind = schema.field(STATES).type
    states = pa.ExtensionArray.from_storage(kind, _nest(sample, kind.storage_type))
    columns = [row.column(name) for name in IDENTITY.names]
    return pa.RecordBatch.from_arrays([*columns, states], schema=schema)


def _nest(sample: Sample, kind: pa.DataType) -> pa.ListArray:
    """Wrap the states in lists of lists, their numbers taken over as they lie."""
    n_rows, n_layers, hidden = sample.shape
    if n_rows * n_layers * hidden > _MOST_VALUES:
        raise ConfigError(
            f"{sample}: {n_rows} rows of {n_layers} layers are too many for one value of a dataset",
            mend="choose fewer --layers, or export parquet",
        )
    number = kind.value_type.value_type.value_type
    states: NDArray[Any] = sample.read().astype(number.to_pandas_dtype(), copy=False)
    nested = pa.array(states.reshape(-1), number)
    for count, length in ((n_rows * n_layers, hidden), (n_rows, n_layers), (1, n_rows)):
        offsets = np.arange(count + 1, dtype=np.int32) * length
        nested = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), nested)
    return nested.cast(kind)


def _write_state(
    destination: Destination, features: Any, names: list[str], selected: Selected
) -> None:
    described = json.loads(json.dumps(features.to_dict()))
    info = {"citation": "", "description": "", "features": described, "homepage": "", "license": ""}
    # Caches of what is made of the dataset are found by this: it must tell contents apart.
    content = hashlib.sha256("".join([*selected.keys(), json.dumps(described)]).encode())
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": content.hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    for name, value in ((INFO, info), (STATE, state)):
        with destination.write(name) as file:
            file.write(json.dumps(value, indent=2).encode())
