"""Writers that are killed, or whose system calls fail: what was acknowledged stays, whole."""

from __future__ import annotations

import pytest

from durability.acknowledgements import check
from durability.forked import launch
from durability.made import KINDS, Made
from tistore.store.base import BaseStore


def raise_if_broken(found):
    assert found["lost"] == []
    assert found["partial"] == []
    assert found["wrong"] == []


@pytest.fixture
def written(store):
    """A store with one thing of every kind; gives its path, and what was acknowledged."""
    things = [Made(kind, 3) for kind in KINDS]
    with store.writer() as writer:
        for made in things:
            if made.kind != "vector":
                writer.add(**made.arguments())
    store.add_vector(things[-1].trait, things[-1].direction(), layer=5)
    return store.path, things


@pytest.fixture
def store(tmp_path):
    return BaseStore.create(tmp_path / "s.tistore")


def test_a_sound_store_passes_the_check(written):
    path, things = written

    findings = check(path, things)

    assert findings.ok
    assert findings.extra == ()


def test_the_check_sees_what_is_lost_and_what_nobody_acknowledged(written):
    path, things = written

    findings = check(path, [*things[1:], Made("reading", 4)])

    assert findings.lost == ("reading:4",)
    assert findings.extra == (Made("reading", 3),)


def test_the_check_sees_what_should_be_gone(written):
    path, things = written

    assert check(path, things, gone=[things[0]]).wrong


def test_the_check_sees_other_values(store):
    """Those of another seed under this one's name."""
    other = Made("reading", 8).arguments()["activations"]
    with store.writer() as writer:
        writer.add(**Made("reading", 7).arguments() | {"activations": other})
    store.add_vector(Made("vector", 7).trait, Made("vector", 8).direction(), layer=5)

    findings = check(store.path, [])

    assert [problem.split(":")[0] for problem in findings.wrong] == ["reading", "vector"]


def test_the_check_sees_a_damaged_file(written):
    path, things = written
    shard = next(path.glob("segments/*/residual_mean.zarr/c/*/*/*"))
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)

    findings = check(path, things)

    assert not findings.ok


def test_a_killed_writer_loses_nothing_acknowledged():
    """SIGKILL at random moments, one writer or two at work; the next goes on in the same store."""
    found = launch("kills", kills=16, longest_seconds=0.1)

    raise_if_broken(found)
    assert found["kills"] >= 16
    assert found["within"] > 0


def test_a_commit_may_end_at_any_of_its_system_calls():
    """By SIGKILL, or by an error that the call is made to give."""
    effects = ["signal=SIGKILL", "error=EIO", "error=ENOSPC"]
    found = launch("system_calls", effects=effects, points=14)
    if "skipped" in found:
        pytest.skip(found["skipped"])

    raise_if_broken(found)
    assert found["points"] == 14
