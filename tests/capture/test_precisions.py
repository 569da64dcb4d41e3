"""The same scenarios read by one base in several precisions: what is read, kept and concluded."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import tistore
from tistore.capture.config import RunConfig, read_config
from tistore.capture.models import quantization
from tistore.capture.models.rounded_weights import round_weights
from tistore.capture.precision import arms, read
from tistore.capture.precision.quantise import Quantisation, quantise
from tistore.capture.scenarios import read as scenarios_read
from tistore.cli.main import app
from tistore.datasets.scenarios import read_trait
from tistore.errors import (
    AmbiguousVectorError,
    ConfigError,
    KeyConflictError,
    ModelLoadError,
    NonFiniteError,
    NotStoredError,
    SiteNotFoundError,
)
from tistore.exchange.selection import Selection, select
from tistore.schemas.judgement import Judgement
from tistore.vectors.calibrate import calibrate
from tistore.vectors.extract import extract_vectors

LAYERS = 6
WIDE = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": LAYERS}
N = 12
SOURCES = ("river", "bread", "yeast", "rain", "cafe", "three", "days", "explain", "knows", "left")
COSINES = {"int8": (0.998, 1.0), "nf4": (0.9, 0.99), "int3": (0.5, 0.97)}
"""Bands of the mean over layers; with one seed 0.9995, 0.95 and 0.85 were measured."""


@pytest.fixture(scope="module")
def place(workplace, build_model, tmp_path_factory) -> Path:
    """A base of six blocks 128 wide, and two traits: one with responses, one to be continued."""
    folder = tmp_path_factory.mktemp("precisions")
    build_model(**WIDE).save_pretrained(folder / "base")
    for file in (workplace / "base").glob("tokenizer*"):
        shutil.copy(file, folder / "base")
    (folder / "run.toml").write_text(
        '[base]\npath = "base"\ndtype = "bfloat16"\ndevice = "cpu"\n'
        '[[prompt_sets]]\npath = "none.json"\n'
    )
    rng = np.random.default_rng(0)
    for trait, has_response in (("joy", True), ("calm", False)):
        home = folder / "traits" / "tone" / trait
        home.mkdir(parents=True)
        for side, words in (("positive", "Wow, hooray!"), ("negative", "Well, no.")):
            texts = [" ".join(rng.choice(SOURCES, 6)) + f" {words}" for _ in range(N)]
            lines = [
                {"prompt": "Why?", "response": text} if has_response else {"prompt": text}
                for text in texts
            ]
            (home / f"{side}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def config(place) -> RunConfig:
    return read_config(place / "run.toml")


@pytest.fixture(scope="module")
def joy(place) -> Path:
    return place / "traits" / "tone" / "joy"


@pytest.fixture(scope="module")
def calm(place) -> Path:
    return place / "traits" / "tone" / "calm"


@pytest.fixture(scope="module")
def compared(place, config, joy, calm):
    """A store with both traits compared under three arms, and what came of it."""
    made = tistore.create(place / "compared.tistore")
    found = quantise(made, config, [joy, calm], Quantisation(("int8", "nf4", "int3")))
    return made, found


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s.tistore")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Names of the bases that are loaded, in order."""
    names: list[str] = []

    def count(load: Callable) -> Callable:
        def counted(config, *weights):
            names.append(config.base.name)
            return load(config, *weights)

        return counted

    for module in (read, scenarios_read):
        monkeypatch.setattr(module, "load_base", count(module.load_base))
    return names


def list_readings(store) -> list[dict]:
    return [
        row for segment in store.snapshot.segments for row in segment.table("responses").to_pylist()
    ]


def test_coarser_weights_turn_vectors_further(compared):
    """INT8 before NF4 before INT3, for each trait and at each layer."""
    _, found = compared

    for trait in ("tone/calm", "tone/joy"):
        by_arm = {
            arm: [one.found for one in found if (one.trait, one.arm) == (trait, arm)]
            for arm in COSINES
        }
        for layers in zip(*by_arm.values(), strict=True):
            cosines = [one.cosine for one in layers]
            errors = [one.row_error for one in layers]
            assert cosines == sorted(cosines, reverse=True) and errors == sorted(errors)
        for arm, (low, high) in COSINES.items():
            assert low < np.mean([one.cosine for one in by_arm[arm]]) < high
        assert all(one.agrees and one.score_correlation > 0.99 for one in by_arm["int8"])


