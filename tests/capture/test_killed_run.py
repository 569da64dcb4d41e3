"""A run that is killed again and again ends as one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import tistore
from tistore.capture.config import read_config
from tistore.capture.run import ingest

# The writer commits after every reading, so that a kill finds commits to interrupt.
INGEST = """
import sys
from tistore.store import base, writer
base.FLUSH_BYTES = 1
base.BaseStore.writer.__kwdefaults__["flush_bytes"] = 1
sys.argv = ["tistore", "ingest", *sys.argv[1:]]
from tistore.cli.main import main
main()
"""

CONFIG = """
[base]
path = "base"
device = "cpu"
[[organisms]]
name = "loud"
adapter = "loud"
[[prompt_sets]]
path = "prompts/short.json"
[[prompt_sets]]
path = "prompts/other.jsonl"
[capture]
rows = "all"
[generation]
max_new_tokens = 24
temperature = 1.0
samples = 2
batch_size = 4
"""


def start(store: Path, config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INGEST, str(store), str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def read_everything(path: Path) -> dict[tuple, tuple]:
    store = tistore.open(path)
    return {
        (row["organism"], row["reader"], row["prompt_set"], row["prompt_id"], row["sample"]): (
            row["reading_key"],
            row["token_ids"],
            [
                store.activations(row["response_id"], reader=row["reader"], layer=layer)
                for layer in segment.layers
            ],
        )
        for segment in store.snapshot.segments
        for row in segment.table("responses").to_pylist()
    }


def test_a_run_killed_again_and_again_equals_an_uninterrupted_one(workplace, tmp_path):
    """SIGKILL at random moments after the first commit; then run to the end."""
    config = workplace / "killed.toml"
    config.write_text(CONFIG)
    whole, killed = tmp_path / "whole.tistore", tmp_path / "killed.tistore"
    ingest(tistore.create(whole), read_config(config))
    rng = random.Random(0)

    kills = 0
    while kills < 2:
        process = start(killed, config)
        commits = killed / "commits"
        before = len(list(commits.glob("[0-9]*"))) if commits.exists() else 0
        while process.poll() is None and (
            not commits.exists() or len(list(commits.glob("[0-9]*"))) == before
        ):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        kills += 1
    last = start(killed, config)
    errors = last.communicate()[1]

    assert last.returncode == 0, errors
    wanted, got = read_everything(whole), read_everything(killed)
    assert got.keys() == wanted.keys()
    assert len(got) == 2 * 10 + 10
    for key, (reading_key, token_ids, layers) in wanted.items():
        assert got[key][0] == reading_key
        assert got[key][1] == token_ids
        for mine, theirs in zip(got[key][2], layers, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert tistore.open(killed).verify().ok
