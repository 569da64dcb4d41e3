"""Samples of other tools become readings: every value where it belongs, once, or a reason."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import tistore
from example_readings import make_reading
from tistore.cli.main import app
from tistore.datasets.foreign.arrow_dataset import read_arrow_dataset
from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.foreign.memmap_shards import read_memmap_shards
from tistore.datasets.foreign.numpy_samples import read_numpy_samples
from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples
from tistore.errors import ConfigError
from tistore.exchange.samples.importing import import_samples
from tistore.exchange.samples.places import Supplied, parse_layers
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

IDS = [5, 6, 7, 8, 9, 10]
PROMPT = 2
GIVEN = SampleIdentity(organism="o", prompt_set="set", prompt_length=PROMPT, layers=(3, 7))


def states(n_rows=6, dtype=np.float32, seed=0, n_layers=2):
    # Values that bfloat16 and float16 both hold.
    values = np.random.default_rng(seed).integers(-128, 128, (n_rows, n_layers, 8)) / 64
    return values.astype(dtype)


def write(folder, name, values, metadata=None, ids=IDS):
    path = folder / f"{name}.safetensors"
    told = {"tistore": metadata.to_json()} if metadata else None
    save_file({"hidden_states": values, "token_ids": np.array(ids)}, path, metadata=told)
    return path


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "store")


def bring(store, folder, given=GIVEN, convention="at-token", **options):
    samples = read_safetensors_samples(folder)
    told = Supplied(given, convention)
    return import_samples(store, samples, told, source_format="safetensors", **options)


def responses(store):
    return [row for s in store.snapshot.segments for row in s.table("responses").to_pylist()]


def stored(store, layer, prompt_id="1"):
    (row,) = [row for row in responses(store) if row["prompt_id"] == prompt_id]
    return store.activations(row["response_id"], reader=row["reader"], layer=layer)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "samples"
    made.mkdir()
    return made


def test_every_value_is_where_it_belongs_and_its_source_is_recorded(store, folder):
    path = write(folder, "1", states())

    report = bring(store, folder)

    assert report.count("imported") == 1
    for place, layer in enumerate((3, 7)):
        assert (stored(store, layer) == states()[:, place]).all()
    (row,) = responses(store)
    assert (row["organism"], row["reader"], row["rows"]) == ("o", "o", "all")
    assert row["token_ids"] == IDS and row["prompt_length"] == PROMPT
    (source,) = store.snapshot.table("sources").to_pylist()
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["reading_key"] == row["reading_key"]
    assert (source["source_dtype"], source["row_convention"]) == ("float32", "at-token")
    assert source["size_bytes"] == path.stat().st_size


def test_a_second_import_adds_nothing_and_reads_nothing(store, folder, monkeypatch):
    for name in "12":
        write(folder, name, states(seed=int(name)))
    bring(store, folder)
    before = store.snapshot.number
    monkeypatch.setattr("tistore.exchange.samples.importing._read", None)

    again = bring(store, folder)

    assert again.count("present") == 2
    store.refresh()
    assert store.snapshot.number == before


def test_the_same_reading_from_another_file_is_compared_value_by_value(store, folder, tmp_path):
    write(folder, "1", states())
    bring(store, folder)
    other = tmp_path / "other"
    other.mkdir()
    write(other, "1", states())
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    write(wrong, "1", states(seed=9))

    same, different = bring(store, other), bring(store, wrong)

    assert same.count("present") == 1
    (refused,) = different.outcomes
    assert refused.outcome == "refused" and "other activations" in refused.note
    assert len(responses(store)) == 1


def test_what_the_file_says_holds_and_a_contradiction_is_refused(store, folder):
    write(folder, "1", states(), SampleIdentity(reader="instruct", layers=(20, 26)))
    write(folder, "2", states(), SampleIdentity(organism="other", layers=(3, 7)))
    write(folder, "3", states(), SampleIdentity(prompt_id="x/y", sample=4))

    report = bring(store, folder, SampleIdentity(
        organism="o", prompt_set="set", prompt_length=PROMPT))  # fmt: skip

    first, second, third = report.outcomes
    assert (first.outcome, first.reader, first.prompt_id) == ("imported", "instruct", "1")
    assert second.outcome == "refused"
    assert "organism is 'other', and --organism says 'o'" in second.note
    assert third.outcome == "refused" and "say it: --layers" in third.note


@pytest.mark.parametrize("missing", ["organism", "prompt_set", "prompt_length", "layers"])
def test_what_nobody_says_is_asked_for_by_its_option(store, folder, missing):
    write(folder, "1", states())
    fields = ("organism", "prompt_set", "prompt_length", "layers")
    given = {name: getattr(GIVEN, name) for name in fields if name != missing}

    (refused,) = bring(store, folder, SampleIdentity(**given)).outcomes

    assert f"--{missing.replace('_', '-')}" in refused.note


def test_bfloat16_is_kept_exactly(store, folder):
    values = states(dtype=ml_dtypes.bfloat16)
    values.tofile(folder / "s.bin")
    sample = {"start": 0, "stop": 6, "token_ids": IDS, "prompt_id": "1"}
    (folder / "s.json").write_text(
        json.dumps({"dtype": "bfloat16", "shape": [6, 2, 8], "samples": [sample]})
    )

    import_samples(store, read_memmap_shards(folder), Supplied(GIVEN), source_format="memmap")

    assert (stored(store, 7).astype(np.float32) == values[:, 1].astype(np.float32)).all()


def test_a_row_that_predicts_a_token_is_the_state_at_the_one_before(store, folder):
    """Row 0 of all tokens is nobody's; row 0 of a response is the prompt's last, said twice."""
    write(folder, "1", states(6))
    write(folder, "2", states(4))

    report = bring(store, folder, convention="predicting")

    assert [seen.n_rows for seen in report.outcomes] == [5, 3]
    whole, response = responses(store)
    assert (whole["first_position"], whole["n_rows"]) == (0, 5)
    assert (response["first_position"], response["n_rows"]) == (PROMPT, 3)
    assert (stored(store, 3, "1") == states(6)[1:, 0]).all()
    assert (stored(store, 3, "2") == states(4)[1:, 0]).all()


def test_rows_that_end_early_need_their_first_position(store, folder):
    write(folder, "1", states(3))
    write(folder, "2", states(3), SampleIdentity(first_position=PROMPT))

    unsaid, said = bring(store, folder).outcomes

    assert unsaid.outcome == "refused" and "first_position" in unsaid.note
    assert said.outcome == "imported"
    assert responses(store)[0]["first_position"] == PROMPT


def test_numbers_that_cannot_be_kept_are_refused_and_cost_no_other(store, folder):
    broken = states()
    broken[3, 1, 2] = np.nan
    write(folder, "1", broken)
    write(folder, "2", states())
    write(folder, "3", states(), ids=IDS[:-1])
    (folder / "4.safetensors").write_bytes(b"junk")

    report = bring(store, folder)

    assert [seen.outcome for seen in report.outcomes] == ["refused", "imported", "refused",
                                                          "refused"]  # fmt: skip
    assert "layer 7 holds 1 NaN" in report.outcomes[0].note
    assert len(responses(store)) == store.snapshot.table("sources").num_rows == 1


def test_half_a_character_costs_its_own_sample_only(store, folder):
    write(folder, "1", states())
    write(folder, "2", states(), SampleIdentity(text="a\ud83d"))

    report = bring(store, folder)

    assert [seen.outcome for seen in report.outcomes] == ["imported", "refused"]
    assert "half of a character" in report.outcomes[1].note
    assert [row["prompt_id"] for row in responses(store)] == ["1"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_a_sample_whose_files_name_cannot_be_recorded_is_not_stored(store, folder):
    path = write(folder, "1", states(), SampleIdentity(prompt_id="1"))
    path.rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.safetensors"))

    report = bring(store, folder)

    assert [seen.outcome for seen in report.outcomes] == ["refused"]
    assert "not UTF-8" in report.outcomes[0].note
    assert store.snapshot.number == 0


def test_the_same_tokens_split_elsewhere_are_named_as_such(store, folder):
    write(folder, "1", states())
    bring(store, folder)

    report = bring(store, folder, replace(GIVEN, prompt_length=PROMPT - 1))

    assert f"with prompt_length {PROMPT}, not {PROMPT - 1}" in report.outcomes[0].note


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "parquet", "md"])
def test_half_a_character_is_printed_in_every_format(folder, tmp_path, format):
    write(folder, "1", states())
    write(folder, "2", states(), SampleIdentity(organism="\ud83d"))

    done = run("safetensors", tmp_path / "s", folder, *OPTIONS, "--format", format)

    assert done.exit_code == 0, done.output


def test_two_files_of_one_reading_are_told_apart_or_refused(store, folder):
    for name in "12":
        write(folder, name, states(), SampleIdentity(prompt_id="same"))

    first, second = bring(store, folder).outcomes

    assert first.outcome == "imported"
    assert second.outcome == "refused" and "is the same reading as" in second.note


def test_a_file_can_be_read_under_two_names(store, folder):
    write(folder, "1", states())

    for reader in ("a", "b"):
        given = SampleIdentity(
            organism="o", prompt_set="set", prompt_length=PROMPT, layers=(3, 7), reader=reader
        )
        assert bring(store, folder, given).count("imported") == 1
        assert bring(store, folder, given).count("present") == 1

    assert store.snapshot.table("sources").num_rows == 2


def test_a_dry_run_says_the_same_and_writes_nothing(store, folder):
    write(folder, "1", states())
    write(folder, "2", states(), SampleIdentity(organism="p"))

    would = bring(store, folder, is_dry_run=True)

    assert store.snapshot.number == 0
    assert would.outcomes == bring(store, folder).outcomes


READERS = {
    "safetensors": read_safetensors_samples,
    "npy": read_numpy_samples,
    "parquet": read_arrow_dataset,
    "hf-dataset": read_arrow_dataset,
}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, "é"]}}}
TALK = (
    {"role": "user", "content": "Warm?"},
    {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "content": "12", "tool_call_id": "c1", "name": "f"},
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def written(store):
    """Readings with everything a reading can have."""
    talk = Prompt("audit/discovery", "4", "Warm?", TALK, "Be kind.", tools=(TOOL,))
    prompt = Prompt("audit/discovery", "3", "What now?", note="a note", tags=("a", "b"))
    wide = np.random.default_rng(2).standard_normal((7, 2, 8)) * 1e5
    with store.writer() as writer:
        writer.add(**make_reading(0))
        writer.add(**make_reading(1, reader=Model("instruct", base_id="base", dtype="bfloat16"),
                                  finish_reason="stop"))  # fmt: skip
        writer.add(**make_reading(2, activations={"residual": wide}))
        short = {"residual": np.ones((4, 2, 8))}
        writer.add(**make_reading(3, activations=short, prompt=prompt, first_position=2,
                                  logprobs=[-0.5, None, -1, -2, -3]))  # fmt: skip
        roles = ["user", "tool_call", "thinking", "thinking", "tool_call", "assistant", "assistant"]
        writer.add(**make_reading(4, prompt=talk, roles=roles, turns=[0, 1, 3, 3, 3, 3, 3]))
    return store


def everything(store):
    tables = [store.snapshot.table(name).to_pylist() for name in ("models", "prompts")]
    keys = ("run_id", "row_start")
    rows = [{k: v for k, v in row.items() if k not in keys} for row in responses(store)]
    tokens = store.sql(
        "SELECT prompt_id, position, token_id, token, role, turn, is_response, clause, logprob "
        "FROM tokens ORDER BY ALL"
    ).fetchall()
    order = sorted(rows, key=lambda row: row["prompt_id"])
    return [sorted(map(repr, table)) for table in tables], order, tokens


@pytest.mark.parametrize("kind", READERS)
def test_what_is_exported_comes_back_with_its_content_hash(written, tmp_path, kind):
    if kind == "hf-dataset":
        pytest.importorskip("datasets")
    done = CliRunner().invoke(app, ["export", kind, str(written.path), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    back = tistore.create(tmp_path / "back")

    report = import_samples(back, READERS[kind](tmp_path / "out"), Supplied(), source_format=kind)

    assert [seen.note for seen in report.outcomes] == [None] * 5
    assert everything(back) == everything(written)
    assert back.verify().ok


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"messages": "[1"}, "messages that are no JSON"),
        ({"messages": [{"role": "user"}, 1]}, "messages that are no list of objects"),
        ({"messages": [{"content": "x"}]}, "messages without a role"),
        ({"messages": [{"role": "user", "content": [1]}]}, "whose content is no text"),
        ({"tools": {"type": "function"}}, "tools that are no list of objects"),
        ({"tools": json.dumps([{"x": json.loads("[" * 300 + "]" * 300)}])}, "tools that nest too"),
        ({"tools": [{"x": "\ud83d"}]}, "half of a character"),
        ({"tools": [TOOL], "content_hash": "0" * 32}, "does not have the content_hash"),
    ],
)
def test_a_prompt_that_cannot_be_kept_costs_its_own_sample_only(store, folder, content, said):
    write(folder, "1", states(), SampleIdentity(prompt={"text": "Warm?", **content}))
    write(folder, "2", states(), SampleIdentity(prompt={"text": "Warm?", "tools": [TOOL]}))

    first, second = bring(store, folder).outcomes

    assert (first.outcome, second.outcome) == ("refused", "imported")
    assert said in first.note
    (row,) = store.snapshot.table("prompts").to_pylist()
    assert json.loads(row["tools"]) == [TOOL]


KILLED = """
import sys
from pathlib import Path
import tistore
from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples
from tistore.exchange.samples import importing as module
from tistore.exchange.samples.places import Supplied
module.FLUSH_BYTES = 2000
told = Supplied(SampleIdentity(organism="o", prompt_set="set", prompt_length=2, layers=(3, 7)))
store = tistore.open(sys.argv[1])
print("ready", flush=True)
module.import_samples(store, read_safetensors_samples(Path(sys.argv[2])), told,
                      source_format="safetensors")
