"""
What a pickle may name, and what it then means here.

The whole list. A name in a file selects one of these; nothing is imported or looked up otherwise.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tistore.datasets.torch_files.pickles import NOT_DATA, Name, Unfinished, check_key
from tistore.datasets.torch_files.source import Refused
from tistore.datasets.torch_files.tensor import DTYPES, Storage, TensorView, view_tensor


class DtypeName(str):
    """A torch dtype, as text: "torch.bfloat16"."""


@dataclass(frozen=True, slots=True, eq=False)
class StorageType(Name):
    """A storage class; `dtype` is None for one without a type."""

    dtype: str | None = None


class UnfinishedArray(Unfinished):
    """A NumPy array before its content."""

    def finish(self, state: Any) -> np.ndarray[Any, Any]:
        """Take shape, dtype, order and bytes."""
        match state:
            case (int(), tuple() as shape, UnfinishedDtype() as dtype, bool() as fortran, content):
                return _array(content, dtype, shape, "F" if fortran else "C")
        raise _malformed("numpy.ndarray")


class UnfinishedDtype(Unfinished):
    """A NumPy dtype; finished or not, it stays one, since only arrays use it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.dtype = dtype

    def finish(self, state: Any) -> UnfinishedDtype:
        """Take the byte order; fields and metadata are refused."""
        match state:
            case (int(), str("<" | ">" | "|" | "=") as order, None, None, None, *_):
                return UnfinishedDtype(self.dtype.newbyteorder(order))
        raise _malformed("numpy.dtype")


_Arguments = tuple[Any, ...]


def _malformed(what: str) -> Refused:
    return Refused(f"its {what} has arguments that torch and NumPy never write", NOT_DATA)


def _rebuild_tensor(arguments: _Arguments) -> TensorView:
    match arguments:
        case (Storage(dtype=str() as dtype) as storage, offset, shape, stride):
            return view_tensor(storage, dtype, offset, shape, stride)
    raise _malformed("torch._utils._rebuild_tensor")


def _rebuild_tensor_v2(arguments: _Arguments) -> TensorView:
    match arguments:
        case (storage, offset, shape, stride, bool(), hooks, *rest) if len(rest) <= 1:
            _refuse_hooks(hooks)
            _refuse_lazy(rest)
            return _rebuild_tensor((storage, offset, shape, stride))
    raise _malformed("torch._utils._rebuild_tensor_v2")


def _rebuild_tensor_v3(arguments: _Arguments) -> TensorView:
    match arguments:
        case (Storage() as storage, offset, shape, stride, bool(), hooks, DtypeName() as d, *rest):
            _refuse_hooks(hooks)
            _refuse_lazy(rest)
            dtype = d.removeprefix("torch.")
            if dtype in DTYPES:
                return view_tensor(storage, dtype, offset, shape, stride)
            raise Refused(f"a tensor's type is {d}, which NumPy has not", "convert it in torch")
    raise _malformed("torch._utils._rebuild_tensor_v3")


def _rebuild_parameter(arguments: _Arguments) -> TensorView:
    match arguments:
        case (TensorView() as data, bool(), hooks, *rest) if len(rest) <= 1:
            _refuse_hooks(hooks)
            return data
    raise _malformed("torch._utils._rebuild_parameter")


def _rebuild_from_type(arguments: _Arguments) -> Any:
    """Rebuild a tensor with attributes; they are dropped."""
    match arguments:
        case (Name(build=build) as inner, Name(text=kind), tuple() as rest, _):
            if build in _TENSOR_BUILDERS and kind in _TENSOR_TYPES:
                return inner.build(rest) if inner.build else None
    raise _malformed("torch._tensor._rebuild_from_type_v2")


def _refuse_hooks(hooks: Any) -> None:
    if hooks is not None and not (isinstance(hooks, dict) and not hooks):
        raise Refused("a tensor in it has backward hooks", NOT_DATA)


