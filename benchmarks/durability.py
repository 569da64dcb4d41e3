"""
What it costs to be sure: verifying a store, beside hashing and reading alone.

    .venv/bin/python benchmarks/durability.py
    .venv/bin/python benchmarks/durability.py --only verify --gigabytes 4

Each figure is the median over interleaved rounds, with the range.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3
from data import add, generate
from run import drop_pages, show, time_rounds

from tistore.query.store import Store
from tistore.store.files import BLOCK_BYTES

SECTIONS = ["verify"]


def make_store(root: Path, size_bytes: int, hidden: int = 4096) -> Store:
    """Write generated readings, through the library."""
    store = Store.create(root / "s.tistore")
    with store.writer() as writer:
        for reading in generate(size_bytes, hidden):
            add(writer, reading)
    return store


def read_plainly(paths: Sequence[Path], jobs: int) -> None:
    """Read every file once, and do nothing with it."""

    def read(path: Path) -> None:
        buffer = bytearray(BLOCK_BYTES)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(read, paths))


def hash_memory(size_bytes: int, jobs: int) -> None:
    """Hash as many bytes that are in memory, block by block: what the processor can do."""
    block = os.urandom(BLOCK_BYTES)

    def hash_share(n_blocks: int) -> None:
        hasher = blake3()
        for _ in range(n_blocks):
            hasher.update(block)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(hash_share, [size_bytes // BLOCK_BYTES // jobs] * jobs))


def verify(store: Store, rounds: int) -> None:
    """Every byte compared with the log, pages cached, and from disk."""
    paths = [store.path / record.path for record in store.snapshot.kept_files]
    size = sum(path.stat().st_size for path in paths)
    cores = len(os.sched_getaffinity(0))
    print(f"\n{len(paths)} files, {size / 1e9:.2f} GB, {cores} cores")
    for jobs in sorted({1, cores}):
        seconds = time_rounds(
            {
                "tistore verify": lambda _, jobs=jobs: store.verify(jobs=jobs),
                "limit: BLAKE3 of bytes in memory": lambda _, jobs=jobs: hash_memory(size, jobs),
                "limit: read only": lambda _, jobs=jobs: read_plainly(paths, jobs),
            },
            rounds,
        )
        show(f"Verify, pages cached, {jobs} at once", seconds, size, "tistore verify")
    busy = time.process_time()
    store.verify(jobs=cores)
    busy = time.process_time() - busy
    print(f"  {size / 1e9 / busy:.2f} GB for each second of a core, reading and hashing")
    seconds = time_rounds(
        {
            "tistore verify": lambda _: store.verify(),
            "limit: read only": lambda _: read_plainly(paths, cores),
        },
        rounds,
        before=lambda: drop_pages(store.path),
    )
    show("Verify, from disk", seconds, size, "tistore verify")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="raw size of the store")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="tistore-bench-"))
    try:
        if "verify" in given.only:
            verify(make_store(root, int(given.gigabytes * 1e9)), given.rounds)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
