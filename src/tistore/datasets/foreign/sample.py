"""One sample of another tool's: which reading it is, its token ids, and where its numbers lie."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.torch_files.source import Refused, SourceFile, naming
from tistore.errors import ForeignFileError

LIMIT_BYTES = 4 << 30
"""Most bytes of one array's values, unless the caller says otherwise."""

ACTIVATION_NAMES = ("hidden_states", "activations")
"""What arrays and columns of activations are called where they do not name their component."""

TOKEN_ID_NAMES = ("token_ids", "input_ids")
"""What arrays and columns of token ids are called."""

_HASHED_AT_ONCE = 1 << 20


class Values(Protocol):
    """An array of a file, not yet read; `TensorView` is one."""

    @property
    def dtype(self) -> str:
        """Element type by its usual name: "bfloat16"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def nbytes(self) -> int:
        """How many bytes the values are, once read."""

    def read(self) -> NDArray[Any]:
        """Read the values into memory of their own."""


@dataclass(frozen=True, slots=True)
class ReadValues:
    """An array that is in memory already."""

    values: NDArray[Any]

    @property
    def dtype(self) -> str:
        """Element type by its usual name."""
        return self.values.dtype.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """How many bytes the values are."""
        return self.values.nbytes

    def read(self) -> NDArray[Any]:
        """Give the values."""
        return self.values


@dataclass(slots=True)
class SampleFile:
    """
    The file that samples come from.

    Attributes:
        source: The file as it was first looked at.
    """

    source: SourceFile
    _sha256: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.source.path

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return self.source.size

    def sha256(self) -> str:
        """
        Hash the whole file; once, however many samples and threads ask.

        Raises:
            ForeignFileError: It cannot be read, or changed since it was first looked at.
        """
        with self._lock:
            if self._sha256 is None:
                self._sha256 = self._hash()
            return self._sha256

    def _hash(self) -> str:
        hasher = hashlib.sha256()
        with refusing(self.path), self.source.open() as file:
            for start in range(0, file.size, _HASHED_AT_ONCE):
                hasher.update(file.bytes_at(start, min(_HASHED_AT_ONCE, file.size - start)))
        return hasher.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class ForeignSample:
    """
    A sample, its activations not yet read.

    Attributes:
        file: Where it comes from.
        part: Which of several samples of the file it is; None where the file is one sample.
        default_id: Prompt's id for samples that name none: the file's stem, or a row number.
        identity: What it says of itself.
        token_ids: (tokens,) integers, of prompt and response.
        arrays: For each component, None where the component is not named: activations
            [rows, layer, hidden], or [rows, hidden] of a single layer.
    """

    file: SampleFile
    part: str | None
    default_id: str
    identity: SampleIdentity
    token_ids: NDArray[Any]
    arrays: Mapping[str | None, Values]

    @property
    def where(self) -> str:
        """Name the sample as error messages do."""
        return f"{self.file.path}#{self.part}" if self.part is not None else str(self.file.path)

    @property
    def n_rows(self) -> int:
        """Rows of the activations."""
        return self._array.shape[0]

    @property
    def n_layers(self) -> int:
        """Length of the layer axis."""
        return self._array.shape[1] if len(self._array.shape) == 3 else 1

    @property
    def dtype(self) -> str:
        """Element type of the activations."""
        return self._array.dtype

    @property
    def nbytes(self) -> int:
        """How many bytes the activations are, once read."""
        return sum(values.nbytes for values in self.arrays.values())

    @property
    def _array(self) -> Values:
        return next(iter(self.arrays.values()))

    def read(self, component: str | None) -> NDArray[Any]:
        """
        Read one component's activations.

        Returns:
            [rows, layer, hidden], of the file's own element type.

        Raises:
            ForeignFileError: The file changed, or its bytes are not those it was written with.
        """
        values = self.arrays[component].read()
        return values if values.ndim == 3 else values[:, None, :]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file, or a sample of it, that gives no sample; and why."""

    where: str
    reason: str


