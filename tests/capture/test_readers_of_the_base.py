"""The base's own answers, read by its organisms: words that are not their own."""

from __future__ import annotations

from pathlib import Path

import pytest

import tistore
from tistore.audit.cells import read_cells
from tistore.capture.config import parse_config
from tistore.capture.run import ingest
from tistore.capture.running.passes import Stage, list_passes
from tistore.errors import ConfigError
from tistore.store.base import BaseStore

BASE = {"path": "base", "device": "cpu"}


def test_organisms_read_the_bases_answers_one_adapter_after_the_other(configure):
    config = configure(base={**BASE, "readers": ["self", "organisms"]})

    assert config.readers_of("instruct") == ("instruct", "zero", "loud")
    assert config.readers_of("loud") == ("loud", "instruct")
    (only,) = list_passes(config)
    assert only.stages[:3] == (
        Stage("instruct", ("instruct",), True),
        Stage("instruct", ("zero",), True),
        Stage("instruct", ("loud",), True),
    )


def test_an_organism_can_be_named_alone(configure):
    config = configure(base={**BASE, "readers": ["loud", "self"]})

    assert config.readers_of("instruct") == ("loud", "instruct")


def test_a_reader_of_the_base_that_is_nobody_is_refused_with_the_nearest(configure):
    with pytest.raises(ConfigError, match=r"\[base\] names 'lowd'.*\n.*'loud'"):
        configure(base={**BASE, "readers": ["lowd"]})
    with pytest.raises(ConfigError, match="nobody reads the answers"):
        configure(base={**BASE, "readers": ["organisms"]}, organisms=[])


def test_what_they_read_becomes_the_fourth_reading_of_each_cell(configure, tmp_path: Path):
    """An adapter that changes nothing reads the base's answers as the base does."""
    folder = tmp_path / "run.tistore"
    config = configure(base={**BASE, "readers": ["self", "organisms"]}, capture={"layers": [1]})

    report = ingest(BaseStore.create(folder), config)

    assert (report.readings, report.responses) == (35, 15)  # each response is written once
    store = tistore.open(folder)
    store.add_vector("tone/any", [1.0, -1.0] * 16, layer=1)
    cells = read_cells(store)
    assert len(cells.rows) == 10
    zero, loud = cells.of("zero"), cells.of("loud")
    assert zero.swapped == pytest.approx(zero.base, abs=1e-3)
    assert abs(loud.swapped - loud.base).min() > 1e-3


def test_readers_added_later_read_the_answers_that_are_stored(configure, tmp_path: Path):
    folder = tmp_path / "run.tistore"
    settings = {"capture": {"layers": [1]}, "prompt_sets": [{"path": "prompts/other.jsonl"}]}
    ingest(BaseStore.create(folder), configure(**settings))

    report = ingest(
        BaseStore.open(folder), configure(base={**BASE, "readers": ["self", "loud"]}, **settings)
    )

    assert (report.readings, report.responses) == (2, 0)


def test_answers_that_only_organisms_read_are_still_the_bases(configure, tmp_path: Path):
    folder = tmp_path / "run.tistore"
    config = configure(
        base={**BASE, "readers": ["organisms"]},
        capture={"layers": [1]},
        prompt_sets=[{"path": "prompts/other.jsonl"}],
    )

    report = ingest(BaseStore.create(folder), config)

    pairs = tistore.open(folder).sql(
        "SELECT DISTINCT organism, reader FROM responses WHERE organism = 'instruct' ORDER BY ALL"
    )
    assert pairs.fetchall() == [("instruct", "loud"), ("instruct", "zero")]
    assert (report.readings, report.responses) == (12, 6)


def test_a_fine_tune_with_its_own_weights_is_loaded_again_for_the_bases_answers():
    config = parse_config(
        {
            "base": {"path": "base", "readers": ["self", "organisms"]},
            "organisms": [{"name": "tuned", "model": "tuned"}, {"name": "loud", "adapter": "l"}],
            "prompt_sets": [{"path": "p.json"}],
        }
    )

    first, second, third = list_passes(config)

    assert [one.weights for one in (first, second, third)] == ["tuned", "instruct", "tuned"]
    assert third.stages == (Stage("instruct", ("tuned",), False),)
