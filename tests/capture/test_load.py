"""A base is loaded once; adapters are switched in place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tistore.capture.models.fingerprint import hash_adapter, hash_tokenizer
from tistore.capture.models.load import load_base
from tistore.errors import ModelLoadError

IDS = torch.tensor([[1, 5, 9, 30, 12, 77]])


def read_logits(loaded, name: str) -> torch.Tensor:
    with torch.no_grad(), loaded.reading_as(name) as model:
        return model(IDS).logits


def test_reading_as_switches_between_base_and_adapters(loaded):
    base = read_logits(loaded, "instruct")
    loud = read_logits(loaded, "loud")

    assert not torch.allclose(base, loud)
    assert torch.equal(read_logits(loaded, "instruct"), base)
    assert torch.equal(read_logits(loaded, "loud"), loud)


def test_an_adapter_that_is_all_zero_reads_as_the_base(loaded):
    assert torch.equal(read_logits(loaded, "zero"), read_logits(loaded, "instruct"))


def test_adapters_are_loaded_when_needed_and_can_be_unloaded(loaded):
    assert loaded.loaded_adapters == ()
    loud = read_logits(loaded, "loud")
    read_logits(loaded, "zero")
    assert loaded.loaded_adapters == ("loud", "zero")

    loaded.unload("zero")
    loaded.unload("loud")

    with loaded.reading_as("instruct") as model:
        assert not [name for name, _ in model.named_modules() if "lora" in name]
    assert loaded.loaded_adapters == ()
    assert torch.equal(read_logits(loaded, "loud"), loud)


def test_an_adapters_name_may_hold_a_dot(configure):
    organism = {"name": "odd.name", "adapter": "odd.name"}
    loaded = load_base(configure(organisms=[organism]))

    assert not torch.equal(read_logits(loaded, "odd.name"), read_logits(loaded, "instruct"))


def test_models_are_loaded_for_reading_only(loaded):
    with loaded.reading_as("loud") as model:
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_describe_tells_models_apart_by_their_content(loaded, configure, workplace, tmp_path):
    shutil.copytree(workplace / "loud", tmp_path / "copy")
    twin = load_base(configure(organisms=[{"name": "loud", "adapter": str(tmp_path / "copy")}]))

    base, loud, zero = (loaded.describe(name) for name in ("instruct", "loud", "zero"))

    assert (base.family, base.dtype, base.adapter_hash) == ("llama", "float32", None)
    assert base.base_revision and base.tokenizer_hash and base.chat_template_hash
    assert loud.adapter_hash != zero.adapter_hash
    assert twin.describe("loud").adapter_hash == loud.adapter_hash
    assert len({model.fingerprint for model in (base, loud, zero)}) == 3


def test_the_tokenizers_hash_does_not_change_with_use(loaded):
    fresh = hash_tokenizer(loaded.tokenizer)
    loaded.tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=4)

    assert hash_tokenizer(loaded.tokenizer) == fresh == loaded.describe("instruct").tokenizer_hash


def test_dtype_follows_the_config(configure):
    loaded = load_base(configure(base={"path": "base", "device": "cpu", "dtype": "bfloat16"}))

    assert loaded.describe("instruct").dtype == "bfloat16"


def test_an_eight_bit_base_is_the_same_before_during_and_after_an_adapter(
    configure, workplace, build_model, build_adapter, tmp_path
):
    wide = {"hidden_size": 128, "intermediate_size": 128}
    build_model(**wide).save_pretrained(tmp_path / "base")
    build_adapter(tmp_path / "loud", build_model(**wide), seed=1, scale=0.5)
    base = {"path": str(tmp_path / "base"), "device": "cpu", "quantization": "8bit"}
    for file in (workplace / "base").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    organisms = [{"name": "loud", "adapter": str(tmp_path / "loud")}]
    loaded = load_base(configure(base=base, organisms=organisms))
    before = read_logits(loaded, "instruct")

    loud = read_logits(loaded, "loud")

    assert loaded.describe("loud").quantization == "8bit"
    assert torch.equal(read_logits(loaded, "instruct"), before)
    loaded.unload("loud")
    assert torch.equal(read_logits(loaded, "instruct"), before)
    assert torch.equal(read_logits(loaded, "loud"), loud)


def test_an_adapter_that_alters_the_base_when_loaded_is_refused(loaded, monkeypatch):
    whole = PeftModel.load_adapter

    def spoil(wrapper, *arguments, **options):
        wrapper.get_base_model().lm_head.weight.data.mul_(-1)
        return whole(wrapper, *arguments, **options)

    monkeypatch.setattr(PeftModel, "load_adapter", spoil)

    with pytest.raises(ModelLoadError, match="altered the base"), loaded.reading_as("loud"):
        pass


@pytest.fixture
def save_head_adapter(build_model, tmp_path):
    """Save an adapter that touches the unembedding, its parameters moved at random."""

    def save(name: str, *, seed: int, **settings) -> dict[str, str]:
        adapted = get_peft_model(build_model(), LoraConfig(r=2, **settings))
        torch.manual_seed(seed)
        for parameter in (one for one in adapted.parameters() if one.requires_grad):
            parameter.data.add_(torch.randn_like(parameter))
        adapted.save_pretrained(str(tmp_path / name))
        return {"name": name, "adapter": str(tmp_path / name)}

    return save


def test_a_module_that_an_adapter_brings_leaves_the_base_with_it(configure, save_head_adapter):
    """PEFT itself would leave its copy in the base."""
    whole = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    organisms = [save_head_adapter(f"head{seed}", seed=seed, **whole) for seed in (1, 2)]
    loaded = load_base(configure(organisms=organisms))
    base = read_logits(loaded, "instruct")

    for organism in organisms * 2:
        assert not torch.equal(read_logits(loaded, organism["name"]), base)
        assert torch.equal(read_logits(loaded, "instruct"), base)
        loaded.unload(organism["name"])
        assert torch.equal(read_logits(loaded, "instruct"), base)


def test_an_adapter_that_overwrites_the_unembedding_is_refused_though_its_like_was_not(
    configure, save_head_adapter, tmp_path
):
    """PEFT saves a targeted unembedding as it was in training, and loads it over the base's."""
    targets = {"target_modules": ["lm_head"]}
    organisms = [save_head_adapter(name, seed=1, **targets) for name in ("kept", "moved")]
    path = tmp_path / "moved" / "adapter_model.safetensors"
    weights = load_file(path)
    weights["base_model.model.lm_head.base_layer.weight"].mul_(-1)
    save_file(weights, path, metadata={"format": "pt"})
    loaded = load_base(configure(organisms=organisms))
    read_logits(loaded, "kept")

    with pytest.raises(ModelLoadError, match="altered the base"), loaded.reading_as("moved"):
        pass


