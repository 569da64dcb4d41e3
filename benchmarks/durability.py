"""
What it costs to be sure: verifying a store, opening a long log, and committing.

    .venv/bin/python benchmarks/durability.py
    .venv/bin/python benchmarks/durability.py --only verify --gigabytes 4
    .venv/bin/python benchmarks/durability.py --only opening --commits 10000

Each figure is the median over rounds, interleaved where things are compared, with the range. How
long many writers wait for each other is told by `make torture`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from blake3 import blake3
from data import Reading, add, generate
from run import drop_pages, show, time_rounds
from threadpoolctl import threadpool_limits

from tistore.query.store import Store
from tistore.store.files import BLOCK_BYTES
from tistore.store.layout import COMMITS
from tistore.store.log import append_commit
from tistore.store.posix import PosixFiles
from tistore.store.system import System
from tistore.store.writer import FLUSH_BYTES, FLUSH_SECONDS

SECTIONS = ["verify", "opening", "commits", "cadence"]
ONE_GIB = 1 << 30


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


def measure_busy(job: Callable[[], object]) -> float:
    """Measure the seconds that a job keeps cores busy, however many others share them."""
    started = time.process_time()
    job()
    return time.process_time() - started


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
    print("\nFor each second of a core, pages cached")
    for name, job in {
        "tistore verify": lambda: store.verify(jobs=cores),
        "limit: BLAKE3 of bytes in memory": lambda: hash_memory(size, cores),
        "limit: read only": lambda: read_plainly(paths, cores),
    }.items():
        busy = [measure_busy(job) for _ in range(rounds)]
        print(f"  {name:<44} {size / statistics.median(busy) / 1e9:7.2f} GB")
    seconds = time_rounds(
        {
            "tistore verify": lambda _: store.verify(),
            "limit: read only": lambda _: read_plainly(paths, cores),
        },
        rounds,
        before=lambda: drop_pages(store.path),
    )
    show("Verify, from disk", seconds, size, "tistore verify")


class UnsyncedSystem(System):
    """The system without its disk: for stores that need not outlast the benchmark."""

    def sync(self, descriptor: int) -> None:
        """Leave it to the system."""

    def sync_folder(self, path: str) -> None:
        """Leave it to the system."""


class TimedSystem(System):
    """The system, with a clock at what waits for the disk."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def sync(self, descriptor: int) -> None:
        """Fsync a file."""
        self._clock("files", super().sync, descriptor)

    def sync_folder(self, path: str) -> None:
        """Fsync a folder."""
        self._clock("folders", super().sync_folder, path)

    def _clock(self, what: str, call: Callable[..., None], argument: int | str) -> None:
        started = time.perf_counter()
        call(argument)
        self.seconds[what] += time.perf_counter() - started


def spread(seconds: Sequence[float]) -> str:
    """Say median, 99th percentile and largest, in milliseconds."""
    p50, p99, largest = (1e3 * np.percentile(seconds, part) for part in (50, 99, 100))
    return f"p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   longest {largest:7.1f} ms"


def small_readings(n_readings: int) -> list[Reading]:
    """Readings that are next to nothing: what is left of a commit is what it costs by itself."""
    made = generate(1 << 60, 16)
    return [next(made) for _ in range(n_readings)]


def make_log(root: Path, n_commits: int) -> Store:
    """Write a log of commits like a real one, whose segments are not there: opening reads none."""
    path = root / "log.tistore"
    store = Store.create(path, system=UnsyncedSystem())
    with store.writer() as writer:
        add(writer, small_readings(1)[0])
    files, last = PosixFiles(path, UnsyncedSystem()), store.snapshot.commits[-1]
    entry, writer_id = last.body["segments"][0], last.body["writer"]
    for _ in range(n_commits - 1):
        name = uuid.uuid4().hex
        commit = append_commit(
            files, parent=last, header_hash=store.header.sha256, writer=writer_id,
            commit_uuid=uuid.uuid4().hex,
            additions={
                "segments": [entry | {"uuid": name}], "tables": [],
                "keys": {"readings": {name: name}, "slots": {name: name}},
            },
        )  # fmt: skip
        assert commit is not None  # nobody else writes here
        last = commit
    return Store.open(path)


