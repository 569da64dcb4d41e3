"""Runs that cannot work say why before anything is loaded or made."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import tistore
from tistore.capture.planning import plan as planning
from tistore.cli.main import app
from tistore.errors import (
    ConfigError,
    DatasetError,
    KeyConflictError,
    ModelLoadError,
    NoRoomError,
    SiteNotFoundError,
    TistoreError,
)

GOOD = {
    "base": 'path = "{folder}/base"\ndevice = "cpu"',
    "organisms": 'name = "loud"\nadapter = "{folder}/loud"',
    "prompt_sets": 'path = "{folder}/prompts/short.json"\nname = "audit/short"',
    "capture": "layers = [0, 2]",
    "generation": "max_new_tokens = 4",
}


@pytest.fixture
def write_config(workplace, tmp_path):
    def write(**changes: str):
        lines = []
        for table, content in {**GOOD, **changes}.items():
            head = f"[[{table}]]" if table in ("organisms", "prompt_sets") else f"[{table}]"
            lines.append(f"{head}\n{content.format(folder=workplace)}\n")
        path = tmp_path / "run.toml"
        path.write_text("\n".join(lines))
        return path

    return write


def ingest(store, config) -> TistoreError | None:
    result = CliRunner().invoke(app, ["ingest", str(store), str(config), "--json"])
    if result.exception is None:
        return None
    assert isinstance(result.exception, TistoreError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"capture": "layers = [99]"}, SiteNotFoundError, "layers 0 to 2"),
        ({"capture": "layres = [0]"}, ConfigError, "layers"),
        ({"capture": 'rows = "some"'}, ConfigError, "rows"),
        ({"generation": "max_new_tokens = 4\nstop_token_ids = [9999]"}, ConfigError, "token 9999"),
        ({"base": 'path = "{folder}/base"\ndevice = "gpu"'}, ConfigError, "no name of a device"),
        ({"base": 'path = "{folder}/base"\ndevice = "cuda:99"'}, ModelLoadError, "cuda:99"),
        ({"organisms": 'name = "x"\nadapter = "{folder}/nowhere"'}, ModelLoadError, "nowhere"),
        ({"organisms": 'name = "x"\nadapter = "{folder}/prompts"'}, ModelLoadError, "adapter"),
        ({"base": 'path = "{folder}/prompts"'}, ModelLoadError, "prompts"),
        ({"prompt_sets": 'path = "{folder}/none.json"'}, DatasetError, "none.json"),
        ({"prompt_sets": 'path = "{folder}/empty.json"'}, DatasetError, "no prompts"),
        ({"prompt_sets": 'path = "{folder}/twice.json"'}, DatasetError, "twice"),
    ],
)
def test_a_mistake_in_the_config_is_named_and_leaves_no_store(
    workplace, write_config, tmp_path, changes, kind, said
):
    (workplace / "empty.json").write_text('{"prompts": []}')
    (workplace / "twice.json").write_text('[{"id": 1, "text": "a"}, {"id": "1", "text": "b"}]')

    error = ingest(tmp_path / "s.tistore", write_config(**changes))

    assert isinstance(error, kind)
    assert said in str(error)
    assert not (tmp_path / "s.tistore").exists()


def test_a_store_path_that_is_a_file_is_left_alone(write_config, tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")

    error = ingest(path, write_config())

    assert error is not None
    assert "is a file" in str(error)
    assert path.read_text() == "mine"


def test_a_run_that_would_not_fit_leaves_no_store(write_config, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "measure_free", lambda path: 10)

    error = ingest(tmp_path / "s.tistore", write_config())

    assert isinstance(error, NoRoomError)
    assert error.exit_code == 5
    assert not (tmp_path / "s.tistore").exists()


def test_a_run_that_would_stop_at_its_reserve_leaves_no_store(write_config, tmp_path):
    """It would load its weights only to find that it must stop."""
    config = write_config(capture="layers = [0]\nreserve_gb = 1e9")

    error = ingest(tmp_path / "s.tistore", config)

    assert isinstance(error, NoRoomError)
    assert "to stay free" in str(error)
    assert not (tmp_path / "s.tistore").exists()


def test_a_store_that_another_run_has_made_meanwhile_is_used(write_config, tmp_path, monkeypatch):
    path = tmp_path / "s.tistore"
    create = tistore.create

    def come_second(where):
        create(path)
        return create(where)

    monkeypatch.setattr(tistore, "create", come_second)

    assert ingest(path, write_config()) is None
    assert tistore.open(path).info().readings > 0


def test_a_prompt_whose_text_changed_is_refused(workplace, write_config, tmp_path):
    prompts = workplace / "changing.json"
    config = write_config(prompt_sets='path = "{folder}/changing.json"\nname = "audit/x"')
    prompts.write_text('[{"id": 1, "text": "Who left?"}]')
    path = tmp_path / "s.tistore"
    assert ingest(path, config) is None
    before = tistore.open(path).info()

    prompts.write_text('[{"id": 1, "text": "Who stayed?"}, {"id": 2, "text": "Go!"}]')
    error = ingest(path, config)

    assert isinstance(error, KeyConflictError)
    assert "audit/x#1" in str(error)
    assert tistore.open(path).info() == before


def test_an_adapter_that_was_trained_again_is_not_taken_for_the_old_one(
    workplace, write_config, tmp_path, build_model, build_adapter
):
    build_adapter(workplace / "retrained", build_model(), seed=5, scale=0.5)
    config = write_config(organisms='name = "x"\nadapter = "{folder}/retrained"')
    path = tmp_path / "s.tistore"
    assert ingest(path, config) is None
    before = tistore.open(path).info()

    build_adapter(workplace / "retrained", build_model(), seed=6, scale=0.5)
    error = ingest(path, config)

    assert isinstance(error, KeyConflictError)
    assert "'x' is in the store with another adapter" in str(error)
    assert tistore.open(path).info() == before


def test_a_prompt_set_may_grow(workplace, write_config, tmp_path):
    prompts = workplace / "growing.json"
    config = write_config(prompt_sets='path = "{folder}/growing.json"\nname = "audit/g"')
    prompts.write_text('[{"id": 1, "text": "Who left?"}]')
    path = tmp_path / "s.tistore"
    assert ingest(path, config) is None

    prompts.write_text('[{"id": 1, "text": "Who left?"}, {"id": 2, "text": "Go!"}]')
    assert ingest(path, config) is None

    assert tistore.open(path).info().prompt_sets == {"audit/g": 6}
