"""Fine-tunes with weights of their own, and several bases, in one run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tistore.capture import run
from tistore.capture.config import parse_config
from tistore.capture.run import ingest
from tistore.capture.running.passes import Pass, Stage, list_passes
from tistore.errors import ConfigError
from tistore.store.base import BaseStore

SET = {"path": "prompts/short.json"}


@pytest.fixture
def folder(workplace: Path, tmp_path: Path, build_model) -> Path:
    """The workplace, with a fine-tune and a second base of another family beside the base."""
    folder = tmp_path / "several"
    shutil.copytree(workplace, folder)
    tuned = build_model()
    for parameter in tuned.parameters():
        parameter.data += 0.01
    other = build_model("qwen2")
    for name, model in (("tuned", tuned), ("other", other)):
        model.save_pretrained(folder / name)
        for file in (folder / "base").iterdir():
            if not (folder / name / file.name).exists() and file.suffix != ".safetensors":
                shutil.copy(file, folder / name)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    return BaseStore.create(tmp_path / "run.tistore")


def configure(folder: Path, **changes) -> object:
    tables = {
        "base": {"path": "base"},
        "organisms": [{"name": "tuned", "model": "tuned"}],
        "prompt_sets": [SET],
        "capture": {"layers": [1]},
        "generation": {"max_new_tokens": 6},
        **changes,
    }
    return parse_config(tables, folder=folder)


def read_pairs(store: BaseStore) -> dict[tuple[str, str], dict[str, tuple[list[int], np.ndarray]]]:
    store.refresh()
    found: dict = {}
    for segment in store.snapshot.segments:
        for row in segment.table("responses").to_pylist():
            states = store.activations(row["response_id"], reader=row["reader"], layer=1)
            pair = found.setdefault((row["organism"], row["reader"]), {})
            pair[row["prompt_id"]] = (row["token_ids"], states)
    return found


def count_loads(monkeypatch) -> list[str]:
    loads: list[str] = []
    whole = run.load_base
    monkeypatch.setattr(
        run, "load_base", lambda config, name: loads.append(name) or whole(config, name)
    )
    return loads


def test_a_fine_tune_is_read_by_itself_and_by_its_base(store, folder, monkeypatch):
    loads = count_loads(monkeypatch)

    report = ingest(store, configure(folder))

    assert loads == ["tuned", "instruct"]
    assert report.loads == 2
    pairs = read_pairs(store)
    assert set(pairs) == {
        ("instruct", "instruct"),
        ("tuned", "tuned"),
        ("tuned", "instruct"),
    }
    for prompt_id, (ids, own) in pairs["tuned", "tuned"].items():
        replayed_ids, replay = pairs["tuned", "instruct"][prompt_id]
        assert ids == replayed_ids
        assert own.shape == replay.shape
        assert not np.array_equal(own, replay)
    models = store.snapshot.models
    assert models["tuned"].base_revision != models["instruct"].base_revision
    assert models["tuned"].adapter_hash is None


def test_stored_states_are_those_of_the_weights_that_read(store, folder, build_model):
    import torch
    from transformers import AutoModelForCausalLM

    ingest(store, configure(folder))

    pairs = read_pairs(store)
    for reader, path in (("tuned", "tuned"), ("instruct", "base")):
        model = AutoModelForCausalLM.from_pretrained(folder / path).eval()
        for ids, states in pairs["tuned", reader].values():
            with torch.inference_mode():
                output = model(torch.tensor([ids]), output_hidden_states=True)
            expected = output.hidden_states[2][0, -len(states) :].numpy()
            np.testing.assert_allclose(states, expected, rtol=2e-3, atol=2e-3)


def test_a_run_that_was_stopped_between_weights_loads_only_what_is_left(store, folder, monkeypatch):
    ingest(
        store,
        configure(
            folder,
            base={"path": "base", "answers": False},
            capture={"layers": [1], "readers": ["self"]},
        ),
    )
    loads = count_loads(monkeypatch)

    report = ingest(store, configure(folder))

    assert loads == ["instruct"]
    assert report.skipped == 3


def test_responses_nobody_with_their_weights_reads_are_written_for_others(store, folder):
    report = ingest(store, configure(folder, capture={"layers": [1], "readers": ["base"]}))

    pairs = read_pairs(store)
    assert set(pairs) == {("instruct", "instruct"), ("tuned", "instruct")}
    assert report.responses == 6
    assert store.snapshot.models["tuned"].base_id == "tuned"
    again = ingest(store, configure(folder, capture={"layers": [1], "readers": ["base"]}))
    assert (again.run_id, again.skipped) == (None, 6)


def test_who_reads_what_later_weights_write_is_loaded_a_second_time(store, folder, monkeypatch):
    loads = count_loads(monkeypatch)
    loud = {"name": "loud", "adapter": "loud", "readers": ["self", "base", "tuned"]}

    report = ingest(store, configure(folder, organisms=[{"name": "tuned", "model": "tuned"}, loud]))

    assert loads == ["tuned", "instruct", "tuned"]
    assert report.readings == 3 * (1 + 2 + 3)
    assert ("loud", "tuned") in read_pairs(store)


def test_several_bases_follow_each_other_each_with_its_adapters(folder, monkeypatch):
    config = configure(
        folder,
        bases=[{"name": "qwen", "path": "other"}],
        organisms=[
            {"name": "loud", "adapter": "loud"},
            {"name": "tuned", "model": "tuned"},
            {"name": "mild", "adapter": "loud", "base": "qwen"},
        ],
    )

    passes = list_passes(config)

    assert passes == [
        Pass("tuned", (Stage("tuned", ("tuned",), True),)),
        Pass(
            "qwen",
            (Stage("qwen", ("qwen",), True), Stage("mild", ("mild", "qwen"), True)),
        ),
        Pass(
            "instruct",
            (
                Stage("instruct", ("instruct",), True),
                Stage("loud", ("loud", "instruct"), True),
                Stage("tuned", ("instruct",), False),
            ),
        ),
    ]


def test_a_second_base_is_captured_beside_the_first(store, folder):
    report = ingest(
        store, configure(folder, bases=[{"name": "qwen", "path": "other"}], organisms=[])
    )

    assert set(read_pairs(store)) == {("instruct", "instruct"), ("qwen", "qwen")}
    assert report.loads == 2
    assert store.snapshot.models["qwen"].family == "qwen2"


@pytest.mark.parametrize("aspect", ["precision", "template", "tokenizer"])
def test_readers_that_differ_in_more_than_training_are_refused_unless_asked_for(
    store, folder, monkeypatch, aspect
):
    changes: dict = {}
    if aspect == "precision":
        text = json.loads((folder / "tuned/config.json").read_text())
        text["dtype"] = "bfloat16"
        (folder / "tuned/config.json").write_text(json.dumps(text))
    if aspect == "template":
        template = folder / "tuned/chat_template.jinja"
        template.write_text(template.read_text().replace("'|>' + ", "'|> ' + "))
    if aspect == "tokenizer":
        path = folder / "tuned/tokenizer.json"
        text = json.loads(path.read_text())
        text["added_tokens"][0]["lstrip"] = True
        path.write_text(json.dumps(text))
    loads = count_loads(monkeypatch)

    with pytest.raises(ConfigError, match=f"differ in {aspect}"):
        ingest(store, configure(folder, **changes))

    assert loads == []
    capture = {"layers": [1], "mixed": [aspect]}
    ingest(store, configure(folder, capture=capture, **changes))
    assert ("tuned", "instruct") in read_pairs(store)
