"""Full disks, as a writer meets them. File systems that fill up: tests/durability."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from example_readings import make_reading
from tistore.errors import NoRoomError
from tistore.store.posix import PosixFiles


def test_no_room_is_seen_before_anything_is_written(store, monkeypatch):
    monkeypatch.setattr(PosixFiles, "free_bytes", lambda self: 1000)
    writer = store.writer()
    writer.add(**make_reading())

    with pytest.raises(NoRoomError, match="only 0 MB are free"):
        writer.commit()

    assert list((store.path / "segments").iterdir()) == []
    monkeypatch.undo()
    writer.commit()
    assert store.info().readings == 1


def test_a_write_that_fails_leaves_no_threads_behind(store, monkeypatch):
    """Left to the garbage collector they would be waited for at any moment, even a deadly one."""
    written = os.write
    calls = []

    def fill_up(descriptor, data):
        calls.append(len(data))
        if len(data) > 100_000:  # a chunk of activations, not the first file
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, data)

    writer = store.writer()
    big = np.random.default_rng(0).standard_normal((400, 2, 512)).astype(np.float16)
    writer.add(**make_reading(token_ids=list(range(400)), prompt_length=0, tokens=None,
                              activations={"residual": big}))  # fmt: skip
    before = set(threading.enumerate())
    monkeypatch.setattr("tistore.store.system.os.write", fill_up)

    with pytest.raises(NoRoomError) as failure:
        writer.commit()

    assert set(threading.enumerate()) == before
    assert failure.value.__traceback__  # which holds on to all that was under way
    monkeypatch.undo()
    writer.commit()
