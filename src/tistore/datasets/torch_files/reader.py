"""One `.pt` file, from its first bytes to a structure of plain values and tensor views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tistore.datasets.torch_files import archive, legacy
from tistore.datasets.torch_files.appearance import describe_appearance
from tistore.datasets.torch_files.archive import Entry
from tistore.datasets.torch_files.names import find_name
from tistore.datasets.torch_files.pickles import MOST_PICKLE_BYTES, PickleReader
from tistore.datasets.torch_files.source import OpenFile, Refused, SourceFile, naming
from tistore.datasets.torch_files.storages import StorageClaim, StorageTable
from tistore.datasets.torch_files.tensor import Storage
from tistore.datasets.torch_files.tree import check_tree

LIMIT_BYTES = 4 << 30
"""Most bytes of one tensor's values, unless the caller says otherwise."""

SMALL_FILE_BYTES = 256 << 20
"""What the tensors of even the smallest file may add up to."""

_SHARING = 4
"""How many times its own length a file's tensors may add up to: tied weights share storages."""

_HEAD_BYTES = 512
_MOST_BYTE_ORDER_BYTES = 16


def read_torch_file(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Any:
    """
    Read what `torch.save` wrote, without reading tensors and without running anything.

    Costs the pickle, not the file: a tensor's values are read by its `read()`, and only they.
    `torch.Size` comes as a tuple, dtypes and devices as text, parameters as tensors; attributes of
    tensors and state dicts are dropped.

    Args:
        path: A `.pt`, `.pth` or `.bin` file.
        limit_bytes: Most bytes any one tensor may take once read.

    Returns:
        Dicts, lists, tuples, sets, text, numbers, bytes and NumPy arrays, with a `TensorView` for
        each tensor. It holds no open file, can be sent to another process, and walking it ends.

    Raises:
        ForeignFileError: The file is not from `torch.save`, damaged, claims sizes it cannot have,
            or needs more than data to be built; the message names the file, what and why.
    """
    with naming(path):
        source = SourceFile.identify(path)
        with source.open() as file:
            head = file.bytes_at(0, min(source.size, _HEAD_BYTES))
            if head.startswith(archive.SIGNATURE):
                value = _read_archive(source, file)
            elif legacy.is_legacy(head):
                value = legacy.read_isolated(source)
            else:
                raise describe_appearance(head)
        check_tree(value, limit_bytes, max(_SHARING * source.size, SMALL_FILE_BYTES))
        return value


def _read_archive(source: SourceFile, file: OpenFile) -> Any:
    entries = archive.read_entries(file)
    if "data.pkl" not in entries:
        raise Refused(
            "it is a zip archive, but not of torch.save: an .npz, perhaps", "give it its own ending"
        )
    if "constants.pkl" in entries or any(name.startswith("code/") for name in entries):
        raise Refused(
            "it is a TorchScript program, not data",
            "open it in torch and save its tensors: torch.save(module.state_dict(), path)",
        )
    is_big_endian = _is_big_endian(file, entries)

    def locate(claim: StorageClaim) -> Storage:
        entry = entries.get(f"data/{claim.key}")
        if entry is None:
            raise Refused(f"its storage {claim.key} is missing", archive.COPY_AGAIN)
        if entry.size != claim.n_bytes:
            raise Refused(
                f"its storage {claim.key} has {entry.size:,} bytes, but {claim.n_bytes:,} "
                "are claimed",
                archive.COPY_AGAIN,
            )
        return Storage(source, entry.start, entry.size, claim.dtype, entry.crc32, is_big_endian)

    content = archive.read_entry(file, entries["data.pkl"], MOST_PICKLE_BYTES)
    reader = PickleReader(content, find_name, StorageTable(locate).find)
    value = reader.read()
    if reader.place != len(content):
        raise Refused("something follows its pickle", archive.SAVE_AGAIN)
    return value


def _is_big_endian(file: OpenFile, entries: Mapping[str, Entry]) -> bool:
    if "byteorder" not in entries:  # before torch 2.1; big-endian machines were not supported
        return False
    order = archive.read_entry(file, entries["byteorder"], _MOST_BYTE_ORDER_BYTES)
    if order not in (b"little", b"big"):
        raise Refused(f"its byte order is {ascii(order)}, neither little nor big")
    return order == b"big"
