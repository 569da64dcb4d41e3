"""
Restoring a damaged file exactly: whatever is tried, its committed hash says whether it is the one.

Tried are: each single bit of a small file; the metadata and the index of an array, encoded again;
norms and means, worked out again from the activations; clauses, split again from the text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tistore.datasets.clauses import align_tokens, split_clauses
from tistore.errors import NoMemoryError, TistoreError, TooManyFilesError
from tistore.schemas.site import Component, Site
from tistore.schemas.tables import CLAUSES
from tistore.store.collecting.trash import set_aside
from tistore.store.contents import Entry
from tistore.store.files import BLOCK_BYTES, FileRecord, Files, hash_file
from tistore.store.layout import mean_array, norm_array
from tistore.store.moments import measure
from tistore.store.repairing.flipped_bit import flip_each_bit
from tistore.store.segment import Segment
from tistore.store.shards import (
    METADATA,
    ArrayLayout,
    ArraySource,
    ShardEncoder,
    encode_index,
    encode_metadata,
    read_checksum,
)
from tistore.store.tables import build_table, encode_table

_MENDED = ".mended"
_CHUNK_LENGTH = struct.Struct("<I")
_CHUNK_LENGTH_AT, _CHECKSUM_BYTES = 12, 4  # in the header of a Blosc buffer; behind it

Pieces = Callable[[], Iterable[bytes]]
"""Gives a file's bytes from the start, each time it is called."""


def find_original(files: Files, record: FileRecord, entry: Entry | None) -> Pieces | None:
    """
    Find the bytes that a damaged file was committed with.

    Args:
        files: The store's files.
        record: The file.
        entry: The segment it belongs to; None for a file of a table of the log.

    Returns:
        The bytes, piece by piece, whose hash is the committed one; None where they are lost.
    """
    for candidate in _candidates(files, record, entry):
        try:
            hasher = blake3()
            for piece in candidate():
                hasher.update(piece)
        except (NoMemoryError, TooManyFilesError):  # says nothing about the candidate
            raise
        except TistoreError:
            continue  # what it is made of is damaged, too
        if hasher.hexdigest() == record.blake3:
            return candidate
    return None


def put_back(files: Files, record: FileRecord, original: Pieces) -> None:
    """Write a file as it was committed; the damaged one goes to the trash."""
    mended = record.path + _MENDED
    # A repair may have been killed just before its last step.
    if files.size(mended) is None or hash_file(files, mended) != record.blake3:
        files.remove(mended)
        files.write_new(mended, original())
    set_aside(files, [record.path])
    files.move(mended, record.path)


