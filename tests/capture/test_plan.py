"""A plan says what a run would take, and touches nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache
from typer.testing import CliRunner

import tistore
from example_readings import make_reading
from tistore.capture.models import quantization
from tistore.capture.models.architecture import build_skeleton
from tistore.capture.models.machine import Memory, find_memory, measure_host
from tistore.capture.planning import footprint as footprints
from tistore.capture.planning import timing as timings
from tistore.capture.planning.footprint import measure_weights
from tistore.capture.planning.plan import check_plan, check_room, plan
from tistore.capture.planning.plan_report import describe_plan, show_plan
from tistore.capture.planning.preflight import check_run
from tistore.capture.planning.timing import Range, find_timing, probe_run, recall_timing
from tistore.capture.reading.in_flight import measure_token
from tistore.cli.main import app
from tistore.errors import (
    ConfigError,
    DatasetError,
    ModelLoadError,
    NoRoomError,
    SiteNotFoundError,
    StoreError,
)
from tistore.schemas.response import CaptureSettings
from tistore.store import log
from tistore.store.writer import SPARE_BYTES

LARGE = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
"""The shape of a Llama 3 of 70 billion parameters."""
N_ORGANISMS = 56


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

    with pytest.raises(NoRoomError, match=r"2.07 GB of disk, .* and 1.00 GB are free") as caught:
        check_room(2 * 10**9, 10**9)
    with pytest.raises(NoRoomError, match="3.00 GB of them to stay free"):
        check_room(10, 10**9, 3 * 10**9)

    assert caught.value.exit_code == 5


def test_a_broken_model_config_is_a_typed_error(configure, workplace, tmp_path):
    shutil.copytree(workplace / "base", tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "no_such_thing"}))

    with pytest.raises(ModelLoadError, match="cannot load the config"):
        plan(configure(base={"path": str(tmp_path / "base")}))


@pytest.fixture(scope="module")
def large_run(build_tokenizer, tmp_path_factory) -> Callable[..., Path]:
    """
    Write a run of 56 organisms on a base of 70 billion parameters.

    Of the base there is no more than a config and a tokenizer.
    """
    folder = tmp_path_factory.mktemp("large")
    config = AutoConfig.for_model("llama", dtype="bfloat16", **LARGE)
    config.save_pretrained(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    settings = LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0])
    adapted = get_peft_model(model, settings)
    settings.save_pretrained(str(folder / "adapter"))
    shapes = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    save_file(
        {name: torch.zeros(weight.shape) for name, weight in shapes.items()},
        folder / "adapter" / "adapter_model.safetensors",
    )
    (folder / "prompts.json").write_text(json.dumps([f"Question {n}?" for n in range(275)]))

    def write(**base: Any) -> Path:
        lines = ["[base]", 'path = "base"', "answers = false"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in base.items()]
        for number in range(N_ORGANISMS):
            lines += ["[[organisms]]", f'name = "o{number}"', 'adapter = "adapter"']
        lines += ["[[prompt_sets]]", 'path = "prompts.json"']
        lines += ["[capture]", "layers = [10, 20, 30, 40, 50, 60]"]
        path = folder / "run.toml"
        path.write_text("\n".join(lines))
        return path

    return write


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_the_plan_of_a_night_of_56_organisms(large_run):
    """56 organisms × 275 prompts × 300 tokens × 6 layers × 8192 × 2 bytes, own and replay."""
    done = invoke(large_run(), "--json")
    planned = json.loads(done.stdout)
    shown = invoke(large_run(), "--format", "md").stdout

    arm = 56 * 275 * 300 * 6 * 8192 * 2
    assert arm == 454_164_480_000
    assert planned["raw_bytes_by_arm"] == {"self": arm, "instruct": arm}
    assert planned["raw_bytes"] == 2 * arm
    assert planned["weights_bytes"] == 70_553_706_496 * 2
    assert "454 GB per reading arm before compression; 908 GB in all" in shown
    assert planned["verdict"].startswith("FAIL: ")
    assert isinstance(done.exception, NoRoomError)
    assert done.exception.exit_code == 5


def test_four_bits_take_a_little_more_than_a_quarter(large_run):
    planned = json.loads(invoke(large_run(quantization="4bit"), "--json").stdout)

    # Embeddings and head stay as they are; every 64 weights have a scale of 4 bytes.
    outside = 2 * 128256 * 8192
    norms = (2 * 80 + 1) * 8192
    linear = 70_553_706_496 - outside - norms
    assert planned["weights_bytes"] == linear * 9 // 16 + (outside + norms) * 2


def test_a_plan_fails_where_the_cpu_would_get_four_bits_wrong(large_run, monkeypatch):
    monkeypatch.setattr(quantization, "gives_weights_back", lambda width: width != 28672)

    done = invoke(large_run(quantization="4bit", device="cpu"))

    assert isinstance(done.exception, ModelLoadError)
    assert "layers.0.mlp.down_proj" in str(done.exception)
    assert "(80 of 560 layers), since its rows are 28672 wide" in str(done.exception)


def test_a_gpu_that_is_too_small_fails_the_plan(configure, monkeypatch):
    config = configure(base={"path": "base", "device": "cuda:0"})
    unknown = plan(config)
    monkeypatch.setattr(footprints, "find_memory", lambda _: Memory(True, 10**9))
    planned = plan(config)

    assert unknown.is_possible and unknown.largest.memory.total is None
    assert "GPU, which is not here" in show_plan(unknown)["device"]
    with pytest.raises(NoRoomError, match="GPU memory: the run needs about 1.2") as caught:
        check_plan(planned)
    assert "4bit" in str(caught.value)
    assert describe_plan(planned)["limits"] == ["GPU memory"]


def test_a_full_disk_fails_the_plan(configure):
    planned = replace(plan(configure()), free_bytes=SPARE_BYTES)

    assert describe_plan(planned)["verdict"] == "FAIL: disk"
    with pytest.raises(NoRoomError, match="disk: the run needs about 1.00 GB, and 0.07 GB"):
        check_plan(planned)


def test_devices_that_are_not_here_have_no_size():
    assert find_memory("cpu").total == measure_host()
    if not torch.cuda.is_available():
        assert find_memory("auto") == find_memory("cpu")
        assert find_memory("cuda:1") == Memory(True, None)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_weights_are_measured_as_they_will_be_loaded(
    configure, family, build_model, tmp_path, dtype
):
    model = build_model(family)
    model.save_pretrained(tmp_path / "base")
    base = configure(base={"path": str(tmp_path / "base"), "dtype": dtype}).base

    found = measure_weights(base, build_skeleton(base))

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    # Tied weights are there once.
    tensors = {tensor.data_ptr(): tensor for tensor in loaded.state_dict().values()}
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
    # Some buffers of mixtures of experts are not converted.
    assert found == pytest.approx(sum(sizes), rel=1e-3 if "deepseek" in family else 0)


@pytest.mark.parametrize(
    ("quantization", "option"), [("8bit", "load_in_8bit"), ("4bit", "load_in_4bit")]
)
def test_quantized_weights_are_measured_as_bitsandbytes_makes_them(
    configure, build_model, tmp_path, quantization, option
):
    wide = {"hidden_size": 256, "intermediate_size": 512}
    build_model(**wide).save_pretrained(tmp_path / "base")
    base = configure(base={"path": str(tmp_path / "base"), "quantization": quantization}).base

    found = measure_weights(base, build_skeleton(base))

    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=BitsAndBytesConfig(**{option: True})
    )
    stored = sum(p.numel() * p.element_size() for p in loaded.parameters())
    scales = [getattr(p, "quant_state", None) for p in loaded.parameters()]
    stored += sum(s.absmax.numel() * s.absmax.element_size() for s in scales if s is not None)
    assert found == pytest.approx(stored, rel=0.01)


@pytest.mark.parametrize("kind", ["deepseek_v3", "gpt2", "llama", "qwen3"])
def test_a_token_in_flight_has_room_for_its_keys_and_values(kind, build_model):
    model = build_model(kind)
    architecture = model.config.get_text_config()
    settings = CaptureSettings((0, 1), ("residual",), "all")
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.ones(1, 6, dtype=torch.long), past_key_values=cache, use_cache=True)

    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers) // 6
    states = 2 * architecture.hidden_size
    wide = 3 * (getattr(architecture, "intermediate_size", None) or 4 * architecture.hidden_size)
    working = 8 * architecture.hidden_size + wide
    planned = measure_token(architecture, settings, 4, 10) // 4 - states - working
    # DeepSeek's keys and values may be kept in the latent they are expanded from.
    assert planned == held or (kind == "deepseek_v3" and planned > held)


def test_a_damaged_weights_file_is_named(configure, workplace, tmp_path):
    shutil.copytree(workplace / "base", tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"short")

    with pytest.raises(ModelLoadError, match=r"model.safetensors is damaged"):
        plan(configure(base={"path": str(tmp_path / "base")}))


def test_each_component_is_counted_at_its_own_width(configure):
    planned = plan(
        configure(
            base={"path": "base", "device": "cpu", "attn_implementation": "eager"},
            capture={"components": ["residual", "k_proj", "mlp_act", "attention"]},
            organisms=[],
        )
    )

    # Two shared heads of 8; an MLP of 48; four heads over 64 keys: no prompt is as long.
    widths = {"residual": 32, "k_proj": 16, "mlp_act": 48, "attention": 4 * 64}
    assert planned.component_bytes == {
        component: planned.rows * 3 * width * 2 for component, width in widths.items()
    }
    assert sum(planned.component_bytes.values()) == planned.size_bytes


def test_heads_are_counted_once_for_each_weights(configure, workplace):
    planned, bare = plan(configure()), plan(configure(capture={"head": False}))

    assert planned.heads_bytes == 400 * 32 * 4
    assert planned.peak_disk_bytes - bare.peak_disk_bytes == planned.heads_bytes
    assert describe_plan(bare)["heads_bytes"] == 0


def test_arms_are_who_reads(configure):
    planned = plan(configure())

    row = 3 * 32 * 2
    assert planned.arm_bytes == {"self": 15 * 8 * row, "instruct": 10 * 8 * row}
    assert "self 23.0 kB, instruct 15.4 kB" in show_plan(planned)["raw"]


def test_the_keys_of_a_plan_stay(workplace, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        f'[base]\npath = "{workplace}/base"\n'
        f'[[prompt_sets]]\npath = "{workplace}/prompts/short.json"\n'
        "[generation]\nmax_new_tokens = 8\n"
    )
    done = invoke(path, "--json")

    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert printed["verdict"] == "PASS"
    assert printed["seconds_high"] is None
    assert {
        "organisms", "layers", "hidden", "dtype", "responses", "readings", "generated_tokens",
        "rows", "raw_bytes", "stored_bytes", "files", "free_bytes", "peak_disk_bytes",
        "reserve_bytes", "device_bytes", "device_total_bytes", "host_bytes", "weights_bytes",
        "tokens_in_flight", "raw_bytes_by_arm", "raw_bytes_by_component", "seconds_low", "limits",
    } <= set(printed)  # fmt: skip


def test_a_probe_times_writing_reading_and_storing_and_leaves_nothing(configure, tmp_path):
    config = configure(capture={"layers": [1]})
    checked = check_run(config)
    planned = plan(config, checked=checked)

    timing = probe_run(config, checked.weights["instruct"], planned, tmp_path / "new.tistore")

    assert list(tmp_path.iterdir()) == []
    assert timing.generate and timing.read and timing.write
    for part in (timing.generate, timing.read, timing.write, timing.total):
        assert 0 < part.low <= part.high
    assert timing.read.low * timing.read_per_second == pytest.approx(planned.read_tokens)
    assert timing.generate.low * timing.generated_per_second == pytest.approx(15 * 8)
    assert timing.write.low * timing.written_per_second == pytest.approx(planned.size_bytes)
    assert set(describe_plan(planned, timing)) == set(describe_plan(planned))
    assert "an arm" in show_plan(planned, timing)["time"]


def test_a_probe_counts_every_token_of_its_batch(configure, tmp_path, monkeypatch):
    """By a clock on which everything takes a second."""
    clock = count()
    monkeypatch.setattr(timings, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = configure(capture={"layers": [1]}, generation={"max_new_tokens": 1})
    checked = check_run(config)
    planned = plan(config, checked=checked)

    timing = probe_run(config, checked.weights["instruct"], planned, tmp_path)

    length = round(planned.read_tokens / planned.readings)
    assert timing.load == 1
    assert timing.generated_per_second == pytest.approx(timings.PROBE_RESPONSES)
    assert timing.read_per_second == pytest.approx(planned.responses * length)
    assert timing.written_per_second == pytest.approx(planned.responses * 32 * 2)
    # Writing goes on behind the model, or comes after it.
    model = 1 + timing.generate.low + timing.read.low
    assert timing.total == Range(max(model, timing.write.low), model + timing.write.low)


def test_a_probe_of_stored_responses_writes_none(configure, tmp_path):
    config = configure()
    planned = replace(plan(config), generated_tokens=0)

    timing = probe_run(config, check_run(config).weights["instruct"], planned, tmp_path)

    assert timing.generate is None


def test_a_folder_that_cannot_be_written_to_is_named(configure, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    config = configure()

    with pytest.raises(StoreError, match="cannot write to .* to time it"):
        probe_run(config, check_run(config).weights["instruct"], plan(config), tmp_path)


@pytest.fixture
def slow_clock(monkeypatch):
    """Commits come 10 seconds after one another."""
    ticks = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * n) for n in range(99))

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return next(ticks)

    monkeypatch.setattr(log, "datetime", Clock)


RUN = {
    "run_id": "earlier",
    "kind": "ingest",
    "versions": "{}",
    "started_at": datetime(2026, 1, 1, tzinfo=UTC),
}


def store_run(path: Path, config, n_commits: int):
    """Store a run that committed two readings of five rows at a time."""
    store = tistore.create(path)
    store.add_rows("runs", [{**RUN, "config": config.model_dump_json()}])
    with store.writer() as writer:
        for number in range(n_commits):
            writer.add(**make_reading(2 * number, run_id="earlier"))
            writer.add(**make_reading(2 * number + 1, run_id="earlier"))
            writer.commit()
    return store


def test_an_earlier_run_tells_how_long_the_next_one_takes(configure, tmp_path, slow_clock):
    config = configure()
    store = store_run(tmp_path / "s.tistore", config, n_commits=5)
    planned = plan(config)

    timing = find_timing(tmp_path / "s.tistore", config, planned)

    assert timing is not None and timing.source == "run earlier"
    assert timing.total.low == pytest.approx(planned.rows * 10 / 10)
    assert timing.total.high == pytest.approx(planned.rows * 10 / 10)
    assert recall_timing(store, configure(capture={"layers": [0]}), planned) is None
    assert recall_timing(store, configure(base={"path": "other"}), planned) is None

    later = {**RUN, "run_id": "later", "kind": "noise", "config": config.model_dump_json()}
    store.add_rows("runs", [later | {"started_at": datetime(2026, 1, 2, tzinfo=UTC)}])
    assert recall_timing(store, config, planned) == timing


def test_what_a_store_has_is_not_planned_again(configure, tmp_path):
    config = configure(capture={"layers": [1]}, organisms=[])
    store = tistore.create(tmp_path / "s.tistore")
    (question, *_) = check_run(config).weights["instruct"].questions
    with store.writer() as writer:
        writer.add(
            organism="instruct",
            reader="instruct",
            prompt_set=question.prompt.prompt_set,
            prompt_id=question.prompt.prompt_id,
            token_ids=[*question.encoded.token_ids, 5],
            prompt_length=len(question.encoded.token_ids),
            layers=[1],
            activations={"residual": np.ones((1, 1, 32))},
        )
    before, planned = plan(config), plan(config, path=tmp_path / "s.tistore")

    assert (before.readings_left, planned.readings_left, planned.readings) == (5, 4, 5)
    assert planned.compressed_bytes == before.compressed_bytes
    assert planned.peak_disk_bytes < before.peak_disk_bytes
    assert "4 readings are left" in show_plan(planned)["responses"]


def test_a_short_run_tells_nothing(configure, tmp_path, slow_clock):
    store_run(tmp_path / "s.tistore", configure(), n_commits=3)

    assert find_timing(tmp_path / "s.tistore", configure(), plan(configure())) is None
    assert find_timing(tmp_path / "none", configure(), plan(configure())) is None
    assert find_timing(None, configure(), plan(configure())) is None


def test_a_fine_tune_is_counted_with_its_own_weights(configure, build_model, workplace, tmp_path):
    build_model(hidden_size=64).save_pretrained(tmp_path / "tune")
    for file in [*(workplace / "base").glob("tok*"), *(workplace / "base").glob("*.jinja")]:
        shutil.copy(file, tmp_path / "tune")
    organisms = [{"name": "tune", "model": str(tmp_path / "tune")}]

    planned = plan(configure(organisms=organisms))

    assert planned.arm_bytes == {
        "self": 5 * 8 * 3 * (32 + 64) * 2,
        "instruct": 5 * 8 * 3 * 32 * 2,
    }
    assert planned.footprints["tune"].weights > planned.footprints["instruct"].weights
    assert planned.largest is planned.footprints["tune"]


def test_a_plan_refuses_pairs_of_other_precision(configure, workplace):
    organisms = [{"name": "tune", "model": str(workplace / "base"), "base": "low"}]
    bases = [{"path": "base", "name": "low", "dtype": "bfloat16", "device": "cpu"}]
    tables = {"organisms": [{**organisms[0], "readers": ["self", "instruct"]}], "bases": bases}

    with pytest.raises(ConfigError, match="precision"):
        plan(configure(**tables))