def _refuse_lazy(rest: list[Any]) -> None:
    for state in rest:
        if not isinstance(state, dict):
            raise _malformed("tensor")
        if any(value is not False for value in state.values()):
            raise Refused(
                "a tensor in it is conjugated or negated only on reading",
                "save it with .resolve_conj().resolve_neg()",
            )


def _ordered_dict(arguments: _Arguments) -> OrderedDict[Any, Any]:
    match arguments:
        case ():
            return OrderedDict()
        case (list() as pairs,) if all(type(p) in (list, tuple) and len(p) == 2 for p in pairs):
            return OrderedDict((check_key(key), value) for key, value in pairs)
    raise _malformed("collections.OrderedDict")


def _default_dict(arguments: _Arguments) -> dict[Any, Any]:
    if len(arguments) > 1 or not all(isinstance(a, Name | None) for a in arguments):
        raise _malformed("collections.defaultdict")
    return {}


def _counter(arguments: _Arguments) -> dict[Any, Any]:
    match arguments:
        case () | (dict(),):
            return dict(*arguments)
    raise _malformed("collections.Counter")


def _set(arguments: _Arguments) -> set[Any]:
    match arguments:
        case ():
            return set()
        case (list() | tuple() as items,):
            return {check_key(item) for item in items}
    raise _malformed("set")


def _size(arguments: _Arguments) -> tuple[int, ...]:
    match arguments:
        case (list() | tuple() as lengths,) if all(type(n) is int for n in lengths):
            return tuple(lengths)
    raise _malformed("torch.Size")


def _device(arguments: _Arguments) -> str:
    match arguments:
        case (str() as kind,) if len(kind) < 40:
            return kind
        case (str() as kind, int() as index) if len(kind) < 40:
            return f"{kind}:{index}"
    raise _malformed("torch.device")


def _encode(arguments: _Arguments) -> bytes:
    """Rebuild bytes: pickles of protocol 2 write them as text of code points 0 to 255."""
    match arguments:
        case (str() as text, str("latin1" | "latin-1")):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise _malformed("_codecs.encode") from error
        case ():
            return b""
    raise _malformed("_codecs.encode")


def _byte_array(arguments: _Arguments) -> bytearray:
    match arguments:
        case ():
            return bytearray()
        case (bytes() as content,):
            return bytearray(content)
        case (str(), str()):
            return bytearray(_encode(arguments))
    raise _malformed("bytearray")


def _complex(arguments: _Arguments) -> complex:
    match arguments:
        case (float() as real, float() as imaginary):
            return complex(real, imaginary)
    raise _malformed("complex")


def _array_begun(arguments: _Arguments) -> UnfinishedArray:
    match arguments:
        case (Name(text="numpy.ndarray"), (int(0),), bytes()):
            return UnfinishedArray()
    raise _malformed("numpy.ndarray")


def _array_from_buffer(arguments: _Arguments) -> np.ndarray[Any, Any]:
    match arguments:
        case (content, UnfinishedDtype() as dtype, tuple() as shape, str("C" | "F") as order):
            return _array(content, dtype, shape, order)
    raise _malformed("numpy.ndarray")


def _array_scalar(arguments: _Arguments) -> Any:
    match arguments:
        case (UnfinishedDtype() as dtype, content):
            return _array(content, dtype, (), "C")[()]
    raise _malformed("numpy scalar")


# Not structured, not objects, not dates: a kind, then bytes (characters, for text).
_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c(8|16)|[SU][1-9][0-9]{0,5})")


def _dtype(arguments: _Arguments) -> UnfinishedDtype:
    match arguments:
        case (str() as code, bool() | int(0 | 1), bool() | int(0 | 1)) if _PLAIN_DTYPE.fullmatch(
            code
        ):
            return UnfinishedDtype(np.dtype(code))
        case (str() as code, _, _):
            raise Refused(f"a NumPy array in it holds {ascii(code[:40])}, not numbers or text")
    raise _malformed("numpy.dtype")


