"""
Every state a power cut may leave behind, as pessimistic as POSIX allows, and whether it is sound.

Whatever was not fsynced may be there or not, each entry of a folder for itself; the bytes of a file
may be missing, cut short or zero. A recording of what processes do is stopped after each of its
operations; of the states possible there, some are made, each in a folder of its own, and held
against what the processes had been told by then.

    python -m durability.crash_states                              in tests/
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from durability.acknowledgements import Findings
from durability.crash_scenarios import SCENARIOS
from durability.disk import Disk, Tree, read_tree, write_tree
from durability.ledger import Account
from durability.recording import Mark, Operation, Recording
from durability.table import Row
from tistore.errors import StoreExistsError, TistoreError
from tistore.store.base import BaseStore

STORE = "made/at/s.tistore"
"""Where scenarios have their store: folders above it have to be made durable, too."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What some processes did, and what they were told.

    Attributes:
        name: Which.
        before: What was on the disk at first, for certain.
        told: What had been said by then.
        operations: What they did.
    """

    name: str
    before: Tree
    told: Account
    operations: tuple[Operation | Mark, ...]

    @classmethod
    def record(cls, name: str, folder: Path) -> Scenario:
        """Let the processes of a scenario do what they do, in a folder that is not there yet."""
        prepare, act = SCENARIOS[name]
        folder.mkdir()
        said, recording = Recording(folder), Recording(folder)
        prepare(folder / STORE, said)
        told = Account()
        for mark in said.operations:
            assert isinstance(mark, Mark)
            told = _hear(told, mark)
        before = read_tree(folder)
        act(folder / STORE, recording)
        return cls(name, before, told, tuple(recording.operations))

    def without(self, is_left_out: Callable[[str], bool]) -> Scenario:
        """Leave fsyncs out, by what they are for."""
        kept = tuple(
            operation
            for number, operation in enumerate(self.operations)
            if not ((purpose := purpose_of(self.operations, number)) and is_left_out(purpose))
        )
        return replace(self, operations=kept)

    def without_one(self, number: int) -> Scenario:
        """Leave the operation of a number out."""
        kept = self.operations[:number] + self.operations[number + 1 :]
        return replace(self, operations=kept)

    def purposes(self) -> dict[str, list[int]]:
        """Tell which fsyncs there are: what for → numbers of operations."""
        found: dict[str, list[int]] = {}
        for number in range(len(self.operations)):
            if purpose := purpose_of(self.operations, number):
                found.setdefault(purpose, []).append(number)
        return found


_PURPOSES = {
    ("sync", r"segments/.*"): "files of a segment",
    ("sync", r"commits/\.tmp-.*"): "the file of a commit",
    ("sync", r"\.tmp-.*"): "the header",
    ("sync", r".*"): "other files",
    ("sync_folder", r"segments/[^/]*/.+"): "folders of arrays",
    ("sync_folder", r"segments/[^/]*"): "folders of segments",
    ("sync_folder", r"segments"): "segments/",
    ("sync_folder", r"trash.*"): "trash/ and its folders",
    ("sync_folder", r""): "the store's folder, before the header",
    ("sync_folder", r".*"): "other folders",
}
"""What an fsync is for, by the call and the path in the store."""


def purpose_of(operations: Sequence[Operation | Mark], number: int) -> str | None:
    """Tell what an operation is for, if it is an fsync."""
    operation = operations[number]
    if isinstance(operation, Mark) or operation.call not in ("sync", "sync_folder"):
        return None
    store, is_below, within = operation.path.partition(STORE)
    if not is_below:
        return "folders above the store"
    before = operations[number - 1]
    is_after_link = isinstance(before, Operation) and before.call == "link"
    if within == "/commits":
        return "commits/, after a link" if is_after_link else "commits/, before it is relied on"
    if within == "" and is_after_link:
        return "the store's folder, after the header"
    if within == "" and any(_is_read(one) for one in operations[:number]):
        return "the store's folder, before it is relied on"
    for (call, pattern), purpose in _PURPOSES.items():
        if call == operation.call and re.fullmatch(pattern, within.removeprefix("/")):
            return purpose
    raise ValueError(operation)


def _is_read(operation: Operation | Mark) -> bool:
    """Whether somebody who opened the store is about to do something."""
    return isinstance(operation, Mark) and operation.word == "adding"


@dataclass(frozen=True, slots=True)
class State:
    """
    A state of the disk after a power cut.

    Attributes:
        name: Which, for people.
        tree: What is there.
        account: What had been said by then.
        is_created: Whether somebody was told that the store is made.
        is_telling: Whether something has just been said: what was forgotten shows here.
    """

    name: str
    tree: Tree
    account: Account
    is_created: bool
    is_telling: bool


def states(scenario: Scenario, rng: random.Random, n_random: int = 3) -> Iterator[State]:
    """Give states that a power cut during a scenario may leave, each once."""
    disk = Disk(scenario.before)
    account = scenario.told
    is_created = True
    seen: set[int] = set()
    for number, operation in enumerate(scenario.operations):
        if isinstance(operation, Operation):
            disk.do(operation)
        elif operation.word in ("creating", "created"):
            is_created = operation.word == "created"
        else:
            account = _hear(account, operation)
        for cut in disk.cuts(rng, n_random):
            tree = disk.after(cut)
            told = (*map(frozenset, (account.held, account.gone, account.open)), is_created)
            key = hash((frozenset(tree.items()), told))
            if key not in seen:
                seen.add(key)
                name = f"{scenario.name}, after {number} ({operation}): {cut.name}"
                yield State(name, tree, account, is_created, isinstance(operation, Mark))


def _hear(account: Account, mark: Mark) -> Account:
    """Tell what is held, gone and open once something is said."""
    things = set(mark.things)
    if mark.word == "adding":
        things -= account.held  # by what another process was told
    held, gone, open_ = account.held - things, account.gone - things, account.open - things
    part = {"added": held, "removed": gone}.get(mark.word, open_)
    part |= things
    return Account(held, gone, open_)


def examine(state: State, folder: Path) -> Findings:
    """Make a state in a folder that is not there yet, and hold it against what was said."""
    write_tree(state.tree, folder)
    try:
        if not state.is_created:
            _create_again(folder / STORE)
        found = state.account.check(folder / STORE)
    except TistoreError as error:
        found = Findings(wrong=(f"{type(error).__name__}: {error}",))
    finally:
        shutil.rmtree(folder)
    return Findings(
        *(
            tuple(f"{state.name}: {what}" for what in part)
            for part in (found.lost, found.partial, found.wrong)
        )
    )


def _create_again(path: Path) -> None:
    """Do what the user does whose creation was cut short: the same again."""
    try:
        BaseStore.create(path)
    except StoreExistsError:
        pass


@dataclass(slots=True)
class Campaign:
    """
    Examines states, one after another.

    Attributes:
        folder: Where they are made.
        examined: How many were.
        findings: What was found.
    """

    folder: Path
    examined: int = 0
    findings: Findings = field(default_factory=Findings)

    def examine(self, chosen: Sequence[State], *, stop: bool = False) -> None:
        """Examine states; with `stop`, only until one is broken."""
        for state in chosen:
            self.findings += examine(state, self.folder / str(self.examined))
            self.examined += 1
            if stop and not self.findings.ok:
                break


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder in memory where there is one, with nothing remembered of other stores."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    before = os.environ.get("TISTORE_CACHE_DIR")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.environ["TISTORE_CACHE_DIR"] = f"{folder}/cache"
        try:
            yield Path(folder)
        finally:
            del os.environ["TISTORE_CACHE_DIR"]
            if before is not None:
                os.environ["TISTORE_CACHE_DIR"] = before


def choose(found: Sequence[State], limit: int) -> list[State]:
    """Choose so many, spread evenly."""
    share = max(len(found) / limit, 1.0) if limit else 1.0
    return [found[int(number * share)] for number in range(int(len(found) / share))]
