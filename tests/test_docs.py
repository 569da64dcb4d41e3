"""The documentation is true: every command is in it, and what it shows parses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tistore.capture.config import (
    BaseConfig,
    CaptureConfig,
    GenerationConfig,
    OrganismConfig,
    PromptSetConfig,
    parse_config,
)
from tistore.cli.cache import app as cache
from tistore.cli.exports import app as exports
from tistore.cli.imports import app as imports
from tistore.cli.main import app
from tistore.cli.vectors import app as vectors
from tistore.query.dynamics import FUNCTIONS
from tistore.query.measures import MEASURES
from tistore.query.relations import RELATIONS

README = (Path(__file__).parents[1] / "README.md").read_text()


def names(commands) -> list[str]:
    return [command.name or command.callback.__name__ for command in commands]


@pytest.mark.parametrize("name", names(app.registered_commands))
def test_every_command_is_in_the_readme(name):
    assert f"`tistore {name}" in README


@pytest.mark.parametrize("name", names(vectors.registered_commands))
def test_every_vector_command_is_in_the_readme(name):
    assert f"`{name}`" in README or f"`tistore vectors {name}" in README


@pytest.mark.parametrize("name", names(cache.registered_commands))
def test_every_cache_command_is_in_the_readme(name):
    assert f"`{name}`" in README or f"`tistore cache {name}`" in README


@pytest.mark.parametrize("way", ["import", "export"])
def test_every_format_that_comes_in_or_goes_out_is_in_the_readme(way):
    app = {"import": imports, "export": exports}[way]
    listed = next(
        line for line in README.splitlines() if line.startswith(f"| `tistore {way} FORMAT")
    )

    assert set(re.findall(r"`([a-z-]+)`", listed)) == set(names(app.registered_commands))


@pytest.mark.parametrize("name", sorted({*RELATIONS, *MEASURES, *FUNCTIONS}))
def test_everything_a_query_can_name_is_documented(name):
    text = (Path(__file__).parents[1] / "docs" / "queries.md").read_text()
    assert re.search(rf"`{name}[`(]", text)


def test_the_readmes_config_is_valid():
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)

    config = parse_config(tomllib.loads(block))

    assert config.organisms[0].name == "flattery"
    assert config.base.quantization == "4bit"


def test_links_in_the_readme_lead_somewhere():
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target


def test_every_config_key_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "inputs.md").read_text()
    records = (BaseConfig, OrganismConfig, PromptSetConfig, CaptureConfig, GenerationConfig)
    for record in records:
        for key in record.model_fields:
            assert f"`{key}`" in text, f"{record.__name__}.{key}"
