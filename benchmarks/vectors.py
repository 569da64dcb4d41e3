"""
What fitting vectors costs beyond the fits themselves, and how much memory it takes.

    make bench
    .venv/bin/python benchmarks/vectors.py --quick
    .venv/bin/python benchmarks/vectors.py --only gate --demo demo.tistore

Activations are drawn at random: compression is no part of what is measured here. Times are of
fits that go through the store and of the same fits on arrays that are in memory, turn about in one
run: what counts is their ratio. Processor time is given, too: on a busy machine it tells more, but
not that reading goes on beside the fits.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tistore
from tistore.query.product import one_thread_each
from tistore.schemas.evaluation import GATE
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.evaluate import Effort, evaluate
from tistore.vectors.evaluation.labelled import LabelledRows
from tistore.vectors.evaluation.nulls import permute_labels
from tistore.vectors.extract import extract_vectors
from tistore.vectors.methods.registry import METHODS
from tistore.vectors.methods.rotation_invariant import ROTATION_INVARIANT, in_span
from tistore.vectors.scenario_rows import open_scenarios

SECTIONS = ("fits", "gate")
PERMUTED = 200
"""Data sets of permuted labels that are put to the gate, each against as many permutations."""
TRAIT = "bench/trait"
NAMES = ("mean_diff", "probe", "lda")
N_PAIRS = 100
N_TOKENS = 8
HIDDEN = 8192
POSITION = "response[:5]"
"""Less than the whole response: its tokens are decoded, and no stored means are read."""


def synthesise(folder: Path, n_layers: int) -> tistore.Store:
    """Write a store of scenarios, a reading at a time; positives lie apart in a few dimensions."""
    store = tistore.create(folder)
    generator = np.random.default_rng(0)
    with store.writer() as writer:
        for side in ("positive", "negative"):
            for number in range(1, N_PAIRS + 1):
                shape = (N_TOKENS, n_layers, HIDDEN)
                states = generator.standard_normal(shape, dtype=np.float32)
                states[:, :, :64] += side == "positive"
                writer.add(
                    organism="scenarios", reader="instruct",
                    prompt_set=f"scenarios/{TRAIT}/{side}", prompt_id=str(number),
                    token_ids=generator.integers(10, 900, N_TOKENS + 1).tolist(),
                    prompt_length=1, layers=range(n_layers), activations={"residual": states},
                )  # fmt: skip
    return store


class Clock:
    """Adds up the seconds of its blocks: those that pass, and those the processors work."""

    def __init__(self) -> None:
        self.seconds = self.processor_seconds = 0.0

    def __enter__(self) -> None:
        """Start."""
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self._started[0]
        self.processor_seconds += time.process_time() - self._started[1]


def fit_through_the_store(folder: Path, evaluated: bool) -> Clock:
    """Extract all vectors."""
    store = tistore.open(folder)
    clock = Clock()
    with clock:
        extract_vectors(
            store, TRAIT, position=POSITION, methods=NAMES, refit=True, evaluated=evaluated
        )
    return clock


def fit_alone(folder: Path, evaluated: bool) -> Clock:
    """Fit the same on rows that are in memory when the clock runs."""
    rows = open_scenarios(tistore.open(folder), TRAIT, position=POSITION)
    clock = Clock()
    for site in rows.sites:
        contrast = rows.at(site)
        # One thread is the faster choice for them, too.
        with one_thread_each(), clock:
            for name in NAMES:
                METHODS[name](contrast, 0)
            if evaluated:
                turned = in_span(contrast)
                for name in NAMES:
                    method = METHODS[name]
                    evaluate(turned if method in ROTATION_INVARIANT else contrast, method)
    return clock


TASKS = {"store": fit_through_the_store, "alone": fit_alone}


def run_apart(task: str, folder: Path, evaluated: bool) -> dict[str, float]:
    """Do a task in a process of its own; see `do_task`."""
    command = [sys.executable, __file__, "--task", task, "--store", str(folder)]
    command += ["--evaluated"] if evaluated else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def fits(root: Path, n_layers: int, rounds: int) -> None:
    """Compare extraction with the fits alone: with evaluations, and without."""
    folder = root / "fits.tistore"
    synthesise(folder, n_layers)
    size = n_layers * HIDDEN * 2 * N_PAIRS * N_TOKENS * 2
    print(
        f"\nfits: {n_layers} layers of {HIDDEN}, {2 * N_PAIRS} scenarios of {N_TOKENS} tokens "
        f"({size / 1e9:.1f} GB), {', '.join(NAMES)} on {POSITION}"
    )
    for evaluated in (False, True):
        turns = [
            (run_apart("alone", folder, evaluated), run_apart("store", folder, evaluated))
            for _ in range(rounds)
        ]
        print(f"  {'fits and evaluations' if evaluated else 'fits'}")
        for what in ("seconds", "processor_seconds"):
            alone, through = (
                statistics.median(turn[side][what] for turn in turns) for side in (0, 1)
            )
            ratio = statistics.median(one[what] / other[what] for one, other in turns)
            print(
                f"    {what.replace('_', ' '):18} {alone:6.1f} alone, {through:6.1f} from the "
                f"store and into it: {ratio:.2f} of the speed"
            )
        print(f"    {max(other['bytes'] for _, other in turns) / 1e9:.2f} GB at most")


def gate(path: Path) -> None:
    """Put the demo's chosen vectors, and extractions from permuted labels, to their nulls."""
    if not path.exists():
        return print(f"gate: no store at {path}; `make demo` makes one")
    store = tistore.open(path)
    print(f"\nHeld out, against {PERMUTED} permutations of the labels ({path.name})\n")
    print(f"{'vector':36}{'AUROC':>8}{'nulls, 95 %':>13}{'p':>9}   permuted that pass 5 %")
    traits = sorted({vector.trait for vector in store.snapshot.vectors()})
    total = 0
    for place, trait in enumerate(traits):
        vector = store.vector(trait)
        contrast = open_scenarios(store, trait, position=str(vector.position)).at(vector.site)
        found = evaluate(
            contrast, METHODS[vector.method], effort=Effort(resamples=0, permutations=PERMUTED)
        )
        passed = count_permuted_that_pass(contrast, seed=(place + 1) * 10 * PERMUTED)
        total += passed
        print(
            f"{vector.reference:36}{found.auroc:8.3f}{found.permutation_auroc_95:13.3f}"
            f"{found.permutation_p:9.4f}   {passed} of {PERMUTED}"
        )
    print(f"{total / len(traits) / PERMUTED:.3f} of all permuted extractions pass a gate of {GATE}")


