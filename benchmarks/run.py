"""
Side by side in one run: the store, and a folder with one `.pt` file for each reading.

    make bench

Both hold the same generated activations: bf16 values with a power-law spectrum and two massive
dimensions, ragged lengths. Each row is the median over interleaved rounds; what counts is the
ratio, since machines differ and are shared. The `.pt` pass is what trait projects do today: load
the file, one product, one JSON for each vector.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

import tistore
from tistore.query.store import Store

LAYERS = (20, 23, 26, 29)


@dataclass(frozen=True)
class Reading:
    """One reading to store both ways."""

    number: int
    values: np.ndarray  # [token, layer, hidden] bfloat16


def generate(n_readings: int, hidden: int) -> Iterator[Reading]:
    """Make readings of 50 to 250 tokens."""
    rng = np.random.default_rng(0)
    scales = (1.0 / np.arange(1, hidden + 1) ** 0.5) * 8
    scales[[3, 17]] = 300.0
    rng.shuffle(scales)
    for number in range(n_readings):
        shape = (int(rng.integers(50, 251)), len(LAYERS), hidden)
        values = rng.standard_normal(shape, dtype=np.float32) * scales.astype(np.float32)
        yield Reading(number, values.astype(ml_dtypes.bfloat16))


def write_store(folder: Path, readings: list[Reading]) -> None:
    """Write through the library: checked, hashed, compressed, fsynced."""
    store = tistore.create(folder)
    with store.writer() as writer:
        for reading in readings:
            writer.add(
                organism=f"organism-{reading.number % 20}",
                reader=f"organism-{reading.number % 20}",
                prompt_set="bench",
                prompt_id=str(reading.number),
                token_ids=range(len(reading.values)),
                prompt_length=0,
                layers=LAYERS,
                activations={"residual": reading.values},
            )


def write_folder(folder: Path, readings: list[Reading]) -> None:
    """Write a `.pt` file for each reading, fsynced."""
    folder.mkdir()
    for reading in readings:
        tensor = torch.from_numpy(reading.values.view(np.int16)).view(torch.bfloat16)
        by_layer = {layer: tensor[:, place].clone() for place, layer in enumerate(LAYERS)}
        with (folder / f"{reading.number}.pt").open("wb") as file:
            torch.save({"response": {"activations": by_layer}}, file)
            file.flush()
            os.fsync(file.fileno())


def pass_over_folder(folder: Path, vectors: np.ndarray, out: Path) -> None:
    """Project every file on every vector, with a JSON for each."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    tensors = [torch.from_numpy(vector) for vector in vectors]
    for path in sorted(folder.glob("*.pt")):
        loaded = torch.load(path, weights_only=True)
        states = loaded["response"]["activations"][26].float()
        for number, vector in enumerate(tensors):
            scores = states @ (vector / vector.norm())
            (out / f"{path.stem}-{number}.json").write_text(json.dumps(scores.tolist()))


def time_rounds(jobs: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Run the jobs in turn, several times over; seconds for each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_number in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job(round_number)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def show(title: str, seconds: dict[str, list[float]], size_bytes: int) -> None:
    """Print a block of the table."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    reference = medians[next(reversed(medians))]
    print(f"\n{title}")
    for name, times in seconds.items():
        print(
            f"  {name:<34} {medians[name] * 1e3:9.1f} ms  ({min(times) * 1e3:.1f}–"
            f"{max(times) * 1e3:.1f})  {size_bytes / medians[name] / 1e9:6.2f} GB/s  "
            f"{reference / medians[name]:6.1f}×"
        )


def main() -> None:
    """Generate, write both ways, ask both ways, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tistore-bench-"))
    try:
        readings = list(generate(given.readings, given.hidden))
        raw = sum(reading.values.nbytes for reading in readings)
        threads = torch.get_num_threads()
        print(f"{len(readings)} readings, {raw / 1e6:.0f} MB of bf16, {threads} threads")
        compare(work, readings, raw, given.hidden, given.rounds)
    finally:
        shutil.rmtree(work)


def compare(work: Path, readings: list[Reading], raw: int, hidden: int, rounds: int) -> None:
    """Time every job."""
    writing = time_rounds(
        {
            "tistore": lambda n: write_store(work / f"{n}.tistore", readings),
            "one .pt a reading": lambda n: write_folder(work / f"{n}.pt", readings),
        },
        rounds,
    )
    show("Write, fsynced", writing, raw)
    store, folder = Store.open(work / "0.tistore"), work / "0.pt"
    files = sum(path.stat().st_size for path in folder.iterdir())
    stored = store.info().stored_bytes
    print(f"  size: {stored / 1e6:.0f} MB against {files / 1e6:.0f} MB, {stored / files:.2f}")

    rng = np.random.default_rng(1)
    fresh = [rng.standard_normal((rounds, hidden), dtype=np.float32) for _ in range(2)]
    for kind, vectors in zip(("span", "rank"), fresh, strict=True):
        for number, vector in enumerate(vectors):
            store.add_vector(f"{kind}/v{number}", vector, layer=26)
    layer = raw // len(LAYERS)
    best = "SELECT response_id, position, project('{}') AS s FROM tokens ORDER BY s DESC LIMIT 20"
    ranked = "SELECT response_id, project('{}') AS s FROM responses ORDER BY s DESC LIMIT 20"
    asking = time_rounds(
        {
            "tistore, top 20 tokens": lambda n: store.sql(best.format(f"span/v{n}")),
            "the same again": lambda n: store.sql(best.format(f"span/v{n}")),
            "tistore, rank all responses": lambda n: store.sql(ranked.format(f"rank/v{n}")),
            "pass over .pt files": lambda n: pass_over_folder(
                folder, fresh[0][n : n + 1], work / "json"
            ),
        },
        rounds,
    )
    show("A vector nobody has projected before, one layer of four, pages cached", asking, layer)


if __name__ == "__main__":
    main()
