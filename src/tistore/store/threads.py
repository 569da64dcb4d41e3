"""
Threads that are refused, rather than waited for in vain, where memory is short.

A Python thread that finds no memory at all dies before it can say that it began, and whoever
starts it waits for that word for ever. So there has to be room for it first.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from tistore.errors import NoMemoryError

_ROOM_BYTES = 32 << 20
"""A stack, which is 8 MB on most systems, and more than what a thread needs to begin with."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """
    An executor that fails where a thread could not begin; used like the standard library's.

    Raises:
        NoMemoryError: From `submit` and `map`: memory, or the number of threads, is used up.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread call something."""
        future: Future[T] = _begin(super().submit, fn, *args, **kwargs)
        return future


def start(thread: Thread) -> None:
    """
    Start a thread.

    Raises:
        NoMemoryError: Memory, or the number of threads, is used up; it was not started.
    """
    _begin(thread.start)


def _begin(begin: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        # Taken from the address space and given back at once; no page of it is touched.
        mmap.mmap(-1, _ROOM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        return begin(*arguments, **options)
    except (OSError, RuntimeError) as error:
        raise NoMemoryError(
            f"no thread can be started: {error}",
            mend="free some memory, or raise the limits (ulimit -v, ulimit -u), and run the same "
            "command again",
        ) from error
