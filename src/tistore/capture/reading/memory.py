"""Going on with less when a device's memory runs out."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tistore.errors import NoRoomError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt`, in the GNU C library's malloc.h."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_in_parts(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    halved: Callable[[int], None] = lambda size: None,
) -> list[Result]:
    """
    Work on all items at once; where memory runs out, from the start on parts half as large.

    Results of other parts are equal to within float rounding only, so none of a failed attempt
    are kept: what comes out was made in parts of one size.

    Args:
        items: What to work on.
        work: Gives one result an item.
        halved: Told the new size whenever memory has run out.

    Raises:
        NoRoomError: A single item is too large.
    """
    size = len(items)
    while size:
        try:
            starts = range(0, len(items), size)
            return [result for at in starts for result in work(items[at : at + size])]
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise NoRoomError(
                    f"one sequence does not fit into the device's memory: {error}",
                    mend='lower max_new_tokens, or set quantization = "4bit" in [base]',
                ) from error
            size = -(-size // 2)
        # Here the exception is gone, and with it the frames that held the tensors.
        release_memory()
        halved(size)
    return []


def keep_freed_memory() -> None:
    """
    Have this process keep what it frees, to use it again: for commands, not for a program's guests.

    Every batch frees and asks for blocks of the same sizes. The GNU C library gives large ones back
    to the kernel, which zeroes them page by page when they are asked for anew: on a virtual machine
    that took 7 % of a forward pass. Elsewhere this does nothing.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def release_memory() -> None:
    """Give back what nobody holds any more, GPUs' memory included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
