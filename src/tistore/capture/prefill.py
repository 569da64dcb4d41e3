"""Reading token sequences: what a model's blocks put out for tokens that are already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tistore.capture.families import find_device
from tistore.capture.hooks import record
from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import Component, Site

LOGPROB_CHUNK = 64
"""Positions whose logits are widened to float32 at a time: a vocabulary is large."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """
    Prompt and response.

    Attributes:
        token_ids: Of both, in order.
        prompt_length: How many of them are the prompt's; at least one.
    """

    token_ids: tuple[int, ...]
    prompt_length: int


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """
    What a model made of a sequence.

    Attributes:
        activations: For each component, (rows, layer, hidden) on the CPU, in the model's dtype;
            row t is the state at token t.
        logprobs: Natural-log probability the model gave each token, float32; None for the first
            one and wherever it was not asked for.
    """

    activations: Mapping[str, Tensor]
    logprobs: tuple[float | None, ...]


@torch.inference_mode()
def prefill(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    settings: CaptureSettings,
    *,
    padding: int = 0,
    logprobs: bool = True,
) -> list[Prefill]:
    """
    Read sequences as one batch.

    Shorter ones are filled up on the right, where a causal model cannot see; rows depend on the
    batch's composition by float rounding only, and not at all on which adapter is switched on.

    Args:
        model: Read as whichever adapter is switched on.
        sequences: What to read.
        settings: Layers, components and rows to keep.
        padding: Id to fill up with.
        logprobs: Whether to ask for log probabilities; without them the model's head runs over
            one position only.

    Raises:
        SiteNotFoundError: The model has no such layer.
    """
    width = max(len(sequence.token_ids) for sequence in sequences)
    filled = [[*s.token_ids, *[padding] * (width - len(s.token_ids))] for s in sequences]
    lengths = torch.tensor([len(sequence.token_ids) for sequence in sequences])
    device = find_device(model)
    first = [_first_row(sequence, settings) for sequence in sequences]
    # A token's probability stands one position before it.
    kept_logits = width - max(min(first) - 1, 0) if logprobs else 1
    with record(model, settings.sites) as kept:
        output = model(
            input_ids=torch.tensor(filled, device=device),
            attention_mask=(torch.arange(width) < lengths[:, None]).long().to(device),
            use_cache=False,
            **_limit_logits(model, kept_logits),
        )
    logits = output.logits
    return [
        Prefill(
            activations={
                component: _gather(kept, component, settings, row, first[row], int(lengths[row]))
                for component in settings.components
            },
            logprobs=_measure_logprobs(logits[row], width, sequence.token_ids, first[row])
            if logprobs
            else (None,) * len(sequence.token_ids),
        )
        for row, sequence in enumerate(sequences)
    ]


def _first_row(sequence: TokenSequence, settings: CaptureSettings) -> int:
    return 0 if settings.rows == "all" else sequence.prompt_length


def _limit_logits(model: PreTrainedModel, count: int) -> dict[str, Any]:
    """Ask for the last logits only, where the family can leave the others out."""
    is_known = "logits_to_keep" in signature(model.forward).parameters
    return {"logits_to_keep": count} if is_known else {}


def _gather(
    kept: Mapping[Site, list[Tensor]],
    component: Component,
    settings: CaptureSettings,
    row: int,
    start: int,
    end: int,
) -> Tensor:
    """Stack one sequence's states over layers: (rows, layer, hidden) on the CPU."""
    states = [kept[Site(component, layer)][0][row, start:end] for layer in settings.layers]
    # Layers may lie on several GPUs; one copy a sequence leaves them.
    return torch.stack([state.to(states[0].device) for state in states], dim=1).cpu()


def _measure_logprobs(
    logits: Tensor, width: int, token_ids: Sequence[int], first: int
) -> tuple[float | None, ...]:
    """
    Look up the log probability of each token from position `first` on.

    Args:
        logits: (position, vocabulary) of the last positions of a sequence filled up to `width`.
        width: Length of the filled sequence.
        token_ids: The sequence, not filled.
        first: Position of the first token that is asked for.
    """
    begin = max(first, 1)
    skipped = width - logits.shape[0]
    targets = torch.tensor(token_ids[begin:], device=logits.device)
    values: list[float] = []
    for at in range(0, len(targets), LOGPROB_CHUNK):
        chunk = targets[at : at + LOGPROB_CHUNK]
        start = begin + at - 1 - skipped
        wide = logits[start : start + len(chunk)].float()
        chosen = wide.gather(1, chunk[:, None])[:, 0]
        values += (chosen - wide.logsumexp(dim=-1)).tolist()
    return (*[None] * begin, *values)
