"""Log probabilities of tokens, without all the logits they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tistore.capture.families import FAMILIES, name_family, unwrap

CHUNK_BYTES = 1 << 28
"""Logits in float32 that are in memory at a time: those of a whole batch may take gigabytes."""


@contextmanager
def shorten_head(model: PreTrainedModel, rows: Tensor | None) -> Iterator[list[Tensor]]:
    """
    Spare a model most of its logits while the block runs, and keep what its head would read.

    The head, a matrix as large as the vocabulary, runs over one position of each sequence; the
    logits of the wanted rows are made in chunks afterwards, by `measure_logprobs`.

    Args:
        model: A causal language model.
        rows: Rows of the batch, counted through its sequences, whose states to keep; None for none.

    Yields:
        A list that gets (row, hidden), once a forward pass.
    """
    kept: list[Tensor] = []

    def shorten(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = inputs[0]
        if rows is not None:
            kept.append(states.flatten(0, 1).index_select(0, rows.to(states.device)))
        return (states[:, :1], *inputs[1:])

    handle = _find_head(model).register_forward_pre_hook(shorten)
    try:
        yield kept
    finally:
        handle.remove()


def measure_logprobs(model: PreTrainedModel, states: Tensor, targets: Tensor) -> Tensor:
    """
    Measure the natural-log probability of a token after each of some states.

    Args:
        model: Whose head reads the states.
        states: (row, hidden), as the head gets them.
        targets: (row,) token ids.

    Returns:
        (row,) float32 on the states' device.
    """
    head = _find_head(model)
    n_vocabulary = int(model.config.get_text_config().vocab_size)
    return _score(states, targets, n_vocabulary, lambda part: _finish(model, head(part)))


def pick_logprobs(logits: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """
    Measure the same from logits that the model has made itself.

    Args:
        logits: (batch, position, vocabulary).
        rows: Rows of the batch, counted through its sequences.
        targets: (row,) token ids.
    """
    flat = logits.flatten(0, 1)
    rows = rows.to(flat.device)
    return _score(rows, targets, flat.shape[1], lambda part: flat.index_select(0, part))


def _score(
    rows: Tensor, targets: Tensor, n_vocabulary: int, read: Callable[[Tensor], Tensor]
) -> Tensor:
    height = max(1, CHUNK_BYTES // (4 * n_vocabulary))
    targets = targets.to(rows.device)
    parts = [torch.empty(0, dtype=torch.float32, device=rows.device)]
    for start in range(0, len(rows), height):
        logits = read(rows[start : start + height]).float()
        chosen = logits.gather(1, targets[start : start + height, None])[:, 0]
        parts.append(chosen - logits.logsumexp(dim=-1))
    return torch.cat(parts)


def knows_head(model: nn.Module) -> bool:
    """Whether it is known what a family does to the logits that its head gives."""
    return name_family(model) in FAMILIES


def _find_head(model: nn.Module) -> nn.Module:
    head = unwrap(model).get_output_embeddings()  # type: ignore[operator]
    assert isinstance(head, nn.Module)  # every causal language model has one
    return head


def _finish(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """Do to logits what the model does behind its head: Gemma 2 bounds them by a tanh."""
    bound = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if bound is None else torch.tanh(logits / bound) * bound
