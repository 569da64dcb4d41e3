"""Heads can be kept long after the states, if the models are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tistore
from tistore.capture.models.load import load_base
from tistore.capture.reading.hooks import record
from tistore.capture.reading.later_heads import keep_heads
from tistore.cli.main import app
from tistore.errors import KeyConflictError, NotStoredError, QueryError
from tistore.schemas.site import Site

IDS = [1, 5, 9, 30, 12, 77]
LAST = Site("residual", 2)


def write_states(store, loaded, names, **changes) -> dict[str, np.ndarray]:
    """What a run of old kept; gives each reader's log-probabilities of the tokens."""
    logprobs = {}
    with store.writer() as writer, torch.no_grad():
        for name in names:
            with loaded.reading_as(name) as model, record(model, [LAST]) as kept:
                logits = model(torch.tensor([IDS])).logits[0].double()
            logprobs[name] = torch.log_softmax(logits, -1)[range(5), IDS[1:]].numpy()
            writer.add(
                organism=replace(loaded.describe(name), **changes), reader=name, prompt_set="p",
                prompt_id="1", token_ids=IDS, prompt_length=2, layers=[2],
                activations={"residual": kept[LAST][0].transpose(0, 1).numpy()},
            )  # fmt: skip
    return logprobs


def test_a_store_from_before_gets_the_heads_of_its_readers(configure, loaded, tmp_path):
    store = tistore.create(tmp_path / "s")
    logprobs = write_states(store, loaded, ["instruct", "loud"])
    with pytest.raises(QueryError, match="tistore lens STORE --heads CONFIG"):
        store.sql("SELECT rank FROM lens")

    kept = keep_heads(store, configure())

    assert set(kept) == {"instruct", "loud"}  # and not "zero", which has read nothing
    assert len(set(kept.values())) == 1
    assert keep_heads(store, configure()) == {}
    for name, expected in logprobs.items():
        sql = "SELECT lens_logprob FROM lens WHERE reader = ? ORDER BY position"
        found = store.sql(sql, [name]).to_pandas().iloc[:-1, 0]
        np.testing.assert_allclose(found, expected, atol=5e-2)


def test_a_model_of_the_same_name_that_is_another_is_refused(configure, loaded, tmp_path):
    store = tistore.create(tmp_path / "s")
    write_states(store, loaded, ["loud"], adapter_hash="of another training")

    with pytest.raises(KeyConflictError, match="its adapter_hash is of another training"):
        keep_heads(store, configure())

    assert store.snapshot.heads == {}


def test_a_store_of_other_models_is_refused_before_anything_is_loaded(
    configure, loaded, tmp_path, monkeypatch
):
    store = tistore.create(tmp_path / "s")
    write_states(store, loaded, ["instruct"], name="someone")
    monkeypatch.setattr(
        "tistore.capture.reading.later_heads.load_base", lambda *_: pytest.fail("it was loaded")
    )

    with pytest.raises(NotStoredError, match="none of the run's models has read anything"):
        keep_heads(store, configure(base={"path": "base", "device": "cpu", "name": "clean"}))


def test_the_command_keeps_them_first(workplace, tmp_path):
    (workplace / "lens.toml").write_text(
        '[base]\npath = "base"\ndevice = "cpu"\n'
        '[[organisms]]\nname = "loud"\nadapter = "loud"\n'
        '[[prompt_sets]]\npath = "prompts/short.json"\n'
    )
    store = tistore.create(tmp_path / "s")
    from tistore.capture.config import read_config

    write_states(store, load_base(read_config(workplace / "lens.toml")), ["loud"])

    done = CliRunner().invoke(
        app,
        ["lens", str(store.path), "--heads", str(workplace / "lens.toml"), "--json"],
        catch_exceptions=False,
    )

    assert done.exit_code == 0
    assert "kept the head of loud" in done.stderr
    assert done.stdout.count('"rank"') == 6
