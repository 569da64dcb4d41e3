"""How many tokens run through a model at once: as many as there is memory for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from transformers import PreTrainedConfig, PreTrainedModel

from tistore.capture.config import GenerationConfig
from tistore.capture.models.machine import Memory, find_memory
from tistore.capture.reading.widths import component_widths, count_keys, read_head_shape
from tistore.schemas.response import CaptureSettings

Item = TypeVar("Item")

DEVICE_SHARE = 0.8
"""Of what the weights leave of a GPU: kernels and fragments take their part."""
HOST_SHARE = 0.125
"""Of the machine's memory: the rest is for weights, what waits to be written, and others."""
MOST_ON_DEVICE = 65_536
MOST_ON_HOST = 8_192
"""Beyond these nothing gets faster."""
FEWEST = 512


def count_tokens_in_flight(
    generation: GenerationConfig,
    device: str,
    model: PreTrainedModel,
    settings: CaptureSettings,
    longest: int,
) -> int:
    """
    Decide how many tokens a batch of a model may have, as `bound_tokens` does.

    It depends on the machine and the run's configuration alone, so that a run that is resumed on
    the same machine makes the same batches.

    Args:
        generation: As configured.
        device: The same, as the weights' table has it.
        model: In memory already.
        settings: What is captured.
        longest: Tokens of the longest sequence there will be.
    """
    size = model.dtype.itemsize
    per_token = measure_token(model.config.get_text_config(), settings, size, longest)
    weights: int = model.get_memory_footprint()  # type: ignore[no-untyped-call]
    return bound_tokens(generation, find_memory(device), weights, per_token)


def bound_tokens(generation: GenerationConfig, memory: Memory, weights: int, per_token: int) -> int:
    """
    Bound the tokens of a batch, padding and what may yet be written included.

    As configured; or, for "auto", what the memory that the weights leave has room for.

    Args:
        generation: As configured.
        memory: Where the model runs.
        weights: Bytes that it takes there.
        per_token: Bytes of a token, as `measure_token` gives them.
    """
    if generation.tokens_in_flight != "auto":
        return generation.tokens_in_flight
    if memory.total is None:
        return FEWEST
    if memory.is_gpu:
        room, most = int(DEVICE_SHARE * (memory.total - weights)), MOST_ON_DEVICE
    else:
        room, most = int(HOST_SHARE * memory.total), MOST_ON_HOST
    return max(FEWEST, min(room // per_token, most))


def measure_token(
    architecture: PreTrainedConfig, settings: CaptureSettings, value_bytes: int, longest: int
) -> int:
    """
    Estimate what a token in flight takes on the device, in bytes.

    Keys and values of every layer, which generation keeps; the states that are captured; and what
    a block works with: some copies of the stream, the MLP's two wide states, and where patterns
    are captured those of all heads, over the keys of the longest sequence.
    """
    hidden, n_layers = architecture.hidden_size, architecture.num_hidden_layers
    heads = read_head_shape(architecture)
    kept = n_layers * heads.n_shared * (heads.key_width + heads.value_width)
    captured = sum(
        component_widths(architecture, component, count_keys(longest)) * len(settings.layers)
        for component in settings.components
    )
    working = 8 * hidden + 3 * (getattr(architecture, "intermediate_size", None) or 4 * hidden)
    if "attention" in settings.components:
        working += 2 * heads.n_heads * longest
    return int((kept + captured + working) * value_bytes)


def cut_batches(
    items: Sequence[Item],
    length_of: Callable[[Item], int],
    *,
    most_tokens: int,
    most_items: int | None = None,
) -> Iterator[list[Item]]:
    """
    Cut items into batches whose longest, times how many there are, stays within `most_tokens`.

    Args:
        items: Best in order of length: padding costs as much as tokens do.
        length_of: Tokens an item may come to have.
        most_tokens: A single item may exceed it; it then goes alone.
        most_items: Of a batch; None for any number.
    """
    batch: list[Item] = []
    longest = 0
    for item in items:
        longest = max(longest, length_of(item))
        if batch and (len(batch) == most_items or longest * (len(batch) + 1) > most_tokens):
            yield batch
            batch, longest = [], length_of(item)
        batch.append(item)
    if batch:
        yield batch