def measure_again(
    segment: Segment, component: Component, places: Iterable[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Work out norms and means from the activations, reading by reading, as the writer did.

    Args:
        segment: The segment.
        component: Which component.
        places: Readings, by their rows in `responses`.

    Returns:
        [row, layer] and [reading, layer, width], NaN for other readings.

    Raises:
        IntegrityError: Activations of one of them are damaged.
    """
    sites = [Site(component, layer) for layer in segment.layers]
    starts = segment.column("responses", "row_start")
    lengths = segment.column("responses", "n_rows")
    is_response = segment.column("tokens", "is_response")
    scale = np.ldexp(1.0, [segment.exponent(site) for site in sites])
    norms = np.full((segment.n_rows, len(sites)), np.nan, dtype=np.float32)
    shape = (segment.n_readings, len(sites), segment.width(component))
    means = np.full(shape, np.nan, dtype=np.float32)
    for place in places:
        rows = slice(int(starts[place]), int(starts[place] + lengths[place]))
        values = np.stack([segment.read(site, rows.start, rows.stop) for site in sites], axis=1)
        norms[rows], means[place] = measure(values, is_response[rows], scale)
    return norms, means


def _candidates(files: Files, record: FileRecord, entry: Entry | None) -> Iterator[Pieces]:
    mended = record.path + _MENDED
    if files.size(mended) == record.size_bytes:  # a repair was killed just before its last step
        yield lambda: _read_blocks(files, mended, record.size_bytes)
    yield lambda: _flip_back(files, record)
    if entry is None:
        return
    name, array = _find_array(entry, record)
    if array is not None and record.path.endswith(METADATA):
        yield lambda: [encode_metadata(_describe(entry, name), _read_checksums(files, entry, name))]
        yield lambda: [encode_metadata(_describe(entry, name), ())]
    elif array is not None:
        yield lambda: _with_new_index(files, record, _describe(entry, name))
        yield lambda: _encode_moments(files, entry, name)
    elif record.path == entry["tables"]["clauses"]["path"]:
        yield lambda: [_split_again(Segment(files, entry))]


def _flip_back(files: Files, record: FileRecord) -> Iterable[bytes]:
    """Undo one flipped bit; nothing where that is not it."""
    if files.size(record.path) == record.size_bytes:
        for candidate in flip_each_bit(files.read(record.path)):
            if blake3(candidate).hexdigest() == record.blake3:
                return [candidate]
    return []


def _find_array(entry: Entry, record: FileRecord) -> tuple[str, Any]:
    for name, array in entry["arrays"].items():
        if any(file["path"] == record.path for file in array["files"]):
            return name, array
    return "", None


def _describe(entry: Entry, name: str) -> ArrayLayout:
    """Describe an array as its writer did."""
    (component,) = (
        one for one in entry["components"] if name in (one, norm_array(one), mean_array(one))
    )
    array = entry["arrays"][name]
    attributes: dict[str, Any] = {"layers": entry["layers"], "component": component}
    if name == component:
        attributes |= {"exponents": array["exponents"], "row_convention": "at-token"}
    first = "response" if name == mean_array(component) else "token"
    return ArrayLayout(
        shape=tuple(array["shape"]),
        dtype=np.dtype(np.float16 if name == component else np.float32),
        dimension_names=(first, "layer", "hidden")[: len(array["shape"])],
        attributes=attributes,
    )


def _read_checksums(files: Files, entry: Entry, name: str) -> list[int]:
    """Read the checksums that an array's chunks carry."""
    records = map(FileRecord.from_json, entry["arrays"][name]["files"])
    checksums = []
    for record in records:
        if not record.path.endswith(METADATA):
            index = _walk_chunks(files, record, _describe(entry, name))
            for offset, size in index.reshape(-1, 2).tolist():
                end = offset + size - _CHECKSUM_BYTES
                checksums.append(read_checksum(files.read_range(record.path, end, _CHECKSUM_BYTES)))
    return checksums


def _walk_chunks(files: Files, record: FileRecord, source: ArrayLayout) -> NDArray[np.uint64]:
    """Find every chunk without the index: they lie one after the other, layer by layer."""
    n_layers = source.shape[1]
    index = np.zeros((source.chunk_rows, n_layers, 2), dtype="<u8")
    offset = 0
    for layer in range(n_layers):
        for row in range(source.chunk_rows):
            header = files.read_range(record.path, offset + _CHUNK_LENGTH_AT, _CHUNK_LENGTH.size)
            if len(header) < _CHUNK_LENGTH.size or offset > record.size_bytes:
                return index[:0]  # it was cut short, or a chunk's header is damaged
            size = _CHUNK_LENGTH.unpack(header)[0] + _CHECKSUM_BYTES
            index[row, layer] = offset, size
            offset += size
    return index


def _with_new_index(files: Files, record: FileRecord, source: ArrayLayout) -> Iterable[bytes]:
    index = _walk_chunks(files, record, source)
    yield from _read_blocks(files, record.path, int(index[..., 1].sum()))
    yield encode_index(index)


def _read_blocks(files: Files, path: str, length: int) -> Iterator[bytes]:
    for start in range(0, length, BLOCK_BYTES):
        yield files.read_range(path, start, min(BLOCK_BYTES, length - start))


def _encode_moments(files: Files, entry: Entry, name: str) -> Iterable[bytes]:
    """Encode norms or means again; nothing for the activations, which are at hand nowhere else."""
    plain = _describe(entry, name)
    component: Component = plain.attributes["component"]
    if name == component or component not in entry["arrays"]:
        return
    segment = Segment(files, entry)
    norms, means = measure_again(segment, component, range(segment.n_readings))
    values = norms if name == norm_array(component) else means
    source = ArraySource(
        plain.shape,
        plain.dtype,
        plain.dimension_names,
        plain.attributes,
        lambda start, stop, layer: values[start:stop, layer],
    )
    yield from ShardEncoder(source).pieces()


def _split_again(segment: Segment) -> bytes:
    """Split a segment's responses into clauses, as the writer did."""
    tokens = segment.table("tokens").to_pylist()
    rows: list[dict[str, Any]] = []
    for place, response in enumerate(segment.table("responses").to_pylist()):
        start, length = response["row_start"], response["n_rows"]
        first = response["prompt_length"]
        own = [one for one in tokens[start : start + length] if one["position"] >= first]
        offsets = [(one["char_start"], one["char_end"]) for one in own]
        text = response["text"]
        if text is None or any(begin is None for begin, _ in offsets):
            strings = [one["token"] or "" for one in own]
            text = "".join(strings)
            offsets = align_tokens(text, strings) or []
        rows += [
            {
                "reading": place,
                "clause": number,
                "token_start": clause.token_start + first,
                "token_end": clause.token_end + first,
                "n_tokens": clause.token_end - clause.token_start,
                "char_start": clause.char_start,
                "char_end": clause.char_end,
                "text": clause.text,
            }
            for number, clause in enumerate(split_clauses(text, offsets))
        ]
    return encode_table(build_table(CLAUSES, rows, "clauses"))
