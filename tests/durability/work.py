"""What the writers of the laboratory do, one acknowledged step after another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from durability.ledger import Account, Ledger
from durability.made import Made
from tistore.errors import DeviceError, RewriteConflictError
from tistore.store.base import BaseStore

Step = Callable[[Path, Ledger, int], None]
"""Given a store, where to write down what is done, and a seed that nobody else has."""


def append(path: Path, ledger: Ledger, seed: int) -> None:
    """Three readings, a commit each, by one writer."""
    with BaseStore.open(path).writer(flush_bytes=1) as writer:
        for made in (Made("reading", 3 * seed + offset) for offset in range(3)):
            ledger.write("adding", [made])
            writer.add(**made.arguments())
            ledger.write("added", [made])


def shapes(path: Path, ledger: Ledger, seed: int) -> None:
    """Readings of several shapes in one commit: a segment for each, and all of them or none."""
    things = [Made(kind, 3 * seed) for kind in ("reading", "replay", "wide", "long")]
    ledger.write("adding", things)
    with BaseStore.open(path).writer() as writer:
        for made in things:
            writer.add(**made.arguments())
        writer.commit()
        ledger.write("added", things)


def long(path: Path, ledger: Ledger, seed: int) -> None:
    """A reading of several chunks, which threads encode."""
    made = Made("long", seed)
    ledger.write("adding", [made])
    with BaseStore.open(path).writer(flush_bytes=1) as writer:
        writer.add(**made.arguments())
        ledger.write("added", [made])


def vectors(path: Path, ledger: Ledger, seed: int) -> None:
    """Two vectors, the second of which goes again."""
    store = BaseStore.open(path)
    kept, dropped = Made("vector", 2 * seed), Made("vector", 2 * seed + 1)
    for made in (kept, dropped):
        ledger.write("adding", [made])
        vector = store.add_vector(made.trait, made.direction(), layer=5)
        ledger.write("added", [made])
    ledger.write("removing", [dropped])
    with store.writer() as writer:
        writer.remove_vectors([vector])
    ledger.write("removed", [dropped])


def compact(path: Path, ledger: Ledger, seed: int) -> None:
    """Readings, a segment each, and then fewer segments."""
    append(path, ledger, seed)
    with suppress(RewriteConflictError):  # another writer replaces what this one is about to
        BaseStore.open(path).compact()


def remove(path: Path, ledger: Ledger, seed: int) -> None:
    """Readings, of which some go again: a segment is dropped, and another written anew."""
    shapes(path, ledger, seed)
    store = BaseStore.open(path)
    dropped = [Made("long", 3 * seed), Made("replay", 3 * seed)]
    rows = (
        row for segment in store.snapshot.segments for row in segment.table("responses").to_pylist()
    )
    keys = [row["reading_key"] for row in rows if Made.of(row) in dropped]
    ledger.write("removing", dropped)
    with suppress(RewriteConflictError):
        store.remove_readings(keys)
        ledger.write("removed", dropped)


def collect(path: Path, ledger: Ledger, seed: int) -> None:
    """Readings, merged, and everything deleted that is not needed any more."""
    compact(path, ledger, seed)
    BaseStore.open(path).gc(dry_run=False, keep_days=0, trash_days=0)


def repair(path: Path, ledger: Ledger, seed: int) -> None:
    """Readings, of which one is damaged beyond mending, and dropped."""
    shapes(path, ledger, seed)
    damaged = Made("long", 3 * seed)
    ledger.write("removing", [damaged])
    (uuid,) = (
        segment.uuid
        for segment in BaseStore.open(path).snapshot.segments
        if damaged in map(Made.of, segment.table("responses").to_pylist())
    )
    try:
        _damage(path / "segments" / uuid)
    except OSError as error:  # the injected fault has met the laboratory, not the store
        raise DeviceError("nothing was damaged, and nothing is to be repaired") from error
    BaseStore.repair(path, dry_run=False)
    ledger.write("removed", [damaged])


def _damage(segment: Path) -> None:
    shard = max(segment.rglob("*"), key=lambda file: file.stat().st_size)
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(bytes(64))


def finish(path: Path, steps: Iterable[str]) -> None:
    """Do what is asked of whoever comes after a step that did not end: a repair is run again."""
    if "repair" in steps:
        BaseStore.repair(path, dry_run=False)


STEPS: dict[str, Step] = {
    "append": append,
    "shapes": shapes,
    "long": long,
    "vectors": vectors,
    "compact": compact,
    "remove": remove,
    "collect": collect,
    "repair": repair,
}

ALONE = {"collect", "repair"}
"""Steps whose mistakes other writers at work would feel, and say so with an error of theirs."""


def choose_steps(rng: random.Random, writers: int) -> list[str]:
    """Choose what writers do beside one another."""
    chosen = rng.choices(sorted(STEPS), k=writers)
    alone = [step for step in chosen if step in ALONE]
    return alone[:1] or chosen


def do_all(folder: Path) -> None:
    """Do every step once, in a store of its own, and check it: for what it makes Python load."""
    BaseStore.create(folder / "s.tistore")
    ledger = Ledger(folder / "ledger")
    for number, step in enumerate(STEPS.values()):
        step(folder / "s.tistore", ledger, number)
    account = Account()
    account.read(folder / "ledger")
    account.check(folder / "s.tistore").raise_if_broken()
