"""
A read structure as JSON and back, for the pipe between two processes.

Every value but text, None and truth is a list that begins with its kind. Decoding makes only what
is listed here, so the reader of the pipe need not trust its writer.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.datasets.torch_files.tensor import DTYPES, Storage, TensorView, view_tensor

_SEQUENCES: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
_MAPPINGS: dict[str, Callable[[Any], Any]] = {"dict": dict, "OrderedDict": OrderedDict}


def to_json(value: Any) -> str:
    """Write a checked structure; what is shared in it is written each time."""
    return json.dumps(_encode(value), separators=(",", ":"))


def from_json(text: str | bytes, source: SourceFile) -> Any:
    """
    Read a structure whose tensors lie in `source`.

    Raises:
        Refused: The text is not one `to_json` writes.
    """
    try:
        return _decode(json.loads(text), source)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise Refused("the process that read its pickle gave no answer that makes sense") from error


def _encode(value: Any) -> Any:
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return [kind, str(value)]
    if isinstance(value, float) and not isinstance(value, np.generic):
        return [kind, value.hex()]
    if isinstance(value, complex) and not isinstance(value, np.generic):
        return [kind, value.real.hex(), value.imag.hex()]
    if isinstance(value, bytes | bytearray) and not isinstance(value, np.generic):
        return [kind, b64encode(value).decode()]
    if isinstance(value, dict):
        return [kind, [[_encode(key), _encode(item)] for key, item in value.items()]]
    if isinstance(value, list | tuple | set | frozenset):
        return [kind, [_encode(item) for item in value]]
    if isinstance(value, TensorView):
        storage = value.storage
        where = [storage.start, storage.n_bytes, storage.dtype]
        return ["tensor", value.dtype, value.shape, value.stride, value.offset, where]
    if isinstance(value, np.ndarray | np.generic):
        is_array = isinstance(value, np.ndarray)
        content = b64encode(value.tobytes()).decode()
        return ["array" if is_array else "scalar", value.dtype.str, list(value.shape), content]
    raise Refused(f"it holds {kind}, which is not data")


def _decode(value: Any, source: SourceFile) -> Any:
    if not isinstance(value, list):
        return value
    match value:
        case ["int", str() as digits]:
            return int(digits)
        case ["float", str() as digits]:
            return float.fromhex(digits)
        case ["complex", str() as real, str() as imaginary]:
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case ["bytes" | "bytearray" as kind, str() as text]:
            return b64decode(text) if kind == "bytes" else bytearray(b64decode(text))
        case ["dict" | "OrderedDict" as kind, list() as pairs]:
            decoded = ((_decode(key, source), _decode(item, source)) for key, item in pairs)
            return _MAPPINGS[kind](decoded)
        case ["list" | "tuple" | "set" | "frozenset" as kind, list() as items]:
            return _SEQUENCES[kind](_decode(item, source) for item in items)
        case ["tensor", str() as dtype, shape, stride, offset, list() as where] if dtype in DTYPES:
            return view_tensor(_storage(where, source), dtype, offset, shape, stride)
        case ["array" | "scalar" as kind, str() as code, list() as shape, str() as text]:
            flat = np.frombuffer(b64decode(text), np.dtype(code))
            return flat.reshape(shape) if kind == "array" else flat[0]
    raise ValueError("an unknown kind of value")


def _storage(where: list[Any], source: SourceFile) -> Storage:
    start, n_bytes, dtype = where
    if type(start) is not int or type(n_bytes) is not int or (dtype and dtype not in DTYPES):
        raise ValueError("a storage without a place")
    if not 0 <= start <= start + n_bytes <= source.size:
        raise Refused(f"it is cut short: a storage ends at byte {start + n_bytes} of {source.size}")
    return Storage(source, start, n_bytes, dtype)
