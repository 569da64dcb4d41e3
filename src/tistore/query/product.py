"""
The product of a scan: float16 rows times a few directions, in blocks that stay in cache.

Every block has the same height, the last of a chunk being filled up: BLAS adds a row's products
in another order when it stands at the edge of fewer rows, and a row's score must not depend on
where in a segment it lies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from tistore.store.half import EXPONENT_GAP, widen
from tistore.store.shards import full_chunk_rows

Half = NDArray[np.float16]
Scores = NDArray[np.float32]

_BLOCK_BYTES = 1 << 20
_TILE = 16  # rows that BLAS takes together
_FEW = 4  # directions: up to here the cast is the work, beyond it the product
_GPU_WORK = 1e12  # multiplications from which on it pays to import torch for a GPU


class Product(Protocol):
    """Multiplies rows with fixed directions. Each thread has its own."""

    def __call__(self, rows: Half, scores: Scores) -> None:
        """Fill `scores`, (direction, row), from `rows`, (row, hidden)."""


class NumpyProduct:
    """
    The product on one thread of the processor, with NumPy.

    A block of rows is cast to float32 and multiplied while it is in the cache; products are
    accumulated in float32 by BLAS.

    Args:
        units: (direction, hidden) float32.
    """

    def __init__(self, units: NDArray[np.float32]) -> None:
        self._columns = np.ascontiguousarray((units * EXPONENT_GAP).T)
        self._block = np.zeros((_block_rows(*units.shape), units.shape[1]), dtype=np.float32)

    def __call__(self, rows: Half, scores: Scores) -> None:
        """Fill `scores` block by block."""
        for start in range(0, len(rows), len(self._block)):
            part = rows[start : start + len(self._block)]
            widen(part, self._block[: len(part)])
            product = self._block @ self._columns
            scores[:, start : start + len(part)] = product[: len(part)].T


class TorchProduct:
    """
    The same with torch, whose cast is one pass; and its product, when directions are many.

    Args:
        units: (direction, hidden) float32.
        torch: The module.
    """

    def __init__(self, units: NDArray[np.float32], torch: Any) -> None:
        self._torch = torch
        self._unit = np.ascontiguousarray(units[0])
        self._columns = torch.from_numpy(np.ascontiguousarray(units.T))
        self._block = torch.zeros((_block_rows(*units.shape), units.shape[1]))
        self._same_block = self._block.numpy()

    def __call__(self, rows: Half, scores: Scores) -> None:
        """Fill `scores` block by block."""
        height = len(self._same_block)
        for start in range(0, len(rows), height):
            part = rows[start : start + height]
            block = self._block if len(part) == height else self._block[: len(part)]
            block.copy_(self._torch.from_numpy(part))
            if len(scores) == 1:
                # Calls are a tenth of the work here, and NumPy's are shorter.
                product = np.dot(self._same_block, self._unit)
                scores[0, start : start + len(part)] = product[: len(part)]
            else:
                product = self._torch.mm(self._block, self._columns).numpy()
                scores[:, start : start + len(part)] = product[: len(part)].T


class GpuProduct:
    """
    The product on a CUDA device, in float32.

    Args:
        units: (direction, hidden) float32.
        torch: The module.
    """

    def __init__(self, units: NDArray[np.float32], torch: Any) -> None:
        self._torch = torch
        self._units = torch.from_numpy(np.ascontiguousarray(units)).cuda()
        self._block = torch.zeros((_block_rows(*units.shape), units.shape[1]), device="cuda")

    def __call__(self, rows: Half, scores: Scores) -> None:
        """Fill `scores`; the rows cross as float16 and are cast on the device."""
        torch = self._torch
        height = len(self._block)
        # TF32 would keep ten bits of each factor.
        with torch.backends.cuda.matmul.flags(allow_tf32=False):
            for start in range(0, len(rows), height):
                part = torch.from_numpy(rows[start : start + height]).cuda()
                self._block[: len(part)] = part
                product = self._units @ self._block.T
                scores[:, start : start + len(part)] = product[:, : len(part)].cpu().numpy()


def _block_rows(n_directions: int, hidden: int) -> int:
    """Choose how many rows are cast at a time: in the cache, and a chunk has few left over."""
    block_bytes = _BLOCK_BYTES if n_directions <= _FEW else 2 * _BLOCK_BYTES
    of_chunk = full_chunk_rows(2 * hidden)
    n_blocks = -(-of_chunk // max(_TILE, block_bytes // (4 * hidden)))
    height = -(-of_chunk // n_blocks)
    return -(-height // _TILE) * _TILE


def choose_product(n_directions: int, n_values: int) -> Callable[[NDArray[np.float32]], Product]:
    """
    Choose what multiplies: a GPU, or the processor with the fastest library at hand.

    Torch is used when the program has imported it; it is imported for the sake of a GPU when the
    work is worth the seconds that takes.

    Args:
        n_directions: Directions of the scan.
        n_values: Activation values of the scan.

    Returns:
        Makes a product from units of (direction, hidden); called once a thread.
    """
    torch = sys.modules.get("torch")
    if torch is None and n_directions * n_values >= _GPU_WORK and _has_gpu_and_torch():
        import torch as imported

        torch = imported
    if torch is None:
        return NumpyProduct
    if n_directions > _FEW and torch.cuda.is_available():
        return lambda units: GpuProduct(units, torch)
    return lambda units: TorchProduct(units, torch)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep BLAS and torch to one thread a call while the scan's own threads are at work."""
    torch = sys.modules.get("torch")
    n_threads = None if torch is None else torch.get_num_threads()
    with _controller().limit(limits=1, user_api="blas"):
        try:
            if torch is not None:
                torch.set_num_threads(1)
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(n_threads)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # walks all loaded libraries: once is enough


def _has_gpu_and_torch() -> bool:
    return Path("/dev/nvidiactl").exists() and find_spec("torch") is not None
