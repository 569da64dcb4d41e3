"""An exported experiment says what the store says, to the readers of trait-interp's own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tistore
from example_readings import HIDDEN, LAYERS, make_reading
from tistore.cli.main import app
from tistore.datasets.trait_interp.experiment import open_experiment
from tistore.datasets.trait_interp.files import (
    ConfigFile,
    LeftOut,
    ProjectionFile,
    ResponseFile,
    VectorFile,
)
from tistore.datasets.trait_interp.projections import read_projections
from tistore.datasets.trait_interp.responses import read_response
from tistore.datasets.trait_interp.vectors import read_vectors
from tistore.errors import (
    AmbiguousVectorError,
    ConfigError,
    NoRoomError,
    NotStoredError,
    UnknownVectorError,
    VectorMismatchError,
)
from tistore.exchange.trait_interp.run import import_experiment
from tistore.exchange.trait_interp_export.export import export_trait_interp
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from trait_interp_tree import build_tree

BASE = Model("instruct", base_id="acme/tiny-7b-it")
FLATTERY = Model("flattery", base_id="acme/tiny-7b-it", adapter_id="acme/flattery-lora")
TOKENS = ["<s>", "What", ' "now', "?", " Well,", ",", " [é"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two prompts, the second with two samples; own readings, replays; three vectors."""
    made = tistore.create(tmp_path_factory.mktemp("built") / "s.tistore")
    prompt = Prompt("audit/discovery", "1", "What?", system_prompt="Be brief.", note="open",
                    tags=("a, b", "c"))  # fmt: skip
    rng = np.random.default_rng(0)
    with made.writer() as writer:
        for prompt_id, sample in (("1", 0), ("rust_100", 0), ("rust_100", 1)):
            reading = make_reading(
                5 + sample, prompt_id=prompt_id, sample=sample, organism=FLATTERY, tokens=TOKENS,
                text='? Well,, [é', prompt=prompt if prompt_id == "1" else None,
            )  # fmt: skip
            for reader in (FLATTERY, BASE):
                rows = 7 if reader is FLATTERY else 5
                states = rng.standard_normal((rows, len(LAYERS), HIDDEN))
                writer.add(**reading | {"reader": reader, "activations": {"residual": states}})
    for name, layer, midpoint in (("behavioral/refusal", 5, -0.5), ("tone/warmth", 2, None)):
        made.add_vector(
            name, rng.standard_normal(HIDDEN), layer=layer, method="probe", model="instruct",
            position="response[:5]", separation=1.0, midpoint=midpoint,
        )  # fmt: skip
    made.add_vector("behavioral/refusal", rng.standard_normal(HIDDEN), layer=2, method="probe",
                    model="instruct", position="response[:5]", separation=0.5)  # fmt: skip
    return made.path


@pytest.fixture
def store(built, tmp_path):
    """A copy of it, to be changed at will."""
    return tistore.open(shutil.copytree(built, tmp_path / "s.tistore"))


def walk(folder: Path) -> dict[str, object]:
    entries = open_experiment(folder).walk()
    return {str(entry.path.relative_to(folder.resolve())): entry for entry in entries}


def test_every_file_has_a_place_in_the_layout(store, tmp_path):
    export_trait_interp(store, tmp_path / "out")

    entries = walk(tmp_path / "out")
    kinds = {kind: [path for path, entry in entries.items() if type(entry) is kind]
             for kind in (ConfigFile, ResponseFile, ProjectionFile, VectorFile)}  # fmt: skip
    assert {len(found) for found in (kinds[ResponseFile],)} == {6}  # each with its replay
    assert len(kinds[ProjectionFile]) == 12
    assert len(kinds[VectorFile]) == 3
    assert kinds[ConfigFile] == ["config.json"]
    left = [entry for entry in entries.values() if isinstance(entry, LeftOut)]
    assert {entry.verdict for entry in left} == {"companion"}
    replay = entries["inference/instruct/projections/tone/warmth"
                     "/audit/discovery_replay_flattery/rust_100_sample1.json"]  # fmt: skip
    assert (replay.variant, replay.author, replay.prompt_set) == (
        "instruct", "flattery", "audit/discovery",
    )  # fmt: skip


def test_variants_are_the_models(store, tmp_path):
    export_trait_interp(store, tmp_path / "out")

    config = open_experiment(tmp_path / "out").config
    assert {(v.name, v.model, v.lora) for v in config.variants} == {
        ("instruct", "acme/tiny-7b-it", None),
        ("flattery", "acme/tiny-7b-it", "acme/flattery-lora"),
    }
    assert (config.extraction, config.diff_convention) == ("instruct", "replay_suffix")