def build_sample(
    file: SampleFile,
    identity: SampleIdentity,
    token_ids: Values,
    arrays: Mapping[str | None, Values],
    *,
    part: str | None = None,
    default_id: str | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> ForeignSample:
    """
    Put a sample together, having checked shapes and sizes before anything of it is read.

    A first axis of length 1, a batch of one, is taken off.

    Raises:
        ForeignFileError: A shape is not a sample's, or an array is larger than `limit_bytes`.
    """
    with refusing(file.path):
        for values in (token_ids, *arrays.values()):
            if values.nbytes > limit_bytes:
                raise Refused(
                    f"an array of shape {list(values.shape)} takes {values.nbytes:,} bytes, more "
                    f"than the limit of {limit_bytes:,}",
                    "split the sample",
                )
        checked = {name: _check_activations(values) for name, values in arrays.items()}
        if len({values.shape[:-1] for values in checked.values()}) > 1:
            shapes = ", ".join(f"{name} {list(v.shape)}" for name, v in checked.items())
            raise Refused(
                f"its components differ in shape: {shapes}",
                "write them alike; only in width may they differ",
            )
        return ForeignSample(
            file=file,
            part=part,
            default_id=default_id if default_id is not None else file.path.stem,
            identity=identity,
            token_ids=_read_ids(token_ids),
            arrays=checked,
        )


@dataclass(frozen=True, slots=True)
class _Unbatched:
    """An array without its first axis, of length 1."""

    values: Values

    @property
    def dtype(self) -> str:
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def read(self) -> NDArray[Any]:
        values: NDArray[Any] = self.values.read()[0]
        return values


def _check_activations(values: Values) -> Values:
    shape = values.shape
    if len(shape) == 4 and shape[0] == 1:
        values, shape = _Unbatched(values), shape[1:]
    if len(shape) not in (2, 3) or 0 in shape:
        raise Refused(
            f"its activations have the shape {list(shape)}, not [rows, layer, hidden]",
            "bring the axes into that order; a single layer may go without its axis",
        )
    if values.dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise Refused(
            f"its activations are {values.dtype}",
            "write float16, bfloat16, float32 or float64",
        )
    return values


def _read_ids(values: Values) -> NDArray[Any]:
    if len(values.shape) == 2 and values.shape[0] == 1:
        values = _Unbatched(values)
    if len(values.shape) != 1 or not values.dtype.removeprefix("u").startswith("int"):
        raise Refused(
            f"its token ids are {values.dtype} of shape {list(values.shape)}, not a list of "
            "integers",
            "write one id a token, of prompt and response",
        )
    return values.read()


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """
    Give what goes wrong inside the block the name of the file; see `torch_files.source.naming`.

    Raises:
        ForeignFileError: The block refused the file, or the system could not read it.
    """
    with naming(path):
        try:
            yield
        except Refused as refused:
            raise Refused(
                refused.reason, refused.mend or "leave the file out, or write it anew"
            ) from refused


def find_one(path: Path, names: Sequence[object], present: Iterable[str], what: str) -> str:
    """
    Find under which of several names something is there.

    Raises:
        ForeignFileError: Under none, or under two.
    """
    held = set(present)
    found = [name for name in map(str, names) if name in held]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(sorted(map(ascii, held))[:12]) or "nothing"
    problem = " and ".join(found) if found else f"no {what} ({' or '.join(map(str, names))})"
    raise ForeignFileError(
        f"cannot read {path}: it holds {problem}; there is {shown}",
        mend=f"name the one array of {what} {names[0]}",
    )


def require_inside(path: Path, root: Path) -> None:
    """
    Refuse a link that leads out of the folder that is imported.

    Raises:
        ForeignFileError: It does; whoever made the folder chose which file of yours it names.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise ForeignFileError(
            f"{path} is a link out of {root}", mend="copy the file into the folder"
        )


def is_plain_name(name: object) -> bool:
    """Tell whether a file named in a file lies beside it."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not {"/", "\\", "\0"} & set(name)
        and name == os.path.basename(name)  # noqa: PTH119  # a string, not yet a path
    )
