"""
Power cuts: an ext4 image is shut down while writers are at work, and mounted again.

`EXT4_IOC_SHUTDOWN` stops the file system without letting its journal out: what was not forced to
the image by then is gone, as after a cut. What this does not show is a disk that forgets or
reorders what it has said is written; the enumerated crash states do.

    python -m durability.power_cuts '{"cuts": 10}'       in tests/, as root
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from durability.acknowledgements import Findings
from durability.forked import ChildFailed, ask, fork, launch, warm_up
from durability.ledger import Account, Ledger
from durability.table import Row, make_row
from durability.work import STEPS, choose_steps, do_all, finish
from tistore.errors import TistoreError
from tistore.store.base import BaseStore

SHUT_DOWN = 0x8004587D
"""`EXT4_IOC_SHUTDOWN`: _IOR('X', 125, __u32)."""
WITHOUT_ITS_LOG = 2
"""`EXT4_GOING_FLAGS_NOLOGFLUSH`."""
OPTIONS = ("data=ordered", "data=writeback", "data=journal")
CUTS_A_STORE = 4
MOST_ACKNOWLEDGED = 8
"""The power goes after so many acknowledgements at the latest."""
IMAGE_BYTES = 512 << 20


def run(scale: float, say: Callable[[str], None], seed: int = 0) -> list[Row]:
    """Cut the power 200 times at scale 1, and 20 times more without any fsync."""
    rows = []
    for options in OPTIONS:
        cuts = max(round(200 * scale) // len(OPTIONS), 2)
        say(f"power cuts: {cuts} on ext4 {options}")
        controls = max(round(20 * scale) // len(OPTIONS), 2)
        found = launch("power_cuts", cuts=cuts, controls=controls, options=options, seed=seed)
        if "skipped" in found:
            return [Row("power cut", 0, notes=f"skipped: {found['skipped']}")]
        cut, control = found["cut"], found["control"]
        notes = ", ".join(f"{number} at {step}" for step, number in cut["steps"].items())
        notes = f"{notes}; {cut['acknowledged']} things acknowledged"
        rows.append(make_row(f"power cut, ext4 {options}", cut["cuts"], cut, notes, say))
        # A cut after which nothing is missing although nothing was forced out shows nothing.
        notes = f"the control: broken, as it must be, after {control['broken']} cuts"
        missed = control["cuts"] - control["broken"]
        rows.append(Row("… without fsync", control["cuts"], wrong=missed, notes=notes))
    return rows


class NoImage(Exception):
    """The machine does not allow it; the message says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """
    A file system in a file.

    Attributes:
        file: The file.
        folder: Where it is mounted.
        options: How, in the words of `mount -o`.
    """

    file: Path
    folder: Path
    options: str

    @classmethod
    @contextmanager
    def make(cls, scratch: Path, options: str) -> Iterator[Image]:
        """
        Make one, mounted; unmounted at the end.

        Raises:
            NoImage: It cannot be made or mounted here.
        """
        image = cls(scratch / "image", scratch / "mounted", options)
        image.folder.mkdir()
        with image.file.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _try("mkfs.ext4", "-q", "-F", image.file)
        image.mount()
        try:
            image.cut()  # nobody is at work yet who would be left behind if this cannot be done
            image.unmount()
            image.mount()
            yield image
        finally:
            image.unmount()

    def mount(self) -> None:
        """Mount it, which lets its journal be replayed."""
        # Nothing is to reach the image only because its journal is due.
        options = f"loop,commit=600,{self.options}"
        _try("mount", "-t", "ext4", "-o", options, self.file, self.folder)

    def unmount(self) -> None:
        """Unmount it; the system may take a moment to let go."""
        for _ in range(50):
            if not subprocess.run(["umount", self.folder], capture_output=True).returncode:
                return
            time.sleep(0.05)
        _try("umount", self.folder)

    def cut(self) -> None:
        """
        Stop everything: nothing more reaches the file, and nothing of the journal does.

        Raises:
            NoImage: The kernel does not know how.
        """
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUT_DOWN, struct.pack("I", WITHOUT_ITS_LOG))
        except OSError as error:
            raise NoImage(f"no shutdown of a file system: {error.strerror}") from error
        finally:
            os.close(descriptor)


