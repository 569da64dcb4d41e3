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

from tistore.capture.models.load import LoadedBase, load_base
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
