"""Imported twice, killed at random, changed in between: the store says each thing once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import tistore
from tistore.errors import ConfigError, InterruptedRunError
from tistore.exchange.trait_interp.options import ImportOptions
from tistore.exchange.trait_interp.reading_import import ReadingImport
from tistore.exchange.trait_interp.run import import_experiment
from tistore.schemas.model import Model

PATCHED = """
import sys, tistore
from tistore.exchange.trait_interp import run
run.FLUSH_BYTES = 600  # a commit for every few readings
store = tistore.open(sys.argv[1])
print("begun", flush=True)
run.import_experiment(store, __import__("pathlib").Path(sys.argv[2]))
"""


def list_contents(store):
    """List everything an import is to give: readings by key and content, and rows of tables."""
    keys = store.snapshot.keys
    tables = {
        name: sorted(
            json.dumps({k: v for k, v in row.items() if k != "run_id"}, default=str)
            for row in store.snapshot.table(name).to_pylist()
        )
        for name in ("vectors", "steering", "annotations", "prompts", "generations", "sources")
    }
    return keys["readings"], tables


@pytest.fixture
def december(tree, tmp_path):
    """A copy of one experiment, which a test may change."""
    folder = tmp_path / "tree"
    shutil.copytree(tree.root, folder, copy_function=shutil.copy2)
    return folder / "experiments" / "december"


@pytest.mark.parametrize("name", ["november", "december", "february"])
def test_a_second_import_adds_nothing(tree, imported, tmp_path, name):
    store = imported[name][0]
    copy = tmp_path / "copy"
    shutil.copytree(store.path, copy)
    options = ImportOptions()
    if name == "february":
        options = ImportOptions("4bit", keep_mismatched=True, vectors=(tree.root / "loose",))
    before = tistore.open(copy).snapshot.number

    report = import_experiment(tistore.open(copy), tree.experiment(name), options)

    assert report.count("imported") == report.readings == 0
    assert report.run_id is None
    assert report.count("present") == imported[name][1].count("imported")
    assert report.count("refused") == imported[name][1].count("refused")
    assert tistore.open(copy).snapshot.number == before


def test_killed_at_random_and_resumed_it_is_the_same(tree, imported, tmp_path):
    """Content hashes, tables and sources, whatever the moment."""
    expected = tistore.create(tmp_path / "whole")
    import_experiment(expected, tree.experiment("february"))
    store = tistore.create(tmp_path / "killed")
    draw = random.Random(int(time.time()))
    process = subprocess.Popen(
        [sys.executable, "-c", PATCHED, store.path, tree.experiment("february")],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    time.sleep(draw.uniform(0.0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    import_experiment(tistore.open(store.path), tree.experiment("february"))

    resumed = tistore.open(store.path)
    assert resumed.verify(strict=False).ok
    assert list_contents(resumed) == list_contents(tistore.open(expected.path))
    runs = {row["run_id"] for row in resumed.snapshot.table("runs").to_pylist()}
    assert {row["run_id"] for row in resumed.snapshot.table("sources").to_pylist()} <= runs


def test_an_interrupted_import_keeps_what_it_has_read(tree, tmp_path, monkeypatch):
    store = tistore.create(tmp_path / "s")
    original = ReadingImport._import_reading

    def interrupt(self, loaded):
        original(self, loaded)
        if self.n_imported == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ReadingImport, "_import_reading", interrupt)
    with pytest.raises(InterruptedRunError, match="after 2 of 11 readings") as caught:
        import_experiment(store, tree.experiment("february"))
    monkeypatch.undo()

    assert caught.value.exit_code == 130
    held = len(tistore.open(store.path).snapshot.keys["readings"])
    assert held == 2
    report = import_experiment(store, tree.experiment("february"))
    assert report.readings == 9 - held


@pytest.mark.parametrize("name", ["november", "december", "february"])
def test_a_dry_run_tells_what_is_then_done(tree, imported, name):
    """But for what only values can tell: NaN and infinity."""
    options = ImportOptions()
    if name == "february":
        options = ImportOptions("4bit", keep_mismatched=True, vectors=(tree.root / "loose",))

    foreseen = import_experiment(None, tree.experiment(name), options, dry_run=True)

    done = {file.path: file for file in imported[name][1].files}
    assert {file.path for file in foreseen.files} == done.keys()
    for file in foreseen.files:
        if "infinite values" not in (done[file.path].reason or ""):
            assert file == done[file.path]
    assert foreseen.is_dry and foreseen.run_id is None


def test_a_dry_run_writes_nothing(tree, tmp_path):
    store = tistore.create(tmp_path / "s")
    before = sorted(path for path in store.path.rglob("*"))

    report = import_experiment(store, tree.experiment("december"), dry_run=True)

    assert report.readings == 5
    assert report.value_bytes > 0
    assert sorted(path for path in store.path.rglob("*")) == before


def test_a_moved_tree_is_known_by_its_content(december, tmp_path):
    """Copies have other times; the bytes are what counts."""
    store = tistore.create(tmp_path / "s")
    import_experiment(store, december)
    moved = tmp_path / "elsewhere"
    shutil.copytree(december.parents[1], moved, copy_function=shutil.copy)
    for path in moved.rglob("*.pt"):
        os.utime(path, (1, 1))

    report = import_experiment(store, moved / "experiments" / "december")

    assert report.count("imported") == 0


def test_experiments_share_a_store_and_what_lies_beside_them(tree, tmp_path):
    """A data set both answer is stored once; each is known when it comes again."""
    store = tistore.create(tmp_path / "s")
    first = import_experiment(store, tree.experiment("december"))
    import_experiment(store, tree.experiment("february"))

    again = [import_experiment(store, tree.experiment(n)) for n in ("december", "february")]

    assert [report.count("imported") for report in again] == [0, 0]
    assert [report.run_id for report in again] == [None, None]
    assert again[0].count("present") == first.count("imported")


def test_a_file_that_changed_is_refused_and_says_so(december, tmp_path):
    store = tistore.create(tmp_path / "s")
    import_experiment(store, december)
    path = december / "inference" / "raw" / "residual" / "audit" / "discovery" / "10.pt"
    content = torch.load(path)
    content["response"]["activations"][3]["residual_out"] += 1
    torch.save(content, path)

    report = import_experiment(store, december)

    (refused,) = [file for file in report.refused if file.path.endswith("10.pt")]
    assert "with other activations" in refused.reason
    assert refused.reason.endswith("it has changed since it was imported")
    assert report.run_id is None


def test_same_length_and_time_hide_a_change_unless_rehashed(december, tmp_path):
    """As with rsync and make: `rehash` is for those who doubt."""
    store = tistore.create(tmp_path / "s")
    import_experiment(store, december)
    path = december / "inference" / "raw" / "residual" / "audit" / "discovery" / "10.pt"
    times = path.stat().st_mtime_ns
    content = torch.load(path)
    content["response"]["activations"][3]["residual_out"] += 1
    torch.save(content, path)
    os.utime(path, ns=(times, times))

    assert import_experiment(store, december).count("refused") == 1
    rehashed = import_experiment(store, december, ImportOptions(rehash=True))
    assert rehashed.count("refused") == 2


def test_a_later_replay_joins_what_is_stored(tree, tmp_path):
    """The author's own file may be gone: its tokens are in the store."""
    folder = tmp_path / "tree"
    shutil.copytree(tree.root, folder)
    february = folder / "experiments" / "february"
    replays = february / "inference" / "instruct" / "raw" / "residual" / "audit"
    aside = tmp_path / "aside"
    shutil.move(replays / "discovery_replay_flattery", aside)
    store = tistore.create(tmp_path / "s")
    import_experiment(store, february)
    shutil.move(aside, replays / "discovery_replay_flattery")
    for kind in ("raw", "responses"):
        shutil.rmtree(february / "inference" / "flattery" / kind)

    report = import_experiment(store, february)

    assert report.readings == 2
    rows = tistore.open(store.path).snapshot.table("sources").to_pylist()
    assert [r["is_paired"] for r in rows if "_replay_flattery" in r["path"]] == [True, True]


