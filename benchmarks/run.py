"""
Side by side in one run: the store, what people do today, other formats, and the machine's limits.

    make bench                          # everything, about seven minutes and 12 GB of disk
    .venv/bin/python benchmarks/run.py --only warm rank --gigabytes 0.5

All contenders read the same generated activations. Each figure is the median over interleaved
rounds, with the range; what counts is the ratio, since machines differ and are shared.
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
from collections.abc import Callable, Sequence
from pathlib import Path

import contenders
import moving
import numpy as np
import torch
from data import LAYER, LAYERS, Folders, add, generate, make_small, write_pt

from tistore.query.store import Store
from tistore.schemas.vector import Vector

PASS = "file-per-prompt pass"
_counter = iter(range(10**9))


def new_vectors(store: Store, hidden: int, n: int) -> list[str]:
    """Commit vectors nobody has projected before; gives their names."""
    names = [f"bench/v{next(_counter)}-{os.getpid()}" for _ in range(n)]
    rng = np.random.default_rng([next(_counter), os.getpid()])
    rows = rng.standard_normal((n, hidden)).astype(np.float32)
    vectors = [Vector(name, row, LAYER) for name, row in zip(names, rows, strict=True)]
    store.add_rows("vectors", [vector.to_row() for vector in vectors])
    return names


Job = Callable[[int], object]


def time_rounds(
    jobs: dict[str, Job], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Run the jobs in turn, several times over; seconds for each. `before` is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_number in range(rounds):
        for name, job in jobs.items():
            before()
            started = time.perf_counter()
            job(round_number)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def show(title: str, seconds: dict[str, list[float]], size_bytes: int, against: str) -> None:
    """Print a block of the table."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"\n{title}", flush=True)
    for name, times in seconds.items():
        print(
            f"  {name:<44} {medians[name] * 1e3:9.1f} ms  ({min(times) * 1e3:.1f}–"
            f"{max(times) * 1e3:.1f})  {size_bytes / medians[name] / 1e9:7.2f} GB/s  "
            f"{medians[against] / medians[name]:8.2f}×",
            flush=True,
        )


