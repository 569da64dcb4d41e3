"""A store of every format version opens for ever, with the same answers."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tistore

FOLDER = Path(__file__).parent
VERSIONS = sorted(path.name for path in FOLDER.glob("v*"))
answer = runpy.run_path(str(FOLDER / "make.py"))["answer"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_store_gives_the_answers_it_was_made_with(version, tmp_path):
    """Activations to the bit; scores to float32 rounding, since products may be reordered."""
    shutil.copytree(FOLDER / version / "store", tmp_path / "store")
    wanted = json.loads((FOLDER / version / "answers.json").read_text())
    store = tistore.open(tmp_path / "store")

    got = answer(store)

    assert store.verify().ok
    assert got["activations"] == wanted["activations"]
    assert got["rows"].keys() == wanted["rows"].keys()
    for query, rows in wanted["rows"].items():
        assert len(got["rows"][query]) == len(rows) > 0
        for mine, theirs in zip(got["rows"][query], rows, strict=True):
            for left, right in zip(mine, theirs, strict=True):
                if isinstance(right, float):
                    assert left == pytest.approx(right, rel=1e-5, abs=1e-5)
                else:
                    assert left == right


def test_there_is_a_golden_store_of_the_current_format(tmp_path):
    from tistore.store.header import FORMAT_VERSION

    assert f"v{FORMAT_VERSION}" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_the_models_of_a_golden_store_keep_their_fingerprints(version, tmp_path):
    """Facts that models are recorded with since are unknown of them, and change no hash."""
    shutil.copytree(FOLDER / version / "store", tmp_path / "store")
    store = tistore.open(tmp_path / "store")
    stored = dict(store.sql("SELECT name, fingerprint FROM models").fetchall())
    newer = replace(store.snapshot.models["instruct"], name="newer", attn_implementation="sdpa")

    with store.writer() as writer:
        writer.add_rows("models", [newer.to_row()])

    models = tistore.open(tmp_path / "store").snapshot.models
    assert {name: models[name].fingerprint for name in stored} == stored
    assert {models[name].attn_implementation for name in stored} == {None}
    assert models["newer"] == newer
    assert replace(newer, name="instruct").as_known(models["instruct"]) == models["instruct"]
    assert replace(newer, dtype="float32").as_known(newer).dtype == "float32"
    assert newer.fingerprint != replace(newer, attn_implementation=None).fingerprint


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_store_can_be_written_to(version, tmp_path):
    shutil.copytree(FOLDER / version / "store", tmp_path / "store")
    store = tistore.open(tmp_path / "store")
    before = store.snapshot.number

    store.add_vector("tone/new", np.ones(16), layer=2)

    assert tistore.open(tmp_path / "store").snapshot.number == before + 1