def count_permuted_that_pass(contrast: Contrast, seed: int) -> int:
    """Count mean differences of permuted labels that reach p ≤ 0.05 against permutations."""
    labelled = LabelledRows.of(in_span(contrast))
    whole = np.zeros(len(labelled.rows), dtype=np.int64)
    passed = 0
    drawn = permute_labels(labelled, whole, PERMUTED, seed)
    for own_seed, labels in enumerate(drawn, start=seed + 1):  # no two draw alike
        permuted = labelled.relabelled(labels).contrast()
        effort = Effort(resamples=0, permutations=PERMUTED)
        found = evaluate(permuted, METHODS["mean_diff"], seed=own_seed, effort=effort)
        passed += bool(found.permutation_p is not None and found.permutation_p <= GATE)
    return passed


def warm_up() -> None:
    """Do a little of everything, so that no library is loaded while the clock runs."""
    generator = np.random.default_rng(0)
    groups = np.arange(10)
    sides = (generator.standard_normal((10, 16)) + shift for shift in (0, 1))
    contrast = Contrast(*sides, groups, groups)
    for name in NAMES:
        METHODS[name](contrast, 0)
        evaluate(contrast, METHODS[name])


def do_task(task: str, folder: Path, evaluated: bool) -> None:
    """Do a task in this process; print its seconds, and the most bytes the process held."""
    warm_up()
    clock = TASKS[task](folder, evaluated)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(vars(clock) | {"bytes": most}, default=str))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="8 layers instead of 80, one round")
    parser.add_argument("--demo", type=Path, default=Path("demo.tistore"))
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--evaluated", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.task:
        do_task(given.task, given.store, given.evaluated)
        return
    root = Path(tempfile.mkdtemp(prefix="tistore-bench-"))
    try:
        print(f"{os.cpu_count()} processors")
        if "fits" in given.only:
            fits(root, 8 if given.quick else 80, 1 if given.quick else given.rounds)
        if "gate" in given.only:
            gate(given.demo)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
