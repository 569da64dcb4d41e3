"""A deadline ends the process, whatever the main thread is doing."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tistore.cli.deadline import deadline
from tistore.errors import ConfigError

BLOCKED = """
import sys, threading, time
from tistore.cli.deadline import deadline

print(time.monotonic(), flush=True)
sys.stdout.write("what was printed before")
with deadline(0.2):
    {block}
print("never reached")
"""


@pytest.mark.parametrize(
    "block",
    [
        "time.sleep(60)",
        "threading.Lock().acquire() and threading.Barrier(2).wait()",
        "[None for _ in iter(int, 1)]",
    ],
    ids=["asleep", "waiting", "busy"],
)
def test_the_process_ends_at_the_deadline(block):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(block=block)], capture_output=True, text=True
    )
    ended = time.monotonic()

    assert done.returncode == 1
    started, *printed = done.stdout.splitlines()
    assert ended - float(started) < 10  # the blocks would take a minute, or for ever
    assert printed == ["what was printed before"]
    assert "error: the query took longer than 0.2 s" in done.stderr
    assert "--timeout" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_block_in_time_goes_on():
    """In a process of its own: a watch left on would end this one."""
    script = (
        "import time; from tistore.cli.deadline import deadline\n"
        "with deadline(2), deadline(None): pass\n"
        "time.sleep(3); print('went on')"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(seconds):
    with pytest.raises(ConfigError, match="no length of time"), deadline(seconds):
        pass