def drop_pages(folder: Path) -> None:
    """Have the system forget the pages of every file below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(root: Path, hidden: int, rounds: int) -> None:
    """Write the same readings through the library and as `.pt` files, fsynced."""
    readings = list(generate(250_000_000, hidden))

    def write_store(n: int) -> None:
        with Store.create(root / f"{n}.tistore").writer() as writer:
            for reading in readings:
                add(writer, reading)

    def write_files(n: int) -> None:
        folder = root / f"{n}.pt"
        folder.mkdir()
        for reading in readings:
            write_pt(folder, reading, is_synced=True)

    seconds = time_rounds({"tistore": write_store, "a .pt file a reading": write_files}, rounds)
    raw = sum(reading.values.nbytes for reading in readings)
    show("Write, fsynced", seconds, raw, "a .pt file a reading")


def warm(folders: Folders, rounds: int) -> None:
    """A new vector, all tokens of one layer, pages cached."""
    store = folders.open()
    names = new_vectors(store, folders.hidden, 2 * rounds + 1)
    contenders.top_tokens(store, names[-1:])
    vectors = np.random.default_rng(1).standard_normal((1, folders.hidden)).astype(np.float32)
    rows = np.fromfile(folders.memmap, np.float16).reshape(-1, folders.hidden)
    seconds = time_rounds(
        {
            "tistore": lambda n: contenders.top_tokens(store, [names[n]]),
            "tistore, opened anew": lambda n: contenders.top_tokens(
                folders.open(), [names[rounds + n]]
            ),
            PASS: lambda n: contenders.file_per_prompt(folders, vectors),
            "one stacked product a file": lambda n: contenders.stacked_product(folders, vectors),
            "safetensors, a file a reading": lambda n: contenders.safetensors_files(
                folders, vectors
            ),
            "memmap of the layer, uncompressed": lambda n: contenders.memmap(folders, vectors),
            "Arrow fixed-size lists, uncompressed": lambda n: contenders.arrow_lists(
                folders, vectors
            ),
            "zarr-python on the store's arrays": lambda n: contenders.zarr_python(folders, vectors),
            "limit: decode only": lambda n: contenders.decode_only(store),
            "limit: product only": lambda n: contenders.product_only(rows, vectors),
        },
        rounds,
    )
    show("A new vector, all tokens of one layer, pages cached", seconds, folders.layer_bytes, PASS)
    decode, own = (statistics.median(seconds[n]) for n in ("limit: decode only", "tistore"))
    print(f"  tistore reaches {decode / own:.2f} of the speed of decoding alone")


def cold(folders: Folders, rounds: int) -> None:
    """The same with nothing in the page cache."""
    store = folders.open()
    names = new_vectors(store, folders.hidden, rounds + 1)
    contenders.top_tokens(store, names[-1:])
    vectors = np.random.default_rng(2).standard_normal((1, folders.hidden)).astype(np.float32)
    compressed = contenders.disk_only(folders)
    seconds = time_rounds(
        {
            "tistore": lambda n: contenders.top_tokens(store, [names[n]]),
            PASS: lambda n: contenders.file_per_prompt(folders, vectors),
            "limit: read the compressed layer": lambda n: contenders.disk_only(folders),
        },
        rounds,
        before=lambda: drop_pages(folders.root),
    )
    show("The same, page cache dropped", seconds, folders.layer_bytes, PASS)
    disk, own = (
        statistics.median(seconds[n]) for n in ("limit: read the compressed layer", "tistore")
    )
    print(
        f"  disk {compressed / disk / 1e9:.2f} GB/s; stored {compressed / folders.layer_bytes:.2f} "
        f"of float16; tistore reaches {disk / own:.2f} of disk speed over compression"
    )


def hundred(folders: Folders, rounds: int) -> None:
    """A hundred new vectors at once."""
    store = folders.open()
    names = new_vectors(store, folders.hidden, 100 * rounds + 1)
    contenders.every_mean(store, names[-1:])
    vectors = np.random.default_rng(3).standard_normal((100, folders.hidden)).astype(np.float32)
    rows = np.fromfile(folders.memmap, np.float16).reshape(-1, folders.hidden)
    seconds = time_rounds(
        {
            "tistore, scores cached": lambda n: store.warm(
                "SELECT "
                + ", ".join(f"project('{v}')" for v in names[100 * n : 100 * n + 100])
                + " FROM tokens"
            ),
            PASS: lambda n: contenders.file_per_prompt(folders, vectors),
            "one stacked product a file": lambda n: contenders.stacked_product(folders, vectors),
            "limit: decode only": lambda n: contenders.decode_only(store),
            "limit: product only": lambda n: contenders.product_only(rows, vectors),
        },
        rounds,
    )
    show("A hundred new vectors, all tokens of one layer", seconds, folders.layer_bytes, PASS)
    alone, own = (
        statistics.median(seconds[n]) for n in ("limit: product only", "tistore, scores cached")
    )
    print(f"  tistore takes {own / alone:.2f} times the product alone")


def rank(folders: Folders, rounds: int) -> None:
    """Rank all responses by a new vector."""
    store = folders.open()
    names = new_vectors(store, folders.hidden, 2 * rounds + 1)
    contenders.rank_responses(store, names[-1])
    vectors = np.random.default_rng(4).standard_normal((1, folders.hidden)).astype(np.float32)
    seconds = time_rounds(
        {
            "tistore": lambda n: contenders.rank_responses(store, names[n]),
            "tistore, opened anew": lambda n: contenders.rank_responses(
                folders.open(), names[rounds + n]
            ),
            PASS: lambda n: contenders.file_per_prompt(folders, vectors),
        },
        rounds,
    )
    raw = folders.layer_bytes * len(LAYERS)
    title = f"Rank all {len(folders.lengths)} responses by a new vector, {raw / 1e9:.1f} GB raw"
    show(title, seconds, folders.layer_bytes, PASS)
    plan = store.explain(f"SELECT project('{names[0]}') FROM responses")
    layer = sum(segment.site_bytes(contenders.SITE) for segment in store.snapshot.segments)
    print(f"  reads {plan.read_bytes / 1e6:.2f} MB, {plan.read_bytes / layer:.2%} of the layer")


def again(root: Path, rounds: int, n_tokens: int) -> None:
    """Questions whose scores are cached, over a million tokens."""
    store = make_small(root, n_tokens)
    (name,) = new_vectors(store, 64, 1)
    top = f"SELECT response_id, position, project('{name}') AS s FROM tokens"
    diff = (
        f"SELECT organism, prompt_id, position, project('{name}') AS s FROM token_diffs "
        "WHERE reader = organism AND baseline = 'instruct'"
    )
    best = " ORDER BY s DESC LIMIT 20"
    for sql in (top, diff):
        store.sql(sql + best)
    seconds = time_rounds(
        {
            "top 20 of all tokens": lambda n: store.sql(top + best).fetchall(),
            "top 20 differences of all pairs": lambda n: store.sql(diff + best).fetchall(),
            "mean difference of every organism": lambda n: store.sql(
                f"SELECT organism, avg(s) FROM ({diff}) GROUP BY organism"
            ).fetchall(),
            "planning: tokens": lambda n: store.explain(top + best),
            "planning: differences": lambda n: store.explain(diff + best),
        },
        max(rounds, 7),
    )
    n_rows = store.info().tokens
    show(f"The same question again, {n_rows} tokens", seconds, 4 * n_rows, "top 20 of all tokens")


def memory(root: Path, gigabytes: float, hidden: int) -> None:
    """Peak memory of a new vector over a larger store, in a process of its own."""
    folders = Folders(root / "large", int(gigabytes * 1e9), hidden)
    (name,) = new_vectors(folders.open(), hidden, 1)
    watched = (
        "import json, sys\n"
        "import tistore\n"
        # Not getrusage: what a process was before exec counts in its maximum, too.
        "def peak():\n"
        "    lines = open('/proc/self/status').read().split('\\n')\n"
        "    return next(int(line.split()[1]) for line in lines if line[:5] == 'VmHWM') * 1024\n"
        "import duckdb, pyarrow, tensorstore, numcodecs, sqlglot\n"
        "before = peak()\n"
        "store = tistore.open(sys.argv[1])\n"
        "store.sql(f\"SELECT response_id, position, project('{sys.argv[2]}') AS s FROM tokens "
        'ORDER BY s DESC LIMIT 20")\n'
        "print(json.dumps([before, peak()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, str(folders.store), name],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    before, peak = json.loads(done.stdout)
    print(f"\nPeak memory, a new vector over {gigabytes:g} GB raw, {sum(folders.lengths)} tokens")
    print(f"  {(peak - before) / 1e6:.0f} MB over the interpreter's {before / 1e6:.0f} MB")


def start(rounds: int) -> None:
    """What a command costs before it does anything."""
    commands = {
        "python": ["-c", "pass"],
        "import tistore": ["-c", "import tistore"],
        "tistore --help": ["-m", "tistore.cli.main", "--help"],
        "tistore sql --help": ["-m", "tistore.cli.main", "sql", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(2 * rounds):
        for name, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds[name].append(used)
    print("\nStarting, processor time")
    for name, times in seconds.items():
        spread = f"({min(times) * 1e3:.0f}–{max(times) * 1e3:.0f})"
        print(f"  {name:<44} {statistics.median(times) * 1e3:9.0f} ms  {spread}", flush=True)


def move(root: Path, gigabytes: float, hidden: int, rounds: int) -> None:
    """Import folders of `.pt` files, beside writing their values raw."""
    plain, batched = root / "plain", root / "batched"
    n_bytes = moving.write_experiment(plain, int(gigabytes * 1e9), hidden, is_batched=False)
    n_batched = moving.write_experiment(batched, int(gigabytes * 1e8), hidden, is_batched=True)
    on_disk = sum(path.stat().st_size for path in batched.rglob("*.pt"))
    peaks = []

    def fresh(name: str) -> Path:
        shutil.rmtree(root / name, ignore_errors=True)
        return root / name

    jobs: dict[str, Job] = {
        "import": lambda n: peaks.append(moving.import_experiment(fresh("a.tistore"), plain)),
        "the values written raw": lambda n: moving.write_raw(fresh("raw"), n_bytes),
    }
    show(
        f"Import a folder of .pt files, {n_bytes / 1e9:.2f} GB of values",
        time_rounds(jobs, rounds, before=os.sync),
        n_bytes,
        "the values written raw",
    )
    seconds = time_rounds(
        {
            "import": lambda n: moving.import_experiment(fresh("b.tistore"), batched),
            "the values written raw": lambda n: moving.write_raw(fresh("raw"), n_batched),
        },
        rounds,
        before=os.sync,
    )
    title = f"The same where each file holds its batch of {moving.BATCH}"
    show(
        f"{title}: {n_batched / 1e9:.2f} GB of values in {on_disk / 1e9:.2f} GB of files",
        seconds,
        n_batched,
        "the values written raw",
    )
    before, peak = max(peaks, key=lambda found: found[1] - found[0])
    stored = Store.open(root / "b.tistore").info()
    print(
        f"  peak memory {peak / 1e6:.0f} MB, {(peak - before) / 1e6:.0f} MB over the interpreter; "
        f"the batched files become {stored.raw_bytes / 1e9:.2f} GB of float16, "
        f"{stored.stored_bytes / 1e9:.2f} GB stored"
    )


SECTIONS = ("start", "write", "move", "warm", "cold", "hundred", "rank", "again", "memory")


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, ask every way there is, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="raw size of the store")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="for questions asked again")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    given = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="tistore-bench-"))
    try:
        print(f"{os.cpu_count()} processors, torch on {torch.get_num_threads()} threads")
        if "start" in given.only:
            start(given.rounds)
        if "write" in given.only:
            write(root, given.hidden, 3)
        if "move" in given.only:
            move(root / "move", given.gigabytes / 2, given.hidden, 3)
            shutil.rmtree(root / "move")
        if set(given.only) & {"warm", "cold", "hundred", "rank"}:
            folders = Folders(root / "main", int(given.gigabytes * 1e9), given.hidden)
            stored = folders.open().info().stored_bytes
            files = sum(path.stat().st_size for path in folders.pt.iterdir())
            print(
                f"{len(folders.lengths)} readings, {sum(folders.lengths)} tokens, "
                f"{len(LAYERS)} layers of {given.hidden}: {stored / 1e9:.2f} GB as a store, "
                f"{files / 1e9:.2f} GB as .pt files"
            )
            sections = {"warm": warm, "cold": cold, "hundred": hundred, "rank": rank}
            for name, section in sections.items():
                if name in given.only:
                    section(folders, 3 if name == "hundred" else given.rounds)
            shutil.rmtree(folders.root)
        if "rank" in given.only:
            rank(Folders(root / "small", int(given.gigabytes * 2.5e8), given.hidden), given.rounds)
        if "again" in given.only:
            again(root, given.rounds, given.tokens)
        if "memory" in given.only:
            memory(root, 2 * given.gigabytes, given.hidden)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
