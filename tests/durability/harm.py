"""The ways in which a file of a store can be harmed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from durability.every_file import Sound


class NotHarmedError(Exception):
    """The damage would leave the file as it is."""


Way = Callable[[Sound, str, np.random.Generator], tuple[str, ...]]
"""Harms a file; gives the files that have changed, or raises `NotHarmedError`."""


def _flip(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    return _flip_bits(sound, path, rng, 1)


def _flip_several(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    return _flip_bits(sound, path, rng, int(rng.integers(2, 9)))


def _flip_bits(sound: Sound, path: str, rng: np.random.Generator, n: int) -> tuple[str, ...]:
    data = np.frombuffer(sound.files[path], dtype=np.uint8).copy()
    places = rng.choice(8 * len(data), n, replace=False)
    np.bitwise_xor.at(data, places // 8, np.left_shift(1, places % 8).astype(np.uint8))
    return _put(sound, path, data.tobytes())


def _truncate(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Cut off the end: often a few bytes, now and then everything."""
    data = sound.files[path]
    left = int(rng.integers(len(data)))
    choices = (0, len(data) - 1, max(0, len(data) - int(rng.integers(1, 32))), left, left)
    return _put(sound, path, data[: choices[rng.integers(len(choices))]])


def _zero_block(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    data = sound.files[path]
    length = int(rng.integers(1, min(len(data), 512) + 1))
    start = int(rng.integers(len(data) - length + 1))
    return _put(sound, path, data[:start] + bytes(length) + data[start + length :])


def _append(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    tails = (b"\n", b" ", b"\0", rng.bytes(int(rng.integers(1, 64))), sound.files[path])
    return _put(sound, path, sound.files[path] + tails[rng.integers(len(tails))])


def _swap(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Exchange two files of one type; of two shards of one size, if there are."""
    data = sound.files[path]
    others = [
        other
        for paths in sound.types.values()
        if path in paths
        for other in paths
        if sound.files[other] != data
    ]
    alike = [other for other in others if len(sound.files[other]) == len(data)]
    if not others:
        raise NotHarmedError
    other = str(rng.choice(alike or others))
    return _put(sound, path, sound.files[other]) + _put(sound, other, data)


def _replace(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Put in its place what such a file held in another store; one of its size, if there is."""
    data = sound.files[path]
    (older,) = (sound.older.get(name, []) for name, all in sound.types.items() if path in all)
    alike = [other for other in older if len(other) == len(data)]
    if not older:
        raise NotHarmedError
    return _put(sound, path, (alike or older)[rng.integers(len(alike or older))])


def _delete(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    (sound.path / path).unlink()
    return (path,)


def _make_folder(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    (sound.path / path).unlink()
    (sound.path / path).mkdir()
    return (path,)


def _make_link(sound: Sound, path: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Let it point elsewhere, where the very same bytes may lie; or nowhere."""
    target = sound.path / path
    elsewhere = sound.path.parent / f"{sound.path.name}.elsewhere"
    elsewhere.unlink(missing_ok=True)
    if rng.integers(4):
        elsewhere.write_bytes(sound.files[path])
    target.unlink()
    target.symlink_to(elsewhere)
    return (path,)


def _put(sound: Sound, path: str, data: bytes) -> tuple[str, ...]:
    if data == sound.files[path]:
        raise NotHarmedError
    (sound.path / path).write_bytes(data)
    return (path,)


WAYS: dict[str, Way] = {
    "bit flip": _flip,
    "flips": _flip_several,
    "truncation": _truncate,
    "zeroed block": _zero_block,
    "appended bytes": _append,
    "swap": _swap,
    "other content": _replace,
    "deletion": _delete,
    "folder": _make_folder,
    "link": _make_link,
}
MANY = ("bit flip", "flips", "truncation")
"""Ways of which there are as many as there are bytes."""
