"""
Every state a power cut may leave behind, as pessimistic as POSIX allows, and whether it is sound.

Whatever was not fsynced may be there or not, each entry of a folder for itself; the bytes of a file
may be missing, cut short or zero. A recording of what processes do is stopped after each of its
operations; of the states possible there, some are made, each in a folder of its own, and held
against what the processes had been told by then.

    python -m durability.crash_states 0.1       in tests/; how much of it
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from durability.acknowledgements import Findings, check
from durability.crash_scenarios import AGAIN, SCENARIOS
from durability.disk import Disk, Tree, read_tree, write_tree
from durability.ledger import Account
from durability.recording import Mark, Operation, Recording
from durability.table import Row, to_markdown
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

    def without(self, purpose: str) -> Scenario:
        """Leave out the fsyncs that are for something."""
        kept = tuple(
            operation
            for number, operation in enumerate(self.operations)
            if purpose_of(self.operations, number) != purpose
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

NEEDED = (
    ("commits/, after a link", "one writer"),
    ("commits/, before a link", "another goes on"),
    ("files of a segment", "one writer"),
    ("folders above the store", "create"),
    ("folders of arrays", "one writer"),
    ("folders of segments", "one writer"),
    ("segments/", "one writer"),
    ("the file of a commit", "one writer"),
    ("the header", "create"),
    ("the store's folder, after the header", "create"),
    ("the store's folder, before it is relied on", "a store is used before it is made"),
    ("the store's folder, before the header", "create"),
    ("commits/, before it is relied on", "a writer is killed"),
    ("commits/, before it is relied on", "another has just linked"),
    ("commits/, before it is relied on", "another relies on what it sees"),
    ("commits/, before it is relied on", "two collect"),
)
"""What fsyncs are for without which a promise is broken, and scenarios that show it."""


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
    if within == "/commits" and not is_after_link:
        is_before = [one.call for one in _next(operations, number)] == ["create", "write"]
        return "commits/, before a link" if is_before else "commits/, before it is relied on"
    if within == "/commits":
        return "commits/, after a link"
    if within == "" and is_after_link:
        return "the store's folder, after the header"
    if within == "" and not any(map(_is_header, operations[number:])):
        return "the store's folder, before it is relied on"
    for (call, pattern), purpose in _PURPOSES.items():
        if call == operation.call and re.fullmatch(pattern, within.removeprefix("/")):
            return purpose
    raise ValueError(operation)


def _next(operations: Sequence[Operation | Mark], number: int) -> list[Operation]:
    """The two operations that follow; where a commit is written, it is a file's creation."""
    return [one for one in operations[number + 1 : number + 3] if isinstance(one, Operation)]


def _is_header(operation: Operation | Mark) -> bool:
    """Whether this is what makes a store of a folder."""
    return isinstance(operation, Operation) and operation.target.endswith("/tistore.json")


@dataclass(frozen=True, slots=True)
class State:
    """
    A state of the disk after a power cut.

    Attributes:
        scenario: Of which scenario.
        name: Which, for people.
        tree: What is there.
        account: What had been said by then.
        is_created: Whether somebody was told that the store is made.
        is_telling: Whether something has just been said: what was forgotten shows here.
        key: Tells it from others.
    """

    scenario: str
    name: str
    tree: Tree
    account: Account
    is_created: bool
    is_telling: bool
    key: int


def states(
    scenario: Scenario, rng: random.Random, *, n_random: int = 3, share: float = 1.0
) -> Iterator[State]:
    """
    Give states that a power cut during a scenario may leave, each once.

    Args:
        scenario: The scenario.
        rng: Decides what lasts in those left to chance.
        n_random: How many of these at each moment.
        share: How many of those to give where nothing has just been said.
    """
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
        is_telling = isinstance(operation, Mark)
        for cut in disk.cuts(rng, n_random):
            if not is_telling and rng.random() > share:
                continue
            tree = disk.after(cut)
            told = (*map(frozenset, (account.held, account.gone, account.open)), is_created)
            key = hash((frozenset(tree.items()), told))
            if key not in seen:
                seen.add(key)
                name = f"{scenario.name}, after {number} ({operation}): {cut.name}"
                yield State(scenario.name, name, tree, account, is_created, is_telling, key)


