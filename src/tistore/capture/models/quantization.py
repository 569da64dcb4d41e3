"""Weights quantized on load: by bitsandbytes, or rounded where they are."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tistore.capture.config import BaseConfig, Quantization
from tistore.capture.models.machine import is_cpu
from tistore.errors import ModelLoadError

BLOCK = 64
"""NF4 weights that share a scale, counted over a layer's rows as if they were one."""
ROUNDED_BITS: dict[Quantization | None, int] = {"int4 (rounded)": 4, "int3 (rounded)": 3}
"""Of a weight, where it is rounded after it was loaded."""


def configure_quantization(quantization: Quantization | None) -> BitsAndBytesConfig | None:
    """Say how a model's weights are quantized on load; None loads them as stored."""
    if quantization is None or quantization in ROUNDED_BITS:
        return None
    options: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "4bit":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]


def find_quantized_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Find the linear layers that bitsandbytes quantizes, by name: all but the unembedding."""
    find_head: Any = model.get_output_embeddings
    head = find_head()
    return {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) in (nn.Linear, Conv1D) and layer is not head
    }


def refuse_wrong_weights(base: BaseConfig, skeleton: PreTrainedModel) -> None:
    """
    Refuse to quantize a base where its weights would come out wrong: to 4 bits, on some CPUs.

    Where rows are a multiple of 16 wide but not of 64, the AVX-512 kernel of bitsandbytes 0.50.2
    takes the scales of other blocks: weights are off by 24 % instead of 9 %, and nothing is said.
    Its other kernels get them right, and so may its next release: whether this one does is tried.

    Args:
        base: Its table.
        skeleton: Its modules; weights are not needed.

    Raises:
        ModelLoadError: They would; the first such layer is named.
    """
    # A library that is missing is for the loading to tell: a plan can do without.
    if base.quantization != "4bit" or not is_cpu(base.device) or not find_spec("bitsandbytes"):
        return
    widths = measure_widths(skeleton)
    wrong = [name for name, width in widths.items() if not gives_weights_back(width)]
    if wrong:
        raise ModelLoadError(
            f"base {base.path} cannot be read in 4 bits on this machine's CPU: bitsandbytes gives "
            f"the weights of {wrong[0]} back wrong ({len(wrong)} of {len(widths)} layers), since "
            f"its rows are {widths[wrong[0]]} wide and scales go with every {BLOCK} weights",
            mend='load it on a GPU, with quantization = "8bit", or without quantization',
        )


@cache
def gives_weights_back(width: int) -> bool:
    """Try whether NF4 weights, in rows of some width, come back right from this machine's CPU."""
    # Slow to import, and needed for quantized models only.
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    # A block of equal values is exact in NF4. Each block has a value of its own, so one that gets
    # another's scale shows; and as many rows as a block has weights make it end with a row.
    blocks = torch.arange(BLOCK * width) // BLOCK
    weights = (1.0 + blocks).reshape(BLOCK, width)
    packed, scales = quantize_4bit(weights, blocksize=BLOCK, quant_type="nf4")
    return torch.equal(dequantize_4bit(packed, scales), weights)


def measure_widths(skeleton: PreTrainedModel) -> dict[str, int]:
    """Measure the rows of the quantized layers that text goes through, by name."""
    find_reader: Any = skeleton.get_decoder
    reading = set(find_reader().modules())  # and not those for images
    return {
        # bitsandbytes turns GPT-2's layers, which keep their weights the other way round.
        name: int(layer.weight.shape[0 if isinstance(layer, Conv1D) else 1])
        for name, layer in find_quantized_layers(skeleton).items()
        if layer in reading
    }


def keep_weights_unpacked(model: nn.Module) -> None:
    """
    Keep 4-bit weights as they were quantized; models without any are let be.

    On a CPU with AVX512-BF16 the first forward pass packs them for its own kernel, and
    `state_dict()`, which PEFT calls for every adapter, unpacks them without putting the scales
    back in order: afterwards the base computes something else. Measured with bitsandbytes 0.50.2:
    its logits move by 86 %. Unpacked, they are also the same numbers on every CPU.
    """
    # Slow to import, and needed for quantized models only.
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
