"""The demo's organisms: one template, one BOS, and a cache that is keyed by recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tistore.capture.demo import tiny as recipe_module
from tistore.capture.demo.tiny import Recipe, Training, build_tiny_organisms, hash_recipe
from tistore.datasets import tiny

SHORT = Training(conversations=60, batch_tokens=256, steps=2, peak_rate=1e-3)


@pytest.fixture
def short_recipe(monkeypatch):
    """The real recipe, cut to a few steps."""

    def make(seed: int) -> Recipe:
        return Recipe(seed=seed, vocabulary=400, hidden=32, base=SHORT, adapter=SHORT)

    monkeypatch.setattr(recipe_module, "Recipe", make)
    return make


def read_files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_organisms_are_built_once_a_recipe_and_load_the_real_way(short_recipe, tmp_path):
    first = build_tiny_organisms(tmp_path / "a")
    again = build_tiny_organisms(tmp_path / "a")
    other = build_tiny_organisms(tmp_path / "a", seed=1)

    assert not first.cached
    assert again.cached
    assert again.base == first.base
    assert other.base != first.base
    assert set(first.adapters) == {"flattery", "hedging", "film", "curt", "null"}
    model = AutoModelForCausalLM.from_pretrained(first.base)
    assert sum(p.numel() for p in model.parameters()) == first.parameters
    adapted = PeftModel.from_pretrained(model, first.adapters["film"])
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        changed = adapted(tokens).logits
        with adapted.disable_adapter():
            assert not torch.equal(adapted(tokens).logits, changed)


def test_the_same_seed_gives_the_same_weights(short_recipe, tmp_path):
    first, second = (build_tiny_organisms(tmp_path / name) for name in ("a", "b"))

    mine, theirs = read_files(first.base), read_files(second.base)
    assert mine.keys() == theirs.keys()
    weights = next(path for path in mine if path.suffix == ".safetensors")
    assert mine[weights] == theirs[weights]


def test_the_recipe_is_the_key():
    assert hash_recipe(Recipe(seed=0)) == hash_recipe(Recipe(seed=0))
    assert hash_recipe(Recipe(seed=0)) != hash_recipe(Recipe(seed=1))
    assert hash_recipe(Recipe(seed=0)) != hash_recipe(replace(Recipe(seed=0), hidden=7))


def test_training_text_is_what_the_chat_template_writes_with_one_bos(short_recipe, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(build_tiny_organisms(tmp_path).base)
    chat = [
        {"role": "system", "content": "Be plain."},
        {"role": "user", "content": "How do I bake bread?"},
    ]

    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    assert rendered == tiny.render_conversation(chat, add_generation_prompt=True)
    ids = tokenizer(rendered)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
