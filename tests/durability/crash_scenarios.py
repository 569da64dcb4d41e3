"""What processes do while the power is cut: each scenario is prepared, and then acted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from durability.made import Made
from durability.recording import Operation, Recording
from tistore.store.base import BaseStore

Act = Callable[[Path, Recording], None]
"""Given where the store is, or will be, and what writes down what is done and said."""

_COMMIT = r"commits/\d{20}\.json"


def create(path: Path, recording: Recording) -> None:
    """A store is made, in folders that are not there yet."""
    recording.say("creating")
    BaseStore.create(path, system=recording.process())
    recording.say("created")


def create_and_append(path: Path, recording: Recording) -> None:
    """A store is made, and one process commits everything there is, one after another."""
    system = recording.process()
    recording.say("creating")
    store = BaseStore.create(path, system=system)
    recording.say("created")
    _commit(store, recording, [Made("reading", 0)])
    _commit(store, recording, [Made("reading", 1), Made("replay", 1), Made("wide", 1)])
    kept, dropped = Made("vector", 2), Made("vector", 3)
    for made in (kept, dropped):
        recording.say("adding", [made])
        vector = store.add_vector(made.trait, made.direction(), layer=5)
        recording.say("added", [made])
    recording.say("removing", [dropped])
    with store.writer() as writer:
        writer.remove_vectors([vector])
    recording.say("removed", [dropped])


def one_writer(path: Path, recording: Recording) -> None:
    """One writer commits twice."""
    store = BaseStore.open(path, system=recording.process())
    with store.writer() as writer:
        for made in (Made("reading", 1), Made("wide", 1)):
            recording.say("adding", [made])
            writer.add(**made.arguments())
            writer.commit()
            recording.say("added", [made])


def another_relies_on_what_it_sees(path: Path, recording: Recording) -> None:
    """A second process is told that a reading is there, whose commit is linked but not durable."""
    first, second = recording.process(), recording.process()

    def other() -> None:
        store = BaseStore.open(path, system=second)
        _commit(store, recording, [Made("reading", 1)])

    first.meanwhile(after_link(of=_COMMIT), other)
    _commit(BaseStore.open(path, system=first), recording, [Made("reading", 1)])


def another_goes_on(path: Path, recording: Recording) -> None:
    """A second process commits after a commit that is linked, but not durable, and dies."""
    first, second = recording.process(), recording.process()
    writer = BaseStore.open(path, system=second).writer()
    recording.say("adding", [Made("reading", 2)])
    writer.add(**Made("reading", 2).arguments())
    second.die(after_link(of=_COMMIT))
    first.meanwhile(after_link(of=_COMMIT), lambda: second.live(writer.commit))
    _commit(BaseStore.open(path, system=first), recording, [Made("reading", 1)])


def another_has_just_linked(path: Path, recording: Recording) -> None:
    """A writer sees another's commit right after its own, and is given the same reading again."""
    first, second = recording.process(), recording.process()
    own, same = Made("reading", 2), Made("reading", 1)
    # The other dies before its link is durable, and after the first's own is.
    second.die(after_link(of=_COMMIT))
    first.meanwhile(
        after_link(of=_COMMIT, call="unlink"),
        lambda: second.live(
            lambda: _commit(BaseStore.open(path, system=second), recording, [same])
        ),
    )
    with BaseStore.open(path, system=first).writer() as writer:
        for made in (own, same):
            recording.say("adding", [made])
            writer.add(**made.arguments())
            writer.commit()
            recording.say("added", [made])


def a_writer_is_killed(path: Path, recording: Recording) -> None:
    """A writer dies before its link is durable; another goes on with the same, and more."""
    first = recording.process()
    first.die(after_link(of=_COMMIT))
    first.live(lambda: _commit(BaseStore.open(path, system=first), recording, [Made("reading", 1)]))
    second = BaseStore.open(path, system=recording.process())
    _commit(second, recording, [Made("reading", 1)])
    _commit(second, recording, [Made("wide", 2)])


def a_store_is_used_before_it_is_made(path: Path, recording: Recording) -> None:
    """A process finds a store that another is just making, and commits to it."""
    first, second = recording.process(), recording.process()

    def other() -> None:
        store = BaseStore.open(path, system=second)
        _commit(store, recording, [Made("reading", 1)])
        recording.say("created")

    first.meanwhile(after_link(of=r"tistore\.json"), other)
    recording.say("creating")
    BaseStore.create(path, system=first)
    recording.say("created")


def compact(path: Path, recording: Recording) -> None:
    """Small segments and table files are merged."""
    BaseStore.open(path, system=recording.process()).compact()


def compact_and_collect(path: Path, recording: Recording) -> None:
    """They are merged, and the old ones deleted at once."""
    store = BaseStore.open(path, system=recording.process())
    store.compact()
    _collect(path, recording)


def another_collects_before_it_is_durable(path: Path, recording: Recording) -> None:
    """A process deletes what a commit replaces that is linked, but not durable."""
    first = recording.process()
    first.meanwhile(after_link(of=_COMMIT), lambda: _collect(path, recording))
    BaseStore.open(path, system=first).compact()


