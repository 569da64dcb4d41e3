"""A run's configuration may name a prompt set that ships."""

from __future__ import annotations

import pytest

from tistore.capture.config import RunConfig, parse_config
from tistore.capture.running.workload import read_selections
from tistore.datasets.prompt_sets import read_prompt_set
from tistore.datasets.shipped import find_prompt_set
from tistore.errors import ConfigError, DatasetError


def configure(tmp_path, **prompt_set) -> RunConfig:
    tables = {"base": {"path": "base"}, "prompt_sets": [prompt_set]}
    return parse_config(tables, source="run.toml", folder=tmp_path)


@pytest.mark.parametrize("name", ["audit/discovery", "single_trait"])
def test_a_shipped_set_keeps_its_name_and_its_source_names_no_machine(tmp_path, name):
    config = configure(tmp_path, path=f"tistore:{name}")

    (selection,) = read_selections(config)

    expected = read_prompt_set(find_prompt_set(name), name)
    assert selection.prompts == expected.prompts
    assert selection.prompt_set.name == name
    assert selection.prompt_set.source == f"tistore:{name}"
    assert selection.prompt_set.source_hash == expected.source_hash


def test_a_shipped_set_is_chosen_from_like_any_other(tmp_path):
    config = configure(tmp_path, path="tistore:audit/probing", name="mine", prompt_ids=[4, 7])

    (selection,) = read_selections(config)

    assert [(one.prompt_set, one.prompt_id) for one in selection.prompts] == [
        ("mine", "4"), ("mine", "7"),
    ]  # fmt: skip


def test_a_configuration_that_was_written_out_is_read_again(tmp_path):
    config = configure(tmp_path, path="tistore:audit/benign")

    assert parse_config(config.model_dump(exclude_none=True), folder=tmp_path) == config


def test_a_misspelt_shipped_set_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, path="tistore:audit/discovry")

    assert "run.toml: path in [[prompt_sets]]: no prompt set that ships" in caught.value.message
    assert caught.value.mend == "did you mean 'audit/discovery'?"


def test_without_the_scheme_a_path_is_a_path(tmp_path):
    with pytest.raises(DatasetError, match="no prompt set at"):
        read_selections(configure(tmp_path, path="audit/discovery"))