def opening(root: Path, n_commits: int, rounds: int) -> None:
    """Open a store of many commits, and follow it; then ask it something, before and after."""
    store = make_log(root, n_commits)
    size = sum(path.stat().st_size for path in (store.path / COMMITS).iterdir())
    print(f"\nOpening {n_commits} commits ({size / 1e6:.0f} MB)")
    behind = [Store.open(store.path) for _ in range(rounds)]
    warm = time_rounds({"open": lambda _: Store.open(store.path)}, rounds)
    busy = [measure_busy(lambda: Store.open(store.path)) for _ in range(rounds)]
    print(f"  {'pages cached':<44} {spread(warm['open'])}   {min(busy):.2f} s of a core")
    cold = time_rounds(
        {"open": lambda _: Store.open(store.path)}, rounds, before=lambda: drop_pages(store.path)
    )
    print(f"  {'from disk':<44} {spread(cold['open'])}")
    still = time_rounds({"refresh": lambda number: behind[number].refresh()}, rounds)
    print(f"  {'refresh, nothing new':<44} {spread(still['refresh'])}")
    with Store.open(store.path, system=UnsyncedSystem()).writer() as writer:
        add(writer, small_readings(3)[-1])
    follow = time_rounds({"refresh": lambda number: behind[number].refresh()}, rounds)
    print(f"  {'refresh, one commit more':<44} {spread(follow['refresh'])}")
    ask_many_segments(root, n_commits // 20)


def ask_many_segments(root: Path, n_segments: int) -> None:
    """Ask a store of many tiny segments its first question, and again once they are merged."""
    path = root / "tiny.tistore"
    with Store.create(path, system=UnsyncedSystem()).writer(flush_bytes=1) as writer:
        for reading in small_readings(n_segments):
            add(writer, reading)
    print(f"\nFirst question to {n_segments} segments of one reading: count(*) of responses")
    print(f"  {'as they were written':<44} {time_first_question(path):7.2f} s")
    report = Store.open(path, system=UnsyncedSystem()).compact()
    print(f"  {'after compact':<44} {time_first_question(path):7.2f} s")
    print(f"  files: {report.files_before} before, {report.files_after} after")


def time_first_question(path: Path) -> float:
    """Measure the seconds until a newly opened store has answered."""
    started = time.perf_counter()
    Store.open(path).sql("SELECT count(*) FROM responses").fetchall()
    return time.perf_counter() - started


def commits(root: Path, n_commits: int) -> None:
    """What a commit of one small reading takes, until it is on the disk."""
    system = TimedSystem()
    with Store.create(root / "small.tistore", system=system).writer() as writer:
        seconds = []
        for reading in small_readings(n_commits):
            add(writer, reading)
            started = time.perf_counter()
            writer.commit()
            seconds.append(time.perf_counter() - started)
    print(f"\n{n_commits} commits of one small reading, by one writer\n  {spread(seconds)}")
    waits = ", ".join(
        f"{1e3 * total / n_commits:.1f} ms for {what}" for what, total in system.seconds.items()
    )
    print(f"  of it, waiting for the disk: {waits}")


def cadence(root: Path, rounds: int) -> None:
    """What a capture pays at the default cadence, and how many files it leaves."""
    system = TimedSystem()
    store = Store.create(root / "cadence.tistore", system=system)
    seconds, busy, lost = [], [], []
    readings = generate(1 << 60, 4096)
    raw_bytes = 0
    with store.writer(flush_bytes=1 << 60, flush_seconds=1e9) as writer:
        for number in range(2 * rounds):
            while writer.pending_bytes < FLUSH_BYTES:
                add(writer, next(readings))
            raw_bytes += writer.pending_bytes
            alone = count_steps(lambda: time.sleep(2)) / 2
            started, processors = time.perf_counter(), time.process_time()
            if number % 2:
                n_steps = count_steps(writer.commit)
                lost.append(time.perf_counter() - started - n_steps / alone)
            else:
                writer.commit()
                seconds.append(time.perf_counter() - started)
                busy.append(time.process_time() - processors)
    waits = [total / 2 / rounds for total in system.seconds.values()]
    print(f"\nCommits of {FLUSH_BYTES >> 20} MB, as every {FLUSH_SECONDS:.0f} s of a capture")
    for name, values in {
        "encode, write, fsync, link": seconds,
        "of it, waiting for the disk": [sum(waits)],
        "time of processors": busy,
        "lost to a thread that computes meanwhile": lost,
    }.items():
        share = statistics.median(values) / FLUSH_SECONDS
        print(f"  {name:<44} {spread(values)}   {100 * share:5.2f} % of {FLUSH_SECONDS:.0f} s")
    count_files(store, raw_bytes)


def count_steps(work: Callable[[], object]) -> int:
    """Count the products that this thread gets done while another, stepped back, does some work."""
    block = np.ones((256, 256), dtype=np.float32)

    def step_back_and_work() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # as a capture's does
        work()

    other = threading.Thread(target=step_back_and_work)
    n_steps = 0
    with threadpool_limits(1):
        other.start()
        while other.is_alive():
            block @ block
            n_steps += 1
    return n_steps


def count_files(store: Store, raw_bytes: int) -> None:
    """Count a store's files for each GiB of activations: as written, and tidied up."""
    store.refresh()
    gib = raw_bytes / ONE_GIB
    print(f"\nFiles for each GiB of activations ({gib:.1f} GiB)")
    print(f"  {'as they were written':<44} {describe_files(store, gib)}")
    store.compact()
    store.gc(dry_run=False, keep_days=0, trash_days=0)
    store.refresh()
    print(f"  {'after compact and gc':<44} {describe_files(store, gib)}")


def describe_files(store: Store, gib: float) -> str:
    """Say how many files a store has for each GiB."""
    below, log = len(store.snapshot.files) / gib, store.snapshot.number / gib
    return f"{below:6.1f}, and {log:.1f} of the log"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="raw size of the store")
    parser.add_argument("--commits", type=int, default=10_000, help="length of the log")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="tistore-bench-"))
    try:
        if "verify" in given.only:
            verify(make_store(root, int(given.gigabytes * 1e9)), given.rounds)
        if "opening" in given.only:
            opening(root, given.commits, given.rounds)
        if "commits" in given.only:
            commits(root, 40 * given.rounds)
        if "cadence" in given.only:
            cadence(root, given.rounds)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
