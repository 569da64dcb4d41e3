"""Rounded weights are what round-to-nearest makes of them, and nothing else is touched."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from tistore.capture.models.rounded_weights import GROUP, round_weights
from tistore.vectors.comparing.arms import compare_arms
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.registry import find_method


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=300,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_each_group_of_a_row_is_rounded_to_its_own_scale(bits):
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Linear(GROUP + 10, 5))
    before = layer[0].weight.detach().numpy().astype(np.float64)

    round_weights(layer, bits)

    largest = 2 ** (bits - 1) - 1
    for some in (np.s_[:, :GROUP], np.s_[:, GROUP:]):
        scale = np.abs(before[some]).max(axis=1, keepdims=True) / largest
        expected = np.round(before[some] / scale) * scale
        assert layer[0].weight.detach().numpy()[some] == pytest.approx(expected, abs=1e-6)


def test_a_transposed_layer_is_rounded_as_the_same_layer_is():
    """GPT-2's layers have their weights the other way round."""
    torch.manual_seed(2)
    layer, transposed = nn.Linear(GROUP + 10, 5), Conv1D(5, GROUP + 10)
    transposed.weight.data = layer.weight.data.T.clone()

    assert round_weights(nn.ModuleList([layer, transposed]), 3) == 2

    assert torch.equal(transposed.weight, layer.weight.T)


def test_embeddings_norms_and_the_head_keep_their_precision(model):
    rounded = copy.deepcopy(model)

    assert round_weights(rounded, 3) == 6 * 7

    before = dict(model.named_parameters())
    for name, values in rounded.named_parameters():
        is_block_matrix = "layers" in name and "norm" not in name
        assert torch.equal(values, before[name]) is not is_block_matrix, name


def test_zeros_stay_zeros_and_other_numbers_of_bits_are_refused():
    layer = nn.Sequential(nn.Linear(8, 2, bias=False))
    nn.init.zeros_(layer[0].weight)

    round_weights(layer, 3)

    assert not layer[0].weight.any()
    with pytest.raises(ValueError, match="2 to 8"):
        round_weights(layer, 9)


def draw_texts(seed: int, n: int = 40, length: int = 24) -> torch.Tensor:
    """Texts of a bigram language of its own: a style."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(300, 0.05), size=300)
    texts = np.empty((n, length), dtype=np.int64)
    texts[:, 0] = rng.integers(300, size=n)
    for at in range(1, length):
        texts[:, at] = [rng.choice(300, p=chances[last]) for last in texts[:, at - 1]]
    return torch.tensor(texts)


def test_coarser_weights_turn_a_vector_further(model):
    """The ordering of a published comparison, INT8 before INT4 before INT3, with wide bands."""
    styles = draw_texts(1), draw_texts(2)

    def read(some: nn.Module, layer: int) -> Contrast:
        with torch.no_grad():
            sides = [
                some.model(texts, output_hidden_states=True).hidden_states[layer + 1].mean(1)
                for texts in styles
            ]
        groups = np.arange(len(styles[0]))
        return Contrast(sides[0].numpy(), sides[1].numpy(), groups, groups)

    reference = read(model, 3)
    found = {}
    for bits in (8, 4, 3):
        rounded = copy.deepcopy(model)
        round_weights(rounded, bits)
        found[bits] = compare_arms(reference, read(rounded, 3), find_method("mean_diff"))

    cosines = [found[bits].cosine for bits in (8, 4, 3)]
    errors = [found[bits].row_error for bits in (8, 4, 3)]
    assert cosines == sorted(cosines, reverse=True) and errors == sorted(errors)
    assert cosines[0] > 0.999
    assert 0.9 < cosines[1] < 0.995
    assert 0.6 < cosines[2] < 0.97
    assert found[8].agrees and found[8].score_correlation > 0.99
