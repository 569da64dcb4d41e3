"""Activations go out exactly, in files that NumPy, safetensors, Arrow and `datasets` read."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, safe_open
from typer.testing import CliRunner

import tistore
from example_readings import HIDDEN, LAYERS, make_reading
from tistore.cli.main import app
from tistore.datasets.foreign.arrow_dataset import read_arrow_dataset
from tistore.datasets.foreign.numpy_samples import read_numpy_samples
from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples
from tistore.errors import ConfigError, NoRoomError, NotStoredError, QueryError, SqlError
from tistore.exchange import destination as destinations
from tistore.exchange.files.export import FORMATS, export_files
from tistore.exchange.samples.importing import import_samples
from tistore.exchange.samples.places import Supplied
from tistore.exchange.selection import Selection, select
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HAS_DATASETS = find_spec("datasets") is not None
NEEDS_DATASETS = pytest.mark.skipif(not HAS_DATASETS, reason="its library is not installed")
EVERY = [
    pytest.param(name, marks=NEEDS_DATASETS if name == "hf-dataset" else ()) for name in FORMATS
]
SETS = ("audit/discovery", "audit_discovery", "audit/dis..\\covery é/1")


def make_states(seed: int, rows: int, scale: float = 1.0) -> np.ndarray:
    """States that float16 holds exactly, up to a power of two."""
    drawn = np.random.default_rng(seed).standard_normal((rows, len(LAYERS), HIDDEN))
    return np.round(drawn * 64).clip(-250, 250).astype(np.float32) / 64 * scale


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Three readings whose names look alike, one replay, one prompt that has rows, two segments."""
    made = tistore.create(tmp_path_factory.mktemp("built") / "s.tistore")
    flattery = Model("flattery", base_id="acme/tiny", adapter_id="acme/lora", dtype="bfloat16")
    with made.writer() as writer:
        for seed, prompt_set in enumerate(SETS):
            reading = make_reading(seed, prompt_set=prompt_set, prompt_id="x/1", organism=flattery)
            states = {"residual": make_states(seed, 5)}
            writer.add(**reading | {"activations": states, "reader": flattery, "sample": seed})
        writer.commit()
        prompt = Prompt("audit/discovery", "9", "What now?", system_prompt="Be brief.", tags=("a",))
        reading = make_reading(9, organism=flattery, prompt=prompt, finish_reason="length")
        reading |= {
            "activations": {"residual": make_states(9, 7)},
            "tokens": ["<s>", "What", " now", "?", " Wait", ",", " no"],
            "text": " now? Wait, no",
            "logprobs": [None, -1.5, -2.5, -0.25, -3.0, -1.0, -0.5],
            "roles": ["system", "user", "assistant", *["assistant"] * 4],
        }
        writer.add(**reading)
        writer.add(**reading | {"reader": "instruct"})
    return made.path


@pytest.fixture
def store(built, tmp_path):
    """A copy of it, to be changed at will."""
    return tistore.open(shutil.copytree(built, tmp_path / "s.tistore"))


def truth(store) -> dict[str, tuple[dict, np.ndarray]]:
    """Every reading's row and its states, by the store's own Python API."""
    found = {}
    for segment in store.snapshot.segments:
        for row in segment.table("responses").to_pylist():
            states = [
                store.activations(row["response_id"], reader=row["reader"], layer=layer)
                for layer in segment.layers
            ]
            found[row["reading_key"]] = row, np.stack(states, axis=1)
    return found


def read_exported(folder: Path, format: str) -> dict[str, tuple[dict, np.ndarray, list[int]]]:
    """Identity, states and token ids of every file, read by the formats' own libraries."""
    found = {}
    if format == "safetensors":
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            with safe_open(path, "numpy") as file:
                identity = json.loads(file.metadata()["tistore"])
            ids = tensors["token_ids"].tolist()
            found[path.stem.rsplit("_")[-1]] = identity, tensors["hidden_states"], ids
    elif format == "npy":
        for path in folder.glob("*.npy"):
            identity = json.loads(path.with_suffix(".json").read_text())
            found[path.stem.rsplit("_")[-1]] = identity, np.load(path), identity["token_ids"]
    elif format == "parquet":
        for row in pq.read_table(folder / "readings.parquet").to_pylist():
            tokens = pq.read_table(
                sorted(folder.glob("tokens-*.parquet")),
                filters=[("reading_key", "=", row["reading_key"])],
            )
            states = [np.stack(tokens[f"layer_{layer}"].to_numpy()) for layer in row["layers"]]
            assert tokens["position"].to_pylist() == list(
                range(row["first_position"], len(row["token_ids"]))
            )
            found[row["reading_key"]] = row, np.stack(states, axis=1), row["token_ids"]
    else:
        import datasets

        for row in datasets.load_from_disk(folder).with_format("arrow").iter(1):
            (values,) = row.to_pylist()
            kind = row.schema.field("hidden_states").type.value_type
            states = np.array(values["hidden_states"], np.dtype(kind))
            found[values["reading_key"]] = values, states, values["token_ids"]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("format", EVERY)
