"""
Everything at once: some append, some merge, some remove, some collect garbage, and others read.

    python -m durability.chaos '{"steps": 10}'       in tests/

Garbage goes at once, without the days of grace that it has: whoever reads an older state then finds
files missing. That is allowed, if it says so; a wrong answer, or half of one, is not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from durability.acknowledgements import Findings, read_segment
from durability.forked import ask, fork, launch, warm_up
from durability.ledger import Account, Ledger
from durability.made import Made
from durability.table import Row, make_row
from durability.work import append, do_all, remove, shapes, vectors
from tistore.errors import IntegrityError, RewriteConflictError
from tistore.store.base import BaseStore

_WRITERS = (append, shapes, vectors, remove)
_SEEDS_A_WRITER = 10_000


def run(scale: float, say: Callable[[str], None]) -> Row:
    """Let each of four writers do 100 steps at scale 1."""
    steps = max(round(100 * scale), 2)
    say(f"chaos: {steps} steps of each writer, beside merging, collecting and reading")
    found = launch("chaos", steps=steps)
    counts = found["counts"]
    notes = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
    what = "appending, removing, merging, collecting and reading at once"
    return make_row(what, found["commits"], found, notes, say)


def main(steps: int) -> dict[str, Any]:
    """Let writers do so many steps each, the others go on until they are through; then check."""
    warm_up(do_all)
    with tempfile.TemporaryDirectory() as scratch:
        return _run_in(Path(scratch), steps)


def _run_in(folder: Path, steps: int) -> dict[str, Any]:
    store = folder / "s.tistore"
    ask(lambda: BaseStore.create(store).path)
    ledgers = {step: folder / f"{step.__name__}.ledger" for step in _WRITERS}
    writers = [
        fork(partial(_write, step, store, ledger, number * _SEEDS_A_WRITER, steps), _crash(ledger))
        for number, (step, ledger) in enumerate(ledgers.items())
    ]
    over = folder / "over"
    others = {
        "merges": _merge, "collections": _collect, "readings": _read, "further readings": _read,
    }  # fmt: skip
    beside = [
        fork(partial(_go_on, work, store, _counts(folder / name), over), _crash(folder / name))
        for name, work in others.items()
    ]
    for process in writers:
        os.waitpid(process, 0)
    over.touch()
    for process in beside:
        os.waitpid(process, 0)
    account = Account()
    for ledger in ledgers.values():
        account.read(ledger)
    findings: Findings = ask(lambda: account.check(store))
    crashes = [path.read_text() for path in sorted(folder.glob("*.crash"))]
    counts: Counter[str] = Counter()
    for path in folder.glob("*.counts"):
        counts.update(json.loads(path.read_text()))
    return {
        "commits": ask(lambda: BaseStore.open(store).snapshot.number),
        "counts": counts,
        "lost": findings.lost,
        "partial": findings.partial,
        "wrong": (*findings.wrong, *crashes),
    }


def _counts(path: Path) -> Path:
    return path.with_suffix(".counts")


def _crash(path: Path) -> Path:
    return path.with_suffix(".crash")


def _write(
    step: Callable[[Path, Ledger, int], None], store: Path, ledger: Path, seed: int, steps: int
) -> None:
    written = Ledger(ledger)
    counts: Counter[str] = Counter()
    for number in range(steps):
        try:
            step(store, written, seed + number)
        except IntegrityError as error:
            _require_missing(error)
            counts[f"{step.__name__} met gc"] += 1
    _counts(ledger).write_text(json.dumps(counts))


def _go_on(work: Callable[[Path], str], store: Path, counted: Path, over: Path) -> None:
    """Do something again and again until the writers are through, and once more."""
    counts: Counter[str] = Counter()
    is_over = False
    while not is_over:
        is_over = over.exists()
        try:
            counts[work(store)] += 1
        except IntegrityError as error:
            _require_missing(error)
            counts[f"{work.__name__[1:]} met gc"] += 1
    counted.write_text(json.dumps(counts))


def _require_missing(error: IntegrityError) -> None:
    """Take what says that files are gone; anything else is damage."""
    if "missing" not in error.message:
        raise error


def _merge(store: Path) -> str:
    try:
        report = BaseStore.open(store).compact()
    except RewriteConflictError:
        return "merges given up"
    return "merges" if report.commits else "times nothing to merge"


def _collect(store: Path) -> str:
    BaseStore.open(store).gc(dry_run=False, keep_days=0, trash_days=0)
    return "collections"


def _read(store: Path) -> str:
    """Read a state whole: every reading that can be seen is as it was made, and counted once."""
    snapshot = BaseStore.open(store).snapshot
    seen: Counter[Made] = Counter()
    findings = Findings()
    for segment in snapshot.segments:
        for made, problems in read_segment(segment):
            seen[made] += 1
            findings += problems
    findings.raise_if_broken()
    assert len(snapshot.keys.get("readings", {})) == sum(seen.values()) == len(seen)
    return "states read"


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
