"""
Races: many writers at once, with keys that several want, some of them killed, and readers between.

    python -m durability.races '{"writers": 8, "rounds": 10}'       in tests/
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from durability.acknowledgements import Findings, check
from durability.forked import ChildFailed, ask, fork, launch, warm_up
from durability.ledger import Ledger
from durability.made import Made
from durability.table import Row
from tistore.schemas.vector import Vector
from tistore.store import posix
from tistore.store.base import BaseStore

OWN_SEEDS = 10_000
"""So many seeds each writer has to itself; below them are those that all share."""

LONGEST_SECONDS = 120
"""A writer or a reader that takes longer hangs, which is an error too."""


def run(scale: float, say: Callable[[str], None]) -> list[Row]:
    """Race 2, 8 and 32 writers; 60 commits each at scale 1."""
    rounds = max(round(60 * scale), 4)
    rows = []
    for writers in (2, 8, 32):
        for apart in (False, True):
            what = f"{writers} writers at once, {'without a queue' if apart else 'on one machine'}"
            say(f"{what}: {rounds} commits each")
            found = launch("races", writers=writers, rounds=rounds, kills=writers // 2, apart=apart)
            pace = found["seconds"]
            notes = (
                f"{found['commits']} commits: p50 {pace['p50']:.2f} s, p99 {pace['p99']:.2f} s, "
                f"longest {pace['longest']:.2f} s; {found['killed']} writers killed; "
                f"opened {found['opened']} times meanwhile"
            )
            broken = [len(found[name]) for name in ("lost", "partial", "wrong")]
            rows.append(Row(what, found["acknowledged"], *broken, notes))
        say(f"{writers} writers that contradict each other, {rounds} rounds")
        found = launch("contests", writers=writers, rounds=rounds)
        broken = [len(found[name]) for name in ("lost", "partial", "wrong")]
        what = f"{writers} writers that contradict each other"
        notes = f"each round one was told yes, and {found['refused']} times one no"
        rows.append(Row(what, found["contests"], *broken, notes))
    return rows


@dataclass(slots=True)
class Outcome:
    """
    What a race came to.

    Attributes:
        findings: What the checks found.
        acknowledged: Readings and vectors that some writer was told are committed.
        commits: In the log.
        seconds: What each acknowledged commit of a writer took, from its call to its return.
        killed: Writers that were killed.
        opened: How often the store was opened and read meanwhile.
    """

    findings: Findings = field(default_factory=Findings)
    acknowledged: int = 0
    commits: int = 0
    seconds: list[float] = field(default_factory=list)
    killed: int = 0
    opened: int = 0

    def to_json(self) -> dict[str, Any]:
        """Lay it out for the process that started this one."""
        p50, p99, longest = np.percentile(self.seconds, [50, 99, 100]).tolist()
        return {
            "lost": self.findings.lost,
            "partial": self.findings.partial,
            "wrong": self.findings.wrong,
            "acknowledged": self.acknowledged,
            "commits": self.commits,
            "seconds": {"p50": p50, "p99": p99, "longest": longest},
            "killed": self.killed,
            "opened": self.opened,
        }


@dataclass(frozen=True, slots=True)
class Racer:
    """
    A process of a race; whatever it has to say is in files, so that it can be killed.

    Attributes:
        process: Its id.
        folder: Where its files are.
    """

    process: int
    folder: Path

    @classmethod
    def start(cls, folder: Path, work: Callable[[Path], None]) -> Racer:
        """Fork it."""
        folder.mkdir()

        def limited() -> None:
            signal.alarm(LONGEST_SECONDS)
            work(folder)

        return cls(fork(limited, folder / "crash"), folder)

    def end(self) -> Findings:
        """Wait for its end; gives what was wrong with it."""
        _, status = os.waitpid(self.process, 0)
        if (self.folder / "crash").exists():
            return Findings(wrong=((self.folder / "crash").read_text(),))
        ended = os.waitstatus_to_exitcode(status)
        if ended not in (0, -signal.SIGKILL):
            return Findings(wrong=(f"{self.folder.name} ended with status {ended}",))
        return Findings()


def race(
    folder: Path, writers: int, rounds: int, kills: int, readers: int = 1, apart: bool = False
) -> Outcome:
    """
    Let writers commit as fast as they can, then hold the store against what they were told.

    Every writer commits what is its own and, in the same commit, what all the others write too.

    Args:
        folder: Scratch.
        writers: How many at once.
        rounds: Commits of each.
        kills: How many are killed at work, each then followed by another.
        readers: How many open the store again and again meanwhile.
        apart: Whether the writers know nothing of each other, as on machines of their own. Then
            nothing but the link decides which of them gets a number.
    """
    work = write_apart if apart else write
    store = folder / "s.tistore"
    ask(lambda: BaseStore.create(store).path)
    looking = [
        Racer.start(folder / f"reader-{number}", partial(look, store, folder / "over"))
        for number in range(readers)
    ]
    racing = [
        Racer.start(folder / f"writer-{number}", partial(work, store, rounds, number + 1))
        for number in range(writers)
    ]
    outcome = Outcome()
    for number in range(kills):
        outcome.killed += _kill_at_work(racing[number])
        replacement = writers + number
        racing.append(
            Racer.start(
                folder / f"writer-{replacement}", partial(work, store, rounds, replacement + 1)
            )
        )
    for racer in racing:
        outcome.findings += racer.end()
    (folder / "over").touch()
    for racer in looking:
        outcome.findings += racer.end()
        outcome.opened += len((racer.folder / "opened").read_text().splitlines())
    acknowledged = {made for racer in racing for made in _read_acknowledged(racer.folder)}
    outcome.acknowledged = len(acknowledged)
    outcome.seconds = [second for racer in racing for second in _read_seconds(racer.folder)]
    outcome.findings += ask_for_findings(lambda: check_log(store))
    outcome.commits = len(list((store / "commits").iterdir()))
    outcome.findings += ask_for_findings(lambda: check(store, acknowledged))
    return outcome


def write(store: Path, rounds: int, number: int, folder: Path) -> None:
    """Commit as fast as possible: own readings, and such as every writer has."""
    ledger, pace = Ledger(folder / "ledger"), (folder / "pace").open("a", buffering=1)
    with BaseStore.open(store).writer() as writer:
        for turn in range(rounds):
            own = Made("reading", number * OWN_SEEDS + turn)
            shared = [Made(kind, turn) for kind in ("reading", "replay", "vector")]
            things = [own, shared[turn % 3]]
            ledger.write("adding", things)
            for made in things:
                if made.kind == "vector":
                    vector = Vector(trait=made.trait, values=made.direction(), layer=5)
                    writer.add_rows("vectors", [vector.to_row()])
                else:
                    writer.add(**made.arguments())
            started = time.monotonic()
            writer.commit()
            ledger.write("added", things)
            pace.write(f"{time.monotonic() - started}\n")


def write_apart(store: Path, rounds: int, number: int, folder: Path) -> None:
    """Do the same without the queue of the writers of a machine."""
    posix.wait_for_turn = lambda *_: nullcontext(lambda: None)
    write(store, rounds, number, folder)


def look(store: Path, over: Path, folder: Path) -> None:
    """Open the store until the race is over; what can be seen must be whole every time."""
    opened = (folder / "opened").open("a", buffering=1)
    number, is_over = 0, False
    while not is_over:
        is_over = over.exists()
        snapshot = BaseStore.open(store).snapshot
        assert snapshot.number >= number, f"commit {number} was there, and is gone"
        n_readings = sum(segment.n_readings for segment in snapshot.segments)
        assert n_readings == len(snapshot.keys.get("readings", {}))
        for segment in snapshot.segments[-20:]:
            responses = segment.table("responses")
            assert responses.num_rows == segment.n_readings
            assert segment.table("tokens").num_rows == segment.n_rows
            assert sum(responses["n_rows"].to_pylist()) == segment.n_rows
        assert snapshot.table("vectors").num_rows == len(snapshot.keys.get("vectors", {}))
        number = snapshot.number
        opened.write(f"{number}\n")
        time.sleep(0.05)


def check_log(store: Path) -> Findings:
    """Read the log by its description alone: dense, chained, and no key twice."""
    wrong = []
    parent = hashlib.sha256((store / "tistore.json").read_bytes()).hexdigest()
    names = sorted(path.name for path in (store / "commits").glob("*.json"))
    seen: Counter[tuple[str, str]] = Counter()
    for number, name in enumerate(names, start=1):
        line, trailer = (store / "commits" / name).read_bytes().splitlines()
        body = json.loads(line)
        if name != f"{number:020d}.json" or body["number"] != number:
            wrong.append(f"{name} is where commit {number} should be")
        if body["parent"] != parent:
            wrong.append(f"commit {number} does not follow the one before it")
        parent = hashlib.sha256(line).hexdigest()
        if json.loads(trailer) != {"sha256": parent}:
            wrong.append(f"commit {number} has another hash")
        # A slot is named again by whoever reads its response a second time.
        seen.update((kind, key) for kind in body["keys"].keys() - {"slots"}
                    for key in body["keys"][kind])  # fmt: skip
    wrong += [f"{kind} {key}: {times} times" for (kind, key), times in seen.items() if times > 1]
    return Findings(wrong=tuple(wrong))


def _kill_at_work(racer: Racer) -> bool:
    """Kill a writer some time after its first commit; False when it was faster."""
    pace = racer.folder / "pace"
    while not (pace.exists() and pace.stat().st_size):
        if (racer.folder / "crash").exists():
            return False
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.2))
    os.kill(racer.process, signal.SIGKILL)
    return True


def ask_for_findings(work: Callable[[], Findings]) -> Findings:
    """Check in a process of its own: this one has to go on without threads."""
    try:
        found: Findings = ask(work)
    except ChildFailed as failure:
        return Findings(wrong=(str(failure),))
    return found


def _read_acknowledged(folder: Path) -> Iterator[Made]:
    for line in (folder / "ledger").read_text().splitlines():
        word, *names = line.split()
        if word == "added":
            yield from map(Made.parse, names)


def _read_seconds(folder: Path) -> list[float]:
    return [float(line) for line in (folder / "pace").read_text().split()]


def rehearse(folder: Path) -> None:
    """Do everything once, for what it makes Python load."""
    store = BaseStore.create(folder / "s.tistore").path
    (folder / "over").touch()
    write(store, 3, 1, folder)
    look(store, folder / "over", folder)
    check_log(store)
    check(store, _read_acknowledged(folder)).raise_if_broken()


def main(
    writers: int, rounds: int, kills: int = 0, readers: int = 1, apart: bool = False
) -> dict[str, Any]:
    """Race in a scratch folder."""
    warm_up(rehearse)
    with tempfile.TemporaryDirectory() as scratch:
        return race(Path(scratch), writers, rounds, kills, readers, apart).to_json()


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