def _array(content: Any, dtype: UnfinishedDtype, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    lengths_are_right = (
        isinstance(shape, tuple)
        and len(shape) <= 32
        and all(type(n) is int and 0 <= n < 2**40 for n in shape)
        and math.prod(n for n in shape if n) < 2**40
    )
    if not isinstance(content, bytes | bytearray) or not lengths_are_right:
        raise _malformed("numpy.ndarray")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise Refused(f"a NumPy array of shape {list(shape)} in it has {len(content):,} bytes")
    if not len(content):
        return np.empty(shape, dtype.dtype)
    flat: np.ndarray[Any, Any] = np.frombuffer(content, dtype.dtype)
    if dtype.dtype.kind == "b":  # a byte that is neither 0 nor 1 is no NumPy boolean
        flat = flat.view(np.uint8) != 0
    return flat.reshape(shape, order="F" if order == "F" else "C")


_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

_OTHER_DTYPES = ("complex32", "qint8", "quint8", "qint32", "quint4x2", "quint2x4", "bits8")

_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter")

_TENSOR_BUILDERS: dict[Callable[[_Arguments], Any], str] = {
    _rebuild_tensor: "torch._utils._rebuild_tensor",
    _rebuild_tensor_v2: "torch._utils._rebuild_tensor_v2",
    _rebuild_tensor_v3: "torch._utils._rebuild_tensor_v3",
    _rebuild_parameter: "torch._utils._rebuild_parameter",
}

_CALLABLE: dict[str, Callable[[_Arguments], Any]] = {
    **{name: build for build, name in _TENSOR_BUILDERS.items()},
    # Its state, like a tensor's attributes, is dropped.
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.frozenset": lambda arguments: frozenset(_set(arguments)),
    "builtins.bytes": _encode,
    "builtins.bytearray": _byte_array,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    "numpy._core.multiarray._reconstruct": _array_begun,
    "numpy._core.multiarray.scalar": _array_scalar,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
}

_NAMES: dict[str, Any] = {
    **{name: Name(name, build) for name, build in _CALLABLE.items()},
    **{f"torch.{name}": DtypeName(f"torch.{name}") for name in (*DTYPES, *_OTHER_DTYPES)},
    **{
        f"{module}.{name}": StorageType(f"{module}.{name}", dtype=dtype)
        for module in ("torch", "torch.cuda")
        for name, dtype in _STORAGES.items()
    },
    "torch.storage.UntypedStorage": StorageType("torch.storage.UntypedStorage"),
    "torch.UntypedStorage": StorageType("torch.UntypedStorage"),
    # Named as arguments, never called.
    **{name: Name(name) for name in (*_TENSOR_TYPES, "numpy.ndarray")},
    **{f"builtins.{name}": Name(f"builtins.{name}") for name in ("list", "dict", "int", "float")},
}

_MOVED_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}

_NOT_DENSE = {
    "_rebuild_sparse_tensor": ("a sparse tensor", "save it with .to_dense()"),
    "_rebuild_sparse_csr_tensor": ("a sparse tensor", "save it with .to_dense()"),
    "_rebuild_qtensor": ("a quantised tensor", "save it with .dequantize()"),
    "_rebuild_nested_tensor": ("a nested tensor", "save it padded, or as a list of tensors"),
    "_rebuild_meta_tensor_no_storage": ("a tensor without values (meta)", "save it with values"),
    "_rebuild_wrapper_subclass": ("a tensor of a special class", "save it as a plain tensor"),
}


def find_name(module: str, name: str) -> Any:
    """
    Say what a name in a pickle means.

    Returns:
        A `Name`, or a `DtypeName`.

    Raises:
        Refused: It is not on the list; the error shows it.
    """
    known = _NAMES.get(f"{_MOVED_MODULES.get(module, module)}.{name}")
    if known is not None:
        return known
    if module == "torch._utils" and name in _NOT_DENSE:
        what, mend = _NOT_DENSE[name]
        raise Refused(f"it holds {what}", mend)
    if module == "torch" and name.endswith("Storage"):
        raise Refused(f"it holds a tensor of {ascii(name[:40])}, which NumPy has not")
    shown = ascii(f"{module}.{name}"[:120])[1:-1]
    raise Refused(f"its pickle names {shown}, which is not data", NOT_DATA)
