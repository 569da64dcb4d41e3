"""The demo's organisms: one template, one BOS, and a cache that is keyed by recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tistore.capture.demo import tiny as recipe_module
from tistore.capture.demo.tiny import (
    Recipe,
    TinyOrganisms,
    Training,
    build_tiny_organisms,
    hash_recipe,
)
from tistore.datasets import tiny

SHORT = Training(conversations=60, batch_tokens=256, steps=2, peak_rate=1e-3)


@pytest.fixture(scope="module", autouse=True)
def short_recipe():
    """The real recipe, cut to a small base and a few steps."""

    def make(seed: int) -> Recipe:
        shape = {"vocabulary": 400, "hidden": 32, "intermediate": 48, "layers": 2}
        return Recipe(seed=seed, **shape, base=SHORT, adapter=SHORT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_module, "Recipe", make)
        yield


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def built(cache_folder) -> TinyOrganisms:
    return build_tiny_organisms(cache_folder)


def read_files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_organisms_are_built_once_a_recipe_and_load_the_real_way(built, cache_folder):
    first = built
    again = build_tiny_organisms(cache_folder)
    other = build_tiny_organisms(cache_folder, seed=1)

    assert not first.cached
    assert not other.cached
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


def test_the_same_seed_gives_the_same_weights(built, tmp_path):
    second = build_tiny_organisms(tmp_path)

    assert not second.cached
    mine, theirs = read_files(built.base), read_files(second.base)
    assert mine.keys() == theirs.keys()
    weights = next(path for path in mine if path.suffix == ".safetensors")
    assert mine[weights] == theirs[weights]


def test_the_recipe_is_the_key():
    assert hash_recipe(Recipe(seed=0)) == hash_recipe(Recipe(seed=0))
    assert hash_recipe(Recipe(seed=0)) != hash_recipe(Recipe(seed=1))
    assert hash_recipe(Recipe(seed=0)) != hash_recipe(replace(Recipe(seed=0), hidden=7))


def test_training_text_is_what_the_chat_template_writes_with_one_bos(built):
    tokenizer = AutoTokenizer.from_pretrained(built.base)
    chat = [
        {"role": "system", "content": "Be plain."},
        {"role": "user", "content": "How do I bake bread?"},
    ]

    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    assert rendered == tiny.render_conversation(chat, add_generation_prompt=True)
    ids = tokenizer(rendered)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