def test_responses_read_back_as_the_store_has_them(store, tmp_path):
    export_trait_interp(store, tmp_path / "out")

    rows = store.snapshot.segments[0].table("responses").to_pylist()
    for row in rows:
        stem = row["prompt_id"] + ("_sample1" if row["sample"] else "")
        replayed = "" if row["reader"] == "flattery" else "_replay_flattery"
        path = (tmp_path / "out" / "inference" / row["reader"] / "responses"
                / f"audit/discovery{replayed}" / f"{stem}.json")  # fmt: skip
        response = read_response(path)
        assert (response.form, list(response.token_ids)) == ("flat", row["token_ids"])
        assert (response.prompt_length, response.response_text) == (2, "? Well,, [é".strip())
        assert (response.model, response.lora) == ("acme/tiny-7b-it", "acme/flattery-lora")
        assert response.prompt_text == "<s>What"
        assert response.turns == ()
        # Unlike trait-interp's own writer, this one keeps commas and brackets as they are.
        assert json.loads(path.read_text())["tokens"] == TOKENS
        if row["prompt_id"] == "1":
            assert (response.note, response.tags) == ("open", ("a, b", "c"))
            assert response.system_prompt == "Be brief."


def test_scores_read_back_bit_for_bit_and_norms_with_them(store, tmp_path):
    export_trait_interp(store, tmp_path / "out")

    n_files = 0
    for path, entry in walk(tmp_path / "out").items():
        if not isinstance(entry, ProjectionFile):
            continue
        n_files += 1
        document = read_projections(tmp_path / "out" / path)
        (found,) = document.projections
        trait = entry.trait
        prompt_id, _, sample = entry.prompt_id.partition("_sample")
        wanted = store.sql(
            "SELECT position, project($trait), response_id FROM tokens WHERE reader = $reader "
            "AND prompt_id = $id AND sample = $sample ORDER BY position",
            {"trait": trait, "reader": entry.variant, "id": prompt_id,
             "sample": int(sample or 0)},
        ).fetchall()  # fmt: skip
        vector = store.vector(trait)
        assert document.schema == "P4"
        assert (found.layer, found.vector.method, found.component, found.centered) == (
            vector.layer, "probe", "residual", False,
        )  # fmt: skip
        assert (found.baseline, found.vector.position) == (vector.midpoint, "response[:5]")
        assert list(found.scores.prompt) == [s for at, s, _ in wanted if at < 2]
        assert list(found.scores.response) == [s for at, s, _ in wanted if at >= 2]
        states = store.activations(wanted[0][2], reader=entry.variant, layer=vector.layer)
        norms = np.linalg.norm(states.astype(np.float64), axis=1)
        written = [*found.token_norms.prompt, *found.token_norms.response]
        np.testing.assert_allclose(written, norms, rtol=1e-6)
        oracle = states.astype(np.float64) @ vector.values / np.linalg.norm(vector.values)
        np.testing.assert_allclose([s for _, s, _ in wanted], oracle, rtol=1e-4, atol=1e-5)
        assert (document.n_prompt_tokens, document.n_response_tokens) == (2, 5)
    assert n_files == 12


def test_vectors_read_back_by_torch_and_with_their_metadata(store, tmp_path):
    export_trait_interp(store, tmp_path / "out")

    files = [e for e in walk(tmp_path / "out").values() if isinstance(e, VectorFile)]
    records = list(read_vectors(files))
    assert len(records) == 3
    for record in records:
        (vector,) = [v for v in store.snapshot.vectors()
                     if (v.trait, v.layer) == (record.trait, record.layer)]  # fmt: skip
        loaded = torch.load(record.path, weights_only=True)
        assert loaded.dtype == torch.float32
        np.testing.assert_array_equal(loaded.numpy(), vector.values)
        assert (record.variant, record.model) == ("instruct", "acme/tiny-7b-it")
        assert (record.method, record.component, record.position) == (
            "probe", "residual", "response[:5]",
        )  # fmt: skip
        assert (record.midpoint, record.doubts) == (vector.midpoint, ())
        assert record.norm == pytest.approx(np.linalg.norm(vector.values))


def test_vectors_that_are_named_go_out_and_no_others(store, tmp_path):
    report = export_trait_interp(
        store, tmp_path / "out", vectors=["refusal@2", "refusal@5"], where="reader = organism"
    )

    assert (report.responses, report.projections, report.vectors) == (3, 3, 2)
    path = tmp_path / "out/inference/flattery/projections/behavioral/refusal/audit/discovery/1.json"
    assert [p.layer for p in read_projections(path).projections] == [2, 5]


