"""One `.safetensors` file a sample: `hidden_states` [token, layer, hidden] and `token_ids`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tistore.datasets.foreign.folders import Found, read_each
from tistore.datasets.foreign.identity import FIELD_NAMES, METADATA_KEY, SampleIdentity
from tistore.datasets.foreign.safetensors_file import read_safetensors
from tistore.datasets.foreign.sample import (
    ACTIVATION_NAMES,
    LIMIT_BYTES,
    TOKEN_ID_NAMES,
    ForeignSample,
    SampleFile,
    build_sample,
    find_one,
)
from tistore.schemas.site import COMPONENTS

TEXT_FIELDS = frozenset(
    ("organism", "reader", "prompt_set", "prompt_id", "component", "text", "finish_reason")
)
"""Fields of an identity that plain metadata holds as they are; the others as JSON."""


def read_safetensors_samples(source: Path, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[Found]:
    """
    Read the samples of a folder, or the one file; their activations are not read yet.

    A file holds `token_ids` (or `input_ids`), and `hidden_states` (or `activations`), or a tensor
    named by each component: `residual`, `attn_out`, `mlp_out`. Other tensors are passed over.
    `__metadata__` holds the identity as JSON under "tistore", or its fields by their names.

    Raises:
        DatasetError: The source is not there, or holds no such file.
    """
    return read_each(
        source, (".safetensors",), lambda path, name: _read_sample(path, name, limit_bytes)
    )


def _read_sample(path: Path, default_id: str, limit_bytes: int) -> ForeignSample:
    read = read_safetensors(path)
    token_ids = find_one(path, TOKEN_ID_NAMES, read.tensors, "token ids")
    return build_sample(
        SampleFile(read.source),
        identify(read.metadata, f"{path}: its metadata"),
        read.tensors[token_ids],
        {
            component: read.tensors[name]
            for component, name in find_activations(path, read.tensors).items()
        },
        default_id=default_id,
        limit_bytes=limit_bytes,
    )


def find_activations(path: Path, present: Iterable[str]) -> dict[str | None, str]:
    """
    Find the names of the arrays of activations: by component, or the one that does not name it.

    Raises:
        ForeignFileError: There is none, or there are several that do not name it.
    """
    names = set(present)
    named: dict[str | None, str] = {name: name for name in COMPONENTS if name in names}
    if named and not names & set(ACTIVATION_NAMES):
        return named
    return {None: find_one(path, (*ACTIVATION_NAMES, *named.values()), names, "activations")}


def identify(metadata: Mapping[str, str], where: str) -> SampleIdentity:
    """
    Read an identity from texts by name.

    Raises:
        ForeignFileError: A field is malformed.
    """
    if METADATA_KEY in metadata:
        return SampleIdentity.from_json(metadata[METADATA_KEY], where)
    fields: dict[str, Any] = {}
    for name in FIELD_NAMES:
        if name in metadata:
            fields[name] = metadata[name] if name in TEXT_FIELDS else _parse(metadata[name])
    return SampleIdentity.from_fields(fields, where)


def _parse(text: str) -> Any:
    # What is no JSON is refused as text, by the field's own type.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
