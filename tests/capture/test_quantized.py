"""bitsandbytes bases on the CPU, loaded the way users load them, with adapters switched on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tistore.capture.models import quantization as quantizations
from tistore.capture.models.architecture import build_skeleton
from tistore.capture.models.load import LoadedBase, load_base
from tistore.capture.models.quantization import gives_weights_back, refuse_wrong_weights
from tistore.capture.planning.preflight import check_run
from tistore.errors import ModelLoadError

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 4}
IDS = torch.tensor([[1, 5, 9, 30, 12, 77, 200, 14]])
LEAST_COSINE = {"8bit": 0.998, "4bit": 0.93}
"""Of a residual to the float32 model's; 0.9992 and 0.950 were measured after the last block."""
PRECISIONS = sorted(LEAST_COSINE)
SCALES = {"loud": 0.5, "other": 0.5, "zero": 0.0}
"""Adapters, and how much each changes."""


@pytest.fixture(scope="module")
def place(workplace, build_model, build_adapter, tmp_path_factory) -> Path:
    """A base wide enough to be quantized in blocks, and its adapters."""
    folder = tmp_path_factory.mktemp("quantized")
    build_model(**WIDE).save_pretrained(folder / "base")
    for file in (workplace / "base").glob("tokenizer*"):
        shutil.copy(file, folder / "base")
    for seed, (name, scale) in enumerate(SCALES.items(), start=1):
        build_adapter(folder / name, build_model(**WIDE), seed=seed, scale=scale)
    return folder


@pytest.fixture(scope="module")
def load(place, configure) -> Callable[[str | None], LoadedBase]:
    def load(quantization: str | None) -> LoadedBase:
        base: dict[str, Any] = {"path": str(place / "base"), "device": "cpu"}
        if quantization is not None:
            base |= {"quantization": quantization, "dtype": "bfloat16"}
        organisms = [{"name": name, "adapter": str(place / name)} for name in SCALES]
        return load_base(configure(base=base, organisms=organisms))

    return load


