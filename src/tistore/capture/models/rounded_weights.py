"""Weights rounded to a few bits, in place: what a coarser quantization than is at hand would do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

GROUP = 64
"""Weights of a row that share a scale, as in NF4; a row's last group may be shorter."""


def round_weights(model: nn.Module, bits: int) -> int:
    """
    Round every linear layer within the blocks to nearest, symmetrically, in groups of a row.

    Embeddings and the unembedding keep their precision, as they do under bitsandbytes. The weights
    stay in the model's dtype: only their values are coarser.

    Args:
        model: A causal language model; changed in place.
        bits: Of a weight, its sign included; 2 to 8.

    Returns:
        How many layers were rounded.

    Source:
        Round-to-nearest, the baseline of GPTQ, arXiv:2210.17323: w ← s · round(w / s) with
        s = max|w| / (2^(bits-1) - 1) over each group.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"weights are rounded to 2 to 8 bits, not {bits}")
    largest = 2 ** (bits - 1) - 1
    find_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = find_head()
    layers: list[Any] = [
        one for one in model.modules() if isinstance(one, nn.Linear | Conv1D) and one is not head
    ]
    with torch.no_grad():
        for layer in layers:
            inputs = 0 if isinstance(layer, Conv1D) else 1  # the axis that the product sums over
            for group in layer.weight.split(GROUP, dim=inputs):
                wide = group.float()
                scale = wide.abs().amax(dim=inputs, keepdim=True) / largest
                scale[scale == 0] = 1.0  # a group of zeros stays one
                group.copy_((wide / scale).round().clamp(-largest, largest) * scale)
    return len(layers)
