"""What a pickle gave, checked as a whole before anybody walks it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tistore.datasets.torch_files.names import DtypeName
from tistore.datasets.torch_files.pickles import NOT_DATA, Name
from tistore.datasets.torch_files.source import Refused
from tistore.datasets.torch_files.tensor import TensorView

MOST_DEEP = 100

MOST_WALKED_BYTES = 1 << 30
"""What a walk over the structure may meet besides tensors, counting what is shared each time."""

_NODE = 16

_ATOMS = (str, bytes, bytearray, int, float, complex, bool, type(None), DtypeName)


class _Weights:
    """Bytes met below each container: plain ones, tensors' values, and levels."""

    def __init__(self, most_view_bytes: int) -> None:
        self.most_view_bytes = most_view_bytes
        self.known: dict[int, tuple[int, int, int]] = {}

    def is_unknown(self, value: Any) -> bool:
        """Tell whether a value is a container that was not weighed yet."""
        return _is_container(value) and id(value) not in self.known

    def of(self, value: Any) -> tuple[int, int, int]:
        kind = type(value)
        if kind in _ATOMS:
            sized = isinstance(value, str | bytes | bytearray)
            return (_NODE + len(value) if sized else _NODE), 0, 0
        if kind is TensorView:
            if value.nbytes > self.most_view_bytes:
                raise Refused(
                    f"a tensor of shape {list(value.shape)} takes {value.nbytes:,} bytes, more "
                    f"than the limit of {self.most_view_bytes:,}",
                    "raise limit_bytes, if this machine has the memory",
                )
            return _NODE, value.nbytes, 0
        if isinstance(value, np.ndarray | np.generic):
            return _NODE + value.nbytes, 0, 0
        if isinstance(value, dict | list | tuple | set | frozenset):
            return self.known[id(value)]
        what = value.text if isinstance(value, Name) else kind.__name__
        raise Refused(f"it holds {what}, which is not data", NOT_DATA)

    def add(self, container: Any) -> tuple[int, int, int]:
        plain = n_values = depth = 0
        for item in _items(container):
            below = self.of(item)
            plain, n_values, depth = plain + below[0], n_values + below[1], max(depth, below[2])
        self.known[id(container)] = (plain + _NODE, n_values, depth + 1)
        return self.known[id(container)]


def check_tree(root: Any, most_view_bytes: int, most_value_bytes: int) -> None:
    """
    Check that walking the structure ends, soon, and meets only data.

    A pickle may hold one list twice, in a list it holds twice, and so on: a thousand bytes that
    take for ever to walk. So everything shared is counted each time it is met.

    Args:
        root: What the pickle gave.
        most_view_bytes: Most bytes any one tensor in it may be, once read.
        most_value_bytes: Most bytes all tensors in it may be, once read.

    Raises:
        Refused: It holds itself, is too deep or too large to walk, or holds what is not data.
    """
    weights = _Weights(most_view_bytes)
    if not _is_container(root):
        _check_weight(weights.of(root), most_value_bytes)
        return
    # Depth first without recursion: the path down, with what is left to see of each level.
    path = [(root, iter(_items(root)))]
    above = {id(root)}
    while path:
        container, rest = path[-1]
        below = next((item for item in rest if weights.is_unknown(item)), None)
        if below is None:
            path.pop()
            above.discard(id(container))
            _check_weight(weights.add(container), most_value_bytes)
        elif id(below) in above:
            raise Refused("its structure contains itself", NOT_DATA)
        elif len(path) > MOST_DEEP:
            raise _too_deep()
        else:
            path.append((below, iter(_items(below))))
            above.add(id(below))


def _check_weight(weight: tuple[int, int, int], most_value_bytes: int) -> None:
    plain, n_values, depth = weight
    if depth > MOST_DEEP:
        raise _too_deep()
    if plain > MOST_WALKED_BYTES:
        raise Refused("its structure repeats itself until it fills any memory", NOT_DATA)
    if n_values > most_value_bytes:
        raise Refused(
            f"its tensors claim {n_values:,} bytes of values, more than the "
            f"{most_value_bytes:,} that a file of its size may hold",
            "save expanded or shared tensors once, with .clone()",
        )


def _too_deep() -> Refused:
    return Refused(f"its structure is more than {MOST_DEEP} levels deep", NOT_DATA)


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | tuple | set | frozenset)


def _items(container: Any) -> Iterable[Any]:
    if not isinstance(container, dict):
        return container  # type: ignore[no-any-return]
    return (item for pair in container.items() for item in pair)
