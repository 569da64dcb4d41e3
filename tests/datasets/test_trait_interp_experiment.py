"""Every file of an experiment is told by its path, or left out with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.datasets.trait_interp.config import ExperimentConfig, Variant, read_config
from tistore.datasets.trait_interp.experiment import open_experiment
from tistore.datasets.trait_interp.files import (
    AnnotationFile,
    ConfigFile,
    Entry,
    LeftOut,
    MassiveFile,
    ProjectionFile,
    PromptSetFile,
    ResidualFile,
    ResponseFile,
    ScenarioFile,
    SteeringFile,
    VectorFile,
)
from tistore.datasets.trait_interp.layout import Place, classify
from tistore.datasets.trait_interp.natural_order import natural_key
from tistore.errors import ConfigError
from trait_interp_tree import BASE_MODEL, LORA, MODEL, SYSTEM_PROMPT, Tree

CONFIG = ExperimentConfig("variants", (Variant("instruct", "m"), Variant("td_rt", "m", "l")))
EXPERIMENTS = ("november", "december", "february")


def tell(path: str, config: ExperimentConfig = CONFIG) -> Entry:
    """Tell a file by its path alone; nothing lies there."""
    return classify(Place(Path("/e") / path, tuple(path.split("/")), 7, config))


def walk(tree: Tree) -> list[Entry]:
    return [e for name in EXPERIMENTS for e in open_experiment(tree.experiment(name)).walk()]


def test_every_file_is_told_exactly_once(tree: Tree):
    entries = walk(tree)

    told = [entry.path for entry in entries]
    lying = [path for path in (tree.root / "experiments").rglob("*") if path.is_file()]
    assert sorted(told) == sorted(lying)
    assert all(entry.size == entry.path.stat().st_size for entry in entries)


def test_the_tree_is_told_as_it_was_built(tree: Tree):
    entries = {entry.path: entry for entry in walk(tree)}

    def paths(kind: type[Entry]) -> set[Path]:
        return {path for path, entry in entries.items() if isinstance(entry, kind)}

    readings = {r.path for r in (*tree.readings, *tree.mismatched)} | set(tree.refused)
    assert paths(ResidualFile) == readings
    assert paths(ResponseFile) == set(tree.responses)
    assert paths(ProjectionFile) == set(tree.projections)
    assert paths(VectorFile) == set(tree.vectors)
    assert paths(SteeringFile) == set(tree.steering)
    assert paths(AnnotationFile) == set(tree.annotations)
    assert paths(MassiveFile) == set(tree.massive)
    assert paths(ScenarioFile) == set(tree.scenarios)
    verdicts = {p: e.verdict for p, e in entries.items() if isinstance(e, LeftOut)}
    assert {p for p, verdict in verdicts.items() if verdict == "skipped"} == tree.skipped
    assert {p for p, verdict in verdicts.items() if verdict == "unknown"} == tree.unknown
    assert {p.name.partition("_layer")[0] for p, v in verdicts.items() if v == "companion"} == {
        "metadata.json",
        "mean_diff",
        "attn_out_mean_diff",
    }


def test_readings_are_identified_by_their_paths(tree: Tree):
    told = {entry.path: entry for entry in walk(tree) if isinstance(entry, ResidualFile)}

    for reading in (*tree.readings, *tree.mismatched):
        entry = told[reading.path]
        assert (entry.variant, entry.author) == (reading.variant, reading.author)
        assert (entry.prompt_set, entry.prompt_id) == (reading.prompt_set, reading.prompt_id)


def test_a_walk_is_in_natural_order(tree: Tree):
    experiment = open_experiment(tree.experiment("december"))

    told = [entry.path.relative_to(experiment.path).parts for entry in experiment.walk()]

    assert told == sorted(told, key=lambda parts: [natural_key(part) for part in parts])
    ids = [e.prompt_id for e in experiment.walk() if isinstance(e, ResponseFile)]
    assert ids == ["1", "2", "10", "rust_100"]


def test_the_three_configurations_are_read(tree: Tree):
    november, december, february = (
        open_experiment(tree.experiment(name)).config for name in EXPERIMENTS
    )

    assert (november.shape, november.system_prompt) == ("single", SYSTEM_PROMPT)
    assert november.resolve(None) == Variant("application", MODEL)
    assert december.shape == "roles"
    assert december.resolve(None).model == MODEL
    assert december.resolve("extraction").model == BASE_MODEL
    assert december.resolve("tiny-7b") == Variant("tiny-7b", is_declared=False)
    assert february.shape == "variants"
    assert (february.extraction, february.application) == ("base", "instruct")
    assert february.resolve("flattery").lora == LORA
    assert february.other_keys == ("description",)
    assert february.diff_convention == "replay_suffix"


@pytest.mark.parametrize(
    ("content", "shape", "extraction", "application"),
    [
        ({}, "missing", None, None),
        ({"use_chat_template": None}, "missing", None, None),
        ({"application_model": "m"}, "roles", "application", "application"),
        ({"model_variants": {"a": {"model": "m"}}}, "variants", "a", "a"),
        ({"model_variants": {}, "defaults": {}}, "variants", None, None),
        ({"model": "m", "model_variants": {"a": {"model": "m"}}}, "variants", "a", "a"),
        ({"model": "m", "extraction_model": "n"}, "roles", "extraction", "extraction"),
    ],
)
def test_partial_configurations_fall_back_as_there(
    tmp_path: Path, content: Any, shape: str, extraction: str | None, application: str | None
):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))

    config = read_config(path)

    assert (config.shape, config.extraction, config.application) == (
        shape,
        extraction,
        application,
    )


def test_an_experiment_without_a_model_says_so(tmp_path: Path):
    config = read_config(tmp_path / "config.json")

    assert config.shape == "missing"
    with pytest.raises(ConfigError, match="names none either"):
        config.resolve(None)


def test_a_replay_is_split_at_a_declared_variant_only():
    split = CONFIG.split_replay

    assert split("audit/benign_replay_td_rt") == ("audit/benign", "td_rt")
    assert split("audit/benign_replay_rt") is None
    assert split("audit/benign_replay_td_rt/more") is None
    assert split("_replay_td_rt") is None
    assert split("audit/_replay_td_rt") is None
    odd = ExperimentConfig("variants", (Variant("b"), Variant("a_replay_b")))
    assert odd.split_replay("set_replay_a_replay_b") == ("set", "a_replay_b")


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)


@given(st.lists(NAMES, min_size=1, max_size=3), NAMES)
def test_a_replay_round_trips(steps: list[str], variant: str):
    prompt_set = "/".join(steps)
    config = ExperimentConfig("variants", (Variant(variant),))

    assert config.split_replay(f"{prompt_set}_replay_{variant}") == (prompt_set, variant)


@given(st.lists(NAMES, min_size=1, max_size=3), NAMES)
def test_sets_with_slashes_are_whole(steps: list[str], prompt_id: str):
    prompt_set = "/".join(steps)

    raw = tell(f"inference/instruct/raw/residual/{prompt_set}/{prompt_id}.pt")
    old = tell(f"inference/raw/residual/{prompt_set}/{prompt_id}.pt")
    projection = tell(f"inference/instruct/projections/c/t/{prompt_set}/{prompt_id}.json")

    assert isinstance(raw, ResidualFile) and isinstance(old, ResidualFile)
    assert (raw.prompt_set, raw.prompt_id, raw.variant) == (prompt_set, prompt_id, "instruct")
    assert (old.prompt_set, old.prompt_id, old.variant) == (prompt_set, prompt_id, None)
    assert isinstance(projection, ProjectionFile)
    assert (projection.trait, projection.prompt_set) == ("c/t", prompt_set)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("inference/instruct/raw/residual/s/1.pt", ("instruct", "s", "1")),
        ("inference/undeclared/raw/residual/s/1.pt", ("undeclared", "s", "1")),
        ("inference/models/gemma-2-2b/raw/residual/s/1.pt", ("gemma-2-2b", "s", "1")),
        ("inference/raw/residual/a/b/rust_1.pt", (None, "a/b", "rust_1")),
    ],
)
def test_raw_files_are_told_in_every_layout(path: str, expected: tuple[str | None, str, str]):
    entry = tell(path)

    assert isinstance(entry, ResidualFile)
    assert (entry.variant, entry.prompt_set, entry.prompt_id) == expected


@pytest.mark.parametrize(
    ("path", "trait", "variant", "code", "prompt_set"),
    [
        ("steering/c/t/results.json", "c/t", None, None, None),
        ("steering/t/results.json", "t", None, None, None),
        ("steering/c/t/response_all/results.json", "c/t", None, "response_all", None),
        ("steering/c/t/v/response__5/steering/results.jsonl", "c/t", "v", "response__5",
         "steering"),
        ("steering/c/t/v/response__5/rm/train_100/results.jsonl", "c/t", "v", "response__5",
         "rm/train_100"),
        ("steering/c/response_all/v/prompt_-1/s/results.jsonl", "c/response_all", "v",
         "prompt_-1", "s"),
        ("steering/c/t/instruct/results.json", "c/t", "instruct", None, None),
    ],
)  # fmt: skip
def test_steering_results_are_told_in_every_layout(
    path: str, trait: str, variant: str | None, code: str | None, prompt_set: str | None
):
    entry = tell(path)

    assert isinstance(entry, SteeringFile)
    assert (entry.trait, entry.variant) == (trait, variant)
    assert (entry.position_code, entry.prompt_set) == (code, prompt_set)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("extraction/c/t/v/vectors/response__5/residual/probe/layer12.pt",
         ("c/t", "v", "response__5", "residual", "probe", 12)),
        ("extraction/c/t/vectors/prompt_-1/attn_out/mean_diff_cleaned/layer0.pt",
         ("c/t", None, "prompt_-1", "attn_out", "mean_diff_cleaned", 0)),
        ("extraction/c/t/vectors/mean_diff_layer16.pt",
         ("c/t", None, None, "residual", "mean_diff", 16)),
        ("extraction/c/t/vectors/attn_out_probe_layer3.pt",
         ("c/t", None, None, "attn_out", "probe", 3)),
        ("refusal/vectors/probe_layer3.pt", ("refusal", None, None, "residual", "probe", 3)),
        ("refusal/extraction/vectors/probe_layer3.pt",
         ("refusal", None, None, "residual", "probe", 3)),
    ],
)  # fmt: skip
def test_vectors_are_told_in_every_layout(path: str, expected: tuple[Any, ...]):
    entry = tell(path)

    assert isinstance(entry, VectorFile)
    found = (entry.trait, entry.variant, entry.position_code, entry.component)
    assert (*found, entry.method, entry.layer) == expected


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("inference/prompts/harmful.json", PromptSetFile),
        ("inference/massive_activations/calibration.json", MassiveFile),
        ("inference/instruct/massive_activations/a/b.json", MassiveFile),
        ("extraction/c/t/v/responses/pos.json", ScenarioFile),
        ("extraction/c/t/val_responses/val_neg.csv", ScenarioFile),
        ("config.json", ConfigFile),
    ],
)
def test_other_files_are_told(path: str, kind: type[Entry]):
    assert isinstance(tell(path), kind)


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        ("inference/raw/internals/s/1_L3.pt", "skipped"),
        ("inference/instruct/sae/s/1.pt", "skipped"),
        ("extraction/c/t/v/activations/response__5/residual/train_all_layers.pt", "skipped"),
        ("extraction/c/t/v/vetting/response_scores.json", "skipped"),
        ("extraction/c/t/positive.txt", "skipped"),
        ("c/t/inference/x/prompt_1.pt", "skipped"),
        ("model_diff/a_vs_b/diff_vectors.pt", "skipped"),
        ("steering/c/t/layer_sweep.json", "skipped"),
        ("inference/instruct/raw/residual/1.pt", "unknown"),
        ("inference/instruct/raw/residual/s/.pt", "unknown"),
        ("inference/instruct/raw/residual/s/1.pt.tmp", "unknown"),
        ("inference/instruct/responses/s/.DS_Store", "unknown"),
        ("inference/instruct/projections/t/1.json", "unknown"),
        ("extraction/c/t/v/vectors/response__5/residual/probe/layerX.pt", "unknown"),
        ("extraction/c/t/v/vectors/response__5/residual/probe/layer1234567.pt", "unknown"),
        ("steering/results.json", "unknown"),
        ("inference", "unknown"),
        ("notes.md", "unknown"),
    ],
)
def test_files_without_a_record_are_left_out_by_name(path: str, verdict: str):
    entry = tell(path)

    assert isinstance(entry, LeftOut)
    assert (entry.verdict, bool(entry.reason)) == (verdict, True)


STEPS = st.sampled_from(
    ["inference", "extraction", "steering", "raw", "residual", "responses", "projections", "s"]
    + ["vectors", "models", "instruct", "prompts", "residual_stream", "response__5", "x.json"]
    + ["1.pt", "prompt_1.json", "layer3.pt", "results.jsonl", "a_annotations.json", "config.json"]
    + ["_annotations.json", "_layer1.pt", "probe_layer1_metadata.json", ".json", "pos.csv"]
)


@given(st.lists(STEPS | NAMES, min_size=1, max_size=9))
def test_any_path_is_told(steps: list[str]):
    entry = tell("/".join(steps))

    assert entry.size == 7
    if isinstance(entry, ResidualFile | ResponseFile | ProjectionFile):
        assert entry.prompt_id
    if isinstance(entry, VectorFile | SteeringFile | ProjectionFile):
        assert entry.trait


def test_links_out_of_the_experiment_are_refused(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.pt").write_bytes(b"x")
    folder = tmp_path / "experiment" / "inference" / "raw" / "residual" / "s"
    folder.mkdir(parents=True)
    (folder / "1.pt").symlink_to(outside / "1.pt")
    (folder / "2.pt").write_bytes(b"x")
    (folder / "3.pt").symlink_to(folder / "2.pt")
    (folder / "4.pt").symlink_to(folder / "4.pt")
    (folder.parent / "t").symlink_to(outside)
    (folder.parent / "u").symlink_to(folder)
    (folder / "loop").symlink_to(folder.parent)

    entries = list(open_experiment(tmp_path / "experiment").walk())

    told = {e.path.name: getattr(e, "verdict", type(e).__name__) for e in entries}
    assert told == {
        "1.pt": "refused",
        "2.pt": "ResidualFile",
        "3.pt": "ResidualFile",
        "4.pt": "refused",
        "t": "refused",
        "u": "skipped",
        "loop": "skipped",
    }


def test_a_configuration_linked_from_outside_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere.json").write_text("{}")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "config.json").symlink_to(tmp_path / "elsewhere.json")

    with pytest.raises(ConfigError, match="a link out of the experiment"):
        open_experiment(tmp_path / "experiment")


@pytest.mark.parametrize("name", ["1\n2.pt", " .pt", "\x1b[2J.pt"])
def test_files_whose_names_cannot_be_ids_are_refused(tmp_path: Path, name: str):
    folder = tmp_path / "inference" / "raw" / "residual" / "s"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"x")

    (entry,) = open_experiment(tmp_path).walk()

    assert isinstance(entry, LeftOut)
    assert entry.verdict == "refused"


def test_names_that_are_no_text_are_refused(tmp_path: Path):
    folder = tmp_path / "inference"
    folder.mkdir()
    try:
        Path(bytes(folder).decode() + "/\udcff.pt").write_bytes(b"x")
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")

    (entry,) = open_experiment(tmp_path).walk()

    assert isinstance(entry, LeftOut)
    assert "character" in entry.reason


@pytest.mark.parametrize("content", [None, "file", "empty"])
def test_what_is_no_experiment_is_refused(tmp_path: Path, content: str | None):
    path = tmp_path / "experiment"
    if content == "file":
        path.write_text("{}")
    elif content == "empty":
        path.mkdir()

    with pytest.raises(ConfigError) as caught:
        open_experiment(path)

    assert str(path) in caught.value.message
    assert caught.value.mend


def test_raw_files_of_the_tree_hold_the_rows_it_tells(tree: Tree):
    """Every era's rows, read back by torch itself and placed by the era's convention."""
    import numpy as np
    import torch

    eras = set()
    for reading in (*tree.readings, *tree.mismatched):
        content = torch.load(reading.path, weights_only=True)
        prompt, response = (content[half]["activations"] for half in ("prompt", "response"))
        assert [*content["prompt"]["token_ids"], *content["response"]["token_ids"]] == list(
            reading.token_ids
        )
        for component in reading.values:
            for layer in reading.layers:
                own = response[layer][component].float().numpy()
                first = reading.prompt_length - (reading.convention == "predicting")
                placed = dict(enumerate(own, start=first))
                if layer in prompt:
                    before = dict(enumerate(prompt[layer][component].float().numpy()))
                    shared = placed.keys() & before.keys()
                    assert all((placed[at] == before[at]).all() for at in shared)
                    placed |= before
                assert sorted(placed) == list(reading.positions)
                rows = np.stack([placed[at] for at in reading.positions])
                assert (rows == reading.rows(component, layer)).all()
                assert str(response[layer][component].dtype) == f"torch.{reading.source_dtype}"
        eras.add(reading.era)

    assert eras == {"A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8"}


def test_one_raw_file_of_the_tree_holds_its_whole_batch(tree: Tree):
    import torch

    sizes = []
    for reading in tree.readings:
        content = torch.load(reading.path, weights_only=True)
        tensor = content["response"]["activations"][3][next(iter(reading.values))]
        sizes.append(tensor.untyped_storage().nbytes() / max(1, tensor.nbytes))

    assert sorted(sizes)[-1] == 16
