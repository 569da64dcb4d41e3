"""Files read side by side, handed over in order, never more of them in memory than allowed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")

IN_FLIGHT_BYTES = 128 * 2**20
"""Of values that were read, or are being read, and wait to be handed over."""

_MOST_WAITING = 256
"""Of items, whatever their size."""


def count_workers() -> int:
    """Count the threads that read: those the machine runs at once, and no more than eight."""
    return min(8, os.cpu_count() or 1)


def read_ahead(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    *,
    measure: Callable[[Item], int] = lambda item: 0,
    in_flight_bytes: int = IN_FLIGHT_BYTES,
    workers: int | None = None,
) -> Generator[tuple[Item, Read]]:
    """
    Read items on threads; yield each with what was read, in their order.

    An item larger than what may be in flight is read alone. What `read` raises is raised here,
    at the item's turn. Closed early, it waits for reads under way and starts no more.

    Args:
        items: What to read.
        read: Called on threads.
        measure: Bytes that an item's reading will take.
        in_flight_bytes: How many of them may wait at a time.
        workers: Threads; as many as make sense when left out.
    """
    waiting: deque[tuple[Item, Future[Read], int]] = deque()
    in_flight = 0
    coming = iter(items)
    following = next(coming, None)
    with ThreadPoolExecutor(workers or count_workers()) as threads:
        try:
            while waiting or following is not None:
                while following is not None and len(waiting) < _MOST_WAITING:
                    size = measure(following)
                    if waiting and in_flight + size > in_flight_bytes:
                        break
                    waiting.append((following, threads.submit(read, following), size))
                    in_flight += size
                    following = next(coming, None)
                item, future, size = waiting.popleft()
                result = future.result()
                yield item, result
                # Only now is the reading let go of: while it is used it is in memory.
                del result
                in_flight -= size
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
