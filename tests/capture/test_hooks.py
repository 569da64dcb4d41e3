"""What `record` keeps is what the model itself reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tistore.capture.hooks import record
from tistore.errors import ConfigError, SiteNotFoundError, SiteNotReachedError
from tistore.schemas.site import Site

SITES = [Site("residual", layer) for layer in range(3)]
IDS = torch.tensor([[1, 5, 9, 30, 12, 77], [1, 200, 14, 8, 8, 2]])
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def find_final_norm(model: nn.Module) -> nn.Module:
    body = model.base_model
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


def test_record_says_that_other_components_are_not_captured(tiny_llama):
    with (
        pytest.raises(ConfigError, match="residual only"),
        record(tiny_llama, [Site("mlp_out", 0)]),
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
