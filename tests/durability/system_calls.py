"""
Death, or an error, at every single system call of a commit: strace injects them.

    python -m durability.system_calls '{"effects": ["signal=SIGKILL"], "points": 25}'     in tests/
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from durability.acknowledgements import Findings
from durability.forked import ChildFailed, ask, fork, launch, warm_up
from durability.ledger import Account, Ledger
from durability.table import Row, make_row
from durability.work import STEPS, append, do_all, finish
from tistore.errors import TistoreError
from tistore.store.base import BaseStore

CHANGING = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "sync_file_range", "close", "ftruncate",
    "mkdir", "mkdirat", "link", "linkat", "unlink", "unlinkat", "rename", "renameat", "renameat2",
    "rmdir", "flock", "utimensat", "fchmod", "fadvise64", "copy_file_range",
)  # fmt: skip
"""Calls that change a disk, or come between those that do; only those that occur are injected."""

KILLED = ("signal=SIGKILL",)
FAILED = ("error=EIO", "error=ENOSPC")


def run(scale: float, say: Callable[[str], None], seed: int = 0) -> list[Row]:
    """At scale 1, kill at every call, and let a tenth of them fail."""
    rows = []
    for what, effects, share in (
        ("SIGKILL at each system call of a step (strace)", KILLED, 1.0),
        ("EIO or ENOSPC at a system call of a step (strace)", FAILED, 0.1),
    ):
        say(what)
        share = min(share * scale, 1.0)
        found = launch("system_calls", effects=effects, share=share, seed=seed)
        if "skipped" in found:
            rows.append(Row(what, 0, notes=f"skipped: {found['skipped']}"))
            continue
        notes = ", ".join(f"{number} × {call}" for call, number in found["calls"].items())
        notes = f"of {found['of']:,}; {notes}"
        rows.append(make_row(what, found["points"], found, notes, say))
    return rows


def why_not() -> str | None:
    """Say why nothing can be injected here; None where it can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    # As the laboratory does it: a process that is there already is taken hold of.
    sleeper = fork(signal.pause)
    done = subprocess.run(
        ["timeout", "0.5", "strace", "-p", str(sleeper), "-e", "inject=fsync:error=EIO"],
        capture_output=True,
        text=True,
    )
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    return None if "attached" in done.stderr else f"strace: {done.stderr.strip()[-200:]}"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """
    A moment of a step, and what happens at it.

    Attributes:
        step: The step.
        call: A system call.
        number: Which of its calls, from 1.
        effect: What strace is to inject.
    """

    step: str
    call: str
    number: int
    effect: str

    def __str__(self) -> str:
        """Name it."""
        return f"{self.effect} at {self.call} {self.number} of {self.step}"


