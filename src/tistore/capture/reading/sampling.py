"""Drawing tokens so that a response depends on its own seed, not on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from tistore.capture.config import GenerationConfig
from tistore.schemas.digest import digest
from tistore.schemas.response import ResponseSlot


def seed_response(seed: int, slot: ResponseSlot) -> int:
    """Derive a response's own seed from the run's."""
    parts = [seed, slot.organism, slot.prompt_set, slot.prompt_id, slot.sample]
    return int(digest(parts), 16)


class SeededSampling(LogitsProcessor):
    """
    Leaves each row one possible token, drawn from that row's own stream of numbers.

    A row's stream is fixed before generation starts: one uniform number a step. Batch mates,
    batch size and their lengths change nothing but the rounding of the logits.

    Args:
        settings: Temperature above 0, top_k and top_p.
        seeds: One a row.
        prompt_width: Tokens that each row starts with, padding included.
    """

    def __init__(self, settings: GenerationConfig, seeds: Sequence[int], prompt_width: int) -> None:
        self._settings = settings
        self._prompt_width = prompt_width
        streams = [np.random.default_rng(seed) for seed in seeds]
        drawn = [stream.random(settings.max_new_tokens) for stream in streams]
        self._uniforms = torch.from_numpy(np.stack(drawn))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the drawn token's score; the others become impossible."""
        step = input_ids.shape[1] - self._prompt_width
        uniforms = self._uniforms[:, step].to(scores.device)
        chosen = draw_tokens(scores, uniforms, self._settings)[:, None]
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, chosen, 0.0)


def draw_tokens(scores: Tensor, uniforms: Tensor, settings: GenerationConfig) -> Tensor:
    """
    Draw one token a row by inverting the distribution's cumulative sum.

    The sum runs in vocabulary order, so that rounding moves its steps a little and never swaps
    them, as it would in order of probability.

    Args:
        scores: (row, vocabulary) logits.
        uniforms: (row,) float64 in [0, 1).
        settings: Temperature, then top_k, then top_p are applied.

    Returns:
        (row,) token ids.
    """
    logits = scores.double() / settings.temperature
    if settings.top_k is not None and settings.top_k < logits.shape[1]:
        least = logits.topk(settings.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if settings.top_p < 1.0:
        probabilities = probabilities * _is_in_nucleus(probabilities, settings.top_p)
    steps = probabilities.cumsum(dim=-1)
    # A step reached exactly belongs to the next token; rounding never leads past the last one.
    reached = steps <= uniforms[:, None] * steps[:, -1:]
    return reached.sum(dim=-1).clamp(max=scores.shape[1] - 1)


def _is_in_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Mark the likeliest tokens that together reach `top_p`; always at least one."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    is_needed = ordered.cumsum(dim=-1) - ordered < top_p
    return torch.zeros_like(is_needed).scatter(1, order, is_needed)
