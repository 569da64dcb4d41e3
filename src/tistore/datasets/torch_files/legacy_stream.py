"""
The stream that `torch.save` wrote before 1.6: pickles one after another, then the storages.

Magic number, protocol, system, the object, the storages' keys; then for each key a count and the
elements, little-endian on every machine.

Source: torch/serialization.py and torch/csrc/generic/serialization.cpp of PyTorch.
"""

from __future__ import annotations

from typing import Any

from tistore.datasets.torch_files.archive import COPY_AGAIN
from tistore.datasets.torch_files.names import find_name
from tistore.datasets.torch_files.pickles import MOST_PICKLE_BYTES, NOT_DATA, PickleReader
from tistore.datasets.torch_files.source import OpenFile, Refused, SourceFile
from tistore.datasets.torch_files.storages import StorageClaim, StorageTable
from tistore.datasets.torch_files.tensor import Storage

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

_COUNT_BYTES = 8


def read_stream(source: SourceFile) -> Any:
    """
    Read the structure, with each tensor as a view into the file.

    The object is read twice: its storages lie behind it, and where is known only at its end.

    Raises:
        Refused: The file is damaged, cut short, or not data.
    """
    with source.open() as file:
        # Nothing says how long the pickles are; those longer than this are refused.
        content = file.bytes_at(0, min(source.size, MOST_PICKLE_BYTES))
        magic, place = _read_header(content, 0)
        protocol, place = _read_header(content, place)
        _system, place = _read_header(content, place)
        if (magic, protocol) != (MAGIC_NUMBER, PROTOCOL):
            raise Refused("its header is not one torch wrote", "check where it came from")
        table = StorageTable(lambda claim: Storage(source, 0, claim.n_bytes, claim.dtype))
        _, keys_place = _read_object(content, place, table)
        keys, storages_place = _read_header(content, keys_place)
        starts = _walk_storages(file, storages_place, keys, table.claims)

        def locate(claim: StorageClaim) -> Storage:
            return _window(Storage(source, starts[claim.key], claim.n_bytes, claim.dtype), claim)

        return _read_object(content, place, StorageTable(locate))[0]


def _read_object(content: bytes, place: int, table: StorageTable) -> tuple[Any, int]:
    reader = PickleReader(content, find_name, table.find, place)
    return reader.read(), reader.place


def _read_header(content: bytes, place: int) -> tuple[Any, int]:
    reader = PickleReader(content, _no_names, _no_storages, place)
    return reader.read(), reader.place


def _walk_storages(
    file: OpenFile, place: int, keys: Any, claims: dict[str, StorageClaim]
) -> dict[str, int]:
    """Walk over the storages, each as long as was claimed, to where its elements begin."""
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise Refused("its list of storages is damaged", COPY_AGAIN)
    if sorted(keys) != sorted(claims):
        raise Refused("its list of storages is not that of its tensors", COPY_AGAIN)
    starts = {}
    for key in keys:
        n_elements = int.from_bytes(file.bytes_at(place, _COUNT_BYTES), "little", signed=True)
        if n_elements != claims[key].n_elements:
            raise Refused(
                f"its storage {key} has {n_elements:,} elements, but "
                f"{claims[key].n_elements:,} are claimed",
                COPY_AGAIN,
            )
        starts[key] = place + _COUNT_BYTES
        place = starts[key] + claims[key].n_bytes
    if place > file.size:
        raise Refused(
            f"it is cut short: its storages end at byte {place}, but it has {file.size}", COPY_AGAIN
        )
    return starts


def _window(storage: Storage, claim: StorageClaim) -> Storage:
    if claim.window is None:
        return storage
    first, n_elements = claim.window
    if first + n_elements > claim.n_elements:
        raise Refused(f"a part of its storage {claim.key} ends behind it", COPY_AGAIN)
    start = storage.start + first * claim.itemsize
    return Storage(storage.source, start, n_elements * claim.itemsize, storage.dtype)


def _no_names(module: str, name: str) -> Any:
    raise Refused("its header names a class", NOT_DATA)


def _no_storages(persistent_id: Any) -> Any:
    raise Refused("its header refers to a storage", NOT_DATA)