def trace(process: int, output: Path, *options: str) -> subprocess.Popen[str]:
    """Take hold of a process; returns once its calls are seen."""
    # Not `-f`: a store is written by one thread, and calls of others are none of it.
    command = ["strace", "-o", str(output), *options, "-p", str(process)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    for line in tracer.stderr:
        if "attached" in line:
            return tracer
    raise ChildFailed(f"strace did not attach to {process}")


@dataclass(frozen=True, slots=True)
class Bench:
    """
    Where steps are done under strace.

    Attributes:
        folder: Scratch.
        template: A small store, which every step begins with.
    """

    folder: Path
    template: Path

    @classmethod
    def make(cls, folder: Path) -> Bench:
        """Make the store they begin with."""

        def fill() -> None:
            BaseStore.create(folder / "template")
            append(folder / "template", Ledger(folder / "template.ledger"), 0)

        ask(fill)
        return cls(folder, folder / "template")

    def observe(self, step: str) -> Counter[str]:
        """Count the calls of a step."""
        output = self.folder / f"{step}.calls"
        self._do(step, f"observed-{step}", output)
        calls = Counter(re.findall(r"^(\w+)\(", output.read_text(), re.MULTILINE))
        return Counter({call: calls[call] for call in CHANGING if calls[call]})

    def try_at(self, point: Point) -> Findings:
        """Do a step, let it meet its fate, and check the store."""
        name = str(point).replace(" ", "-")
        inject = f"inject={point.call}:{point.effect}:when={point.number}"
        output = self.folder / f"{name}.calls"
        trouble = self._do(point.step, name, output, "-e", f"trace={point.call}", "-e", inject)
        account = Account()
        account.read(self.folder / "template.ledger")
        account.read(self.folder / f"{name}.ledger")
        store = self.folder / name
        try:
            ask(lambda: finish(store, [point.step]))
            findings: Findings = ask(lambda: account.check(store))
        except ChildFailed as failure:
            findings = Findings(wrong=(str(failure),))
        shutil.rmtree(store)
        if trouble:
            findings += Findings(wrong=(trouble,))
        if not output.read_text().count("(INJECTED)") and "SIGKILL" not in output.read_text():
            findings += Findings(wrong=("nothing was injected",))
        return findings

    def _do(self, step: str, name: str, output: Path, *options: str) -> str | None:
        """Do a step under strace, in a store of its own; gives what should not have happened."""
        store, ledger, crash = (self.folder / f"{name}{end}" for end in ("", ".ledger", ".crash"))
        shutil.copytree(self.template, store)
        ledger.touch()  # the step may die before it has anything to say
        waiting, going = os.pipe()

        def work() -> None:
            signal.alarm(60)  # a step that never ends is an error too
            written = Ledger(ledger)
            os.read(waiting, 1)
            try:
                STEPS[step](store, written, 1)
            except TistoreError:
                pass  # said what it has to say: nothing more is acknowledged

        process = fork(work, crash)
        tracer = trace(process, output, *options)
        os.write(going, b".")
        _, status = os.waitpid(process, 0)
        tracer.communicate()
        os.close(waiting)
        os.close(going)
        if crash.exists():
            return crash.read_text()
        ended = os.waitstatus_to_exitcode(status)
        return None if ended in (0, -signal.SIGKILL) else f"it ended with status {ended}"


def choose(points: Sequence[Point], number: int, seed: int) -> list[Point]:
    """Choose so many, spread evenly over all: over steps, calls and moments."""
    step = len(points) / min(number, len(points))
    offset = random.Random(seed).random() * step
    return [points[int(offset + step * index)] for index in range(min(number, len(points)))]


def main(
    effects: Sequence[str],
    share: float = 1.0,
    points: int | None = None,
    steps: Sequence[str] = tuple(sorted(STEPS)),
    calls: Sequence[str] = CHANGING,
    seed: int = 0,
    lanes: int = 3,
) -> dict[str, Any]:
    """Try a share of all points, or so many of them."""
    if why := why_not():
        return {"skipped": why}
    warm_up(do_all)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bench = Bench.make(folder)
        every = [
            Point(step, call, number, effect)
            for step in steps
            for call, times in sorted(bench.observe(step).items())
            if call in calls
            for number in range(1, times + 1)
            for effect in effects
        ]
        chosen = choose(every, points or max(round(len(every) * share), 1), seed)

        def work(lane: int) -> None:
            found = [(point, bench.try_at(point)) for point in chosen[lane::lanes]]
            (folder / f"{lane}.found").write_bytes(pickle.dumps(found))

        processes = [fork(partial(work, lane)) for lane in range(lanes)]
        for process in processes:
            os.waitpid(process, 0)
        found = [
            pair
            for lane in range(lanes)
            for pair in pickle.loads((folder / f"{lane}.found").read_bytes())
        ]
    return {
        "points": len(found),
        "of": len(every),
        "calls": dict(sorted(Counter(point.call for point, _ in found).items())),
        **{
            name: [
                f"{point}: {what}" for point, findings in found for what in getattr(findings, name)
            ]
            for name in ("lost", "partial", "wrong")
        },
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
