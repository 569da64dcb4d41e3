"""
Writes down every call by which a store changes the disk; others may come between them.

    recording = Recording(folder)
    store = BaseStore.create(folder / "s.tistore", system=recording.process())
    recording.say("added", [Made("reading", 0)])
    recording.operations
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durability.made import Made
from tistore.store.system import System


@dataclass(frozen=True, slots=True)
class Operation:
    """
    A call that changed the disk.

    Attributes:
        call: The method of `System`.
        path: What it was done to, from the recorded folder; the old name of a link or rename.
        target: The new name of a link or rename.
        data: What was written.
    """

    call: str
    path: str
    target: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        """Name it in a line."""
        return f"{self.call} {self.path}" + (f" as {self.target}" if self.target else "")


@dataclass(frozen=True, slots=True)
class Mark:
    """
    What a writer is about to do, or was told is done; the words are those of a `Ledger`.

    Attributes:
        word: "creating", "created", "adding", "added", "removing" or "removed".
        things: What.
    """

    word: str
    things: tuple[Made, ...] = ()


class Death(BaseException):
    """The process ends here: what it still does, such as to clean up, does nothing."""


Rule = Callable[[Operation], bool]


class Recording:
    """
    What some processes do below a folder, in order, and what they are told.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[Operation | Mark] = []

    def process(self) -> RecordingSystem:
        """Give a process its system."""
        return RecordingSystem(self)

    def say(self, word: str, things: Sequence[Made] = ()) -> None:
        """Write down what is begun, or acknowledged."""
        self.operations.append(Mark(word, tuple(things)))

    def write(self, word: str, things: Sequence[Made]) -> None:
        """Write it down as a `Ledger` does."""
        self.say(word, things)


class RecordingSystem(System):
    """
    A process's system: does what it is asked to and writes it down, if it worked.

    Args:
        recording: Where it writes it down.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._paths: dict[int, str] = {}
        self._plans: list[tuple[Rule, Callable[[], None]]] = []
        self._is_dead = False

    def live(self, work: Callable[[], object]) -> None:
        """Do some work, to its end or to the death of the process."""
        try:
            work()
        except BaseException:
            if not self._is_dead:
                raise

    def meanwhile(self, when: Rule, do: Callable[[], None]) -> None:
        """Let somebody else do something, just before the first call for which `when` holds."""
        self._plans.append((when, do))

    def die(self, when: Rule) -> None:
        """End the process just before the first call for which `when` holds."""
        self.meanwhile(when, self._die)

    def create(self, path: str) -> int:
        """See `System`."""
        descriptor: int | None = self._do(Operation("create", path), super().create, path)
        if descriptor is None:
            return -1
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        """See `System`."""
        written = bytes(data)
        operation = Operation("write", self._paths.get(descriptor, "."), data=written)
        return self._do(operation, self._write_all, descriptor, data) or len(written)

    def sync(self, descriptor: int) -> None:
        """See `System`."""
        # Not done, only written down: the states are made of what is written down.
        self._do(Operation("sync", self._paths.get(descriptor, ".")), int)

    def close(self, descriptor: int) -> None:
        """See `System`; what is closed is no change of the disk."""
        if not self._is_dead:
            del self._paths[descriptor]
            super().close(descriptor)

    def make_folder(self, path: str) -> None:
        """See `System`."""
        self._do(Operation("make_folder", path), super().make_folder, path)

    def sync_folder(self, path: str) -> None:
        """See `System`."""
        self._do(Operation("sync_folder", path), os.stat, path)

    def link(self, source: str, target: str) -> None:
        """See `System`."""
        self._do(Operation("link", source, target), super().link, source, target)

    def rename(self, source: str, target: str) -> None:
        """See `System`."""
        self._do(Operation("rename", source, target), super().rename, source, target)

    def unlink(self, path: str) -> None:
        """See `System`."""
        self._do(Operation("unlink", path), super().unlink, path)

    def remove_folder(self, path: str) -> None:
        """See `System`."""
        self._do(Operation("remove_folder", path), super().remove_folder, path)

    def _do(self, operation: Operation, work: Callable[..., Any], *arguments: Any) -> Any:
        shown = Operation(
            operation.call,
            self._within(operation.path),
            self._within(operation.target) if operation.target else "",
            operation.data,
        )
        for plan in [plan for plan in self._plans if plan[0](shown)]:
            self._plans.remove(plan)
            plan[1]()
        if self._is_dead:
            return None
        done = work(*arguments)
        self._recording.operations.append(shown)
        return done

    def _within(self, path: str) -> str:
        return os.path.relpath(path, self._recording.folder)

    def _write_all(self, descriptor: int, data: memoryview) -> int:
        n_bytes = super().write(descriptor, data)
        assert n_bytes == len(data)  # else less was written than is written down
        return n_bytes

    def _die(self) -> None:
        self._is_dead = True
        for descriptor in self._paths:
            os.close(descriptor)  # with its lock
        self._paths.clear()
        raise Death
