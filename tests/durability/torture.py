"""
The fault laboratory at length: one table of what was done to stores, and what came of it.

    make torture
    python tests/durability/torture.py --only kills --scale 0.1

Each laboratory does something to stores, and then holds what is left against what writers had been
told (`acknowledgements.check`): all of it there, whole, to the bit; and the store goes on working.

    kills         processes are killed (SIGKILL) at random moments of every kind of work
    system_calls  they are killed, or a call fails, at every system call of a commit; needs strace
    power_cuts    an ext4 image is shut down under them, and mounted again; needs root
    crash_states  every state that POSIX lets a power cut leave, of recorded work; and that the
                  model notices when a kind of fsync is left out
    injected      one call fails, each in turn, with each error there is: EIO, ENOSPC, EMFILE, …
    damage        every type of file is flipped, cut, swapped, deleted; verify and reading notice
    races         many writers want the same keys, some are killed, and readers look on
    chaos         all at once: appending, merging, removing, collecting, reading

Each is a module of this folder; `--only` runs one, and `make test` a little of each. Beside them
lie what they share: what is written (`made`, `work`, `every_file`), what was told (`ledger`), how
processes are had by the thousand (`forked`).

Everything a laboratory does follows from the seed, but for the moments that a clock decides.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from durability.table import Row, to_markdown  # noqa: E402 - run as a script, it is no package

LABORATORIES = (
    "kills", "system_calls", "power_cuts", "crash_states", "injected", "damage", "races", "chaos",
)  # fmt: skip
"""Modules of this folder, each with `run(scale, say)` that gives a `Row`, or several."""


def run_all(names: Sequence[str], scale: float, seed: int) -> list[Row]:
    """
    Run laboratories one after another; what they say goes to stderr.

    Args:
        names: Which.
        scale: How much of each; 1 is what RESULTS.md keeps.
        seed: Another seed, other faults.
    """
    rows: list[Row] = []
    for name in names:
        started = time.monotonic()
        try:
            found = _run(name, scale, seed)
        except Exception:
            # The others are still worth running; but a laboratory that fails has shown nothing.
            say(traceback.format_exc())
            found = [Row(name, 0, wrong=1, notes="the laboratory itself failed")]
        rows += found
        say(f"{name}: {time.monotonic() - started:.0f} s")
    return rows


def _run(name: str, scale: float, seed: int) -> list[Row]:
    module = importlib.import_module(f"durability.{name}")
    # Enumerations have no chance in them, and take no seed.
    seeded = {"seed": seed} if "seed" in inspect.signature(module.run).parameters else {}
    found = module.run(scale, say, **seeded)
    return [found] if isinstance(found, Row) else list(found)


def say(words: str) -> None:
    """Tell who waits."""
    print(words, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--only", action="append", choices=LABORATORIES, help="this laboratory; may be given again"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each; 0.01 is quick")
    parser.add_argument("--seed", type=int, default=0, help="other faults")
    options = parser.parse_args(arguments)
    rows = run_all(options.only or LABORATORIES, options.scale, options.seed)
    print(to_markdown(rows))
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