"""


def test_an_import_that_is_killed_goes_on_to_the_same_result(store, folder, tmp_path):
    for number in range(60):
        write(folder, str(number), states(seed=number))
    whole = tistore.create(tmp_path / "whole")
    bring(whole, folder)
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, store.path, folder], stdout=subprocess.PIPE
        )
        assert child.stdout.readline()
        commits = store.snapshot.number
        deadline = time.monotonic() + 20
        while len(list((store.path / "commits").iterdir())) < commits + 2 and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        store.refresh()
        assert len(responses(store)) == store.snapshot.table("sources").num_rows

    bring(store, folder)

    def content(opened):
        return sorted((row["prompt_id"], row["content_hash"]) for row in responses(opened))

    assert content(store) == content(whole)
    assert store.snapshot.table("sources").num_rows == 60
    assert store.verify().ok


# The commands


def run(*arguments):
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


OPTIONS = ("--organism", "o", "--prompt-set", "set", "--layers", "3,7", "--prompt-length", PROMPT)


def test_a_command_makes_the_store_and_prints_a_row_a_sample(folder, tmp_path):
    write(folder, "1", states())
    np.savez(folder / "2.npz", hidden_states=states(), token_ids=np.array(IDS))

    first = run("safetensors", tmp_path / "s", folder, *OPTIONS, "--json")
    second = run("npy", tmp_path / "s", folder, *OPTIONS, "--json")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    (row,) = json.loads(second.stdout)
    assert (row["outcome"], row["prompt_id"], row["n_rows"]) == ("imported", "2", 6)
    assert set(row) == set(json.loads(first.stdout)[0])
    assert len(responses(tistore.open(tmp_path / "s"))) == 2


@pytest.mark.parametrize("command", ["safetensors", "npy", "memmap", "hf-dataset"])
def test_a_source_of_nothing_leaves_no_store_behind(folder, tmp_path, command):
    done = run(command, tmp_path / "s", folder, *OPTIONS)

    assert done.exit_code != 0
    assert not (tmp_path / "s").exists()


def test_a_source_of_which_nothing_fits_is_an_error_with_its_reasons(folder, tmp_path):
    write(folder, "1", states())

    done = run("safetensors", tmp_path / "s", folder, "--json")

    assert done.exit_code == 1
    assert "--organism" in json.loads(done.stdout)[0]["note"]
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "layers"), [("26", (26,)), ("20,26", (20, 26)), ("0-6:3,9", (0, 3, 6, 9))]
)
def test_layers_are_written_as_elsewhere(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "all", "30%-60%", "26,20", "5,5", "x"])
def test_layers_that_depend_on_a_model_or_are_out_of_order_are_refused(text):
    with pytest.raises(ConfigError):
        parse_layers(text)


def test_components_of_one_sample_may_differ_in_width(store, folder):
    arrays = {"residual": states(), "heads": np.repeat(states(seed=1), 2, axis=2)}
    save_file(arrays | {"token_ids": np.array(IDS)}, folder / "1.safetensors")

    bring(store, folder)

    assert store.info().widths == {"heads": (16,), "residual": (8,)}
    (row,) = responses(store)
    for name, values in arrays.items():
        for place, layer in enumerate(GIVEN.layers):
            got = store.activations(row["response_id"], reader="o", layer=layer, component=name)
            assert (got == values[:, place]).all()
