"""A deadline that holds even where nothing reacts to being interrupted."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tistore.cli.output import say
from tistore.errors import ConfigError, SqlError
from tistore.store.threads import start

_GRACE_SECONDS = 0.5
"""Time the query's own limit has to end it in order, before the process is ended."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """
    End the process with exit code 1 if the block takes longer.

    The store is safe: what it commits, it commits whole.

    Args:
        seconds: How long the block may take; as long as it likes when None.

    Raises:
        ConfigError: The number is no length of time.
    """
    if seconds is None:
        yield
        return
    if not 0 < seconds <= threading.TIMEOUT_MAX - _GRACE_SECONDS:
        raise ConfigError(f"--timeout {seconds} is no length of time", mend="write seconds: 30")
    is_done = threading.Event()
    start(threading.Thread(target=_watch, args=(is_done, seconds), daemon=True))
    try:
        yield
    finally:
        is_done.set()


def _watch(is_done: threading.Event, seconds: float) -> None:
    if is_done.wait(seconds + _GRACE_SECONDS):
        return
    error = SqlError(
        f"the query took longer than {seconds:g} s and did not stop when asked to",
        mend="narrow it with a WHERE, or raise --timeout",
    )
    with suppress(OSError, ValueError):  # whoever read the streams may be gone
        say(f"error: {error}")
        sys.stdout.flush()
    # The main thread may be inside a library that never looks up: no exception reaches it.
    os._exit(error.exit_code)
