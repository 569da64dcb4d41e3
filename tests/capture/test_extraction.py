"""`tistore vectors extract`: from trait folders to chosen vectors, stage by stage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tistore
from judge_server import completion, serve_judge
from tistore.capture.config import read_config
from tistore.capture.models.load import load_base
from tistore.capture.scenarios import extraction, read
from tistore.capture.scenarios.extraction import Extraction, extract_traits
from tistore.cli.main import app
from tistore.errors import ConfigError

RUN = """\
[base]
path = "{workplace}/base"
device = "cpu"

[[organisms]]
name = "loud"
adapter = "{workplace}/loud"

[[prompt_sets]]
path = "{workplace}/prompts/short.json"

[capture]
layers = "1-2"
head = false

[generation]
batch_size = 8
"""


@pytest.fixture
def config(tmp_path, workplace):
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(workplace=workplace))
    return path


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s.tistore")


@pytest.fixture
def traits(tmp_path):
    """Two traits: one with responses, one of texts alone."""
    folder = tmp_path / "traits" / "tone"
    for name, words in (("joy", ("Hooray!", "Well.")), ("calm", ("Slowly, slowly", "Now! Go!"))):
        (folder / name).mkdir(parents=True)
        (folder / name / "definition.txt").write_text(f"It sounds of {name}.")
        for side, begun in zip(("positive", "negative"), words, strict=True):
            numbers = range(10)
            if name == "joy":
                lines = [
                    json.dumps({"prompt": f"Why, {i}?", "response": f"{begun} It is {i} rivers."})
                    for i in numbers
                ]
                (folder / name / f"{side}.jsonl").write_text("\n".join(lines))
            else:
                lines = [f"{begun}, the {i} rivers" for i in numbers]
                (folder / name / f"{side}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    seen = []

    def count(config, weights):
        seen.append(weights)
        return load_base(config, weights)

    monkeypatch.setattr(read, "load_base", count)
    return seen


def run(*arguments):
    return CliRunner().invoke(app, ["vectors", "extract", *map(str, arguments)])


def test_two_folders_become_chosen_vectors_with_one_load(store, traits, config, loads):
    done = run(store.path, traits, "--config", config, "--json")

    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert loads == ["instruct"]
    assert [row["reference"] for row in rows] == [
        f"tone/{trait}:{method}@{layer}"
        for trait in ("calm", "joy")
        for layer in (1, 2)
        for method in ("mean_diff", "probe", "lda")
    ]
    for row in rows:
        assert (row["component"], row["position"]) == ("residual", "response[:]")
        assert (row["n_positive"], row["n_negative"], row["model"]) == (10, 10, "instruct")
        assert 0 <= row["auroc"] <= 1 and row["g_low"] <= row["separation"] <= row["g_high"]
    assert [bool(row["reason"]) for row in rows] == [row["chosen"] for row in rows]
    assert sum(row["chosen"] for row in rows) == 2
    store.refresh()
    # At once queryable over everything that is stored, by its bare name.
    query = "SELECT avg(project('joy')) FROM responses WHERE prompt_set LIKE ?"
    sides = ("scenarios/tone/joy/positive", "scenarios/tone/joy/negative")
    positive, negative = (store.sql(query, [side]).fetchall()[0][0] for side in sides)
    assert positive > negative
    authors = "SELECT DISTINCT organism FROM responses WHERE prompt_set LIKE ?"
    assert store.sql(authors, ["scenarios/tone/joy/%"]).fetchall() == [("scenarios",)]
    assert store.sql(authors, ["scenarios/tone/calm/%"]).fetchall() == [("instruct",)]


def test_again_it_only_prints_what_is_there(store, traits, config, loads):
    first = run(store.path, traits, "--config", config, "--json")
    store.refresh()
    commit = store.snapshot.number

    again = run(store.path, traits, "--config", config, "--json")

    store.refresh()
    assert again.stdout == first.stdout
    assert loads == ["instruct"]
    assert store.snapshot.number == commit


@pytest.mark.parametrize("stage", ["extract_vectors", "choose"])
def test_after_a_kill_between_stages_only_the_rest_is_done(
    store, traits, config, loads, monkeypatch, stage
):
    def die(*_, **__):
        raise KeyboardInterrupt

    folders = [traits / "calm", traits / "joy"]
    with monkeypatch.context() as killed:
        killed.setattr(extraction, stage, die)
        with pytest.raises(KeyboardInterrupt):
            extract_traits(store, read_config(config), folders)
    store.refresh()
    fitted = store.snapshot.table("evaluations").num_rows

    vectors = extract_traits(store, read_config(config), folders).vectors

    assert loads == ["instruct"]
    assert fitted == (12 if stage == "choose" else 0)
    assert store.snapshot.table("evaluations").num_rows == len(vectors) == 12


def test_an_organisms_vectors_are_its_own(store, traits, config):
    extract_traits(store, read_config(config), [traits / "calm"], Extraction(reader="loud"))
    extract_traits(store, read_config(config), [traits / "calm"])

    loaded = load_base(read_config(config))
    means = {}
    for side in ("positive", "negative"):
        rows = []
        for line in (traits / "calm" / f"{side}.txt").read_text().splitlines():
            ids = [loaded.tokenizer.bos_token_id, *loaded.tokenizer(line)["input_ids"]]
            with loaded.reading_as("loud") as model, torch.no_grad():
                asked = torch.tensor([ids])
                mask = torch.ones_like(asked)
                whole = model.generate(
                    asked, attention_mask=mask, max_new_tokens=16, do_sample=False
                )
                states = model(whole, output_hidden_states=True).hidden_states[2]
            rows.append(states[0, len(ids) :].double().mean(dim=0).numpy())
        means[side] = np.mean(rows, axis=0)
    of_models = {
        (vector.model, vector.layer, vector.method): vector for vector in store.snapshot.vectors()
    }
    own = of_models["loud", 1, "mean_diff"]
    np.testing.assert_allclose(own.values, means["positive"] - means["negative"], atol=1e-2)
    assert len(of_models) == 12
    assert own.content_hash != of_models["instruct", 1, "mean_diff"].content_hash
    assert set(store.snapshot.choices) == {("tone/calm", "loud"), ("tone/calm", "instruct")}


def test_positions_and_components_are_read_in_one_pass(store, traits, config, loads):
    done = run(
        store.path, traits / "calm", "--config", config, "--methods", "mean_diff", "--layers", "1",
        "--position", "prompt[-1]", "--position", "response[:20]",
        "--component", "attn_out", "--component", "residual", "--json",
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    assert loads == ["instruct"]
    named = [(row["position"], row["component"]) for row in json.loads(done.stdout)]
    assert named == [
        (position, component)
        for position in ("prompt[-1]", "response[:20]")
        for component in ("attn_out", "residual")
    ]
    store.refresh()
    # response[:20] asked for continuations of 20 tokens.
    query = "SELECT max(n_tokens) FROM responses WHERE organism = 'instruct'"
    assert store.sql(query).fetchall() == [(20,)]


def test_a_trait_that_fails_keeps_nobody_from_the_others(store, traits, config):
    """Both sides of joy ask the same: nothing tells them apart there; a text has no user."""
    done = run(
        store.path, traits, "--config", config, "--methods", "mean_diff", "--json",
        "--position", "prompt[:]", "--position", "user[:]", "--position", "turn[-1]:assistant[:2]",
    )  # fmt: skip

    assert done.exit_code == 1
    message = str(done.exception)
    assert "tone/calm/positive#1 has no token at user[:]" in message
    assert "tone/joy, mean_diff at residual@1" in message
    fitted = {(row["reference"], row["position"]) for row in json.loads(done.stdout)}
    assert fitted == {
        (f"tone/{trait}:mean_diff@{layer}", position)
        for trait, position in (
            ("calm", "prompt[:]"),
            ("calm", "turn[-1]:assistant[:2]"),
            ("joy", "turn[-1]:assistant[:2]"),
        )
        for layer in (1, 2)
    }


def test_what_a_judge_lets_go_has_no_part_in_the_fit(store, traits, config):
    """Its answers stay in the store, so that nobody is asked a second time."""

    def script(request, number):
        text = request["messages"][1]["content"]
        is_positive = "Hooray" in text
        return completion("50" if " 3 rivers" in text else "90" if is_positive else "10")

    with serve_judge(script) as server:
        judge = ("--judge", server.url, "--judge-model", "judge-1", "--minimum", 5)
        common = (store.path, traits / "joy", "--config", config, "--methods", "mean_diff")
        before = run(*common, "--no-choose", "--json")
        vetted = run(*common, *judge, "--json")
        asked = len(server.requests)
        again = run(*common, "--minimum", 5, "--json")
    everything = run(*common, "--no-vetting", "--json")

    assert vetted.exit_code == again.exit_code == 0, vetted.stderr
    assert [row["n_positive"] for row in json.loads(before.stdout)] == [10, 10]
    assert [row["n_positive"] for row in json.loads(vetted.stdout)] == [9, 9]
    assert "9 positive and 9 negative scenarios of tone/joy stay" in vetted.stderr
    assert again.stdout == vetted.stdout
    assert asked == 20
    assert [row["n_negative"] for row in json.loads(everything.stdout)] == [10, 10]
    store.refresh()
    assert len(store.snapshot.vectors()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "prob"), "no method 'prob'"),
        (("--position", "answer[:]"), "answer"),
        (("--component", "residue"), "no component 'residue'"),
        (("--layers", "9"), "no layer 9"),
        (("--reader", "lout"), "no model 'lout'"),
        (("--generate", "completely"), "completely"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(
    store, traits, config, loads, arguments, message
):
    done = run(store.path, traits, "--config", config, *arguments)

    assert done.exit_code in (1, 2)
    assert message in done.output + str(done.exception)
    assert loads == []
    store.refresh()
    assert store.snapshot.number == 0


def test_two_folders_of_one_name_are_refused(store, traits, config, tmp_path):
    (tmp_path / "other").mkdir()
    (traits / "joy").rename(tmp_path / "other" / "joy")
    (tmp_path / "more" / "other").mkdir(parents=True)
    twin = tmp_path / "more" / "other" / "joy"
    twin.mkdir()
    for file in (tmp_path / "other" / "joy").iterdir():
        (twin / file.name).write_bytes(file.read_bytes())

    with pytest.raises(ConfigError, match="several trait folders are called other/joy"):
        extract_traits(store, read_config(config), [tmp_path / "other" / "joy", twin])