def test_every_reading_goes_out_with_its_exact_values_and_its_identity(store, tmp_path, format):
    report = export_files(store, tmp_path / "out", format)

    wanted = truth(store)
    found = read_exported(tmp_path / "out", format)
    assert found.keys() == wanted.keys()
    assert (report.readings, report.layers, report.component) == (5, LAYERS, "residual")
    for key, (row, states) in wanted.items():
        identity, exported, token_ids = found[key]
        np.testing.assert_array_equal(exported, states)
        assert token_ids == row["token_ids"]
        for name in ("organism", "reader", "prompt_set", "prompt_id", "sample", "prompt_length",
                     "first_position", "text"):  # fmt: skip
            assert identity[name] == row[name]
        assert (tuple(identity["layers"]), identity["component"]) == (LAYERS, "residual")


@pytest.mark.parametrize("format", ["npy", "safetensors"])
def test_a_layer_past_float16_goes_out_as_float32(store, tmp_path, format):
    states = make_states(5, 5, scale=2.0**20)
    with store.writer() as writer:
        writer.add(**make_reading(5, activations={"residual": states}))

    export_files(store, tmp_path / "out", format, Selection(where="prompt_id = '5'"))

    ((_, exported, _),) = read_exported(tmp_path / "out", format).values()
    assert exported.dtype == np.float32
    np.testing.assert_array_equal(exported, states)


@pytest.mark.parametrize("format", EVERY[2:])
def test_tables_are_float32_where_any_reading_needs_it_and_exact_everywhere(
    store, tmp_path, format
):
    with store.writer() as writer:
        states = make_states(5, 5) * np.array([1, 2.0**20])[:, None]
        writer.add(**make_reading(5, activations={"residual": states}))

    export_files(store, tmp_path / "out", format)

    found = read_exported(tmp_path / "out", format)
    for key, (_, states) in truth(store).items():
        np.testing.assert_array_equal(found[key][1], states)
    if format == "parquet":
        schema = pq.read_schema(next((tmp_path / "out").glob("tokens-*")))
        kinds = [str(schema.field(f"layer_{layer}").type.value_type) for layer in LAYERS]
        assert kinds == ["halffloat", "float"]


def test_what_is_known_of_tokens_models_and_prompts_goes_out_too(store, tmp_path):
    export_files(store, tmp_path / "out", "npy", Selection(where="prompt_id = '9'"))

    found = {
        identity["reader"]: identity
        for identity, _, _ in read_exported(tmp_path / "out", "npy").values()
    }
    own = found["flattery"]
    assert own["tokens"] == ["<s>", "What", " now", "?", " Wait", ",", " no"]
    assert own["logprobs"] == [None, -1.5, -2.5, -0.25, -3.0, -1.0, -0.5]
    assert own["roles"] == ["system", "user", *["assistant"] * 5]
    assert own["is_response"] == [False, False, *[True] * 5]
    assert own["finish_reason"] == "length"
    assert own["organism_model"]["adapter_id"] == "acme/lora"
    assert own["prompt"]["system_prompt"] == "Be brief."
    assert "reader_model" not in found["instruct"]  # only its name is known


def test_tokens_without_a_row_are_told_as_the_writer_would(store, tmp_path):
    export_files(store, tmp_path / "out", "npy", Selection(where="sample = 1"))

    ((identity, states, ids),) = read_exported(tmp_path / "out", "npy").values()
    assert (len(states), len(ids), identity["first_position"]) == (5, 7, 2)
    assert identity["tokens"] == [None, None, "What", " now", "?", " Wait", ","]
    assert identity["roles"] == ["prompt", "prompt", *["assistant"] * 5]
    assert identity["is_response"] == [False, False, *[True] * 5]


@pytest.mark.parametrize("format", EVERY)
def test_layers_narrow_what_goes_out(store, tmp_path, format):
    export_files(store, tmp_path / "out", format, Selection(layers="5"))

    for key, (_, states, _) in read_exported(tmp_path / "out", format).items():
        np.testing.assert_array_equal(states, truth(store)[key][1][:, 1:])