def test_all_arms_read_the_very_same_tokens(compared):
    """Those that people wrote, and those that the base went on with."""
    store, _ = compared

    texts = {}
    for row in list_readings(store):
        slot = (row["organism"], row["prompt_set"], row["prompt_id"], tuple(row["token_ids"]))
        texts.setdefault(row["reader"], set()).add(slot)
    assert sorted(texts) == ["instruct", "instruct~int3", "instruct~int8", "instruct~nf4"]
    assert {slot[0] for slot in texts["instruct"]} == {"instruct", "scenarios"}
    assert all(read == texts["instruct"] and len(read) == 4 * N for read in texts.values())


def test_an_arm_reads_what_the_rounded_model_itself_makes_of_the_tokens(compared, place):
    """The oracle is transformers' own hidden states, text by text."""
    store, _ = compared
    model = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.bfloat16).eval()
    round_weights(model, 3)

    for row in [row for row in list_readings(store) if row["reader"] == "instruct~int3"][::9]:
        with torch.no_grad():
            states = model(torch.tensor([row["token_ids"]]), output_hidden_states=True)
        expected = states.hidden_states[3][0, row["prompt_length"] :].float().numpy()
        found = store.activations(row["response_id"], reader="instruct~int3", layer=2)
        errors = np.linalg.norm(found.astype(np.float32) - expected, axis=1)
        assert (errors / np.linalg.norm(expected, axis=1)).max() < 0.05  # of bfloat16 batches


def test_the_store_knows_how_each_arm_was_loaded(compared):
    store, _ = compared

    models = {
        name: (model.quantization, model.dtype, model.base_id)
        for name, model in store.snapshot.models.items()
        if name != "scenarios"
    }

    assert models == {
        "instruct": (None, "bfloat16", "base"),
        "instruct~int8": ("8bit", "bfloat16", "base"),
        "instruct~nf4": ("4bit", "bfloat16", "base"),
        "instruct~int3": ("int3 (rounded)", "bfloat16", "base"),
    }


def test_arms_are_loaded_once_each_and_not_at_all_the_second_time(store, config, joy, calm, loads):
    wanted = Quantisation(("nf4", "int3"), layers="1-2")
    first = quantise(store, config, [joy, calm], wanted)
    assert loads == ["instruct", "instruct~nf4", "instruct~int3"]
    loads.clear()
    commit = store.snapshot.number

    for traits in ([joy, calm], ["tone/joy", "tone/calm"]):
        again = quantise(store, config, traits, wanted)

        assert [one.found.cosine for one in again] == [one.found.cosine for one in first]
    assert loads == []
    assert store.snapshot.number == commit


def test_layers_that_were_not_read_are_read_of_the_stored_texts(store, config, calm, loads):
    """The base does not write again, and only what lacks a layer is loaded."""
    quantise(store, config, [calm], Quantisation(("int3",), layers="1"))
    quantise(store, config, ["tone/calm"], Quantisation(("int3", "int4"), layers="1"))
    assert loads == ["instruct", "instruct~int3", "instruct~int4"]
    loads.clear()

    found = quantise(store, config, ["tone/calm"], Quantisation(("int3",), layers="1,4"))

    assert loads == ["instruct", "instruct~int3"]
    assert [one.site.layer for one in found] == [1, 4]
    assert len(store.sql("SELECT DISTINCT response_id FROM responses").fetchall()) == 2 * N


def test_a_run_that_failed_goes_on_where_it_was(store, config, joy, monkeypatch):
    whole, done = read.prefill, Counter()

    def fail(model, sequences, *arguments, **options):
        done["batches"] += 1
        if done["batches"] == 3:
            raise NonFiniteError("planted")
        return whole(model, sequences, *arguments, **options)

    few = config.model_copy(
        update={"generation": config.generation.model_copy(update={"batch_size": 5})}
    )
    wanted = Quantisation(("int3",), layers="2")
    monkeypatch.setattr(read, "prefill", fail)
    with pytest.raises(NonFiniteError):
        quantise(store, few, [joy], wanted)
    monkeypatch.undo()
    count = "SELECT count(*) FROM responses WHERE reader = 'instruct~int3'"
    store.refresh()
    assert store.sql(count).fetchall() == [(10,)]

    (found,) = quantise(store, few, [joy], wanted)

    assert store.sql(count).fetchall() == [(2 * N,)]
    assert found.found.evaluation.n_positive == N


