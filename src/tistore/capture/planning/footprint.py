"""What a model takes in memory while it is read, told from its config and its files' headers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from tistore.capture.config import BaseConfig, GenerationConfig
from tistore.capture.models.adapter_files import AdapterFolder
from tistore.capture.models.machine import Memory, find_memory
from tistore.capture.models.quantization import BLOCK, find_quantized_layers
from tistore.capture.reading.in_flight import bound_tokens, measure_token
from tistore.capture.reading.logprobs import CHUNK_BYTES
from tistore.errors import ModelLoadError
from tistore.schemas.response import CaptureSettings

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / BLOCK}
"""
For each weight of a linear layer; NF4 has a float32 scale for every block of them (QLoRA,
arXiv:2305.14314, §3).
"""
ADAPTER_VALUE_BYTES = 4
"""PEFT keeps the weights of adapters in float32."""
LOGITS_BYTES = 4
RUNTIME_BYTES = 10**9
"""Of kernels and libraries, on a device and on the host: 0.5 to 0.8 GB were seen."""

_STORED_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class Footprint:
    """
    What one model takes where it runs, in bytes.

    Attributes:
        weights: Of the model.
        adapters: Of those that are on it at a time.
        in_flight: Keys, values, captured states and what the blocks work with, of all tokens of a
            batch.
        logits: Over the vocabulary, for each response's next token or, when it reads, for the
            rows that are taken at a time.
        tokens_in_flight: Of a batch.
        memory: Where it runs.
    """

    weights: int
    adapters: int
    in_flight: int
    logits: int
    tokens_in_flight: int
    memory: Memory

    @property
    def total(self) -> int:
        """All of it, with what kernels and libraries take."""
        return self.weights + self.adapters + self.in_flight + self.logits + RUNTIME_BYTES


def measure_footprint(
    base: BaseConfig,
    skeleton: PreTrainedModel,
    settings: CaptureSettings,
    generation: GenerationConfig,
    *,
    adapter_bytes: int,
    longest: int,
) -> Footprint:
    """
    Estimate what a model takes where it runs.

    Args:
        base: Its table.
        skeleton: Its modules, without memory.
        settings: What is captured.
        generation: Says how many tokens a batch has.
        adapter_bytes: Of those on it at a time.
        longest: Tokens of the longest sequence.

    Raises:
        ModelLoadError: A file of weights is damaged.
    """
    memory = find_memory(base.device)
    weights = measure_weights(base, skeleton)
    architecture = skeleton.config.get_text_config()
    value_bytes = VALUE_BYTES[name_dtype(base, skeleton)]
    per_token = measure_token(architecture, settings, value_bytes, longest)
    tokens = bound_tokens(generation, memory, weights, per_token)
    most = generation.batch_size
    tokens = max(min(tokens, most * longest) if most else tokens, longest)
    vocabulary = int(architecture.vocab_size)
    return Footprint(
        weights=weights,
        adapters=adapter_bytes,
        in_flight=tokens * per_token,
        logits=max(tokens // max(longest, 1) * vocabulary * LOGITS_BYTES, CHUNK_BYTES),
        tokens_in_flight=tokens,
        memory=memory,
    )


def measure_weights(base: BaseConfig, skeleton: PreTrainedModel) -> int:
    """
    Measure what a model's weights take as loaded, in bytes.

    From the headers of its safetensors files where they are on this machine, exact but for a few
    buffers; from its modules otherwise, and where the linear layers are quantized on load, all but
    the head.

    Raises:
        ModelLoadError: A file of weights is damaged.
    """
    if base.quantization in QUANTIZED_BYTES:
        return _measure_quantized(base, skeleton)
    files = sorted(base.path.path.glob("*.safetensors")) if base.path.is_local else []
    if not files:
        value_bytes = VALUE_BYTES[name_dtype(base, skeleton)]
        return sum(parameter.numel() for parameter in skeleton.parameters()) * value_bytes
    wanted = None if base.dtype == "auto" else VALUE_BYTES[base.dtype]
    total = 0
    for file in files:
        try:
            total += _measure_file(str(file), wanted)
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(
                f"{file} is damaged: {error}", mend="copy or download the file again"
            ) from error
    return total


def measure_head(base: BaseConfig, skeleton: PreTrainedModel) -> int:
    """Measure what a model's unembedding takes, in bytes; its norm is nothing beside it."""
    find_head: Any = skeleton.get_output_embeddings
    return int(find_head().weight.numel()) * VALUE_BYTES[name_dtype(base, skeleton)]


def measure_adapter(adapter: AdapterFolder) -> int:
    """Measure what an adapter takes as loaded, in bytes."""
    return sum(map(math.prod, adapter.shapes.values())) * ADAPTER_VALUE_BYTES


def name_dtype(base: BaseConfig, skeleton: PreTrainedModel) -> str:
    """Name the dtype that parameters have once they are loaded."""
    if base.dtype != "auto":
        return base.dtype
    found = str(skeleton.dtype).removeprefix("torch.")
    return found if found in VALUE_BYTES else "float32"


def _measure_quantized(base: BaseConfig, skeleton: PreTrainedModel) -> int:
    assert base.quantization is not None  # the caller saw to it
    linear = {id(layer.weight) for layer in find_quantized_layers(skeleton).values()}
    value_bytes = VALUE_BYTES[name_dtype(base, skeleton)]
    parameters: Iterable[nn.Parameter] = skeleton.parameters()
    return math.ceil(
        sum(
            parameter.numel()
            * (QUANTIZED_BYTES[base.quantization] if id(parameter) in linear else value_bytes)
            for parameter in parameters
        )
    )


def _measure_file(path: str, wanted: int | None) -> int:
    total = 0
    with safe_open(path, framework="numpy") as weights:
        for name in weights.keys():
            part = weights.get_slice(name)
            stored = part.get_dtype()
            converted = wanted if wanted is not None and stored in _FLOATS else None
            total += math.prod(part.get_shape()) * (converted or _STORED_BYTES.get(stored, 1))
    return total
