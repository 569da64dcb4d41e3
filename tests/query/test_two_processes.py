"""Processes that share a store's score cache, and one that dies while it writes it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import tistore
from query_worker import answer_questions

HIDDEN = 512
TOKENS = 400
RESPONSES = 48
PER_SEGMENT = 4
PER_QUESTION = 5
KILLS = 15
QUESTIONS = 6 + KILLS

# Each process is forked from one that has imported what they need, and holds nothing else.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["query_worker", "tistore.query.engine"])


@dataclass
class Shared:
    """A store with many segments, and for each question the SQL and its answer."""

    path: Path
    answers: list[np.ndarray]

    @staticmethod
    def sql(question: int) -> str:
        calls = (f"project('{trait}') AS s{n}" for n, trait in enumerate(_traits(question)))
        return f"SELECT {', '.join(calls)} FROM tokens ORDER BY response_id, position"

    def check(self, question: int, found: np.ndarray) -> None:
        wanted = self.answers[question]
        assert found.shape == wanted.shape
        assert not np.isnan(found).any()
        assert np.abs(found - wanted).max() < 2e-3 * np.ptp(wanted, axis=1).min()

    @property
    def leftovers(self) -> list[Path]:
        """Temporary files in the cache."""
        folder = tistore.open(self.path).score_folder
        return [path for path in folder.rglob("*") if path.is_file() and "tmp" in path.name]


def _traits(question: int) -> list[str]:
    return [f"q{question}/v{question}_{number}" for number in range(PER_QUESTION)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    path = tmp_path_factory.mktemp("shared") / "store"
    rng = np.random.default_rng(3)
    store = tistore.create(path)
    states = {}
    with mock.patch("os.fsync"):
        with store.writer() as writer:
            for number in range(RESPONSES):
                values = rng.standard_normal((TOKENS, 1, HIDDEN)).astype(np.float16)
                identity = writer.add(
                    organism="instruct",
                    reader="instruct",
                    prompt_set="p",
                    prompt_id=str(number),
                    token_ids=rng.integers(0, 9, TOKENS).tolist(),
                    prompt_length=0,
                    layers=[4],
                    activations={"residual": values},
                )
                states[identity] = values[:, 0]
                if number % PER_SEGMENT == PER_SEGMENT - 1:
                    writer.commit()
        directions = []
        for question in range(QUESTIONS):
            for trait in _traits(question):
                directions.append(rng.standard_normal(HIDDEN).astype(np.float32))
                store.add_vector(trait, directions[-1], layer=4)
    rows = np.concatenate([states[identity] for identity in sorted(states)]).astype(np.float64)
    units = np.stack(directions).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    answers = np.split(units @ rows.T, QUESTIONS)
    return Shared(path, answers)


class Worker:
    """A process of its own that answers questions about a store."""

    def __init__(self, path: Path) -> None:
        self._connection, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(
            target=answer_questions, args=(str(path), theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def wait(self) -> str:
        """Wait for its next word; empty when it is gone."""
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            return ""

    def ask(self, sql: str, target: Path, max_read_bytes: int | None = None) -> None:
        self._connection.send((sql, str(target), max_read_bytes))

    def kill(self) -> bool:
        """Kill it with SIGKILL; tells whether it had not answered yet."""
        self._process.kill()
        self._process.join()
        return self.wait() == ""

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


@contextmanager
def working(path: Path, n_workers: int) -> Iterator[list[Worker]]:
    """Start workers, and wait until all have the store open."""
    with ExitStack() as stack:
        workers = []
        for _ in range(n_workers):
            workers.append(Worker(path))
            stack.callback(workers[-1].close)
        for worker in workers:
            assert worker.wait() == "ready"
        yield workers


def test_two_processes_that_want_the_same_scores_both_get_them(shared, tmp_path):
    """Asked at the same instant; a third then finds everything in the cache and reads nothing."""
    questions = range(5)
    with working(shared.path, 2) as workers:
        for question in questions:
            targets = [tmp_path / f"{question}-{place}.npy" for place in range(len(workers))]
            for worker, target in zip(workers, targets, strict=True):
                worker.ask(shared.sql(question), target)
            for worker, target in zip(workers, targets, strict=True):
                assert worker.wait() == "done"
                shared.check(question, np.load(target))

    with working(shared.path, 1) as [reader]:
        for question in questions:
            reader.ask(shared.sql(question), tmp_path / "again.npy", max_read_bytes=0)
            assert reader.wait() == "done"
            shared.check(question, np.load(tmp_path / "again.npy"))
    assert shared.leftovers == []


@pytest.mark.slow
def test_a_process_killed_while_it_scans_leaves_nothing_that_lies(shared, tmp_path):
    """SIGKILL at moments spread over the scan and the writing of the cache."""
    questions = range(6, 6 + KILLS)
    longest = _time_a_question(shared, 5, tmp_path)
    delays = [longest * (place + random.Random(place).random()) / KILLS for place in range(KILLS)]
    n_killed_in_time = 0
    for question, delay in zip(questions, delays, strict=True):
        with working(shared.path, 1) as [worker]:
            worker.ask(shared.sql(question), tmp_path / "never.npy")
            time.sleep(delay)
            n_killed_in_time += worker.kill()
        store = tistore.open(shared.path)
        found = store.sql(shared.sql(question)).to_arrow()
        shared.check(question, np.stack([column.to_numpy() for column in found.columns]))

    with working(shared.path, 1) as [reader]:
        for question in questions:
            reader.ask(shared.sql(question), tmp_path / "after.npy", max_read_bytes=0)
            assert reader.wait() == "done"
            shared.check(question, np.load(tmp_path / "after.npy"))
    assert n_killed_in_time >= KILLS // 3, (n_killed_in_time, longest)


def _time_a_question(shared: Shared, question: int, folder: Path) -> float:
    """Seconds a question takes whose scores no cache has."""
    with working(shared.path, 1) as [worker]:
        began = time.perf_counter()
        worker.ask(shared.sql(question), folder / "timed.npy")
        assert worker.wait() == "done"
        return time.perf_counter() - began