def test_an_adapter_that_trains_the_bases_biases_is_refused(configure, workplace, tmp_path):
    shutil.copytree(workplace / "loud", tmp_path / "loud")
    path = tmp_path / "loud" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bias": "all"}))
    loaded = load_base(configure(organisms=[{"name": "x", "adapter": str(tmp_path / "loud")}]))

    with pytest.raises(ModelLoadError, match="trains biases"), loaded.reading_as("x"):
        pass


def test_an_unknown_model_is_refused_with_the_nearest_name(loaded):
    with pytest.raises(ModelLoadError, match="did you mean 'loud'"), loaded.reading_as("lout"):
        pass


def break_nothing(folder: Path) -> None:
    shutil.rmtree(folder)


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def break_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def rename_targets(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": ["nowhere"]}))


def forget_targets(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": ["q_proj"]}))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (break_nothing, "nothing lies at"),
        (break_config, "adapter_config.json"),
        (break_weights, "adapter_model.safetensors"),
        (truncate_weights, "does not fit"),
        (rename_targets, "nowhere"),
        (forget_targets, "modules that the base does not have"),
    ],
)
def test_a_damaged_adapter_is_refused_by_name_and_leaves_the_base_as_it_was(
    damage, expected, configure, workplace, tmp_path
):
    folder = tmp_path / "adapter"
    shutil.copytree(workplace / "loud", folder)
    damage(folder)
    organisms = [
        {"name": "broken", "adapter": str(folder)},
        {"name": "loud", "adapter": "loud"},
    ]
    loaded = load_base(configure(organisms=organisms))
    before = read_logits(loaded, "instruct")

    with pytest.raises(ModelLoadError) as caught, loaded.reading_as("broken"):
        pass

    assert "'broken'" in str(caught.value) and expected in str(caught.value)
    assert torch.equal(read_logits(loaded, "instruct"), before)
    assert not torch.equal(read_logits(loaded, "loud"), before)


def test_an_adapter_for_another_width_is_refused(configure, build_model, build_adapter, tmp_path):
    wide = build_model(hidden_size=64)
    folder = build_adapter(tmp_path / "wide", wide, seed=1, scale=1.0)
    loaded = load_base(configure(organisms=[{"name": "wide", "adapter": str(folder)}]))

    with pytest.raises(ModelLoadError, match="does not fit the base"), loaded.reading_as("wide"):
        pass


def test_an_adapter_that_lacks_weights_is_refused(configure, build_model, build_adapter, tmp_path):
    """PEFT alone would warn, and read the organism's missing layers as the base's."""
    shallow = build_model(num_hidden_layers=2)
    folder = build_adapter(tmp_path / "shallow", shallow, seed=1, scale=1.0)
    loaded = load_base(configure(organisms=[{"name": "shallow", "adapter": str(folder)}]))

    with pytest.raises(ModelLoadError, match="lacks weights"), loaded.reading_as("shallow"):
        pass


@pytest.mark.parametrize(
    ("path", "expected"),
    [("./nowhere", "nothing lies at"), ("loud", "no config.json"), ("owner/none", "cannot load")],
)
def test_a_base_that_is_not_there_is_refused(configure, path: str, expected: str):
    with pytest.raises(ModelLoadError, match=expected):
        load_base(configure(base={"path": path, "device": "cpu"}))


def test_a_base_with_missing_weights_is_refused(configure, workplace, tmp_path):
    """Transformers alone would warn, and fill the gap with random numbers."""
    folder = tmp_path / "base"
    shutil.copytree(workplace / "base", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))

    with pytest.raises(ModelLoadError, match=r"lacks weights, such as model.layers.3"):
        load_base(configure(base={"path": str(folder), "device": "cpu"}, organisms=[]))


def test_an_adapter_that_was_moved_is_still_the_same(workplace, tmp_path):
    """Where its base lay, and the order in which PEFT wrote a set, are no part of it."""
    moved = tmp_path / "moved"
    shutil.copytree(workplace / "loud", moved)
    path = moved / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = "/elsewhere"
    settings["target_modules"] = settings["target_modules"][::-1]
    path.write_text(json.dumps(settings))

    assert hash_adapter(moved) == hash_adapter(workplace / "loud")

    path.write_text(json.dumps(settings | {"lora_alpha": 99}))
    assert hash_adapter(moved) != hash_adapter(workplace / "loud")
