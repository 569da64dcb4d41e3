"""Full disks and killed writers: what was acknowledged stays, whole."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from example_readings import make_reading
from tistore.errors import NoRoomError
from tistore.store.base import BaseStore
from tistore.store.posix import PosixFiles

WRITE_FOREVER = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from example_readings import make_reading
from tistore.store.base import BaseStore
store = BaseStore.open(sys.argv[1])
seed = int(sys.argv[3])
with store.writer(flush_bytes=1) as writer:
    while True:
        writer.add(**make_reading(seed))
        print(seed, flush=True)  # acknowledged
        seed += 1
"""


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


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_up_keeps_every_commit(tmp_path, monkeypatch):
    """The same writer goes on once there is room again."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setattr(PosixFiles, "free_bytes", lambda self: None)
        store = BaseStore.create(small / "s.tistore")
        writer = store.writer()
        added = 0
        with pytest.raises(NoRoomError):
            while True:
                writer.add(**make_reading(added))
                added += 1
                writer.commit()

        assert BaseStore.open(store.path).info().readings == added - 1
        report = BaseStore.open(store.path).verify()
        assert report.ok
        assert report.uncommitted_segments == ()
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        writer.close()
        assert BaseStore.open(store.path).info().readings == added
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_killed_writer_loses_nothing_acknowledged(store, tmp_path):
    """SIGKILL at random moments; the next writer goes on in the same store."""
    here = str(Path(__file__).parent.parent)
    rng = random.Random(0)
    acknowledged: list[int] = []
    for round_number in range(6):
        command = [sys.executable, "-c", WRITE_FOREVER, str(store.path), here]
        process = subprocess.Popen(
            [*command, str(10_000 * round_number)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged.append(int(process.stdout.readline()))
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split()]
        process.wait()

    reopened = BaseStore.open(store.path)
    report = reopened.verify()
    stored = {
        prompt_id.as_py()
        for segment in reopened.snapshot.segments
        for prompt_id in segment.table("responses")["prompt_id"]
    }
    assert report.ok
    assert {str(seed) for seed in acknowledged} <= stored
    assert len(stored) - len(acknowledged) <= 6
    with reopened.writer() as writer:
        writer.add(**make_reading(5))
    shutil.rmtree(store.path)