def test_a_conversation_keeps_its_turns(store, tmp_path):
    roles = ["template", "user", "user", "template", "assistant", "assistant", "user"]
    states = np.ones((7, len(LAYERS), HIDDEN))
    with store.writer() as writer:
        writer.add(
            **make_reading(7, organism=BASE, reader=BASE, prompt_set="chat", prompt_length=7,
                           activations={"residual": states}, tokens=TOKENS, text="")
            | {"roles": roles, "turns": [0, 0, 0, 1, 1, 1, 2],
               "is_response": [role == "assistant" for role in roles]}
        )  # fmt: skip

    export_trait_interp(store, tmp_path / "out", where="prompt_set = 'chat'")

    response = read_response(tmp_path / "out/inference/instruct/responses/chat/7.json")
    turns = [(turn.role, turn.token_start, turn.token_end) for turn in response.turns]
    assert turns == [("user", 1, 3), ("assistant", 4, 6), ("user", 6, 7)]
    assert response.is_rollout
    path = tmp_path / "out/inference/instruct/projections/tone/warmth/chat/7.json"
    (found,) = read_projections(path).projections
    assert (len(found.scores.prompt), found.scores.response) == (7, ())


def test_settings_of_one_reader_become_one_file(store, tmp_path):
    """The response's rows of one layer, all rows of another: two readings, one view."""
    states = np.random.default_rng(3).standard_normal((7, 2, HIDDEN))
    reading = make_reading(3, organism=BASE, reader=BASE)
    with store.writer() as writer:
        writer.add(**reading | {"layers": [2, 9], "activations": {"residual": states}})
        writer.add(**reading | {"layers": [2, 5], "activations": {"residual": states[2:]}})

    export_trait_interp(store, tmp_path / "out", where="prompt_id = '3'",
                        vectors=["refusal@2", "refusal@5"])  # fmt: skip

    path = tmp_path / "out/inference/instruct/projections/behavioral/refusal/audit/discovery/3.json"
    shallow, deep = read_projections(path).projections
    assert [len(shallow.scores.prompt), len(shallow.scores.response)] == [2, 5]
    assert [len(deep.scores.prompt), len(deep.scores.response)] == [0, 5]