def test_names_are_safe_and_never_shared(store, tmp_path):
    export_files(store, tmp_path / "out", "safetensors")

    names = [path.name for path in (tmp_path / "out").glob("*.safetensors")]
    assert len(names) == 5
    assert all(name.isascii() and name[0] not in ".-" and len(name) < 200 for name in names)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


@NEEDS_DATASETS
def test_parquet_and_dataset_are_cut_into_files_of_a_size(store, tmp_path):
    for format, stem in (("parquet", "tokens"), ("hf-dataset", "data")):
        export_files(store, tmp_path / format, format, shard_bytes=400)

        assert len(list((tmp_path / format).glob(f"{stem}-*"))) == 3
        found = read_exported(tmp_path / format, format)
        for key, (_, states) in truth(store).items():
            np.testing.assert_array_equal(found[key][1], states)


@NEEDS_DATASETS
def test_a_layer_that_some_readings_lack_is_null_in_parquet_and_refused_by_a_dataset(
    store, tmp_path
):
    with store.writer() as writer:
        reading = make_reading(5, layers=[5], activations={"residual": make_states(5, 5)[:, 1:]})
        writer.add(**reading)

    export_files(store, tmp_path / "out", "parquet")

    tokens = pq.read_table(sorted((tmp_path / "out").glob("tokens-*")))
    assert tokens["layer_2"].null_count == 5
    assert tokens["layer_5"].null_count == 0
    assert len(read_exported(tmp_path / "out", "parquet")) == 6
    with pytest.raises(ConfigError, match="one set of layers"):
        export_files(store, tmp_path / "ds", "hf-dataset")
    assert not (tmp_path / "ds").exists()
    report = export_files(store, tmp_path / "two", "npy", Selection(layers="2"))
    assert (report.readings, report.readings_without_sites) == (5, 1)


@pytest.mark.parametrize("format", EVERY)
def test_an_export_that_was_stopped_goes_on_and_ends_the_same(store, tmp_path, monkeypatch, format):
    whole = tmp_path / "whole"
    export_files(store, whole, format, shard_bytes=400)
    replaced = Path.replace
    done = []

    def stop(self, target):
        if len(done) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(target)
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(NoRoomError, match="goes on where it stopped"):
        export_files(store, tmp_path / "out", format, shard_bytes=400)
    monkeypatch.undo()
    assert contents(tmp_path / "out").items() < contents(whole).items()
    (tmp_path / "out" / ".tmp-left").write_text("by a run that was killed")

    report = export_files(store, tmp_path / "out", format, shard_bytes=400)

    assert contents(tmp_path / "out") == contents(whole)
    assert 0 < report.readings_before < report.readings
    again = export_files(store, tmp_path / "out", format, shard_bytes=400)
    assert again.readings_before == again.readings


