"""A repair that runs out of descriptors or memory takes nothing sound for damaged."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from example_readings import make_reading
from tistore.errors import NoMemoryError, TooManyFilesError
from tistore.store.base import BaseStore
from tistore.store.layout import commit_path


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store of two commits; a chunk of activations and the first commit have a flipped bit."""
    store = BaseStore.create(tmp_path / "s.tistore")
    for seed in range(2):
        with store.writer() as writer:
            writer.add(**make_reading(seed))
    shard = next(path for path in sorted(store.path.rglob("c/0/*")) if "residual.zarr" in str(path))
    shard = next(path for path in sorted(shard.rglob("*")) if path.is_file())
    for path in (shard, store.path / commit_path(1)):
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
    return store.path


def test_a_repair_short_of_anything_stops_or_tells_the_same(damaged, tmp_path, monkeypatch):
    """Each opening of a file fails once, in a copy: the answer is the whole one, or none."""
    opened = os.open
    failing, count = -1, 0

    def fail(path, *arguments, **options):
        nonlocal count
        if str(tmp_path) in str(path) and "copy" in str(path):
            count += 1
            if count == failing:
                code = (errno.EMFILE, errno.ENOMEM)[count % 2]
                raise OSError(code, os.strerror(code), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("tistore.store.posix.os.open", fail)

    def plan() -> list:
        nonlocal count
        count = 0
        return [(mend.path, mend.action) for mend in BaseStore.repair(copy).mends]

    copy = Path(shutil.copytree(damaged, tmp_path / "copy"))
    whole, stopped = plan(), 0
    assert whole
    for number in range(1, count + 1):
        failing = number
        try:
            assert plan() == whole
        except (TooManyFilesError, NoMemoryError):
            stopped += 1
    assert stopped > 0