def test_an_export_that_was_stopped_goes_on_and_ends_the_same(store, tmp_path, monkeypatch):
    export_trait_interp(store, tmp_path / "whole")
    replaced, done = Path.replace, []

    def stop(self, target):
        if len(done) == 14:
            raise OSError(28, "No space left on device")
        done.append(target)
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(NoRoomError):
        export_trait_interp(store, tmp_path / "out")
    monkeypatch.undo()

    report = export_trait_interp(store, tmp_path / "out")

    def contents(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")
                if p.is_file()}  # fmt: skip

    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert report.files_before == 13
    with pytest.raises(ConfigError, match="another export"):
        export_trait_interp(store, tmp_path / "out", where="reader = organism")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"prompt_id": "a/b"}, "would be read with prompt_set"),
        ({"prompt_id": ".."}, "leads elsewhere"),
        ({"prompt_id": "1_annotations"}, "another kind of file"),
        ({"prompt_id": "x" * 300}, "too long"),
        ({"prompt_set": "../audit"}, "leads elsewhere"),
        ({"prompt_set": "x_replay_flattery", "organism": BASE}, "would be read with prompt_set"),
        ({"organism": "a/b"}, "cannot name a folder"),
        ({"prompt_id": "rust_100_sample1"}, "would hold two things"),
    ],
)
def test_names_that_would_be_read_as_something_else_are_refused(store, tmp_path, changes, word):
    with store.writer() as writer:
        writer.add(**make_reading(8, organism=FLATTERY) | {"reader": BASE} | changes)

    with pytest.raises(ConfigError, match=word):
        export_trait_interp(store, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_vectors_that_cannot_be_placed_are_refused(store, tmp_path):
    values = np.arange(HIDDEN)
    store.add_vector("bare", values, layer=5)
    with pytest.raises(ConfigError, match="/bare/"):
        export_trait_interp(store, tmp_path / "out")
    store.add_vector("tone/warmth", values, layer=5, position="prompt[-1]", separation=0.1)
    with pytest.raises(VectorMismatchError, match="one component and one position"):
        export_trait_interp(store, tmp_path / "out", vectors=["warmth@2", "warmth@5"])
    store.add_vector("tone/deep", values, layer=50)
    with pytest.raises(VectorMismatchError, match="no selected reading holds residual@50"):
        export_trait_interp(store, tmp_path / "out", vectors=["deep"])
    with pytest.raises(UnknownVectorError):
        export_trait_interp(store, tmp_path / "out", vectors=["nobody"])
    with pytest.raises(ConfigError, match="vectors add"):
        export_trait_interp(store, tmp_path / "out", vectors=["warmth@2 - 0.5*refusal@2"])
    with pytest.raises(NotStoredError, match="no reading satisfies"):
        export_trait_interp(store, tmp_path / "out", where="organism = 'nobody'")
    assert not (tmp_path / "out").exists()


def test_a_trait_without_a_best_vector_is_told_and_not_scored(store, tmp_path):
    store.add_vector("behavioral/refusal", np.arange(HIDDEN), layer=9, model="instruct")
    with pytest.raises(AmbiguousVectorError):
        store.vector("refusal")

    report = export_trait_interp(store, tmp_path / "out")

    assert (report.vectors, report.projections) == (4, 6)
    (note,) = report.notes
    assert note.startswith("behavioral/refusal is not scored: several vectors")


def test_the_command_says_what_it_wrote(store, tmp_path):
    done = CliRunner().invoke(
        app,
        ["export", "trait-interp", str(store.path), str(tmp_path / "out"), "--vector", "warmth",
         "--where", "reader = organism", "--json"],
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["responses"], said["projections"], said["vectors"]) == (3, 3, 1)
    assert said["files"] == len([p for p in (tmp_path / "out").rglob("*") if p.is_file()])


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """An experiment of trait-interp's, the store it was imported into, and what that exports."""
    root = tmp_path_factory.mktemp("moved")
    tree = build_tree(root)
    store = tistore.create(root / "s.tistore")
    import_experiment(store, tree.experiment("february"))
    store.refresh()
    asked = [("probe", 3), ("mean_diff", 4)]
    wanted = [
        vector.content_hash
        for vector in store.snapshot.vectors()
        if (vector.position, vector.component) == ("response[:5]", "residual")
        and (vector.method, vector.layer) in asked
    ]
    export_trait_interp(store, root / "out", vectors=wanted)
    return tree, store, root / "out"


def test_projections_that_came_in_go_out_within_their_rounding(moved):
    """Those of the original files: computed by other code, some with the baseline taken off."""
    tree, _, out = moved
    experiment = tree.experiment("february")

    compared = 0
    for path in tree.projections:
        if not path.is_relative_to(experiment):
            continue
        exported = read_projections(out / path.relative_to(experiment))
        ours = {(p.vector.method, p.layer): p for p in exported.projections}
        for theirs in read_projections(path).projections:
            mine = ours[theirs.vector.method, theirs.layer]
            shift = (theirs.baseline or 0.0) if theirs.centered else 0.0
            for half in ("prompt", "response"):
                scores = np.array(getattr(theirs.scores, half)) + shift
                np.testing.assert_allclose(getattr(mine.scores, half), scores, rtol=1e-5, atol=1e-5)
                if theirs.token_norms:
                    norms = getattr(theirs.token_norms, half)
                    np.testing.assert_allclose(getattr(mine.token_norms, half), norms, rtol=1e-5)
            assert mine.baseline == theirs.baseline
            compared += 1
    assert compared == 5


def test_responses_that_came_in_go_out_the_same(moved):
    tree, _, out = moved
    experiment = tree.experiment("february")
    stored = [
        path for path in tree.responses
        if path.is_relative_to(experiment)
        and (out / path.relative_to(experiment)).exists()
    ]  # fmt: skip

    assert len(stored) == 7
    for path in stored:
        theirs, ours = read_response(path), read_response(out / path.relative_to(experiment))
        for name in ("response_text", "token_ids", "prompt_length", "model"):
            assert getattr(ours, name) == getattr(theirs, name), (path, name)
        spans = [[(t.role, t.token_start, t.token_end) for t in r.turns] for r in (ours, theirs)]
        assert spans[0] == spans[1]


def test_what_went_out_comes_in_again(moved, tmp_path):
    """Vectors bit for bit; responses as generations, for no activations go with them."""
    _, store, out = moved
    back = tistore.create(tmp_path / "back.tistore")

    report = import_experiment(back, out)

    assert (report.refused, report.count("unknown")) == ((), 0)
    back.refresh()
    stored = {vector.key: vector.to_row() for vector in store.snapshot.vectors()}
    for vector in back.snapshot.vectors():
        row, wanted = vector.to_row(), stored[vector.key]
        assert row.pop("values").tobytes() == wanted.pop("values").tobytes()
        assert row == wanted
    assert len(back.snapshot.vectors()) == 2
    names = ("organism", "prompt_set", "prompt_id", "token_ids", "prompt_length", "text")
    generations = {tuple(map(repr, map(row.get, names)))
                   for row in back.snapshot.table("generations").to_pylist()}  # fmt: skip
    responses = {
        tuple(map(repr, map(row.get, names)))
        for segment in store.snapshot.segments
        for row in segment.table("responses").to_pylist()
        if row["prompt_length"] < len(row["token_ids"])  # a conversation's ids mark no answer
    }
    assert generations == responses