def _hear(account: Account, mark: Mark) -> Account:
    """Tell what is held, gone and open once something is said."""
    things = set(mark.things)
    if mark.word == "adding":
        things -= account.held  # by what another process was told
    held, gone, open_ = account.held - things, account.gone - things, account.open - things
    part = {"added": held, "removed": gone}.get(mark.word, open_)
    part |= things
    return Account(held, gone, open_)


def examine(state: State, folder: Path, *, then_collect: bool = False) -> Findings:
    """
    Make a state in a folder that is not there yet, and hold it against what was said.

    Args:
        state: Which.
        folder: Where.
        then_collect: Check again after everything is deleted that is not needed.
    """
    write_tree(state.tree, folder)
    try:
        if not state.is_created:
            _create_again(folder / STORE)
        if again := AGAIN.get(state.scenario):
            again(folder / STORE)
        found = state.account.check(folder / STORE)
        if then_collect:
            BaseStore.open(folder / STORE).gc(dry_run=False, keep_days=0, trash_days=0)
            found += check(folder / STORE, state.account.held, gone=state.account.gone)
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

    def examine(self, chosen: Iterable[State]) -> None:
        """Examine states; after every other one, everything is deleted that is not needed."""
        for state in chosen:
            place = self.folder / str(self.examined)
            self.findings += examine(state, place, then_collect=self.examined % 2 == 1)
            self.examined += 1

    def find_broken(self, mutant: Scenario, sound: Scenario) -> str | None:
        """
        Look for a state that breaks a promise, among those only a mutant leaves.

        Where something has just been said is looked first, then everywhere.

        Args:
            mutant: A scenario.
            sound: What it was made of, of which every state is sound.
        """
        rng = random.Random(0)
        known = {state.key for state in states(sound, rng, n_random=0)}
        found = [state for state in states(mutant, rng, n_random=0) if state.key not in known]
        for state in sorted(found, key=lambda state: not state.is_telling):
            self.examine([state])
            if not self.findings.ok:
                return str(self.findings)
        return None


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
    n_chosen = min(limit, len(found))
    return [found[number * len(found) // n_chosen] for number in range(n_chosen)]


def run(scale: float, say: Callable[[str], None], seed: int = 0) -> list[Row]:
    """Examine 3,000 states at scale 1, and leave out each kind of fsync, and each by itself."""
    with scratch_folder() as folder:
        scenarios = [
            Scenario.record(name, folder / f"scenario-{number}")
            for number, name in enumerate(SCENARIOS)
        ]
        return [
            _examine_all(scenarios, folder / "states", round(3000 * scale), say, seed),
            _leave_out_kinds(scenarios, folder / "mutants", say),
        ]


def _examine_all(
    scenarios: Sequence[Scenario], folder: Path, limit: int, say: Callable[[str], None], seed: int
) -> Row:
    folder.mkdir()
    campaign = Campaign(folder)
    found = {one.name: list(states(one, random.Random(seed), n_random=5)) for one in scenarios}
    for name, of_scenario in found.items():
        say(f"power cuts, {name}: {len(of_scenario)} states")
        campaign.examine(choose(of_scenario, max(limit // len(found), 10)))
    findings = campaign.findings
    for problem in (*findings.lost, *findings.partial, *findings.wrong):
        say(problem)
    n_states = sum(map(len, found.values()))
    return Row(
        "states a power cut may leave (pessimistic POSIX)",
        campaign.examined,
        len(findings.lost),
        len(findings.partial),
        len(findings.wrong),
        f"of {n_states:,} distinct ones enumerated in {len(found)} scenarios",
    )


def _leave_out_kinds(
    scenarios: Sequence[Scenario], folder: Path, say: Callable[[str], None]
) -> Row:
    folder.mkdir()
    by_name = {one.name: one for one in scenarios}
    missed = []
    for number, (purpose, name) in enumerate(sorted(NEEDED)):
        place = folder / str(number)
        place.mkdir()
        sound = by_name[name]
        broken = Campaign(place).find_broken(sound.without(purpose), sound)
        if broken is None:
            missed.append(purpose)
        say(f"{name}, without the fsync of {purpose}: {'noticed' if broken else 'NOT NOTICED'}")
    return Row(
        "kinds of fsync left out: the model notices",
        len(NEEDED),
        wrong=len(missed),
        notes="; ".join(f"not noticed: {purpose}" for purpose in missed),
    )


if __name__ == "__main__":
    print(to_markdown(run(float(sys.argv[1]) if sys.argv[1:] else 1.0, print)))
