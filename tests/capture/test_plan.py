"""A plan says what a run would take, and touches nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tistore.capture.plan import check_room, plan
from tistore.errors import (
    ConfigError,
    DatasetError,
    ModelLoadError,
    NoRoomError,
    SiteNotFoundError,
)
from tistore.store.writer import SPARE_BYTES


def test_a_plan_counts_responses_readings_and_bytes(configure):
    planned = plan(configure(capture={"layers": "0-1"}))

    assert [organism.name for organism in planned.organisms] == ["instruct", "zero", "loud"]
    assert planned.responses == 3 * 5
    assert planned.readings == (1 + 2 + 2) * 5
    assert planned.rows == planned.readings * 8
    assert planned.layers == (0, 1)
    assert planned.size_bytes == planned.rows * 2 * 32 * 2
    assert planned.generated_tokens == 15 * 8


def test_a_plan_counts_prompt_rows_where_they_are_kept(configure, tokenizer):
    planned = plan(configure(capture={"rows": "all"}, organisms=[]))
    text = "<s><|user|>Who left?</s><|assistant|>"
    shortest = len(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert planned.rows >= 5 * (8 + shortest)


@pytest.mark.parametrize(("dtype", "ratio"), [("bfloat16", 0.75), ("float32", 0.92)])
def test_a_plan_expects_bfloat16_to_compress_better(configure, dtype: str, ratio: float):
    planned = plan(configure(base={"path": "base", "device": "cpu", "dtype": dtype}))

    tables = planned.compressed_bytes - planned.size_bytes * ratio
    assert 0 <= tables <= 100 * planned.rows


def test_a_plan_needs_no_weights_and_leaves_no_store(configure, workplace, tmp_path: Path):
    folder = tmp_path / "base"
    shutil.copytree(workplace / "base", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    before = sorted(tmp_path.rglob("*"))

    planned = plan(configure(base={"path": str(folder)}), path=tmp_path / "none" / "new.tistore")

    assert planned.free_bytes > 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("tables", "error", "expected"),
    [
        ({"capture": {"layers": [3]}}, SiteNotFoundError, "it has layers 0 to 2"),
        ({"organisms": [{"name": "x", "adapter": "./none"}]}, ModelLoadError, "no adapter 'x'"),
        ({"base": {"path": "./none"}}, ModelLoadError, "no base"),
        ({"prompt_sets": [{"path": "none.json"}]}, DatasetError, "none.json"),
        ({"prompt_sets": [{"path": "prompts/short.json"}] * 2}, ConfigError, "prompts/short"),
        (
            {"prompt_sets": [{"path": "prompts/short.json", "prompt_ids": ["tree"]}]},
            ConfigError,
            "did you mean 'three'?",
        ),
    ],
)
def test_a_plan_finds_what_would_stop_the_run(configure, tables, error, expected: str):
    with pytest.raises(error) as caught:
        plan(configure(**tables))

    assert expected in str(caught.value)


def test_limit_and_prompt_ids_choose_prompts(configure):
    sets = [
        {"path": "prompts/short.json", "prompt_ids": ["three", 1]},
        {"path": "prompts/other.jsonl", "limit": 1, "name": "others"},
    ]

    assert plan(configure(prompt_sets=sets, organisms=[])).responses == 3


def test_an_adapter_without_its_config_is_found_before_the_run(configure, workplace, tmp_path):
    shutil.copytree(workplace / "loud", tmp_path / "loud")
    (tmp_path / "loud" / "adapter_config.json").unlink()

    with pytest.raises(ModelLoadError, match=r"no adapter_config.json"):
        plan(configure(organisms=[{"name": "loud", "adapter": str(tmp_path / "loud")}]))


def test_check_room_names_need_and_have():
    check_room(10, 10 + SPARE_BYTES)
    check_room(10, None)
    with pytest.raises(NoRoomError):
        check_room(10, 9 + SPARE_BYTES)

    with pytest.raises(NoRoomError, match=r"2.07 GB, and 1.00 GB are free") as caught:
        check_room(2 * 10**9, 10**9)

    assert caught.value.exit_code == 5


def test_a_broken_model_config_is_a_typed_error(configure, workplace, tmp_path):
    shutil.copytree(workplace / "base", tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "no_such_thing"}))

    with pytest.raises(ModelLoadError, match="cannot load the config"):
        plan(configure(base={"path": str(tmp_path / "base")}))
