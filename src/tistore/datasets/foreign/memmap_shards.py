"""
Flat binary files of rows, described by JSON: NumPy memory maps, and caches made of them.

Two layouts. Ours: beside `NAME.bin` (`.dat`, `.memmap`, `.npy`) lies `NAME.json`, which says what
its rows are:

    {"dtype": "bfloat16", "shape": [rows, layers, hidden], "layers": [20, 26],
     "samples": [{"start": 0, "stop": 57, "token_ids": [...], "prompt_id": "1"}, ...]}

The other is a folder of dictionary_learning's `ActivationCache`: `config.json`, `shard_N.memmap`
with `shard_N.meta`, and a folder above them `tokens.pt` and `sequence_ranges.pt`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tistore.datasets.foreign.folders import Found, require_source, walk
from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.foreign.json_objects import describe
from tistore.datasets.foreign.npy_file import read_npy
from tistore.datasets.foreign.numpy_samples import read_beside, read_ids, text_or_none
from tistore.datasets.foreign.sample import (
    LIMIT_BYTES,
    TOKEN_ID_NAMES,
    ForeignSample,
    SampleFile,
    Unreadable,
    build_sample,
    is_plain_name,
    refusing,
    require_inside,
)
from tistore.datasets.torch_files import TensorView, read_torch_file
from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.datasets.torch_files.tensor import DTYPES, Storage, view_tensor
from tistore.errors import DatasetError, ForeignFileError

DATA_ENDINGS = (".bin", ".dat", ".memmap", ".npy")

_LARGEST = 2**62
_MOST_AXES = 3


def read_memmap_shards(source: Path, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[Found]:
    """
    Read the samples of memory maps; their activations are not read yet.

    Args:
        source: A JSON file that describes a memory map, a folder of those, or the folder of an
            `ActivationCache`.
        limit_bytes: Most bytes one sample may take.

    Raises:
        DatasetError: The source is not there, or holds no such file.
    """
    root = require_source(source)
    if root.is_dir() and (root / "shard_0.meta").exists():
        yield from _read_cache(root, limit_bytes)
        return
    descriptions = [root]
    if root.is_dir():
        descriptions = [path for path in walk(root) if path.suffix.lower() == ".json"]
    if not descriptions:
        raise DatasetError(
            f"{source} holds no JSON that describes memory maps",
            mend='write one beside each: {"dtype", "shape", "layers", "samples"}',
        )
    for path in descriptions:
        folder = root if root.is_dir() else root.parent
        try:
            if root.is_dir():
                require_inside(path, folder)
            yield from _read_shard(path, folder, limit_bytes)
        except ForeignFileError as error:
            yield Unreadable(str(path), str(error))


def _read_shard(path: Path, root: Path, limit_bytes: int) -> Iterator[Found]:
    """Read what one JSON describes; a sample that is wrong does not spoil the others."""
    described = read_beside(path, root)
    samples = described.get("samples")
    if not isinstance(samples, list):
        raise ForeignFileError(
            f"{path}: 'samples' is {describe(samples)}, not a list: which rows are whose?",
            mend='write "samples": [{"start", "stop", "token_ids", "prompt_id"}, ...]',
        )
    rows = _find_rows(path, root, described)
    ids = _find_shared_ids(path, root, described, rows)
    file = SampleFile(rows.storage.source)
    for place, told in enumerate(samples):
        where = f"{path}: samples[{place}]"
        try:
            if not isinstance(told, dict):
                raise ForeignFileError(f"{where} is {describe(told)}, not an object")
            yield _read_sample(file, rows, ids, described, told, place, where, limit_bytes)
        except ForeignFileError as error:
            yield Unreadable(f"{file.path}#{place}", str(error))


def _read_sample(
    file: SampleFile,
    rows: TensorView,
    ids: TensorView | None,
    described: Mapping[str, Any],
    told: Mapping[str, Any],
    place: int,
    where: str,
    limit_bytes: int,
) -> ForeignSample:
    start, stop = (_number(told.get(name), f"{where}: {name!r}") for name in ("start", "stop"))
    if not start < stop <= rows.shape[0]:
        raise ForeignFileError(
            f"{where}: rows {start} to {stop} of {rows.shape[0]}", mend="mend start and stop"
        )
    own = next((told[name] for name in TOKEN_ID_NAMES if name in told), None)
    if (own is None) == (ids is None):
        what = "twice" if ids else "nowhere"
        raise ForeignFileError(
            f"{where}: its token ids are {what}", mend='write them as "token_ids": [...] there'
        )
    # What all samples share is said once, above them.
    identity = SampleIdentity.from_fields({**described, **told}, where)
    default_id = str(place) if len(described["samples"]) > 1 else file.path.stem
    return build_sample(
        file,
        identity,
        cut_rows(ids, start, stop) if ids is not None else read_ids(own, where),
        {None: cut_rows(rows, start, stop)},
        part=str(place),
        default_id=default_id,
        limit_bytes=limit_bytes,
    )


def cut_rows(view: TensorView, start: int, stop: int) -> TensorView:
    """Describe a range of rows, which must be in the array."""
    return replace(
        view,
        shape=(stop - start, *view.shape[1:]),
        offset=view.offset + start * view.stride[0],
    )


def _find_rows(path: Path, root: Path, described: Mapping[str, Any]) -> TensorView:
    data = _find_data(path, described.get("file"))
    require_inside(data, root)
    dtype = text_or_none(described, "dtype", path)
    if dtype is not None:
        dtype = dtype.removeprefix("torch.").removeprefix("<")
    if data.suffix.lower() == ".npy":
        view = read_npy(data, dtype)
        if described.get("shape", list(view.shape)) != list(view.shape):
            raise ForeignFileError(
                f"{path}: the shape is {described['shape']}, but {data.name} has {view.shape}"
            )
        return view
    if dtype not in DTYPES:
        raise ForeignFileError(
            f"{path}: 'dtype' is {describe(described.get('dtype'))}, no type of {data.name}",
            mend="write float16, bfloat16, float32 or float64",
        )
    offset = _number(described.get("offset", 0), f"{path}: 'offset'")
    return map_rows(data, dtype, _shape(described.get("shape"), path), offset)


def map_rows(data: Path, dtype: str, shape: tuple[int, ...], offset: int = 0) -> TensorView:
    """
    Describe a flat binary file, having checked that it has just these rows.

    Raises:
        ForeignFileError: It is shorter or longer, or cannot be read.
    """
    with refusing(data):
        source = SourceFile.identify(data)
        n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
        if offset + n_bytes != source.size:
            raise Refused(
                f"{dtype} of shape {list(shape)} from byte {offset:,} on ends at byte "
                f"{offset + n_bytes:,}, but it has {source.size:,}",
                "mend dtype and shape in its JSON, or copy the file again",
            )
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return view_tensor(Storage(source, offset, n_bytes, dtype), dtype, 0, shape, stride)


def _find_data(path: Path, named: object) -> Path:
    if named is not None:
        if not is_plain_name(named):
            raise ForeignFileError(
                f"{path}: 'file' is {describe(named)}, no name of a file beside it",
                mend="move the file there",
            )
        found = [path.with_name(str(named))]
    else:
        found = [path.with_suffix(ending) for ending in DATA_ENDINGS]
        found = [data for data in found if data.exists()]
    if len(found) != 1:
        what = ", ".join(data.name for data in found) or f"no {path.stem}{DATA_ENDINGS[0]}"
        raise ForeignFileError(
            f"{path}: which file does it describe? there is {what}", mend='say so: "file": "NAME"'
        )
    return found[0]


def _find_shared_ids(
    path: Path, root: Path, described: Mapping[str, Any], rows: TensorView
) -> TensorView | None:
    """Find the file of token ids that goes along with the rows, one id a row."""
    named = described.get("token_ids_file")
    if named is None:
        return None
    if not is_plain_name(named):
        raise ForeignFileError(f"{path}: 'token_ids_file' is {describe(named)}, no file beside it")
    ids = path.with_name(named)
    require_inside(ids, root)
    view = read_npy(ids)
    if view.shape != rows.shape[:1]:
        raise ForeignFileError(f"{ids} has the shape {view.shape} for {rows.shape[0]} rows")
    return view


def _shape(value: object, path: Path) -> tuple[int, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= _MOST_AXES:
        raise ForeignFileError(
            f"{path}: 'shape' is {describe(value)}, not [rows, layers, hidden] or [rows, hidden]"
        )
    return tuple(_number(length, f"{path}: 'shape'") for length in value)


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ForeignFileError(f"{what} is {describe(value)}, not a whole number from 0")
    return value


@dataclass(frozen=True, slots=True)
class _Shard:
    """Rows `start` to `stop` of a cache."""

    rows: TensorView
    file: SampleFile
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.rows.shape[0]


def _read_cache(folder: Path, limit_bytes: int) -> Iterator[Found]:
    """
    Read a dictionary_learning `ActivationCache`: one submodule, one layer.

    Source: `dictionary_learning/cache.py` of saprmarks/dictionary_learning, and of
    science-of-finetuning's version, which alone stores tokens and where sequences begin.
    """
    config = read_beside(folder / "config.json", folder)
    if config.get("shuffle_shards"):
        raise ForeignFileError(
            f"cannot read {folder}: its rows are shuffled, and nothing says whose they are",
            mend="collect the activations with shuffle_shards=False",
        )
    tokens = _read_cached(folder, "tokens")
    bounds = _read_cached(folder, "sequence_ranges").read().tolist()
    shards = list(_cached_shards(folder, _number(config.get("shard_count"), "'shard_count'")))
    if tokens.shape != (shards[-1].stop,) or bounds[:1] != [0] or bounds[-1] != shards[-1].stop:
        raise ForeignFileError(
            f"cannot read {folder}: it has {shards[-1].stop} rows, {tokens.shape} tokens, and "
            f"sequences up to {bounds[-1:]}",
            mend="collect the activations again",
        )
    for place, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        shard = next((s for s in shards if s.start <= start < stop <= s.stop), None)
        if shard is None:
            yield Unreadable(
                f"{folder}#{place}", f"its rows {start} to {stop} are not within one shard"
            )
            continue
        try:
            yield build_sample(
                shard.file,
                SampleIdentity(),
                cut_rows(tokens, start, stop),
                {None: cut_rows(shard.rows, start - shard.start, stop - shard.start)},
                part=str(place),
                default_id=str(place),
                limit_bytes=limit_bytes,
            )
        except ForeignFileError as error:
            yield Unreadable(f"{folder}#{place}", str(error))


def _cached_shards(folder: Path, count: int) -> Iterator[_Shard]:
    start = 0
    for number in range(max(count, 1)):
        meta = folder / f"shard_{number}.meta"
        data = meta.with_suffix(".memmap")
        require_inside(data, folder)
        if not meta.exists():
            raise ForeignFileError(f"cannot read {folder}: its {meta.name} is missing")
        described = read_beside(meta, folder)
        # Its first version wrote float32 and did not say so.
        dtype = (text_or_none(described, "dtype", meta) or "float32").removeprefix("torch.")
        if dtype not in DTYPES:
            raise ForeignFileError(f"{meta}: 'dtype' is {describe(dtype)}, which is unknown")
        rows = map_rows(data, dtype, _shape(described.get("shape"), meta))
        shard = _Shard(rows, SampleFile(rows.storage.source), start)
        start = shard.stop
        yield shard


def _read_cached(folder: Path, name: str) -> TensorView:
    """Find a tensor that lies a folder above the rows, or beside them in older caches."""
    found = [place / f"{name}.pt" for place in (folder.parent, folder)]
    path = next((path for path in found if path.exists()), None)
    if path is None:
        raise ForeignFileError(
            f"cannot read {folder}: there is no {name}.pt, which says what its rows are rows of",
            mend="collect the activations with store_tokens=True",
        )
    value = read_torch_file(path)
    if not isinstance(value, TensorView) or len(value.shape) != 1 or value.dtype != "int64":
        raise ForeignFileError(f"cannot read {path}: it is no list of integers")
    return value
