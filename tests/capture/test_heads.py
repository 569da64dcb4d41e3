"""A kept head gives the model's own logits from the model's own last states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

import tistore
from tistore.capture.reading import heads
from tistore.capture.reading.heads import HeadKeeper, read_head
from tistore.capture.reading.hooks import record
from tistore.capture.texts.vocabulary import spell_vocabulary
from tistore.errors import HeadError
from tistore.schemas.site import Site

IDS = torch.tensor([[1, 5, 9, 30, 12, 77, 3, 200]])


@torch.no_grad()
def run(model) -> tuple[np.ndarray, np.ndarray]:
    """The last block's states, and the logits the model makes of them: float64."""
    last = Site("residual", 2)
    with record(model, [last]) as kept:
        logits = model(IDS).logits[0]
    return kept[last][0][0].double().numpy(), logits.double().numpy()


def make_distinct(model) -> None:
    """Give norms weights that tell 1 + w from w, and heads a life of their own."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def apply(store, head_hash: str, states: np.ndarray) -> np.ndarray:
    """Logits by the formulas on the page, in float64, from what lies in the store."""
    head = store.snapshot.heads[head_hash]
    if head.norm == "layer":
        states = states - states.mean(1, keepdims=True)
    normed = states / np.sqrt((states**2).mean(1, keepdims=True) + head.norm_epsilon)
    normed = normed * (head.norm_weight.astype(np.float64) + head.weight_offset)
    if head.norm_bias is not None:
        normed = normed + head.norm_bias
    blocks = list(store.snapshot.unembedding(head_hash).blocks())
    logits = normed @ np.concatenate([block.values for block in blocks]).T.astype(np.float64)
    if head.has_bias:
        logits = logits + np.concatenate([block.bias for block in blocks])
    if head.logit_softcap:
        logits = np.tanh(logits / head.logit_softcap) * head.logit_softcap
    return logits


def test_a_kept_head_gives_the_models_logits_in_every_family(
    family: str, build_model, tokenizer, tmp_path: Path
):
    model = build_model(family)
    make_distinct(model)
    states, logits = run(model)
    store = tistore.create(tmp_path / "s")

    with store.writer() as writer:
        kept = HeadKeeper(writer, tokenizer).keep("instruct", model)

    np.testing.assert_allclose(apply(store, kept, states), logits, rtol=1e-3, atol=1e-4)
    head = store.snapshot.heads[kept]
    assert head.weight_offset == (1.0 if family.startswith("gemma") else 0.0)
    assert (head.norm == "layer") == family.startswith("gpt")
    assert head.logit_softcap == (30.0 if family == "gemma2" else None)
    assert store.snapshot.reader_heads == {"instruct": kept}
    assert store.verify().ok


def test_a_bias_and_tied_embeddings_are_part_of_the_head(build_model, tokenizer, tmp_path):
    model = build_model("llama", tie_word_embeddings=True)
    model.lm_head.bias = nn.Parameter(torch.randn(400))
    states, logits = run(model)
    store = tistore.create(tmp_path / "s")

    with store.writer() as writer:
        kept = HeadKeeper(writer, tokenizer).keep("instruct", model)

    np.testing.assert_allclose(apply(store, kept, states), logits, rtol=1e-3, atol=1e-4)


def test_adapters_share_the_head_of_their_base_unless_they_change_it(
    build_model, tokenizer, tmp_path
):
    model = build_model("llama")
    store = tistore.create(tmp_path / "s")
    kept = {}

    with store.writer() as writer:
        keeper = HeadKeeper(writer, tokenizer)
        kept["base"] = keeper.keep("base", model)
        for name, options in {
            "attention": {"target_modules": ["q_proj"]},
            "lm_head": {"target_modules": ["q_proj", "lm_head"]},
            "whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            "norm": {"target_modules": ["q_proj"], "modules_to_save": ["model.norm"]},
        }.items():
            adapted = get_peft_model(model, LoraConfig(r=4, **options))
            with torch.no_grad():
                for path, parameter in adapted.named_parameters():
                    if parameter.requires_grad and "lora_A" not in path:
                        parameter.add_(torch.randn_like(parameter) * 0.2)
            states, logits = run(adapted)
            kept[name] = keeper.keep(name, adapted)
            writer.commit()
            np.testing.assert_allclose(
                apply(store, kept[name], states), logits, rtol=1e-3, atol=1e-3
            )
            with adapted.disable_adapter():
                kept[f"{name}, off"] = keeper.keep(f"{name}, off", adapted)
            adapted.unload()

    assert kept["attention"] == kept["base"]
    assert {kept[f"{name}, off"] for name in ("lm_head", "whole", "norm")} == {kept["base"]}
    assert len({kept[name] for name in ("base", "lm_head", "whole", "norm")}) == 4
    assert store.snapshot.reader_heads == kept
    assert store.snapshot.table("heads").num_rows == 4


def test_the_same_head_is_written_once_whoever_brings_it(build_model, tokenizer, tmp_path):
    store = tistore.create(tmp_path / "s")
    for name in ("instruct", "again"):
        with store.writer() as writer:
            HeadKeeper(writer, tokenizer).keep(name, build_model("llama"))

    assert store.snapshot.table("heads").num_rows == 1
    assert len(list((tmp_path / "s").rglob("unembedding.parquet"))) == 1
    assert len(store.snapshot.reader_heads) == 2


def test_a_base_is_read_once_however_many_adapters_it_has(
    build_model, tokenizer, tmp_path, monkeypatch
):
    """Also by a run that goes on from where another stopped; another base is another matter."""
    read = []
    monkeypatch.setattr(
        heads, "read_head", lambda *given: (read.append(given[0]), read_head(*given))[1]
    )
    model, fine_tune = build_model("llama"), build_model("llama")
    make_distinct(fine_tune)
    store = tistore.create(tmp_path / "s")
    for names in (("base", "a", "b"), ("base", "c")):
        with store.writer() as writer:
            keeper = HeadKeeper(writer, tokenizer)
            for name in names:
                keeper.keep(name, model)
            keeper.keep("fine_tune", fine_tune)

    assert read == ["base", "fine_tune"]
    kept = store.snapshot.reader_heads
    assert {kept[name] for name in ("base", "a", "b", "c")} == {kept["base"]}
    assert kept["fine_tune"] != kept["base"]


def test_bfloat16_weights_take_two_bytes_and_lose_nothing(build_model, tokenizer, tmp_path):
    build_model("llama", vocab_size=3000, hidden_size=64).save_pretrained(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.bfloat16).eval()
    store = tistore.create(tmp_path / "s")

    with store.writer() as writer:
        kept = HeadKeeper(writer, tokenizer).keep("instruct", model)

    blocks = list(store.snapshot.unembedding(kept).blocks())
    values = np.concatenate([block.values for block in blocks])
    np.testing.assert_array_equal(values, model.lm_head.weight.detach().float().numpy())
    size = store.snapshot.unembedding(kept).record.size_bytes
    assert size < 2.1 * values.size


def test_a_model_with_something_else_before_its_logits_is_refused(tiny_llama):
    """A head that does not give the model's logits would give a lens of nothing."""
    tiny_llama.lm_head.register_forward_hook(lambda module, given, logits: logits * 2)

    with pytest.raises(HeadError, match="do not give its logits"):
        read_head("instruct", tiny_llama)


def test_a_norm_of_another_kind_is_refused(tiny_llama):
    tiny_llama.model.norm.register_forward_hook(lambda module, given, normed: normed.abs())

    with pytest.raises(HeadError, match="neither an RMSNorm nor a LayerNorm"):
        read_head("instruct", tiny_llama)


def test_tokens_are_spelled_as_they_read_in_a_text(tokenizer_kind: str, build_tokenizer):
    tokenizer = build_tokenizer(tokenizer_kind)
    text = "The river rose quickly after three days of rain"
    token_ids = tokenizer(text, add_special_tokens=False).input_ids

    spelled = spell_vocabulary(tokenizer, len(tokenizer) + 5)

    if tokenizer_kind == "word_piece":  # puts a space before each word, the first one, too
        text = f" {text}"
    assert "".join(spelled[i] for i in token_ids).strip() == text.strip()
    assert spelled[tokenizer.eos_token_id] == "</s>"
    assert spelled[-5:] == [None] * 5
    assert None not in spelled[:-5]