def test_a_bare_trait_name_means_the_bases_own_vector(compared):
    """Whatever the arms' separations are; a hash still names one of theirs."""
    store, _ = compared
    own = [one for one in store.snapshot.vectors() if one.trait == "tone/joy"]
    own = {model: [v for v in own if v.model == model] for model in {v.model for v in own}}
    assert sorted(map(len, own.values())) == [LAYERS] * 4
    best = max(own["instruct"], key=lambda vector: vector.separation)
    coarse = own["instruct~int3"][0]

    assert store.vector("joy").content_hash == best.content_hash
    assert store.vector("joy", 2).model == "instruct"
    assert store.vector(coarse.content_hash[:12]).model == "instruct~int3"
    query = "SELECT project($v) AS p FROM responses WHERE reader = 'instruct' ORDER BY reading_key"
    meant, named, other = (
        store.sql(query, {"v": name}).to_arrow()["p"].to_pylist()
        for name in ("joy", best.content_hash, coarse.content_hash)
    )
    assert meant == named != other


def test_a_bare_name_does_not_pick_one_of_the_arms_alone(compared, tmp_path):
    store, _ = compared
    copies = [one for one in store.snapshot.vectors() if one.model != "instruct"]
    made = tistore.create(tmp_path / "copies.tistore")
    with made.writer() as writer:
        writer.add_rows("vectors", [vector.to_row() for vector in copies])
    made.refresh()

    with pytest.raises(AmbiguousVectorError, match="of instruct~nf4"):
        made.vector("joy")


def test_an_arm_with_the_bases_own_direction_does_not_hide_it(tmp_path):
    made = tistore.create(tmp_path / "s.tistore")
    for layer, model in ((1, "instruct"), (2, "instruct"), (1, "instruct~fp32")):
        values = np.arange(1.0, 5.0) + layer
        made.add_vector("tone/joy", values, layer=layer, model=model, method="mean_diff")

    assert made.vector("joy@1").model == "instruct"


def test_a_reference_that_is_not_the_bases_own_precision_reads_the_stored_texts(
    compared, config, loads
):
    store, _ = compared

    found = quantise(
        store, config, ["tone/calm"], Quantisation(("bf16",), reference="fp32", layers="3")
    )

    assert loads == ["instruct~fp32"]
    assert [(one.reader, one.reference_reader) for one in found] == [("instruct", "instruct~fp32")]
    assert found[0].found.cosine > 0.999


def test_a_reference_of_its_own_writes_what_nobody_has_read(store, config, calm, loads):
    wanted = Quantisation(("int3",), reference="fp32", layers="3")

    (found,) = quantise(store, config, [calm], wanted)

    assert loads == ["instruct~fp32", "instruct~int3"]
    assert found.reference_reader == "instruct~fp32"
    authors = store.sql("SELECT organism, count(*) FROM responses GROUP BY ALL").fetchall()
    assert authors == [("instruct~fp32", 4 * N)]


def test_the_scenarios_are_those_that_the_bases_vectors_were_fitted_on(store, config, joy):
    """A vetted set stays vetted, and the base's vectors stay as they are."""
    scenarios_read.read_scenarios(
        store, config, [read_trait(joy)], wanted=scenarios_read.Wanted("2")
    )
    store.refresh()
    rows = store.sql(
        "SELECT response_id FROM responses WHERE prompt_id NOT IN ('1', '3')"
    ).fetchall()
    kept = [response_id for (response_id,) in rows]
    (before,) = extract_vectors(store, "tone/joy", layers=[2], kept=kept)

    (found,) = quantise(store, config, ["tone/joy"], Quantisation(("int4",)))

    assert found.found.evaluation.n_positive == found.found.evaluation.n_negative == N - 2
    vectors = {one.model: one for one in store.snapshot.vectors()}
    assert vectors["instruct"].content_hash == before.content_hash
    assert vectors["instruct~int4"].fitted_on == before.fitted_on
    assert store.sql(
        "SELECT count(*) FROM responses WHERE reader = 'instruct~int4'"
    ).fetchall() == [(len(kept),)]


