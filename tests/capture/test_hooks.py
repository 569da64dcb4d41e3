"""What `record` keeps is what the model itself reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tistore.capture.reading.hooks import record
from tistore.errors import SiteNotFoundError, SiteNotReachedError
from tistore.schemas.site import Site

SITES = [Site("residual", layer) for layer in range(3)]
IDS = torch.tensor([[1, 5, 9, 30, 12, 77], [1, 200, 14, 8, 8, 2]])
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def find_final_norm(model: nn.Module) -> nn.Module:
    body = getattr(model.base_model, "language_model", model.base_model)
    return next(getattr(body, name) for name in FINAL_NORMS if hasattr(body, name))


def test_record_equals_the_models_own_hidden_states_in_every_family(
    family: str, build_model, tmp_path: Path
):
    build_model(family).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()

    with torch.no_grad(), record(model, SITES) as kept:
        output = model(IDS, output_hidden_states=True)

    oracle = [state.half().numpy() for state in output.hidden_states[1:]]
    captured = [kept[site][0] for site in SITES]
    for state, expected in zip(captured[:-1], oracle[:-1], strict=True):
        np.testing.assert_array_equal(state.half().numpy(), expected)
    # hidden_states[-1] is after the final norm, so the last block has its oracle behind that.
    with torch.no_grad():
        normed = find_final_norm(model)(captured[-1])
    np.testing.assert_array_equal(normed.half().numpy(), oracle[-1])


def test_record_finds_the_blocks_of_an_unknown_family_by_structure(tiny_llama):
    tiny_llama.config.model_type = "never_seen"

    with torch.no_grad(), record(tiny_llama, SITES[:1]) as kept:
        output = tiny_llama(IDS, output_hidden_states=True)

    assert torch.equal(kept[SITES[0]][0], output.hidden_states[1])


def test_record_names_the_candidates_when_structure_does_not_tell():
    twins = nn.ModuleDict(
        {
            "left": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]),
            "right": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]),
        }
    )

    with pytest.raises(SiteNotFoundError, match=r"left \(2\), right \(2\)"), record(twins, SITES):
        pass


def test_record_refuses_a_layer_the_model_lacks_before_setting_any_hook(tiny_llama):
    with (
        pytest.raises(SiteNotFoundError, match="no layer 99 in this model; it has layers 0 to 2"),
        record(tiny_llama, [Site("residual", 0), Site("residual", 99)]),
    ):
        pass

    assert count_hooks(tiny_llama) == 0


def test_contributions_add_up_to_the_stream_in_every_family(family: str, build_model):
    """Embedding + what each block's attention and MLP put out = what the next block is given."""
    model = build_model(family)
    parts = [Site(part, layer) for part in ("attn_out", "mlp_out") for layer in range(3)]

    with torch.no_grad(), record(model, [*SITES, *parts]) as kept:
        output = model(IDS, output_hidden_states=True)

    stream = output.hidden_states[0].double()
    for layer in range(3):
        for part in ("attn_out", "mlp_out"):
            added = kept[Site(part, layer)][0].double()
            assert added.abs().max() > 1e-3
            stream = stream + added
        state = kept[Site("residual", layer)][0].double()
        torch.testing.assert_close(stream, state, rtol=1e-5, atol=1e-5 * float(state.abs().max()))


def test_raw_projections_have_a_name_of_their_own(build_model):
    """Where a norm follows them, they are not what enters the stream."""
    model = build_model("gemma2")
    sites = [Site(part, 1) for part in ("o_proj", "attn_out", "down_proj", "mlp_out")]
    block = model.model.layers[1]

    with torch.no_grad(), record(model, sites) as kept:
        model(IDS)
        normed = block.post_attention_layernorm(kept[Site("o_proj", 1)][0])
        normed_mlp = block.post_feedforward_layernorm(kept[Site("down_proj", 1)][0])

    assert torch.equal(normed, kept[Site("attn_out", 1)][0])
    assert torch.equal(normed_mlp, kept[Site("mlp_out", 1)][0])
    assert not torch.equal(kept[Site("o_proj", 1)][0], kept[Site("attn_out", 1)][0])


def test_experts_have_no_down_projection_and_it_says_so(build_model):
    model = build_model("mixtral")

    with (
        pytest.raises(SiteNotFoundError, match=r"layer 1 of this mixtral model has no down_proj"),
        record(model, [Site("mlp_out", 1), Site("down_proj", 1)]),
    ):
        pass
    assert count_hooks(model) == 0


def test_only_the_stream_is_taken_from_an_unknown_family(tiny_llama):
    tiny_llama.config.model_type = "never_seen"

    with (
        pytest.raises(SiteNotFoundError, match="its blocks have self_attn, self_attn.q_proj"),
        record(tiny_llama, [Site("attn_out", 0)]),
    ):
        pass


def test_record_removes_its_hooks_when_the_block_fails(tiny_llama):
    """The caller's own error comes through unchanged."""
    with pytest.raises(ZeroDivisionError), record(tiny_llama, SITES):
        _ = 1 / 0

    assert count_hooks(tiny_llama) == 0


def test_record_removes_its_hooks_when_the_forward_pass_fails(tiny_llama):
    def explode(*_: object) -> None:
        raise RuntimeError("in the middle of the model")

    tiny_llama.model.layers[1].mlp.register_forward_pre_hook(explode)

    with pytest.raises(RuntimeError, match="in the middle"), record(tiny_llama, SITES):
        tiny_llama(IDS)

    assert count_hooks(tiny_llama) == 0


def test_record_says_so_when_nothing_ran(tiny_llama):
    with pytest.raises(SiteNotReachedError, match="residual@0"), record(tiny_llama, SITES[:1]):
        pass


def test_record_keeps_copies_that_later_modules_cannot_alter(tiny_llama):
    def double_in_place(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].mul_(2)

    with torch.no_grad(), record(tiny_llama, SITES[:1]) as untouched:
        tiny_llama(IDS)
    tiny_llama.model.layers[1].register_forward_pre_hook(double_in_place)

    with torch.no_grad(), record(tiny_llama, SITES[:1]) as kept:
        tiny_llama(IDS)

    assert torch.equal(kept[SITES[0]][0], untouched[SITES[0]][0])