def two_collect(path: Path, recording: Recording) -> None:
    """A process deletes what another has just given up, in a commit that is not durable."""
    BaseStore.open(path, system=recording.process()).compact()
    first = recording.process()
    first.meanwhile(after_link(of=_COMMIT), lambda: _collect(path, recording))
    BaseStore.open(path, system=first).gc(dry_run=False, keep_days=0, trash_days=0)


def collect_what_the_dead_left(path: Path, recording: Recording) -> None:
    """A writer dies, having written its files; another writes on while they are collected."""
    first = recording.process()
    first.die(is_link(of=_COMMIT))
    first.live(lambda: _commit(BaseStore.open(path, system=first), recording, [Made("reading", 1)]))
    second, third = recording.process(), BaseStore.open(path, system=recording.process())
    second.meanwhile(
        lambda operation: operation.call == "rename",
        lambda: _commit(third, recording, [Made("reading", 2)]),
    )
    BaseStore.open(path, system=second).gc(dry_run=False)
    _collect(path, recording)


def remove(path: Path, recording: Recording) -> None:
    """Readings are removed: of one segment all, of another some."""
    going = [Made("reading", 5), Made("reading", 10)]
    store = BaseStore.open(path, system=recording.process())
    keys = [find_key(store, made) for made in going]
    recording.say("removing", going)
    store.remove_readings(keys)
    recording.say("removed", going)


def repair(path: Path, recording: Recording) -> None:
    """A damaged reading is dropped."""
    BaseStore.repair(path, dry_run=False, system=recording.process())


def nothing(path: Path, recording: Recording) -> None:
    """There is no store."""


def small_store(path: Path, recording: Recording) -> None:
    """A store with a reading in it."""
    path.parent.mkdir(parents=True)
    _commit(BaseStore.create(path), recording, [Made("reading", 0)])


def fragmented_store(path: Path, recording: Recording) -> None:
    """A store of small segments of two shapes, and small files of tables."""
    small_store(path, recording)
    store = BaseStore.open(path)
    for kind, seed in (("reading", 5), ("wide", 5), ("wide", 6), ("reading", 7)):
        _commit(store, recording, [Made(kind, seed)])
    _commit(store, recording, [Made("reading", 10), Made("reading", 11)])
    for made in (Made("vector", 8), Made("vector", 9)):
        recording.say("adding", [made])
        store.add_vector(made.trait, made.direction(), layer=5)
        recording.say("added", [made])


def damaged_store(path: Path, recording: Recording) -> None:
    """A store in which one reading of several is damaged."""
    fragmented_store(path, recording)
    recording.say("removing", [Made("wide", 5)])  # it may be gone, or be there
    store = BaseStore.open(path)
    segment = next(one for one in store.snapshot.segments if one.layers == (1, 4, 7))
    shard = path / "segments" / segment.uuid / "residual.zarr" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40:60] = bytes(20)
    shard.write_bytes(bytes(data))


SCENARIOS: dict[str, tuple[Act, Act]] = {
    "create": (nothing, create),
    "create and append": (nothing, create_and_append),
    "a store is used before it is made": (nothing, a_store_is_used_before_it_is_made),
    "one writer": (small_store, one_writer),
    "another relies on what it sees": (small_store, another_relies_on_what_it_sees),
    "another goes on": (small_store, another_goes_on),
    "another has just linked": (small_store, another_has_just_linked),
    "a writer is killed": (small_store, a_writer_is_killed),
    "compact": (fragmented_store, compact),
    "compact and collect": (fragmented_store, compact_and_collect),
    "another collects before it is durable": (
        fragmented_store,
        another_collects_before_it_is_durable,
    ),
    "remove": (fragmented_store, remove),
    "repair": (damaged_store, repair),
    "two collect": (fragmented_store, two_collect),
    "collect what the dead left": (small_store, collect_what_the_dead_left),
}
"""For each scenario what is there before, and what happens."""

AGAIN: dict[str, Callable[[Path], object]] = {
    "repair": lambda path: BaseStore.repair(path, dry_run=False),
}
"""What is asked for again after the power cut, before anything else."""


def _commit(store: BaseStore, recording: Recording, things: Sequence[Made]) -> None:
    """Commit readings at once."""
    recording.say("adding", things)
    with store.writer() as writer:
        for made in things:
            writer.add(**made.arguments())
        writer.commit()
        recording.say("added", things)


def find_key(store: BaseStore, made: Made) -> str:
    """Look up a reading's key."""
    wanted = made.arguments()
    for segment in store.snapshot.segments:
        for row in segment.table("responses").to_pylist():
            if (row["prompt_set"], row["prompt_id"]) == (wanted["prompt_set"], str(made.seed)):
                return str(row["reading_key"])
    raise LookupError(made)


def _collect(path: Path, recording: Recording) -> None:
    """Delete what is not needed, at once."""
    store = BaseStore.open(path, system=recording.process())
    store.gc(dry_run=False, keep_days=0, trash_days=0)


def is_link(of: str) -> Callable[[Operation], bool]:
    """The calls that give a file a name that matches."""
    return lambda operation: (
        operation.call == "link" and re.fullmatch(f".*/{of}", operation.target) is not None
    )


def after_link(of: str, call: str = "sync_folder") -> Callable[[Operation], bool]:
    """The first such call after a file was given a name that matches."""
    links: list[Operation] = []

    def matches(operation: Operation) -> bool:
        if is_link(of)(operation):
            links.append(operation)
        return operation.call == call and bool(links)

    return matches
