"""
A one-dimensional tensor as `torch.save` writes it, without torch.

Source:
    torch.save's format is a zip of a pickle and the storages it names:
    https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import struct
from typing import BinaryIO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every entry: the same vector is the same file."""


def encode_torch_vector(file: BinaryIO, values: NDArray[np.float32], name: str) -> None:
    """
    Write a vector, (hidden,) float32, to be read by `torch.load(…, weights_only=True)`.

    Args:
        file: Where to.
        values: The vector.
        name: What the archive calls itself; torch takes the file's own stem.
    """
    entries = {
        "data.pkl": _pickle_tensor(values.size),
        "byteorder": b"little",
        "data/0": values.astype("<f4").tobytes(),
        "version": b"3\n",
    }
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for entry, content in entries.items():
            archive.writestr(ZipInfo(f"{name}/{entry}", _EPOCH), content)


def _pickle_tensor(length: int) -> bytes:
    """Pickle the call that rebuilds the tensor from storage 0: contiguous, without a gradient."""
    size = b"J" + struct.pack("<i", length)
    storage = b"".join(
        [b"(", _text("storage"), b"ctorch\nFloatStorage\n", _text("0"), _text("cpu"), size, b"tQ"]
    )
    offset, shape, stride, requires_grad = b"K\x00", size + b"\x85", b"K\x01\x85", b"\x89"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"".join([b"(", storage, offset, shape, stride, requires_grad, hooks, b"t"])
    return b"\x80\x02" + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded
