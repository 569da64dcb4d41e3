"""
Hugging Face data sets of activations: folders that `save_to_disk` made, Arrow and Parquet files.

Read with pyarrow, which a store needs anyway, and not with the `datasets` library: what it writes
is Arrow streams and Parquet, and all it would add is a list of their names, which is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.datasets.foreign.arrow_columns import (
    PER_TOKEN,
    POSITION,
    READING_KEY,
    SAMPLE_KEYS,
    WANTED,
    Columns,
    read_activations,
    to_array,
)
from tistore.datasets.foreign.arrow_frames import read_frames
from tistore.datasets.foreign.folders import Found, require_source, walk
from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.foreign.json_objects import describe
from tistore.datasets.foreign.numpy_samples import read_beside
from tistore.datasets.foreign.sample import (
    LIMIT_BYTES,
    TOKEN_ID_NAMES,
    ForeignSample,
    ReadValues,
    SampleFile,
    Unreadable,
    build_sample,
    is_plain_name,
    refusing,
    require_inside,
)
from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.errors import DatasetError, ForeignFileError

ENDINGS = (".arrow", ".parquet")

READINGS = "readings.parquet"
"""File with a row a reading, beside files with a row a token: `tistore export parquet`."""

_RECORDS = ("organism_model", "reader_model", "prompt")


def read_arrow_dataset(source: Path, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[Found]:
    """
    Read the samples of a data set, a few MB at a time.

    A row is a sample: `token_ids` (or `input_ids`), and `hidden_states` (or `activations`, or a
    column for each component, or TransformerLens's `blocks.N.hook_resid_post` and the like) as
    nested lists; other columns are fields of its identity by their names. Or a row is a token:
    `token_id` a number, and rows of one sample follow one another; where `readings.parquet` lies
    beside them, it says by `reading_key` what the samples are, and names all their token ids. A
    layer may have a column of its own, `layer_26`.

    Args:
        source: A folder of `save_to_disk`, a folder of `.arrow` or `.parquet` files, or one file.
        limit_bytes: Most bytes one sample may take.

    Raises:
        DatasetError: The source is not there, or holds no such file.
    """
    paths = list_files(source)
    root = source if source.is_dir() else source.parent
    readings = _Readings()
    if len(paths) > 1 and any(path.name == READINGS for path in paths):
        readings.read(next(path for path in paths if path.name == READINGS), limit_bytes)
        paths = [path for path in paths if path.name != READINGS]
    readers: dict[int, _FileReader] = {}
    for place, frame in read_frames(paths, WANTED, limit_bytes):
        path = paths[place]
        try:
            if place not in readers:
                name = path.relative_to(root).as_posix() if len(paths) > 1 else ""
                readers[place] = _FileReader(path, name, readings, limit_bytes)
            reader = readers[place]
            if isinstance(frame, pa.RecordBatch):
                yield from reader.read(frame)
                continue
            yield from reader.finish()
            if isinstance(frame, Refused):
                with refusing(path):
                    raise frame
        except ForeignFileError as error:
            if isinstance(frame, pa.RecordBatch) and place in readers:
                readers[place].is_refused = True
            yield Unreadable(str(path), str(error))


def list_files(source: Path) -> list[Path]:
    """
    List a data set's files in their order.

    Raises:
        DatasetError: The source is not there, or holds no such file.
        ForeignFileError: A list of files names one elsewhere.
    """
    if not require_source(source).is_dir():
        return [source]
    if (source / "dataset_dict.json").exists():
        splits = read_beside(source / "dataset_dict.json", source).get("splits")
        named = [_child(source, "dataset_dict.json", name) for name in _each(splits)]
        return [path for split in named for path in list_files(split)]
    if (source / "state.json").exists():
        listed = read_beside(source / "state.json", source).get("_data_files")
        return [
            _child(source, "state.json", entry.get("filename") if isinstance(entry, dict) else None)
            for entry in _each(listed)
        ]
    found = [path for path in walk(source) if path.suffix.lower() in ENDINGS]
    for path in found:
        require_inside(path, source)
    if not found:
        raise DatasetError(
            f"{source} holds no data set: no state.json, no file in {' or '.join(ENDINGS)}",
            mend="name the folder that save_to_disk made",
        )
    return found


def _each(values: object) -> list[Any]:
    return values if isinstance(values, list) else []


def _child(folder: Path, listing: str, name: object) -> Path:
    if not is_plain_name(name):
        raise ForeignFileError(
            f"{folder / listing} names {describe(name)}, no file of its folder", mend="leave it out"
        )
    path = folder / str(name)
    require_inside(path, folder)
    return path


class _Readings:
    """What a file with a row a reading says of samples whose tokens are rows elsewhere."""

    def __init__(self) -> None:
        self._rows: dict[str, pa.RecordBatch] = {}

    def read(self, path: Path, limit_bytes: int) -> None:
        """
        Read the file.

        Raises:
            ForeignFileError: It cannot be read, or has no `reading_key`.
        """
        with refusing(path):
            for _, frame in read_frames([path], WANTED, limit_bytes):
                if isinstance(frame, Refused):
                    raise frame
                if frame is not None:
                    if READING_KEY not in frame.schema.names:
                        raise Refused(f"it has no column {READING_KEY}")
                    for place, key in enumerate(frame[READING_KEY].to_pylist()):
                        self._rows[key] = frame.slice(place, 1)

    def find(self, rows: pa.RecordBatch) -> pa.RecordBatch | None:
        """Find the row of the reading whose tokens are rows; None where nothing is said of any."""
        if not self._rows:
            return None
        key = rows[READING_KEY][0].as_py() if READING_KEY in rows.schema.names else None
        if key not in self._rows:
            raise Refused(f"reading {describe(key)} is not in {READINGS}", "export it anew")
        return self._rows[key]


@dataclass(slots=True)
class _Part:
    """Rows of one sample, where a row is a token."""

    key: tuple[Any, ...]
    fields: dict[str, Any]
    layers: tuple[int, ...] | None
    reading_ids: NDArray[Any] | None = None
    ids: list[NDArray[Any]] = field(default_factory=list)
    arrays: dict[str | None, list[NDArray[Any]]] = field(default_factory=dict)
    per_token: dict[str, list[Any]] = field(default_factory=dict)
    positions: list[NDArray[Any]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for arrays in self.arrays.values() for array in arrays)


class _FileReader:
    """Turns a file's record batches into samples."""

    def __init__(self, path: Path, name: str, readings: _Readings, limit_bytes: int) -> None:
        with refusing(path):
            self._file = SampleFile(SourceFile.identify(path))
        self._readings = readings
        self._prefix = f"{name}/" if name else ""
        self._limit_bytes = limit_bytes
        self._columns: Columns | None = None
        self._row = 0
        self._part: _Part | None = None
        self.is_refused = False

    def read(self, batch: pa.RecordBatch) -> Iterator[Found]:
        """Read the samples that a batch holds, or ends."""
        if self.is_refused:
            return
        with refusing(self._file.path):
            self._columns = self._columns or Columns.find(batch.schema)
        if self._columns.is_row_a_token:
            yield from self._read_tokens(batch, self._columns)
            return
        for place in range(batch.num_rows):
            row = batch.slice(place, 1)
            try:
                with refusing(self._file.path):
                    yield self._read_row(row, self._columns)
            except ForeignFileError as error:
                yield Unreadable(f"{self._file.path}#{self._row}", str(error))
            self._row += 1

    def finish(self) -> Iterator[Found]:
        """Read the sample that the file's end ends."""
        if self._part is not None and self._columns is not None and not self.is_refused:
            yield from self._close(self._part, self._columns)
        self._part = None

    def _read_row(self, row: pa.RecordBatch, columns: Columns) -> ForeignSample:
        fields = {name: row[name][0].as_py() for name in columns.fields}
        arrays, layers = read_activations(row, columns)
        ids = to_array(row[columns.token_ids], columns.token_ids)[0]
        return self._build(fields, ids, {name: a[0] for name, a in arrays.items()}, layers)

    def _build(
        self,
        fields: Mapping[str, Any],
        ids: NDArray[Any],
        arrays: Mapping[str | None, NDArray[Any]],
        layers: tuple[int, ...] | None,
    ) -> ForeignSample:
        told = _understand(fields)
        if layers is not None:
            if told.get("layers") not in (None, list(layers)):
                raise Refused(f"its layers are {told['layers']}, by its columns {list(layers)}")
            told["layers"] = list(layers)
        return build_sample(
            self._file,
            SampleIdentity.from_fields(told, f"{self._file.path}#{self._row}"),
            ReadValues(ids),
            {component: ReadValues(values) for component, values in arrays.items()},
            part=str(self._row),
            default_id=f"{self._prefix}{self._row}",
            limit_bytes=self._limit_bytes,
        )

    def _read_tokens(self, batch: pa.RecordBatch, columns: Columns) -> Iterator[Found]:
        """Take the rows up to where another sample begins, again and again."""
        held = [*columns.fields, *(name for name in SAMPLE_KEYS if name in batch.schema.names)]
        if not held:
            with refusing(self._file.path):
                raise Refused(
                    "its rows are tokens, and no column says of which sample",
                    f"add one: prompt_id, or {SAMPLE_KEYS[0]}",
                )
        for start, stop in _runs(batch, held):
            rows = batch.slice(start, stop - start)
            key = tuple(repr(rows[name][0].as_py()) for name in held)
            if self._part is None or self._part.key != key:
                if self._part is not None:
                    yield from self._close(self._part, columns)
                self._part = None
            with refusing(self._file.path):
                arrays, layers = read_activations(rows, columns)
                self._part = self._part or self._begin(rows, key, layers, columns)
                _append(self._part, rows, arrays, layers, columns)
                if self._part.nbytes > self._limit_bytes:
                    raise Refused(f"a sample takes more than {self._limit_bytes:,} bytes")

    def _begin(
        self,
        rows: pa.RecordBatch,
        key: tuple[Any, ...],
        layers: tuple[int, ...] | None,
        columns: Columns,
    ) -> _Part:
        reading = self._readings.find(rows)
        if reading is None:
            return _Part(key, {name: rows[name][0].as_py() for name in columns.fields}, layers)
        said = Columns.find_fields(reading.schema)
        fields = {name: reading[name][0].as_py() for name in said}
        (ids,) = to_array(reading[TOKEN_ID_NAMES[0]], TOKEN_ID_NAMES[0])
        return _Part(key, fields, layers, ids)

    def _close(self, part: _Part, columns: Columns) -> Iterator[Found]:
        try:
            with refusing(self._file.path):
                first = 0 if part.reading_ids is None else part.fields.get("first_position") or 0
                positions = np.concatenate(part.positions) if part.positions else None
                if (
                    positions is not None
                    and (positions != np.arange(first, first + len(positions))).any()
                ):
                    raise Refused(
                        f"the rows of sample {self._row} are not of positions {first}, "
                        f"{first + 1}, {first + 2}, …",
                        "sort them, and keep every token: ids of all tokens are needed",
                    )
                ids = np.concatenate(part.ids) if part.reading_ids is None else part.reading_ids
                yield self._build(
                    {**part.fields, **part.per_token},
                    ids,
                    {name: np.concatenate(arrays) for name, arrays in part.arrays.items()},
                    part.layers,
                )
        except ForeignFileError as error:
            yield Unreadable(f"{self._file.path}#{self._row}", str(error))
        self._row += 1


def _append(
    sample: _Part,
    rows: pa.RecordBatch,
    arrays: Mapping[str | None, NDArray[Any]],
    layers: tuple[int, ...] | None,
    columns: Columns,
) -> None:
    if layers != sample.layers:
        raise Refused(f"the rows of a sample have layers {sample.layers} and {layers}")
    sample.ids.append(to_array(rows[columns.token_ids], columns.token_ids))
    for component, values in arrays.items():
        sample.arrays.setdefault(component, []).append(values)
    if POSITION in rows.schema.names:
        sample.positions.append(to_array(rows[POSITION], POSITION))
    if sample.reading_ids is not None:
        return
    for name, plural in PER_TOKEN.items():
        if name in rows.schema.names:
            sample.per_token.setdefault(plural, []).extend(rows[name].to_pylist())


def _runs(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple[int, int]]:
    """Yield where stretches of rows begin and end that agree in some columns."""
    differs = np.zeros(max(0, batch.num_rows - 1), dtype=bool)
    for name in names:
        # Lists and structs cannot be compared; their texts can.
        column = batch[name]
        if pa.types.is_nested(column.type):
            column = pa.array([repr(value) for value in column.to_pylist()])
        before, after = column.slice(0, batch.num_rows - 1), column.slice(1)
        changed = pc.or_(
            pc.fill_null(pc.not_equal(before, after), False),
            pc.not_equal(pc.is_null(before), pc.is_null(after)),
        )
        differs |= changed.to_numpy(zero_copy_only=False)
    starts = [0, *(np.flatnonzero(differs) + 1).tolist()]
    yield from zip(starts, [*starts[1:], batch.num_rows], strict=True)


def _understand(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Bring columns that hold records as text, as Parquet has no free-form record, into form."""
    told = dict(fields)
    for name in _RECORDS:
        value = told.get(name)
        if isinstance(value, str):
            told[name] = _parse_record(value)
        elif isinstance(value, dict):
            # A struct column has every key of every row.
            told[name] = {key: item for key, item in value.items() if item is not None}
    return told


def _parse_record(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    # Elsewhere a column `prompt` is the question itself.
    return value if isinstance(value, dict) else {"text": text}