def read(loaded: LoadedBase, name: str) -> Tensor:
    """Hidden states of all layers and the logits, one after the other: (token, numbers)."""
    with torch.inference_mode(), loaded.reading_as(name) as model:
        output = model(IDS, output_hidden_states=True, use_cache=False)
    return torch.cat([*output.hidden_states, output.logits], dim=-1)[0]


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_residuals_of_a_quantized_base_are_close_to_those_of_float32(load, quantization):
    """The oracle is the same base, loaded in float32."""
    n_numbers = WIDE["hidden_size"] * (1 + WIDE["num_hidden_layers"])
    exact = read(load(None), "instruct")[:, :n_numbers].unflatten(1, (-1, WIDE["hidden_size"]))

    states = read(load(quantization), "instruct")[:, :n_numbers].unflatten(
        1, (-1, WIDE["hidden_size"])
    )

    cosines = torch.cosine_similarity(states.float(), exact, dim=-1)
    assert cosines.mean(0).min() > LEAST_COSINE[quantization]
    assert cosines[:, 1:].max() < 1 - 1e-6, "nothing was quantized"


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_a_quantized_base_and_its_adapters_read_the_same_bits_however_they_are_switched(
    load, quantization
):
    """Above all after the base has run without any adapter, which packs 4-bit weights."""
    loaded = load(quantization)
    before = {name: read(loaded, name) for name in ("instruct", "loud", "other")}

    for name in ("other", "instruct", "loud", "loud", "instruct", "other"):
        assert torch.equal(read(loaded, name), before[name])
    loaded.unload("loud")
    assert torch.equal(read(loaded, "instruct"), before["instruct"])
    loaded.unload("other")
    assert torch.equal(read(loaded, "instruct"), before["instruct"])
    assert torch.equal(read(loaded, "loud"), before["loud"])
    assert not torch.allclose(before["loud"], before["other"])
    assert not torch.allclose(before["loud"], before["instruct"])


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_a_base_with_adapters_reads_the_same_bits_as_one_that_never_had_any(load, quantization):
    """What a replay rests on: the clean base beside adapters is the clean base."""
    alone, beside = load(quantization), load(quantization)
    read(beside, "loud")

    assert torch.equal(read(beside, "instruct"), read(alone, "instruct"))


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_own_and_replay_of_identical_weights_are_identical_bits(load, quantization):
    """An adapter of zeros goes through the wrapped layers, and changes nothing."""
    loaded = load(quantization)

    assert torch.equal(read(loaded, "zero"), read(loaded, "instruct"))


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_an_adapter_adds_its_own_product_to_a_quantized_base(load, place, quantization):
    """The oracle is the factors in the adapter's file: (B @ A) x at the first projection."""
    from safetensors.torch import load_file

    loaded = load(quantization)
    seen: dict[str, Tensor] = {}
    with torch.inference_mode(), loaded.reading_as("loud") as model:
        layer = model.model.layers[0].self_attn.q_proj
        layer.register_forward_hook(lambda _, given, made: seen.update(x=given[0], y=made))
        layer.base_layer.register_forward_hook(lambda *parts: seen.update(plain=parts[-1]))
        model(IDS, use_cache=False)
    factors = load_file(place / "loud" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    product = factors[f"{prefix}B.weight"] @ factors[f"{prefix}A.weight"] * 2  # alpha / rank

    added = (seen["y"] - seen["plain"]).float()
    wanted = seen["x"].float() @ product.T
    assert (added - wanted).norm() / wanted.norm() < 0.02  # bfloat16 sums


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_the_model_record_says_how_it_was_quantized(load, quantization):
    loaded = load(quantization)

    for name in ("instruct", "loud"):
        model = loaded.describe(name)
        assert (model.quantization, model.dtype) == (quantization, "bfloat16")
        assert model.attn_implementation == "sdpa"


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_an_adapter_that_alters_a_quantized_base_is_refused(load, monkeypatch, quantization):
    whole = PeftModel.load_adapter
    loaded = load(quantization)

    def spoil(wrapper, *arguments, **options):
        wrapper.get_base_model().lm_head.weight.data.mul_(-1)
        return whole(wrapper, *arguments, **options)

    monkeypatch.setattr(PeftModel, "load_adapter", spoil)

    with pytest.raises(ModelLoadError, match="altered the base"), loaded.reading_as("loud"):
        pass


@pytest.mark.parametrize("width", [16, 32, 40, 48, 64, 96, 128, 160, 192, 320, 4304])
def test_widths_are_told_apart_by_whether_their_weights_come_back(width):
    """The oracle is the arithmetic of NF4: one of 16 values, times the scale of its block."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(37, width, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()
    scales = state.absmax.repeat_interleave(64)[: weights.numel()]
    exact = (state.code[codes[: weights.numel()].long()] * scales).reshape(weights.shape)
    error = (dequantize_4bit(packed, state) - exact).norm() / exact.norm()

    assert (exact - weights).norm() / weights.norm() < 0.1
    assert gives_weights_back(width) == (error < 1e-4)
    assert gives_weights_back(width) or width % 64


@pytest.fixture
def only_whole_blocks(monkeypatch):
    """Have bitsandbytes get rows wrong that are no whole blocks, as it does on some CPUs."""
    monkeypatch.setattr(quantizations, "gives_weights_back", lambda width: width % 64 == 0)


@pytest.mark.parametrize("begin", [load_base, check_run], ids=["load", "plan"])
def test_four_bits_that_would_come_out_wrong_are_refused(configure, only_whole_blocks, begin):
    """Of 21 layers, all rows are 32 or 48 wide."""
    base = {"path": "base", "device": "cpu", "quantization": "4bit"}

    with pytest.raises(ModelLoadError) as caught:
        begin(configure(base=base))

    assert "model.layers.0.self_attn.q_proj" in caught.value.message
    assert "21 of 21 layers" in caught.value.message and "32 wide" in caught.value.message
    assert "GPU" in caught.value.mend and "8bit" in caught.value.mend


@pytest.mark.parametrize(
    "changes",
    [{"device": "cuda:0"}, {"quantization": "8bit"}, {"quantization": "int4 (rounded)"}],
    ids=["gpu", "8bit", "rounded"],
)
def test_what_comes_out_right_is_not_refused(configure, only_whole_blocks, changes):
    base = configure(base={"path": "base", "device": "cpu", "quantization": "4bit", **changes}).base

    refuse_wrong_weights(base, build_skeleton(base))


def test_layers_that_text_does_not_go_through_may_have_any_width(
    configure, build_model, only_whole_blocks, tmp_path
):
    """Gemma 3's layers for images are 16 wide here, 4304 in its release."""
    wide = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
    build_model("gemma3", **wide).save_pretrained(tmp_path)
    base = configure(base={"path": str(tmp_path), "device": "cpu", "quantization": "4bit"}).base

    refuse_wrong_weights(base, build_skeleton(base))


def test_the_layers_that_are_quantized_are_known_before_they_are(
    configure, build_model, family, tmp_path
):
    """The oracle is what bitsandbytes makes of them: which, and how wide."""
    from bitsandbytes.nn import Linear4bit

    build_model(family).save_pretrained(tmp_path)
    base = configure(base={"path": str(tmp_path), "device": "cpu", "quantization": "4bit"}).base
    skeleton = build_skeleton(base)

    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantizations.configure_quantization("4bit")
    )

    widths = {
        name: layer.in_features
        for name, layer in loaded.named_modules()
        if isinstance(layer, Linear4bit)
    }
    assert sorted(quantizations.find_quantized_layers(skeleton)) == sorted(widths)
    found = quantizations.measure_widths(skeleton)
    assert found == {name: widths[name] for name in found} and len(found) >= 12