def test_what_a_judge_found_wanting_has_no_part_in_it(store, config, joy, loads):
    """Where no vector tells which scenarios stay, the judgements do, as for `vectors extract`."""
    wanted = scenarios_read.Wanted("2")
    scenarios_read.read_scenarios(store, config, [read_trait(joy)], wanted=wanted)
    store.refresh()
    rows = store.sql("SELECT response_id, prompt_set, prompt_id FROM responses").fetchall()
    with store.writer() as writer:
        for response_id, prompt_set, number in rows:
            side = prompt_set.rpartition("/")[2]
            is_clear = number not in ("1", "2")
            score = 50.0 if not is_clear else 90.0 if side == "positive" else 10.0
            said = Judgement(
                response_id, "tone/joy", side, "judge", "host", "0" * 32, score, None, "text",
                str(score), 16, 1, datetime.now(UTC),
            )  # fmt: skip
            writer.add_rows("judgements", [said.to_row()])

    (found,) = quantise(store, config, [joy], Quantisation(("int4",), layers="2"))

    assert found.found.evaluation.n_positive == found.found.reference.n_negative == N - 2


def test_copies_of_a_base_are_left_out_where_nobody_names_them(compared):
    """Of exports and calibrations: the same tokens, by all but the same model."""
    store, _ = compared

    selected = select(store, Selection("organism = 'scenarios'"))
    named = select(store, Selection("reader = 'instruct~nf4'"))

    assert (len(list(selected.keys())), selected.n_second_readings) == (2 * N, 3 * 2 * N)
    assert len(list(named.keys())) == 4 * N
    assert [found.layers[0].reader for found in calibrate(store)] == ["instruct"]


def test_a_copy_is_looked_at_through_the_bases_head(compared):
    store, _ = compared
    rows = store.sql(
        "SELECT reader, count(lens_logprob) FROM lens WHERE layer = 5 AND prompt_id = '1' "
        "GROUP BY reader ORDER BY reader"
    ).fetchall()

    assert [reader for reader, _ in rows] == [
        "instruct", "instruct~int3", "instruct~int8", "instruct~nf4"
    ]  # fmt: skip
    assert len({count for _, count in rows}) == 1 and rows[0][1] > 0


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"arms": ("nf5",)}, ConfigError, "did you mean 'nf4'"),
        ({"arms": ("bf16",)}, ConfigError, "nothing to compare bf16 with"),
        ({"reference": "b16"}, ConfigError, "did you mean 'bf16'"),
        ({"method": "mean_dif"}, ConfigError, "did you mean 'mean_diff'"),
        ({"method": "probe-on-clean"}, ConfigError, "compare probe"),
        ({"position": "answer[:]"}, ConfigError, "answer"),
        ({"component": "residul"}, ConfigError, "did you mean 'residual'"),
        ({"layers": "9"}, SiteNotFoundError, "no layer 9"),
        ({"position": "prompt[-1]"}, NotStoredError, "only the response's tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(
    compared, config, loads, changes, error, said
):
    store, _ = compared
    commit = store.snapshot.number

    with pytest.raises(error) as caught:
        quantise(store, config, ["tone/joy"], replace(Quantisation(), **changes))

    assert said in str(caught.value)
    assert loads == []
    store.refresh()
    assert store.snapshot.number == commit


def test_a_trait_nobody_has_read_is_named(compared, config, loads):
    store, _ = compared

    with pytest.raises(NotStoredError, match=r"no scenarios of tone/jo .*did you mean 'tone/joy'"):
        quantise(store, config, ["tone/jo"])

    assert loads == []


def test_folders_that_cannot_be_compared_are_refused_before_anything_is_read(
    store, config, joy, loads, tmp_path
):
    few = tmp_path / "tone" / "few"
    few.mkdir(parents=True)
    for side in ("positive", "negative"):
        (few / f"{side}.txt").write_text("One.\nTwo.\n")
    twin = shutil.copytree(joy, tmp_path / "tone" / "joy")

    with pytest.raises(ConfigError, match="tone/few has 2 positive and 2 negative"):
        quantise(store, config, [joy, few])
    with pytest.raises(ConfigError, match="several trait folders are called tone/joy"):
        quantise(store, config, [joy, twin])

    assert loads == [] and store.snapshot.number == 0