def _try(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoImage(f"there is no {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise NoImage(f"{command[0]}: {error.stderr.strip()}") from error


_COUNTS = ("cuts", "broken", "acknowledged")


@dataclass(slots=True)
class Tally:
    """
    What the cuts came to.

    Attributes:
        steps: How many writers were cut off at which step.
        cuts: How many cuts.
        broken: Cuts after which something was lost, partial or wrong.
        acknowledged: Things that were acknowledged.
        findings: What the checks found.
    """

    steps: Counter[str] = field(default_factory=Counter)
    cuts: int = 0
    broken: int = 0
    acknowledged: int = 0
    findings: Findings = field(default_factory=Findings)

    def to_json(self) -> dict[str, Any]:
        """Lay it out for the process that started this one."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        found = {name: getattr(self.findings, name) for name in ("lost", "partial", "wrong")}
        return {**counts, **found, "steps": dict(sorted(self.steps.items()))}


@dataclass(frozen=True, slots=True)
class Writer:
    """
    A process that repeats a step until the power is cut.

    Attributes:
        process: Its id.
        step: What it does.
        ledger: What it was told is committed: not on the image.
        ended: Where it says which `TistoreError` ended it.
        crash: Where its traceback is, should it have raised anything else.
    """

    process: int
    step: str
    ledger: Path
    ended: Path
    crash: Path

    @classmethod
    def start(cls, store: Path, step: str, seed: int, scratch: Path, fsync: bool) -> Writer:
        """Fork it."""
        ledger, ended, crash = (scratch / f"{seed}.{end}" for end in ("ledger", "ended", "crash"))
        ledger.touch()

        def work() -> None:
            written = Ledger(ledger)
            if not fsync:
                os.fsync = os.fdatasync = lambda descriptor: None  # type: ignore[assignment]
            try:
                for number in range(1000):
                    STEPS[step](store, written, seed + number)
            except TistoreError as error:  # what it is to say once the disk is gone
                ended.write_text(f"{step}: {type(error).__name__}: {error}")

        return cls(fork(work, crash), step, ledger, ended, crash)

    def is_over(self) -> bool:
        """Whether it has ended by itself."""
        return self.ended.exists() or self.crash.exists()

    def end(self) -> str | None:
        """Kill it; gives its traceback if it had raised."""
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return self.crash.read_text() if self.crash.exists() else None


@dataclass(slots=True)
class Laboratory:
    """
    Cuts one after another.

    Attributes:
        image: Where the stores lie.
        scratch: A folder that no cut reaches.
        rng: Decides who writes, and when the cut comes.
        seeds: Gives numbers that nobody else has.
        fsync: Whether writers force anything out.
    """

    image: Image
    scratch: Path
    rng: random.Random
    seeds: Iterator[int]
    fsync: bool

    def cut(self, cuts: int) -> Tally:
        """Cut so many times."""
        tally = Tally()
        while tally.cuts < cuts:
            store = self.image.folder / f"{next(self.seeds)}.tistore"
            # Made by a process that does force things out, whatever its writers do.
            ask(lambda store=store: BaseStore.create(store).path)
            account = Account()
            for _ in range(min(CUTS_A_STORE, cuts - tally.cuts)):
                if not self._cut_once(store, account, tally):
                    break
            shutil.rmtree(store, ignore_errors=True)
        return tally

    def _await_acknowledgements(self, writers: Sequence[Writer]) -> tuple[str, ...]:
        """
        Wait for a few, and then for a moment within whatever comes next.

        Returns:
            What writers complained of before there was any reason to.
        """
        wanted = self.rng.randint(1, MOST_ACKNOWLEDGED)
        heard = 0
        while heard < wanted and not any(map(Writer.is_over, writers)):
            time.sleep(0.002)
            heard = sum(writer.ledger.read_bytes().count(b"\nadded") for writer in writers)
        time.sleep(self.rng.uniform(0, 0.05))
        return tuple(writer.ended.read_text() for writer in writers if writer.ended.exists())

    def _cut_once(self, store: Path, account: Account, tally: Tally) -> bool:
        """Let writers begin, cut, and check; False where the store is not to be used again."""
        writers = [
            Writer.start(store, step, next(self.seeds), self.scratch, self.fsync)
            for step in choose_steps(self.rng, self.rng.choice([1, 3]))
        ]
        complaints = self._await_acknowledgements(writers)
        self.image.cut()
        complaints += tuple(crash for writer in writers if (crash := writer.end()))
        self.image.unmount()
        self.image.mount()
        before = len(account.held)
        for writer in writers:
            account.read(writer.ledger)
            tally.steps[writer.step] += 1
        acknowledged = len(account.held) - before
        try:
            ask(lambda: finish(store, [writer.step for writer in writers]))
            findings: Findings = ask(lambda: account.check(store))
        except ChildFailed as failure:
            findings = Findings(wrong=(str(failure),))
        tally.cuts += 1
        tally.acknowledged += acknowledged
        tally.broken += not findings.ok
        tally.findings += findings + Findings(wrong=complaints)
        account.settle(findings)
        return findings.ok


def main(cuts: int, controls: int = 0, options: str = OPTIONS[0], seed: int = 0) -> dict[str, Any]:
    """Cut the power so many times, and some times more without any fsync."""
    if os.geteuid():
        return {"skipped": "mounting a file system needs root"}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with Image.make(Path(scratch), options) as image:
                warm_up(do_all)
                rng, seeds = random.Random(f"{seed} {options}"), count(1000, 1000)
                cut = Laboratory(image, Path(scratch), rng, seeds, fsync=True).cut(cuts)
                control = Laboratory(image, Path(scratch), rng, seeds, fsync=False).cut(controls)
        except NoImage as error:
            return {"skipped": str(error)}
    return {"cut": cut.to_json(), "control": control.to_json()}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
