"""
One call that fails: every call by which a store changes the disk, with every error there is.

    python -m durability.injected 0.1           in tests/; how much of it
"""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durability.acknowledgements import Findings, check
from durability.crash_scenarios import find_key
from durability.crash_states import scratch_folder
from durability.made import Made
from durability.table import Row, to_markdown
from tistore.errors import (
    DeviceError,
    NoMemoryError,
    NoRoomError,
    ReadOnlyError,
    StoreError,
    StoreExistsError,
    TistoreError,
    TooManyFilesError,
)
from tistore.store.base import BaseStore
from tistore.store.system import System
from tistore.store.writer import Writer

CALLS = (
    "create", "write", "sync", "make_folder", "sync_folder", "link", "rename", "unlink",
    "remove_folder",
)  # fmt: skip

ERRORS: dict[str, type[StoreError]] = {
    "EACCES": ReadOnlyError,
    "EDQUOT": NoRoomError,
    "EIO": DeviceError,
    "EMFILE": TooManyFilesError,
    "ENOMEM": NoMemoryError,
    "ENOSPC": NoRoomError,
    "EROFS": ReadOnlyError,
    "MemoryError": NoMemoryError,
}
"""What a call fails with, and what the caller is told."""

SHORT = "a short write"
EFFECTS = (*sorted(ERRORS), SHORT)

_LASTING = {"EDQUOT", "ENOSPC", "EROFS"}
_TAKES_ROOM = {"create", "write", "sync", "make_folder", "sync_folder", "link", "rename"}
_OPENS = {"create", "sync_folder"}


@dataclass(frozen=True, slots=True)
class Fault:
    """
    A call that fails.

    Attributes:
        call: A method of `System`.
        number: Which of its calls, from 1; all from there on, until the fault is mended, where the
            effect is one that lasts.
        effect: What it fails with.
    """

    call: str
    number: int
    effect: str

    def __str__(self) -> str:
        """Name it."""
        return f"{self.effect} at {self.call} {self.number}"

    @property
    def is_possible(self) -> bool:
        """Whether the system has such an error for the call."""
        if self.effect == SHORT:
            return self.call == "write"
        if self.effect in ("EDQUOT", "ENOSPC"):
            return self.call in _TAKES_ROOM
        if self.effect == "MemoryError":
            return self.call in ("create", "write")
        return self.effect != "EMFILE" or self.call in _OPENS


