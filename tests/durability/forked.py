"""
Processes by the thousand: a warm parent forks them, so that none has to load anything.

A process that has started threads must not fork: they would be missing in the child, and the locks
they held would stay locked. So a laboratory that kills is a program of its own (`launch`), whose
first process never touches a store: it forks the writers, and the checks too (`ask`).
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).resolve().parents[1]


class ChildFailed(Exception):
    """A forked process raised what it should not have; the message is its traceback."""


def launch(program: str, **options: Any) -> Any:
    """
    Run a laboratory as a program of its own.

    Args:
        program: Its module in this folder; it takes its options as JSON and prints JSON.
        options: What it is to do.
    """
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"durability.{program}", json.dumps(options)],
        cwd=TESTS,
        env=os.environ | one_thread,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ChildFailed(done.stderr)
    return json.loads(done.stdout)


def warm_up(work: Callable[[Path], object]) -> None:
    """Load what some work needs: a child does it in a scratch folder, and tells what it loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        loaded = ask(lambda: (work(Path(scratch)), sorted(sys.modules))[1])
    for name in loaded:
        with suppress(ImportError):  # a name that only its package gives out
            importlib.import_module(name)


def fork(work: Callable[[], object], crash: Path | None = None) -> int:
    """
    Start a process that does `work` and ends; gives its id.

    Args:
        work: What it does.
        crash: Where to write the traceback, should it raise.
    """
    child = os.fork()
    return child or _work_and_exit(work, crash)


def ask(work: Callable[[], Any]) -> Any:
    """
    Do `work` in a forked process; gives what it returns.

    Raises:
        ChildFailed: It raised, or died.
    """
    answers, answering = os.pipe()

    def answer() -> None:
        try:
            outcome = (work(), None)
        except BaseException:
            outcome = (None, traceback.format_exc())
        with os.fdopen(answering, "wb") as pipe:
            pickle.dump(outcome, pipe)

    child = fork(answer)
    os.close(answering)
    with os.fdopen(answers, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if not data:
        raise ChildFailed(f"it ended with status {os.waitstatus_to_exitcode(status)}")
    result, failure = pickle.loads(data)
    if failure:
        raise ChildFailed(failure)
    return result


def kill(child: int) -> bool:
    """Kill a process that was forked here; False when it had ended before."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def _work_and_exit(work: Callable[[], object], crash: Path | None) -> NoReturn:
    status = 0
    try:
        work()
    except BaseException:
        status = 1
        if crash is None:
            traceback.print_exc()
        else:
            crash.write_text(traceback.format_exc())
    finally:
        # Nothing of the parent's is to be flushed or closed a second time.
        os._exit(status)
