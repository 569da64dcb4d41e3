"""What a pickle says of a storage: its persistent id, held against the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tistore.datasets.torch_files.names import StorageType
from tistore.datasets.torch_files.pickles import NOT_DATA
from tistore.datasets.torch_files.source import Refused
from tistore.datasets.torch_files.tensor import DTYPES, Storage

_KEY = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class StorageClaim:
    """
    What a persistent id says.

    Attributes:
        key: Which storage: a number, as text.
        dtype: Element type; None when untyped, then an element is a byte.
        n_elements: How many elements it has.
        window: First element and number of elements of a view of it, in the oldest files.
    """

    key: str
    dtype: str | None
    n_elements: int
    window: tuple[int, int] | None = None

    @property
    def n_bytes(self) -> int:
        """How long the storage must be."""
        return self.n_elements * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize if self.dtype else 1


def parse_claim(persistent_id: Any) -> StorageClaim:
    """
    Read a persistent id.

    Raises:
        Refused: It is not one of a storage.
    """
    match persistent_id:
        case (str("storage"), StorageType(dtype=dtype), str() as key, str(), int() as n, *rest):
            if _KEY.fullmatch(key) and type(n) is int and 0 <= n < 2**60:
                return StorageClaim(key, dtype, n, _window(rest))
    raise Refused("its pickle refers to a storage in a way torch never writes", NOT_DATA)


def _window(rest: list[Any]) -> tuple[int, int] | None:
    match rest:
        case [] | [None]:
            return None
        case [(str(), int() as first, int() as n)] if 0 <= first < 2**60 and 0 <= n < 2**60:
            return (int(first), int(n))
    raise Refused("its pickle refers to a part of a storage in a way torch never writes", NOT_DATA)


@dataclass(slots=True)
class StorageTable:
    """
    The storages a pickle refers to; each may be described in one way only.

    Attributes:
        locate: Gives the storage for a claim, or refuses.
        claims: What was said of each key.
    """

    locate: Callable[[StorageClaim], Storage]
    claims: dict[str, StorageClaim] = field(default_factory=dict)

    def find(self, persistent_id: Any) -> Storage:
        """Give what a persistent id stands for."""
        claim = parse_claim(persistent_id)
        first = self.claims.setdefault(claim.key, claim)
        if (first.dtype, first.n_elements) != (claim.dtype, claim.n_elements):
            raise Refused(f"its storage {claim.key} is described in two ways", NOT_DATA)
        return self.locate(claim)
