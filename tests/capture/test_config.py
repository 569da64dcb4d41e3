"""A run's configuration: read as written, or refused with the words of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tistore.capture.config import parse_config, read_config
from tistore.errors import ConfigError

MINIMAL = """
[base]
path = "base"

[[prompt_sets]]
path = "prompts.json"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_minimal_config_reads_with_the_documented_defaults(tmp_path: Path):
    config = read_config(write(tmp_path, MINIMAL))

    assert config.base.name == "instruct"
    assert config.answerers == ["instruct"]
    assert config.readers_of("instruct") == ("instruct",)
    assert config.capture.components == ("residual",)
    assert config.capture.rows == "response"


def test_organisms_are_read_by_themselves_and_by_the_base(tmp_path: Path):
    text = MINIMAL + '[[organisms]]\nname = "loud"\nadapter = "loud"\n'

    config = read_config(write(tmp_path, text))

    assert config.answerers == ["instruct", "loud"]
    assert config.readers_of("loud") == ("loud", "instruct")


def test_paths_are_relative_to_the_file_and_hub_ids_stay_as_they_are(tmp_path: Path):
    (tmp_path / "prompts.json").write_text("[]")

    config = read_config(write(tmp_path, MINIMAL.replace('"base"', '"owner/model"')))

    assert config.prompt_sets[0].path.location == str(tmp_path / "prompts.json")
    assert config.prompt_sets[0].path.given == "prompts.json"
    assert config.base.path.location == "owner/model"


@pytest.mark.parametrize(
    ("addition", "key", "table", "suggestion"),
    [
        ("[capture]\nlayer = [1]", "'layer'", "[capture]", "did you mean 'layers'?"),
        ("[generation]\nmax_tokens = 3", "'max_tokens'", "[generation]", "max_new_tokens"),
        (
            '[[organisms]]\nname = "a"\nadaptor = "b"',
            "'adaptor'",
            "[[organisms]] number 1",
            "adapter",
        ),
        ("[generation]\nlayers = 3", "'layers'", "[generation]", "it belongs in [capture]"),
        ("[[organism]]\nname = 'a'", "'organism'", "the top level", "organisms"),
    ],
)
def test_a_misspelt_key_is_named_with_file_table_and_the_nearest_right_one(
    tmp_path: Path, addition: str, key: str, table: str, suggestion: str
):
    path = write(tmp_path, MINIMAL + addition)

    with pytest.raises(ConfigError) as caught:
        read_config(path)

    for part in (str(path), key, table, suggestion):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("[generation]\ntemperature = -1", "temperature in [generation] is -1"),
        ("[generation]\nsamples = 2", "samples at temperature 0"),
        ('[capture]\nlayers = "8-5"', "selects no layers"),
        ("[capture]\nlayers = []", "no layers are selected"),
        ("[capture]\ncomponents = []", "components are none"),
        ('[capture]\ncomponents = ["mlp_out", "mlp_out"]', "and each once"),
        ("[capture]\nreaders = []", "readers in [capture]"),
        ('[[organisms]]\nname = "instruct"\nadapter = "x"', "several models are called instruct"),
        ("[capture", "not valid TOML"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(tmp_path: Path, addition: str, expected: str):
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, MINIMAL + addition))

    assert expected in str(caught.value)


def test_a_run_in_which_nobody_answers_is_refused():
    tables = {"base": {"path": "b", "answers": False}, "prompt_sets": [{"path": "p"}]}

    with pytest.raises(ConfigError, match="nobody answers"):
        parse_config(tables)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere.toml"):
        read_config(tmp_path / "nowhere.toml")
