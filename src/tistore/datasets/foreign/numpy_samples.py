"""One `.npy` or `.npz` file a sample, with the JSON or the token ids that lie beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tistore.datasets.foreign.folders import Found, read_each
from tistore.datasets.foreign.identity import METADATA_KEY, SampleIdentity
from tistore.datasets.foreign.json_objects import MAX_CHARACTERS, describe, parse_object
from tistore.datasets.foreign.npy_file import read_npy
from tistore.datasets.foreign.npz_file import read_npz
from tistore.datasets.foreign.safetensors_samples import find_activations
from tistore.datasets.foreign.sample import (
    LIMIT_BYTES,
    TOKEN_ID_NAMES,
    ForeignSample,
    ReadValues,
    SampleFile,
    Values,
    build_sample,
    find_one,
    refusing,
    require_inside,
)
from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.errors import ForeignFileError

ID_ENDINGS = tuple(f".{name}.npy" for name in TOKEN_ID_NAMES)
"""How the file of a sample's token ids ends, after the sample's own stem."""

_LARGEST_ID = 2**31 - 1


def read_numpy_samples(source: Path, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[Found]:
    """
    Read the samples of a folder, or the one file; their activations are not read yet.

    A `.npy` is [rows, layer, hidden], or [rows, hidden] of a single layer. Its token ids are in
    `{stem}.token_ids.npy`, or under "token_ids" in `{stem}.json`, which also holds the identity.
    A `.npz` has arrays `token_ids` and `hidden_states` (or `activations`, or one for each
    component), and its identity as JSON in an array "tistore", or in `{stem}.json`.

    Raises:
        DatasetError: The source is not there, or holds no such file.
    """
    root = source if source.is_dir() else source.parent

    def read(path: Path, default_id: str) -> ForeignSample | None:
        if path.name.endswith(ID_ENDINGS):
            return None
        reader = _read_npz if path.suffix.lower() == ".npz" else _read_npy
        return reader(path, root, default_id, limit_bytes)

    return read_each(source, (".npy", ".npz"), read)


def _read_npy(path: Path, root: Path, default_id: str, limit_bytes: int) -> ForeignSample:
    beside = read_beside(path.with_suffix(".json"), root)
    view = read_npy(path, text_or_none(beside, "dtype", path))
    return build_sample(
        SampleFile(view.storage.source),
        SampleIdentity.from_fields(beside, str(path.with_suffix(".json"))),
        _find_ids(path, root, beside),
        {None: view},
        default_id=default_id,
        limit_bytes=limit_bytes,
    )


def _read_npz(path: Path, root: Path, default_id: str, limit_bytes: int) -> ForeignSample:
    read = read_npz(path)
    names = find_activations(path, read.headers)
    ids = find_one(path, TOKEN_ID_NAMES, read.headers, "token ids")
    beside = read_beside(path.with_suffix(".json"), root)
    dtype = text_or_none(beside, "dtype", path)
    if METADATA_KEY in read.headers:
        identity = SampleIdentity.from_json(read.text(METADATA_KEY), f"{path}: {METADATA_KEY}")
    else:
        identity = SampleIdentity.from_fields(beside, str(path.with_suffix(".json")))
    return build_sample(
        SampleFile(read.source),
        identity,
        read.array(ids),
        {component: read.array(name, dtype) for component, name in names.items()},
        default_id=default_id,
        limit_bytes=limit_bytes,
    )


def _find_ids(path: Path, root: Path, beside: Mapping[str, Any]) -> Values:
    """Find a sample's token ids: in the JSON beside it, or in a file of their own."""
    files = [path.with_name(path.stem + ending) for ending in ID_ENDINGS]
    found = [file for file in files if file.exists()]
    told = [name for name in TOKEN_ID_NAMES if name in beside]
    if len(found) + len(told) != 1:
        held = ", ".join([*told, *(file.name for file in found)]) or "nothing"
        raise ForeignFileError(
            f"cannot read {path}: where are its token ids? there is {held}",
            mend=f"write them to {files[0].name}, or as token_ids to {path.stem}.json",
        )
    if told:
        return read_ids(beside[told[0]], str(path.with_suffix(".json")))
    require_inside(found[0], root)
    return read_npy(found[0])


def read_ids(values: object, where: str) -> ReadValues:
    """
    Read token ids from JSON.

    Raises:
        ForeignFileError: They are no list of integers from 0.
    """
    if not isinstance(values, list) or any(
        type(value) is not int or not 0 <= value <= _LARGEST_ID for value in values
    ):
        raise ForeignFileError(
            f"{where}: its token ids are {describe(values)}, not a list of integers from 0",
            mend="write one id a token, of prompt and response",
        )
    return ReadValues(np.array(values, dtype=np.int32))


def read_beside(path: Path, root: Path) -> dict[str, Any]:
    """
    Read the JSON that lies beside a sample; empty where there is none.

    Raises:
        ForeignFileError: It cannot be read, is no JSON object, or a link out of the folder.
    """
    if not path.exists():
        return {}
    require_inside(path, root)
    with refusing(path), SourceFile.identify(path).open() as file:
        if file.size > MAX_CHARACTERS:
            raise Refused(f"it has {file.size:,} bytes, more than the {MAX_CHARACTERS:,} read")
        content = file.bytes_at(0, file.size)
    return parse_object(content, str(path))


def text_or_none(fields: Mapping[str, Any], name: str, path: Path) -> str | None:
    """
    Take a text out of a JSON object.

    Raises:
        ForeignFileError: It is something else.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ForeignFileError(f"{path}: {name!r} is {describe(value)}, not text")
    return value
