"""Vectors of other tools come into a store exactly, once, with where they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import tistore
from example_readings import HIDDEN, make_reading
from tistore.cli.main import app
from tistore.datasets.foreign.vectors import Numbering
from tistore.errors import ConfigError, DatasetError, ForeignFileError, InvalidRecordError
from tistore.exchange.vectors import (
    Told,
    add_steering_vector,
    from_steering_vector,
    import_vectors,
    read_one_vector,
)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s.tistore")


@pytest.fixture
def tree(tmp_path):
    """Files of several tools: 3 + 2 + 1 vectors, and one that cannot be read."""
    folder = tmp_path / "files"
    (folder / "tone").mkdir(parents=True)
    torch.save(numbers(5, HIDDEN), folder / "evil_response_avg_diff.pt")
    save_file(
        {f"warmth.layer{layer}": numbers(HIDDEN, seed=layer).bfloat16() for layer in (3, 5)},
        folder / "tone" / "all.safetensors",
    )
    np.save(folder / "tone" / "rage_layer2.npy", numbers(HIDDEN, seed=9).numpy())
    (folder / "tone" / "broken.pt").write_bytes(b"PK\3\4 and no more")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def held(store):
    store.refresh()
    return {vector.reference: vector for vector in store.snapshot.vectors()}


def test_a_folder_of_several_tools_is_imported_exactly_in_one_commit(store, tree):
    report = import_vectors(store, tree)

    assert (report.count("imported"), report.count("present"), report.count("refused")) == (6, 0, 3)
    assert store.snapshot.number == 1
    vectors = held(store)
    assert set(vectors) == {
        *(f"evil:mean_diff@{layer}" for layer in range(3)),
        *("tone/warmth:unknown@3", "tone/warmth:unknown@5", "tone/rage:unknown@2"),
    }
    stack = numbers(5, HIDDEN)
    for layer in range(3):
        found = vectors[f"evil:mean_diff@{layer}"]
        np.testing.assert_array_equal(found.values, stack[layer + 1].numpy())
        assert (found.position, found.component) == ("response[:]", "residual")
    np.testing.assert_array_equal(
        vectors["tone/warmth:unknown@5"].values, numbers(HIDDEN, seed=5).bfloat16().float().numpy()
    )


def test_what_was_seen_is_reported_with_its_reason(store, tree):
    refused = [seen for seen in import_vectors(store, tree).outcomes if seen.outcome == "refused"]

    assert [(seen.path.rpartition("/")[2], seen.label) for seen in refused] == [
        ("evil_response_avg_diff.pt", "row 0"),
        ("evil_response_avg_diff.pt", "row 4"),
        ("broken.pt", ""),
    ]
    assert all(seen.note for seen in refused)


def test_every_vector_has_its_source(store, tree):
    import_vectors(store, tree)

    rows = {row["vector_hash"]: row for row in store.snapshot.table("sources").to_pylist()}
    assert len(rows) == 6
    for vector in held(store).values():
        row = rows[vector.content_hash]
        path = row["path"].partition("#")[0]
        content = open(path, "rb").read()  # noqa: PTH123
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["size_bytes"] == len(content)
        assert (row["kind"], row["source_format"]) == ("vector", "vectors")
    assert {row["source_dtype"] for row in rows.values()} == {"float32", "bfloat16"}


def test_a_second_import_adds_nothing(store, tree):
    import_vectors(store, tree)

    again = import_vectors(store, tree)

    assert (again.count("imported"), again.count("present"), again.count("refused")) == (0, 6, 3)
    assert store.snapshot.number == 1


def test_a_dry_run_says_the_same_and_writes_nothing(store, tree):
    dry = import_vectors(store, tree, is_dry_run=True)

    assert store.snapshot.number == 0
    assert [seen.to_row() for seen in dry.outcomes] == [
        seen.to_row() for seen in import_vectors(store, tree).outcomes
    ]


def test_the_user_says_what_files_do_not(store, tmp_path):
    torch.save(numbers(HIDDEN), tmp_path / "v.pt")
    told = Told("tone/grim", 4, "probe", "attn_out", "response[:5]", "tiny")

    import_vectors(store, tmp_path / "v.pt", told)

    (vector,) = held(store).values()
    assert (vector.trait, vector.layer, vector.method) == ("tone/grim", 4, "probe")
    assert (vector.component, vector.position, vector.model) == ("attn_out", "response[:5]", "tiny")


def test_a_misspelt_place_in_the_trait_names_nothing(store, tree):
    with pytest.raises(ConfigError, match="braces"):
        import_vectors(store, tree, Told(trait="move/{nam}"))

    assert not held(store)


def test_a_name_may_be_given_a_category(store, tree):
    import_vectors(store, tree, Told(trait="move/{name}"))

    assert "move/tone/warmth:unknown@3" in held(store)


def test_of_several_layers_one_is_taken(store, tree):
    path = tree / "evil_response_avg_diff.pt"

    import_vectors(store, path, Told(layer=1))

    assert list(held(store)) == ["evil:mean_diff@1"]
    with pytest.raises(ForeignFileError, match="no vector at layer 9; it has 0, 1, 2"):
        import_vectors(store, path, Told(layer=9))


def test_another_vector_of_the_same_name_is_refused_and_the_rest_come_in(store, tmp_path):
    store.add_vector("warmth", numbers(HIDDEN).numpy(), layer=3)
    vectors = {f"layer_{layer}": numbers(HIDDEN, seed=layer) for layer in (3, 4)}
    torch.save(vectors, tmp_path / "warmth.pt")

    report = import_vectors(store, tmp_path / "warmth.pt")

    assert [seen.outcome for seen in report.outcomes] == ["refused", "imported"]
    assert "another vector of that name" in report.outcomes[0].note


def test_one_direction_in_two_files_comes_in_once(store, tmp_path):
    folder = tmp_path / "twice"
    folder.mkdir()
    torch.save({"warmth.layer3": numbers(HIDDEN)}, folder / "a.pt")
    torch.save({"warmth.layer3": numbers(HIDDEN)}, folder / "b.pt")

    report = import_vectors(store, folder)

    assert [seen.outcome for seen in report.outcomes] == ["imported", "present"]


def test_a_file_read_under_another_numbering_comes_in_beside_the_first(store, tmp_path):
    torch.save(numbers(3, HIDDEN), tmp_path / "warmth.pt")
    import_vectors(store, tmp_path / "warmth.pt", numbering=Numbering("block-0"))

    report = import_vectors(
        store, tmp_path / "warmth.pt", Told(method="other"), Numbering("embedding", 9)
    )

    assert report.count("imported") == 2
    assert len(held(store)) == 5


def test_no_direction_is_refused(store, tmp_path):
    bad = {"layer_1": numbers(HIDDEN), "layer_2": torch.zeros(HIDDEN)}
    bad["layer_3"] = torch.full((HIDDEN,), torch.nan)
    torch.save(bad, tmp_path / "warmth.pt")

    report = import_vectors(store, tmp_path / "warmth.pt")

    assert [seen.outcome for seen in report.outcomes] == ["imported", "refused", "refused"]
    assert "all values are zero" in report.outcomes[1].note
    assert "NaN" in report.outcomes[2].note


def test_a_vector_of_another_width_comes_in_with_a_note(store, tmp_path):
    """Its data may come later."""
    with store.writer() as writer:
        writer.add(**make_reading())
    torch.save({"layer_2": numbers(HIDDEN + 1)}, tmp_path / "warmth.pt")

    (seen,) = import_vectors(store, tmp_path / "warmth.pt").outcomes

    assert seen.outcome == "imported"
    assert seen.note == f"it is {HIDDEN + 1} wide, and the store's readings {HIDDEN}"


def test_rounding_of_doubles_is_told(store, tmp_path):
    values = {"layer_1": numbers(HIDDEN).double(), "layer_2": numbers(HIDDEN).double() / 3}
    torch.save(values, tmp_path / "warmth.pt")

    exact, rounded = import_vectors(store, tmp_path / "warmth.pt").outcomes

    assert exact.note is None
    assert rounded.note == "rounded from float64 to float32"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("v.pt", numbers(HIDDEN), "--layer"),
        ("layer3.pt", numbers(HIDDEN), "--trait"),
        ("warmth.pt", {"layer_activations": {3: numbers(HIDDEN)}, "layer_type": "norm"}, "'norm'"),
    ],
)
def test_what_nothing_says_is_asked_for(store, tmp_path, name, content, said):
    torch.save(content, tmp_path / name)

    (seen,) = import_vectors(store, tmp_path / name).outcomes

    assert seen.outcome == "refused"
    assert said in seen.note


def test_a_source_that_is_not_there_is_an_error(store, tmp_path):
    (tmp_path / "nothing").mkdir()

    with pytest.raises(DatasetError, match="no file below"):
        import_vectors(store, tmp_path / "nothing")
    with pytest.raises(DatasetError, match="nothing lies at"):
        import_vectors(store, tmp_path / "missing.pt")
    with pytest.raises(ConfigError, match="did you mean 'residual'"):
        import_vectors(store, tmp_path, Told(component="residul"))


# Objects of steering-vectors.


@dataclass
class SteeringVector:
    """As the package has it."""

    layer_activations: dict
    layer_type: str = "decoder_block"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_steering_vector_becomes_one_vector_a_layer(store, dtype):
    given = {layer: numbers(HIDDEN, seed=layer).to(dtype) for layer in (7, 2)}

    made = add_steering_vector(
        store, SteeringVector(given), trait="tone/warmth", method="mean_diff", model="tiny"
    )

    assert [vector.layer for vector in made] == [2, 7]
    vectors = held(store)
    for layer, values in given.items():
        found = vectors[f"tone/warmth:mean_diff@{layer}"]
        np.testing.assert_array_equal(found.values, values.float().numpy())
        assert (found.model, found.component) == ("tiny", "residual")


def test_the_kind_of_a_steering_vectors_layers_is_its_component():
    (vector,) = from_steering_vector(SteeringVector({1: numbers(HIDDEN)}, "mlp"), trait="a/b")

    assert vector.component == "mlp_out"


@pytest.mark.parametrize(
    "given",
    [
        SteeringVector({}),
        SteeringVector({1: numbers(HIDDEN)}, "input_layernorm"),
        SteeringVector({-1: numbers(HIDDEN)}),
        object(),
    ],
)
def test_what_is_no_steering_vector_is_refused(given):
    with pytest.raises(InvalidRecordError):
        from_steering_vector(given, trait="a/b")


# The command line.


def test_the_command_prints_what_it_did(store, tree):
    done = run("import", "vectors", store.path, tree, "--json")

    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["outcome"] for row in rows].count("imported") == 6
    assert list(rows[0]) == [
        *("path", "label", "outcome", "reference", "layer", "hidden", "source_dtype", "note")
    ]
    assert "imported 6, present 0, refused 3" in done.stderr


def test_the_command_takes_the_numbering_and_refuses_to_guess(store, tmp_path):
    torch.save(numbers(4, HIDDEN), tmp_path / "warmth.pt")

    guessed = run("import", "vectors", store.path, tmp_path / "warmth.pt")
    dry = run("import", "vectors", store.path, tmp_path / "warmth.pt", "--blocks", 4, "--dry-run")
    told = run("import", "vectors", store.path, tmp_path / "warmth.pt", "--first-row", "embedding")

    assert isinstance(guessed.exception, ForeignFileError)
    assert "would be imported 4, present 0, refused 0" in dry.stderr
    assert "imported 2, present 0, refused 2" in told.stderr
    assert list(held(store)) == ["warmth:unknown@0", "warmth:unknown@1"]


def test_an_import_of_nothing_fails(store, tmp_path):
    torch.save(torch.zeros(HIDDEN), tmp_path / "v.pt")

    done = run("import", "vectors", store.path, tmp_path / "v.pt", "--layer", 3)

    assert done.exit_code == 1
    assert "nothing of" in str(done.exception)
    assert "all values are zero" in done.stdout


@pytest.mark.parametrize("name", ["v.pt", "v.safetensors", "layers.pt"])
def test_vectors_add_takes_the_same_files(store, tmp_path, name):
    vector = numbers(HIDDEN)
    if name.endswith("safetensors"):
        save_file({"direction": vector}, tmp_path / name)
    else:
        torch.save({"layer_3": vector, "layer_4": vector + 1} if name == "layers.pt" else vector,
                   tmp_path / name)  # fmt: skip

    done = run("vectors", "add", store.path, "tone/warmth", tmp_path / name, "--layer", 3)

    assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(held(store)["tone/warmth:unknown@3"].values, vector.numpy())


def test_one_vector_is_not_chosen_of_several(tmp_path):
    torch.save(
        {"warmth.layer3": numbers(HIDDEN), "rage.layer3": numbers(HIDDEN)}, tmp_path / "v.pt"
    )

    with pytest.raises(ConfigError, match="2 vectors at layer 3: warmth.layer3, rage.layer3"):
        read_one_vector(tmp_path / "v.pt", 3)
    with pytest.raises(ForeignFileError, match="no vector at layer 4; it has 3"):
        read_one_vector(tmp_path / "v.pt", 4)