def test_an_arm_whose_library_is_missing_says_so(compared, config, loads, monkeypatch):
    store, _ = compared
    monkeypatch.setattr(arms, "find_spec", lambda name: None)

    with pytest.raises(ModelLoadError, match=r"nf4 .* bitsandbytes.*not installed"):
        quantise(store, config, ["tone/joy"], Quantisation(("int3", "nf4")))

    assert loads == []


def test_an_arm_that_would_come_out_wrong_is_refused_and_the_others_go_on(
    store, config, joy, loads, monkeypatch
):
    monkeypatch.setattr(quantization, "gives_weights_back", lambda width: False)

    with pytest.raises(ModelLoadError) as caught:
        quantise(store, config, [joy], Quantisation(("int8", "nf4", "int3")))

    assert caught.value.message.startswith("nf4: base ")
    assert "leave nf4 out of --arms" in caught.value.mend
    store.refresh()
    assert loads == [] and store.snapshot.number == 0
    found = quantise(store, config, [joy], Quantisation(("int8",), layers="1"))
    assert [one.arm for one in found] == ["int8"]


def test_an_arm_that_was_read_where_it_comes_out_right_is_compared_anywhere(
    compared, config, loads, monkeypatch
):
    store, found = compared
    monkeypatch.setattr(quantization, "gives_weights_back", lambda width: False)

    again = quantise(store, config, ["tone/joy"], Quantisation(("nf4",)))

    before = [one.found.cosine for one in found if (one.trait, one.arm) == ("tone/joy", "nf4")]
    assert [one.found.cosine for one in again] == before
    assert loads == []


def test_other_weights_are_not_called_a_precision(compared, config, build_model, tmp_path):
    store, _ = compared
    other = tmp_path / "base"
    shutil.copytree(config.base.path.path, other)
    model = build_model(**WIDE)
    torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight)
    model.save_pretrained(other)
    source = replace(config.base.path, path=other)
    changed = config.model_copy(update={"base": config.base.model_copy(update={"path": source})})

    with pytest.raises(KeyConflictError, match="differ by more than precision"):
        quantise(store, changed, ["tone/joy"], Quantisation(("int4",)))

    store.refresh()
    assert "instruct~int4" not in store.snapshot.models


def test_rounding_a_model_without_linear_layers_is_refused(config, monkeypatch):
    from tistore.capture.models import load

    monkeypatch.setattr(load, "round_weights", lambda model, bits: 0)

    with pytest.raises(ModelLoadError, match="no linear layers .* 3 bits"):
        load.load_base(arms.ARMS["int3"].configure(config, "instruct~int3"))


def test_every_precision_has_an_arm_and_every_arm_loads_as_it_says(config):
    for name in ("fp16", "int4"):
        loaded = read.load_base(arms.ARMS[name].configure(config, f"instruct~{name}"))

        model = loaded.describe(f"instruct~{name}")
        assert (model.dtype, model.quantization) == (
            arms.ARMS[name].dtype,
            arms.ARMS[name].quantization,
        )


def test_the_command_prints_a_row_for_each_layer_and_arm(compared, place):
    """A flat object each; what the rows amount to is told on standard error."""
    store, found = compared
    done = CliRunner().invoke(
        app,
        ["vectors", "quantise", str(store.path), "joy", "--config", str(place / "run.toml"),
         "--arms", "int8,int3", "--json"],
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["arm"], row["layer"]) for row in rows] == [
        (arm, layer) for arm in ("int8", "int3") for layer in range(LAYERS)
    ]
    first = next(one for one in found if (one.trait, one.arm) == ("tone/joy", "int8"))
    assert rows[0]["cosine"] == pytest.approx(first.found.cosine)
    assert rows[0]["reader"] == "instruct~int8" and rows[0]["reference_reader"] == "instruct"
    assert not any(isinstance(value, dict | list) for row in rows for value in row.values())
    assert "tone/joy, int8: agrees with bf16 at 6 of 6 layers" in done.stderr
    assert "(Spearman)" in done.stderr


def test_the_command_names_what_a_misspelt_trait_may_be(compared, place):
    store, _ = compared
    done = CliRunner().invoke(
        app,
        ["vectors", "quantise", str(store.path), "tone/jo", "--config", str(place / "run.toml")],
    )

    assert isinstance(done.exception, NotStoredError)
    assert "did you mean 'tone/joy'" in str(done.exception)
