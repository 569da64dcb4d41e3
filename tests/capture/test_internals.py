"""Queries, keys, values, heads, patterns and MLP activations are those the model computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

import tistore
from tistore.capture.families import FAMILIES, find_blocks, find_module
from tistore.capture.reading.hooks import record
from tistore.capture.reading.prefill import TokenSequence, prefill
from tistore.capture.reading.taps import trim_keys
from tistore.capture.reading.widths import component_widths, count_keys
from tistore.errors import ConfigError, SiteNotFoundError
from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import COMPONENTS, Component, Site

IDS = torch.tensor([[1, 5, 9, 30, 12, 77], [1, 200, 14, 8, 8, 2]])
LAYER = 0
"""The first: of DeepSeek's small model, the one without experts."""


def capture(model: PreTrainedModel, *components: Component, ids: Tensor = IDS) -> list[Tensor]:
    """Read components at one layer, each as [batch, position, width]."""
    sites = [Site(component, LAYER) for component in components]
    with torch.no_grad(), record(model, sites) as kept:
        model(ids)
    return [kept[site][0] for site in sites]


def find_attention(model: PreTrainedModel) -> Any:
    """Find the attention of the layer by what it is called, whatever its path."""
    block = find_blocks(model)[LAYER]
    return next(part for part in block.modules() if type(part).__name__.endswith("Attention"))


def see_what_attention_gets(model: PreTrainedModel) -> dict[str, Tensor]:
    """Let the model attend by a function that notes its arguments: (batch, head, position, …)."""
    wanted, seen = find_attention(model), {}

    def note(module, query, key, value, attention_mask, **settings):
        if module is wanted:
            seen.update(query=query, key=key, value=value)
        n_batch, n_heads, n_rows = query.shape[:3]
        return query.new_zeros(n_batch, n_rows, n_heads, value.shape[-1]), None

    AttentionInterface.register("noting", note)
    model.set_attn_implementation("noting")
    with torch.no_grad():
        model(IDS)
    return seen


def split(states: Tensor, n_heads: int) -> Tensor:
    """Turn [batch, position, head · width] to [batch, head, position, width]."""
    return states.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def norm_heads(attention: Any, name: str, states: Tensor, n_heads: int) -> Tensor:
    """Apply what some families put between the projection and the rotary embedding."""
    norm = getattr(attention, name, None)
    if norm is None:
        return split(states, n_heads)
    if type(attention).__name__.startswith("Olmo2"):  # over all heads at once
        return split(norm(states), n_heads)
    return norm(split(states, n_heads))


def test_queries_and_keys_are_those_attention_rotates_in_every_family(family: str, build_model):
    """The rotary embedding turns nothing at position 0, and changes no length anywhere."""
    model = build_model(family)
    attention = find_attention(model)
    seen = see_what_attention_gets(model)
    wanted = {"q_proj": "query", "k_proj": "key"}
    if family == "deepseek_v3":
        del wanted["k_proj"]

    for component, name in wanted.items():
        (states,) = capture(model, component)
        with torch.no_grad():
            heads = norm_heads(attention, f"{component[0]}_norm", states, seen[name].shape[1])
        assert states.abs().max() > 1e-2
        torch.testing.assert_close(heads.norm(dim=-1), seen[name].norm(dim=-1))
        if family == "deepseek_v3":  # what it rotates, it also reorders
            plain = attention.qk_nope_head_dim
            torch.testing.assert_close(heads[..., :plain], seen[name][..., :plain])
        else:
            torch.testing.assert_close(heads[:, :, 0], seen[name][:, :, 0])


def test_values_are_those_attention_gets_in_every_family(family: str, build_model):
    model = build_model(family)
    seen = see_what_attention_gets(model)

    (states,) = capture(model, "v_proj")

    assert torch.equal(split(states, seen["value"].shape[1]), seen["value"])


