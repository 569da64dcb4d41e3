"""
SIGKILL at random moments: writers die at work, and every store they leave is checked.

    python -m durability.kills '{"kills": 40}'       in tests/
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from durability.acknowledgements import Findings
from durability.forked import ChildFailed, ask, fork, kill, launch, warm_up
from durability.ledger import Account, Ledger
from durability.table import Row, make_row
from durability.work import STEPS, choose_steps, do_all, finish
from tistore.store.base import BaseStore

KILLS_A_STORE = 4
"""So many writers die in a store before a new one is made: checking all of it takes a while."""


def run(scale: float, say: Callable[[str], None], seed: int = 0) -> Row:
    """Kill 2,000 writers at scale 1."""
    kills = max(round(2000 * scale), 10)
    say(f"kills: {kills} writers at random moments")
    found = launch("kills", kills=kills, seed=seed)
    notes = ", ".join(f"{number} at {step}" for step, number in found["steps"].items())
    notes += f"; {found['within']} times within a step, of which its commit was there all the same "
    notes += f"{found['unheard']} times"
    return make_row("SIGKILL at a random moment, up to 0.3 s", found["kills"], found, notes, say)


@dataclass(slots=True)
class Tally:
    """
    What a lane of killed writers came to.

    Attributes:
        steps: How many died at which step.
        findings: What the checks found.
        within: Writers that died within a step.
        unheard: Of these, such whose commit was there all the same.
    """

    steps: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    within: int = 0
    unheard: int = 0

    def to_json(self) -> dict[str, Any]:
        """Lay it out for the process that started this one."""
        return {
            "kills": sum(self.steps.values()),
            "steps": dict(sorted(self.steps.items())),
            "lost": self.findings.lost,
            "partial": self.findings.partial,
            "wrong": self.findings.wrong,
            "within": self.within,
            "unheard": self.unheard,
        }

    def __add__(self, other: Tally) -> Tally:
        """Join what two lanes came to."""
        return Tally(
            self.steps + other.steps,
            self.findings + other.findings,
            self.within + other.within,
            self.unheard + other.unheard,
        )


@dataclass(slots=True)
class Lane:
    """
    One store after another, and in each one writer, or two, after another.

    Attributes:
        folder: Where.
        rng: Decides who does what and when it dies.
        longest_seconds: Latest moment to die, from the start of the work.
    """

    folder: Path
    rng: random.Random
    longest_seconds: float
    seeds: count[int] = field(default_factory=lambda: count(1000, 1000))

    def kill(self, kills: int) -> Tally:
        """Kill so many writers."""
        tally = Tally()
        while (done := sum(tally.steps.values())) < kills:
            store = self.folder / f"{done}.tistore"
            ask(lambda store=store: BaseStore.create(store).path)
            account = Account()
            for _ in range(KILLS_A_STORE):
                if sum(tally.steps.values()) >= kills or not self._kill_some(store, account, tally):
                    break
        return tally

    def _kill_some(self, store: Path, account: Account, tally: Tally) -> bool:
        """Let one writer or two begin, kill them, and check; False where something is broken."""
        steps = choose_steps(self.rng, self.rng.choice([1, 1, 2]))
        writers = [Writer.start(self, store, step) for step in steps]
        for writer in writers:
            writer.await_start()
        for writer in writers:
            time.sleep(self.rng.uniform(0, self.longest_seconds))
            kill(writer.process)
            tally.steps[writer.step] += 1
            account.read(writer.ledger)
        crashes = [writer.crash.read_text() for writer in writers if writer.crash.exists()]
        try:
            ask(lambda: finish(store, steps))
            findings: Findings = ask(lambda: account.check(store))
        except ChildFailed as failure:
            findings = Findings(wrong=(str(failure),))
        findings += Findings(wrong=tuple(crashes))
        tally.findings += findings
        tally.within += bool(account.open)
        tally.unheard += bool(findings.extra)
        account.settle(findings)
        return findings.ok


@dataclass(frozen=True, slots=True)
class Writer:
    """
    A process that repeats a step until it is killed.

    Attributes:
        process: Its id.
        step: What it does.
        ledger: What it was told is committed.
        crash: Where its traceback is, should it have raised.
        started: Where it says that it begins.
    """

    process: int
    step: str
    ledger: Path
    crash: Path
    started: int

    @classmethod
    def start(cls, lane: Lane, store: Path, step: str) -> Writer:
        """Fork it."""
        seed = next(lane.seeds)
        ledger, crash = lane.folder / f"{seed}.ledger", lane.folder / f"{seed}.crash"
        started, starting = os.pipe()

        def work() -> None:
            written = Ledger(ledger)
            os.write(starting, b".")
            for number in range(1000):
                STEPS[step](store, written, seed + number)

        process = fork(work, crash)
        os.close(starting)
        return cls(process, step, ledger, crash, started)

    def await_start(self) -> None:
        """Wait until it begins."""
        os.read(self.started, 1)
        os.close(self.started)


def main(kills: int, seed: int = 0, lanes: int = 4, longest_seconds: float = 0.3) -> Tally:
    """Kill writers in several lanes at once: each mostly waits."""
    warm_up(do_all)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(number) for number in range(lanes)]

        def work(folder: Path, share: int) -> None:
            rng = random.Random(f"{seed} {folder.name}")
            found = Lane(folder, rng, longest_seconds).kill(share)
            (folder / "tally").write_bytes(pickle.dumps(found))

        processes = []
        for number, folder in enumerate(folders):
            folder.mkdir()
            share = kills // lanes + (number < kills % lanes)
            processes.append(fork(lambda folder=folder, share=share: work(folder, share)))
        for process in processes:
            os.waitpid(process, 0)
        tallies = [pickle.loads((folder / "tally").read_bytes()) for folder in folders]
    return sum(tallies, Tally())


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1])).to_json()))