def test_a_folder_in_use_is_refused_and_left_as_it_was(store, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    export_files(store, tmp_path / "out", "npy", Selection(layers="2"))
    before = contents(tmp_path / "out")

    for folder, word in (("used", "not empty"), ("file", "is a file"), ("out", "another export")):
        with pytest.raises(ConfigError, match=word):
            export_files(store, tmp_path / folder, "npy")

    with pytest.raises(ConfigError, match="another export"):
        export_files(store, tmp_path / "out", "safetensors", Selection(layers="2"))
    assert contents(tmp_path / "out") == before
    assert contents(tmp_path / "used") == {"mine.txt": b"mine"}


def test_too_little_room_is_told_before_anything_is_written(store, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(destinations.shutil, "disk_usage", lambda folder: usage)

    with pytest.raises(NoRoomError, match="needs 0 MB"):
        export_files(store, tmp_path / "out", "npy")

    assert list(contents(tmp_path / "out")) == ["tistore-export.json"]


@pytest.mark.parametrize(
    ("asked", "error", "word"),
    [
        ({"where": "organism = 'nobody'"}, NotStoredError, "no reading satisfies"),
        ({"where": "organisn = 'flattery'"}, QueryError, "organisn"),
        ({"where": "true LIMIT 1"}, QueryError, "more than a condition"),
        ({"where": " "}, SqlError, "the condition is empty"),
        ({"where": "true) OR (true"}, SqlError, None),
        ({"where": ""}, SqlError, None),
        ({"layers": "3"}, NotStoredError, "it has 2, 5"),
        ({"layers": "6-9"}, NotStoredError, "it has 2, 5"),
        ({"layers": "x"}, ConfigError, "selects no layers"),
        ({"layers": "30%-60%"}, ConfigError, "block numbers"),
        ({"component": "residul"}, ConfigError, "residual"),
        ({"component": "mlp_out"}, NotStoredError, "residual"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(store, tmp_path, asked, error, word):
    with pytest.raises(error, match=word):
        export_files(store, tmp_path / "out", "npy", Selection.parse(**asked))

    assert not (tmp_path / "out").exists()


def test_without_its_library_a_dataset_is_refused_before_a_folder_is_made(
    store, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(ConfigError, match="needs the package"):
        export_files(store, tmp_path / "out", "hf-dataset")

    assert not (tmp_path / "out").exists()


def test_a_span_of_layers_takes_those_that_are_stored(store):
    assert select(store, Selection(layers="0-4")).layers == (2,)
    assert select(store, Selection(layers="0-9:5, 2")).layers == LAYERS
    assert select(store, Selection(layers="all")).layers == LAYERS


def test_a_condition_may_use_scores(store):
    store.add_vector("tone/refusal", np.eye(HIDDEN)[0], layer=5)
    scores = dict(store.sql("SELECT prompt_set, project('refusal') FROM responses").fetchall())
    best = max(scores, key=scores.get)

    chosen = select(store, Selection(where=f"project('refusal') >= {scores[best] - 1e-6}"))

    assert {truth(store)[key][0]["prompt_set"] for key in chosen.keys()} == {best}  # noqa: SIM118


def test_several_components_are_refused_until_one_is_chosen(store, tmp_path):
    both = {name: make_states(5, 5) + at for at, name in enumerate(("residual", "attn_out"))}
    with store.writer() as writer:
        writer.add(**make_reading(5, activations=both))

    with pytest.raises(ConfigError, match="--component residual"):
        export_files(store, tmp_path / "out", "npy")
    report = export_files(store, tmp_path / "out", "npy", Selection(component="attn_out"))

    assert (report.readings, report.readings_without_sites) == (1, 5)
    ((_, exported, _),) = read_exported(tmp_path / "out", "npy").values()
    np.testing.assert_array_equal(exported, both["attn_out"])


READERS = {
    "npy": read_numpy_samples,
    "safetensors": read_safetensors_samples,
    "parquet": read_arrow_dataset,
    "hf-dataset": read_arrow_dataset,
}


def known_of(store) -> dict[str, object]:
    """All a store holds of its readings, but for when and how they came."""
    found = {}
    for segment in store.snapshot.segments:
        for name in ("tokens", "clauses"):
            rows = segment.table(name).to_pylist()
            for at, reading in enumerate(segment.table("responses").to_pylist()):
                left = {"row_start", "run_id"}
                kept = {key: value for key, value in reading.items() if key not in left}
                mine = [{**row, "reading": None} for row in rows if row["reading"] == at]
                found[name, reading["reading_key"]] = kept, mine
    for name in ("models", "prompts"):
        for row in store.snapshot.table(name).to_pylist():
            found[name, row.get("name") or (row["prompt_set"], row["prompt_id"])] = row
    return found


@pytest.mark.parametrize("format", EVERY)
def test_what_went_out_comes_in_again_the_same(store, tmp_path, format):
    """Content hashes and all: ids, states past float16, tokens, roles, models, prompts."""
    large = make_states(5, 5, scale=2.0**20)
    with store.writer() as writer:
        writer.add(**make_reading(5, activations={"residual": large}))
    export_files(store, tmp_path / "out", format)
    back = tistore.create(tmp_path / "back.tistore")

    report = import_samples(
        back, READERS[format](tmp_path / "out"), Supplied(), source_format=format
    )

    assert report.count("imported") == len(report.outcomes) == 6, report
    back.refresh()
    assert known_of(back) == known_of(store)


def test_parquet_answers_questions_of_other_engines(store, tmp_path):
    export_files(store, tmp_path / "out", "parquet", Selection(where="prompt_id = '9'"))

    rows = duckdb.sql(
        f"SELECT token, layer_5[3] FROM '{tmp_path}/out/tokens-*.parquet' "
        "WHERE reader = 'instruct' ORDER BY position"
    ).fetchall()

    ((row, states),) = [r for r in truth(store).values() if r[0]["reader"] == "instruct"
                        and r[0]["prompt_id"] == "9"]  # fmt: skip
    assert rows == list(
        zip(["<s>", "What", " now", "?", " Wait", ",", " no"], states[:, 1, 2].tolist(),
            strict=True)
    )  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("format", EVERY)
def test_the_command_says_what_it_wrote(store, tmp_path, format):
    done = run("export", format, store.path, tmp_path / "out", "--where", "prompt_id = '9'",
               "--layers", "5", "--json")  # fmt: skip

    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["format"], said["readings"], said["layers"]) == (format, 2, [5])
    assert said["files"] == len(contents(tmp_path / "out"))
    assert said["bytes"] == sum(map(len, contents(tmp_path / "out").values()))