class FaultySystem(System):
    """
    Makes one call fail, and counts all of them.

    Args:
        fault: Which; None for none.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.has_struck = False
        self._fault = fault

    def mend(self) -> None:
        """Let nothing fail any more."""
        self._fault = None

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data, or little of it."""
        if self._meets("write") == SHORT:
            return super().write(descriptor, data[: max(len(data) // 2, 1)])
        return super().write(descriptor, data)

    def _meets(self, call: str) -> str | None:
        """Count a call; raises what it meets with, or gives what it is to do otherwise."""
        self.calls[call] += 1
        fault, number = self._fault, self.calls[call]
        if fault is None or fault.call != call:
            return None
        if number != fault.number and not (number > fault.number and fault.effect in _LASTING):
            return None
        self.has_struck = True
        if fault.effect == "MemoryError":
            raise MemoryError
        if fault.effect != SHORT:
            code = getattr(errno, fault.effect)
            raise OSError(code, os.strerror(code))
        return SHORT


def _met(call: str) -> Callable[..., Any]:
    real: Callable[..., Any] = getattr(System, call)

    def method(self: FaultySystem, *arguments: Any) -> Any:
        self._meets(call)
        return real(self, *arguments)

    return method


for _call in CALLS:
    if _call != "write":
        setattr(FaultySystem, _call, _met(_call))


@dataclass(slots=True)
class Work:
    """
    Something a user does, which can be asked for again where it failed.

    Attributes:
        path: The store.
        system: The calls that change the disk.
        things: What is there once it is done.
        going: What is not there any more once it is done.
        writer: One that was opened, and goes on with what waits.
    """

    path: Path
    system: System
    things: tuple[Made, ...] = ()
    going: tuple[Made, ...] = ()
    writer: Writer | None = None

    def create(self) -> None:
        """Make a store next to the one there is."""
        try:
            BaseStore.create(self.path.with_suffix(".new"), system=self.system)
        except StoreExistsError:  # it was made, though not known to be durable
            assert BaseStore.open(self.path.with_suffix(".new")).snapshot.number == 0

    def append(self) -> None:
        """Commit readings of two shapes; what waits is committed by the same writer."""
        self.things = (Made("reading", 5), Made("wide", 5))
        if self.writer is None:
            self.writer = BaseStore.open(self.path, system=self.system).writer()
            for made in self.things:
                self.writer.add(**made.arguments())
        self.writer.commit()

    def add_vector(self) -> None:
        """Commit a vector."""
        made = Made("vector", 6)
        self.things = (made,)
        store = BaseStore.open(self.path, system=self.system)
        store.add_vector(made.trait, made.direction(), layer=5)

    def compact(self) -> None:
        """Merge what is small."""
        BaseStore.open(self.path, system=self.system).compact()

    def collect(self) -> None:
        """Delete what is not needed, at once."""
        store = BaseStore.open(self.path, system=self.system)
        store.compact()
        store.gc(dry_run=False, keep_days=0, trash_days=0)

    def remove(self) -> None:
        """Remove a reading, if it is still there."""
        self.going = (Made("reading", 1),)
        store = BaseStore.open(self.path, system=self.system)
        try:
            key = find_key(store, self.going[0])
        except LookupError:
            return
        store.remove_readings([key])

    def end(self) -> None:
        """Let go of what is open."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


WORKS: dict[str, Callable[[Work], None]] = {
    "create": Work.create,
    "append": Work.append,
    "add_vector": Work.add_vector,
    "compact": Work.compact,
    "collect": Work.collect,
    "remove": Work.remove,
}

HELD = (
    Made("reading", 0),
    Made("reading", 1),
    Made("wide", 2),
    Made("vector", 3),
    Made("vector", 4),
)
"""What the store holds that everything begins with."""


def make_template(path: Path) -> None:
    """Make that store: small segments, and small files of tables."""
    store = BaseStore.create(path)
    for made in HELD:
        if made.kind == "vector":
            store.add_vector(made.trait, made.direction(), layer=5)
        else:
            with store.writer() as writer:
                writer.add(**made.arguments())


def list_faults(template: Path, name: str, folder: Path) -> list[Fault]:
    """List every call that a work makes, with every effect that it may meet with."""
    system = FaultySystem()
    work = Work(folder / "counted", system)
    shutil.copytree(template, work.path)
    WORKS[name](work)
    calls = Counter(system.calls)
    work.end()
    every = [
        Fault(call, number, effect)
        for call in CALLS
        for number in range(1, calls[call] + 1)
        for effect in EFFECTS
    ]
    for path in folder.glob("counted*"):
        shutil.rmtree(path)
    return [fault for fault in every if fault.is_possible]


def try_fault(template: Path, name: str, fault: Fault, folder: Path) -> Findings:
    """
    Do a work that a call fails in, and see what comes of it; then do it again.

    Args:
        template: What it begins with.
        name: Of the work.
        fault: What fails.
        folder: Where, not there yet.
    """
    descriptors = _count_descriptors()
    folder.mkdir()
    try:
        system = FaultySystem(fault)
        work = Work(folder / "s.tistore", system)
        shutil.copytree(template, work.path)
        found = _meet(work, name, fault, system)
        system.mend()
        found += _do_again(work, name)
    finally:
        shutil.rmtree(folder)
    gc.collect()
    if _count_descriptors() > descriptors:
        found += Findings(wrong=("files are left open",))
    return Findings(
        *(_name(part, name, fault) for part in (found.lost, found.partial, found.wrong))
    )


def _meet(work: Work, name: str, fault: Fault, system: FaultySystem) -> Findings:
    """Do it for the first time."""
    done: tuple[Made, ...] = ()
    gone: tuple[Made, ...] = ()
    findings = Findings()
    before = _unfinished(work.path)
    try:
        WORKS[name](work)
        done, gone = work.things, work.going
    except TistoreError as error:
        findings += _judge(error, fault)
        # What gc gives up before it takes it away, it takes away the next time.
        if isinstance(error, NoRoomError) and name != "collect":
            if left := _unfinished(work.path) - before:
                findings += Findings(wrong=(f"left behind: {sorted(left)}",))
    except BaseException as error:
        findings += Findings(wrong=(f"{type(error).__name__}, which nobody expects: {error}",))
    if not system.has_struck:
        findings += Findings(wrong=("nothing failed",))
    system.mend()
    return findings + check(work.path, {*HELD, *done} - {*work.going}, gone=gone, go_on=False)


def _do_again(work: Work, name: str) -> Findings:
    """Do it again, now that nothing fails; by the same writer, unless its disk has failed."""
    try:
        try:
            WORKS[name](work)
        except DeviceError as error:
            if "no more commits" not in error.message:
                raise
            work.writer = None
            WORKS[name](work)
        work.end()
    except TistoreError as error:
        return Findings(wrong=(f"not again: {type(error).__name__}: {error}",))
    return check(work.path, {*HELD, *work.things} - {*work.going}, gone=work.going)


def _judge(error: TistoreError, fault: Fault) -> Findings:
    """Tell whether the error is the one it should be."""
    expected = ERRORS.get(fault.effect)
    # Linked, and not known to be durable: whatever it failed with, nobody can tell any more.
    is_undecided = isinstance(error, DeviceError) and "not confirmed" in error.message
    if expected is None or not (isinstance(error, expected) or is_undecided):
        return Findings(wrong=(f"{type(error).__name__}: {error}",))
    if not error.mend:
        return Findings(wrong=(f"{error}: no word on what mends it",))
    return Findings()


def _unfinished(path: Path) -> set[str]:
    return set(BaseStore.open(path).verify(strict=False).uncommitted_segments)


def _count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _name(problems: Iterable[str], name: str, fault: Fault) -> tuple[str, ...]:
    return tuple(f"{name}, {fault}: {problem}" for problem in problems)


def run(scale: float, say: Callable[[str], None], seed: int = 0) -> Row:
    """Let every call of every work fail in every way, at scale 1."""
    with scratch_folder() as folder:
        template = folder / "template"
        make_template(template)
        found = Findings()
        tried: Counter[str] = Counter()
        n_faults = 0
        for name in sorted(WORKS):
            faults = list_faults(template, name, folder)
            n_faults += len(faults)
            chosen = choose_some(faults, scale, seed)
            say(f"faults of {name}: {len(chosen)} of {len(faults)}")
            for number, fault in enumerate(chosen):
                found += try_fault(template, name, fault, folder / f"{name}-{number}")
                tried[fault.effect] += 1
    broken = (len(found.lost), len(found.partial), len(found.wrong))
    for problem in (*found.lost, *found.partial, *found.wrong):
        say(problem)
    notes = ", ".join(f"{number} × {effect}" for effect, number in sorted(tried.items()))
    return Row("one call fails (injected)", tried.total(), *broken, f"of {n_faults:,}: {notes}")


def choose_some(faults: Sequence[Fault], share: float, seed: int) -> list[Fault]:
    """Choose a share of faults, or so many of them, at random; in order."""
    limit = max(round(len(faults) * min(share, 1.0)), 1)
    return sorted(random.Random(seed).sample(list(faults), limit), key=faults.index)


if __name__ == "__main__":
    print(to_markdown([run(float(sys.argv[1]) if sys.argv[1:] else 1.0, print)]))