def test_patterns_are_the_models_own_and_mix_its_values_in_every_family(family: str, build_model):
    model = build_model(family)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(IDS, output_attentions=True).attentions[LAYER]
    n_heads, n_tokens = patterns.shape[1], IDS.shape[1]

    rows, values, heads = capture(model, "attention", "v_proj", "heads")

    by_head = rows.unflatten(-1, (n_heads, 64)).transpose(1, 2)
    assert torch.equal(by_head[..., :n_tokens], patterns)
    assert not by_head[..., n_tokens:].any()
    shared = split(values, values.shape[-1] * n_heads // heads.shape[-1])
    mixed = patterns @ shared.repeat_interleave(n_heads // shared.shape[1], dim=1)
    torch.testing.assert_close(split(heads, n_heads), mixed)


def test_heads_joined_are_the_output_of_o_proj_in_every_family(family: str, build_model):
    model = build_model(family)

    heads, joined = capture(model, "heads", "o_proj")

    with torch.no_grad():
        assert torch.equal(find_module(model, Site("o_proj", LAYER))(heads), joined)


def test_mlp_activations_give_the_output_of_down_proj_in_every_family(family: str, build_model):
    model = build_model(family)
    if FAMILIES[family].down_proj is None:
        with pytest.raises(SiteNotFoundError, match="has no mlp_act: where experts take"):
            capture(model, "mlp_act")
        return

    activations, projected = capture(model, "mlp_act", "down_proj")

    with torch.no_grad():
        assert torch.equal(find_module(model, Site("down_proj", LAYER))(activations), projected)


def test_widths_told_from_the_config_are_those_captured_in_every_family(family: str, build_model):
    model = build_model(family)
    model.set_attn_implementation("eager")
    architecture = model.config.get_text_config()
    n_keys = count_keys(IDS.shape[1])

    for component in COMPONENTS:
        try:
            width = component_widths(architecture, component, n_keys)
        except SiteNotFoundError as error:
            with pytest.raises(SiteNotFoundError, match=str(error.mend)):
                capture(model, component)
        else:
            (states,) = capture(model, component)
            assert states.shape == (*IDS.shape, width), component


def test_an_mlp_of_a_width_of_its_own_is_told(build_model):
    model = build_model("gpt2", n_inner=40)

    (states,) = capture(model, "mlp_act")

    assert states.shape[-1] == 40 == component_widths(model.config, "mlp_act")


def test_queries_that_are_not_compressed_are_found(build_model):
    """Some models of DeepSeek's kind have no rank for queries, and a plain projection."""
    model = build_model("deepseek_v3", q_lora_rank=None)

    (states,) = capture(model, "q_proj")

    assert states.shape[-1] == component_widths(model.config, "q_proj")


def test_keys_no_one_module_puts_out_are_refused_with_why(build_model):
    with pytest.raises(SiteNotFoundError, match="kv_b_proj") as caught:
        capture(build_model("deepseek_v3"), "k_proj")

    assert "q_proj, v_proj or attention" in str(caught.value.mend)


def test_a_layer_of_experts_has_no_mlp_activations_where_another_has(build_model):
    model = build_model("deepseek_v3")

    with (
        pytest.raises(SiteNotFoundError, match="layer 1 of this deepseek_v3 model has no mlp_act"),
        record(model, [Site("mlp_act", 0), Site("mlp_act", 1)]),
    ):
        pass


def test_patterns_are_refused_before_any_hook_where_attention_computes_none(tiny_llama):
    with (
        pytest.raises(SiteNotFoundError, match="'sdpa'") as caught,
        record(tiny_llama, [Site("residual", 0), Site("attention", 0)]),
    ):
        pass

    assert 'attn_implementation = "eager"' in str(caught.value.mend)
    assert not any(module._forward_hooks for module in tiny_llama.modules())


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 65, 130])
def test_patterns_of_a_shorter_sequence_are_cut_to_those_it_has_alone(n_tokens: int, build_model):
    model = build_model()
    model.set_attn_implementation("eager")
    long = torch.arange(140)[None] % 90 + 3
    (batch,) = capture(model, "attention", ids=long)

    (alone,) = capture(model, "attention", ids=long[:, :n_tokens])

    cut = trim_keys(batch[:, :n_tokens], 140, n_tokens)
    torch.testing.assert_close(cut, alone)


