"""Reading token sequences: what a model's blocks put out for tokens that are already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tistore.capture.families import find_device
from tistore.capture.reading.hooks import watch
from tistore.capture.reading.logprobs import (
    knows_head,
    measure_logprobs,
    pick_logprobs,
    shorten_head,
)
from tistore.capture.reading.states import States
from tistore.capture.reading.taps import trim_keys
from tistore.schemas.response import CaptureSettings


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
        activations: For each component, (rows, layer, width) on the CPU, in the model's dtype;
            row t is the state at token t. A layer's rows lie together in memory.
        logprobs: Natural-log probability the model gave each token, float32; None for the first
            one and wherever it was not asked for.
    """

    activations: Mapping[str, Tensor]
    logprobs: tuple[float | None, ...]


class BatchUnderway:
    """
    A batch that a model has run through, whose states may still be on their way from a GPU.

    Attributes:
        sequences: What was read.
        size_bytes: What the states take.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        settings: CaptureSettings,
        states: States,
        logprobs: Tensor | None,
    ) -> None:
        self.sequences = tuple(sequences)
        self.size_bytes = states.size_bytes
        self._settings = settings
        self._states = states
        self._logprobs = logprobs

    @cached_property
    def prefills(self) -> tuple[Prefill, ...]:
        """What the model made of each sequence; waits until all of it has arrived."""
        self._states.wait()
        logprobs = iter([] if self._logprobs is None else self._logprobs.tolist())
        found = []
        start = 0
        for sequence in self.sequences:
            first, n_tokens = _first_row(sequence, self._settings), len(sequence.token_ids)
            stop = start + n_tokens - first
            begin = n_tokens if self._logprobs is None else max(first, 1)
            found.append(
                Prefill(
                    activations={
                        component: self._trim(component, values[:, start:stop], n_tokens)
                        for component, values in self._states.values.items()
                    },
                    logprobs=(
                        *[None] * begin,
                        *(next(logprobs) for _ in range(begin, n_tokens)),
                    ),
                )
            )
            start = stop
        return tuple(found)

    def _trim(self, component: str, values: Tensor, n_tokens: int) -> Tensor:
        """Turn a sequence's [layer, row, width] around; its patterns end where it does."""
        if component == "attention":
            longest = max(len(sequence.token_ids) for sequence in self.sequences)
            values = trim_keys(values, longest, n_tokens)
        return values.transpose(0, 1)


def prefill(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    settings: CaptureSettings,
    *,
    padding: int = 0,
    logprobs: bool = True,
) -> list[Prefill]:
    """Read sequences as one batch, as `start_prefill` does, and wait for what comes of it."""
    batch = start_prefill(model, sequences, settings, padding=padding, logprobs=logprobs)
    return list(batch.prefills)


@torch.inference_mode()
def start_prefill(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    settings: CaptureSettings,
    *,
    padding: int = 0,
    logprobs: bool = True,
) -> BatchUnderway:
    """
    Read sequences as one batch.

    Shorter ones are filled up on the right, where a causal model cannot see; rows depend on the
    batch's composition by float rounding only, and not at all on which adapter is switched on.

    Args:
        model: Read as whichever adapter is switched on.
        sequences: What to read.
        settings: Layers, components and rows to keep.
        padding: Id to fill up with.
        logprobs: Whether to ask for log probabilities: without them the model's head is spared.

    Raises:
        SiteNotFoundError: The model has no such layer.
    """
    width = max(len(sequence.token_ids) for sequence in sequences)
    filled = [[*s.token_ids, *[padding] * (width - len(s.token_ids))] for s in sequences]
    lengths = torch.tensor([len(sequence.token_ids) for sequence in sequences])
    device = find_device(model)
    states = States(settings, _list_rows(sequences, settings, width, before=0))
    rows = _list_rows(sequences, settings, width, before=1) if logprobs else None
    # Where a family does more to its logits than is known here, it makes them all itself.
    is_short = knows_head(model) or not logprobs
    head: AbstractContextManager[list[Tensor]] = nullcontext([])
    if is_short:
        head = shorten_head(model, rows)
    with head as kept, watch(model, settings.sites, states.take):
        output = model(
            input_ids=torch.tensor(filled, device=device),
            attention_mask=(torch.arange(width) < lengths[:, None]).long().to(device),
            use_cache=False,
        )
    measured = None
    if rows is not None:
        targets = [s.token_ids[max(_first_row(s, settings), 1) :] for s in sequences]
        wanted = torch.tensor([token_id for part in targets for token_id in part])
        measured = states.bring(
            measure_logprobs(model, kept[0], wanted)
            if is_short
            else pick_logprobs(output.logits, rows, wanted)
        )
    return BatchUnderway(sequences, settings, states, measured)


def _first_row(sequence: TokenSequence, settings: CaptureSettings) -> int:
    return 0 if settings.rows == "all" else sequence.prompt_length


def _list_rows(
    sequences: Sequence[TokenSequence], settings: CaptureSettings, width: int, before: int
) -> Tensor:
    """
    Number the wanted rows of a batch, counted through its sequences filled up to `width`.

    Args:
        sequences: Of the batch.
        settings: Say from which token on a row is wanted.
        width: Length of the filled sequences.
        before: 0 for the tokens' own rows; 1 for those of the tokens before, where a token's
            probability stands: the first token has none.
    """
    parts = [
        torch.arange(
            at * width + max(_first_row(sequence, settings), before) - before,
            at * width + len(sequence.token_ids) - before,
        )
        for at, sequence in enumerate(sequences)
    ]
    return torch.cat(parts)