def test_a_response_whose_capture_is_refused_waits_for_a_run(december, tmp_path):
    """Its text is kept; a capture that is mended later joins it."""
    path = december / "inference" / "raw" / "residual" / "audit" / "discovery" / "10.pt"
    content = torch.load(path)
    kept = content["response"]["activations"][3]["residual_out"].clone()
    content["response"]["activations"][3]["residual_out"][1, 1] = float("nan")
    torch.save(content, path)
    store = tistore.create(tmp_path / "s")

    first = import_experiment(store, december)
    content["response"]["activations"][3]["residual_out"] = kept
    torch.save(content, path)
    second = import_experiment(store, december)

    rows = store.snapshot.table("generations").to_pylist()
    assert [row["prompt_id"] for row in rows] == ["10"]
    assert (first.readings, second.readings) == (4, 1)
    assert second.count("imported") == 1
    paths = [file.path for file in second.files]
    assert len(paths) == len(set(paths))


def test_zeros_are_no_data(december, tmp_path):
    """A component that was not captured was written as zeros."""
    path = december / "inference" / "raw" / "residual" / "audit" / "discovery" / "rust_100.pt"
    content = torch.load(path)
    for half in ("prompt", "response"):
        for site in content[half]["activations"].values():
            site["mlp_out"].zero_()
    torch.save(content, path)
    store = tistore.create(tmp_path / "s")

    report = import_experiment(store, december)

    (file,) = [f for f in report.files if f.path.endswith("discovery/rust_100.pt") and
               "models" not in f.path]  # fmt: skip
    assert file.outcome == "imported"
    assert "mlp_out holds nothing but zeros" in file.reason
    components = {c for segment in store.snapshot.segments for c in segment.components}
    assert "down_proj" not in components
    assert import_experiment(store, december).count("imported") == 0


def test_a_model_of_the_same_name_in_the_store_must_be_the_same(tree, tmp_path):
    store = tistore.create(tmp_path / "s")
    other = Model("instruct", base_id="other/model")
    with store.writer() as writer:
        writer.add(
            organism=other, reader=other, prompt_set="p", prompt_id="1", token_ids=[1, 2],
            prompt_length=1, layers=[0],
            activations={"residual": np.ones((2, 1, 4), dtype=np.float16)},
        )  # fmt: skip

    report = import_experiment(store, tree.experiment("february"))

    refused = [f for f in report.refused if f.path.startswith("inference/instruct/raw")]
    assert len(refused) >= 3
    assert any("base_id 'other/model'" in file.reason for file in refused)


def test_options_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="no component 'residul'"):
        ImportOptions(components=("residul",)).validate()
    with pytest.raises(ConfigError, match="nothing lies at"):
        ImportOptions(vectors=(tmp_path / "none",)).validate()


def test_only_wanted_components_are_imported(tree, tmp_path):
    store = tistore.create(tmp_path / "s")

    import_experiment(store, tree.experiment("february"), ImportOptions(components=("residual",)))

    assert {c for s in store.snapshot.segments for c in s.components} == {"residual"}