def test_an_adapters_share_is_in_what_its_projections_give(build_model):
    """What is recorded is the projection as the model uses it, LoRA and all."""
    model = build_model()
    plain = capture(model, "q_proj", "heads")
    torch.manual_seed(1)
    targets = ["q_proj", "o_proj"]
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    )

    with_adapter = capture(adapted, "q_proj", "heads")

    given = find_attention(adapted.get_base_model()).q_proj
    with torch.no_grad(), record(adapted, [Site("residual", 0)]):
        inputs = []
        handle = given.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
        adapted(IDS)
        handle.remove()
        assert torch.equal(given(inputs[0]), with_adapter[0])
    assert not torch.allclose(with_adapter[0], plain[0])
    assert with_adapter[1].shape == plain[1].shape


def test_what_is_stored_of_a_head_is_what_the_model_computed(build_model, tmp_path):
    """From a batch of two lengths to `store.activations`, reshaped as the documentation says."""
    model = build_model()
    settings = CaptureSettings((0, 2), ("heads", "k_proj", "mlp_act", "residual"), "response")
    sequences = [TokenSequence(tuple(range(3, 3 + n)), 2) for n in (9, 6)]
    store = tistore.create(tmp_path / "s.tistore")

    with store.writer() as writer:
        for place, (sequence, reading) in enumerate(
            zip(sequences, prefill(model, sequences, settings), strict=True)
        ):
            writer.add(
                organism="o",
                reader="o",
                prompt_set="s",
                prompt_id=str(place),
                token_ids=sequence.token_ids,
                prompt_length=2,
                layers=settings.layers,
                activations=reading.activations,
            )

    assert store.info().widths == {
        "heads": (32,), "k_proj": (16,), "mlp_act": (48,), "residual": (32,),
    }  # fmt: skip
    for place, sequence in enumerate(sequences):
        row = store.sql(f"SELECT response_id FROM responses WHERE prompt_id = '{place}'")
        ((response_id,),) = row.fetchall()
        with torch.no_grad(), record(model, settings.sites) as kept:
            model(torch.tensor([sequence.token_ids]))
        for site in settings.sites:
            found = store.activations(
                response_id, reader="o", layer=site.layer, component=site.component
            )
            wanted = kept[site][0][0, 2:].numpy()
            np.testing.assert_allclose(found, wanted, rtol=2**-10, atol=1e-5)
        flat = store.activations(response_id, reader="o", layer=2, component="heads")
        heads = flat.reshape(len(flat), 4, 8)
        wanted = kept[Site("heads", 2)][0][0, 2:].unflatten(-1, (4, 8)).numpy()
        np.testing.assert_allclose(heads[:, 3], wanted[:, 3], rtol=2**-10, atol=1e-5)
        assert len(flat) == len(sequence.token_ids) - 2


@pytest.mark.parametrize("implementation", [None, "sdpa"])
def test_a_run_that_wants_patterns_says_how_attention_is_to_be_computed(configure, implementation):
    """Refused when the configuration is read: nothing has been loaded."""
    base = {"path": "base", "device": "cpu", "attn_implementation": implementation}

    with pytest.raises(ConfigError, match="'attention'") as caught:
        configure(base=base, capture={"components": ["attention"]})

    assert 'attn_implementation = "eager"' in str(caught.value.mend)
    configure(base=base | {"attn_implementation": "eager"}, capture={"components": ["attention"]})


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_documented(component: Component):
    text = (Path(__file__).parents[2] / "docs" / "components.md").read_text()
    (table,) = [part for part in text.split("\n\n") if part.startswith("| component |")]

    assert f"`{component}`" in table


@pytest.mark.parametrize("rows", ["all", "response"])
def test_patterns_of_a_batch_are_as_wide_as_each_sequence_is_long(build_model, rows):
    """What a reading holds does not depend on what it was read beside."""
    model = build_model()
    model.set_attn_implementation("eager")
    settings = CaptureSettings((0, 2), ("attention", "heads"), rows)
    sequences = [TokenSequence(tuple(range(3, 3 + n)), 2) for n in (130, 10, 64)]

    together = prefill(model, sequences, settings)

    assert [one.activations["attention"].shape[-1] for one in together] == [4 * 192, 4 * 64, 4 * 64]
    for sequence, reading in zip(sequences, together, strict=True):
        (alone,) = prefill(model, [sequence], settings)
        for component in settings.components:
            torch.testing.assert_close(reading.activations[component], alone.activations[component])
