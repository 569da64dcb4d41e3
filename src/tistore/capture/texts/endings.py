"""Where an answer ends: at its first end token, or at the token that completes a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)

from tistore.capture.config import GenerationConfig
from tistore.capture.texts.decode import decode_ids, decode_tokens
from tistore.errors import ConfigError

_SPARE = 8
"""Tokens more than a stop text has bytes: some, such as special ones, may write nothing of it."""


@dataclass(frozen=True, slots=True)
class Endings:
    """
    What ends an answer.

    Attributes:
        token_ids: Tokens that do.
        texts: Texts that do, wherever in a token they end; special tokens are spelled out.
    """

    token_ids: frozenset[int]
    texts: tuple[str, ...] = ()


def check_stop_tokens(
    architecture: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, settings: GenerationConfig
) -> None:
    """
    Refuse tokens that no answer can end with.

    Raises:
        ConfigError: A stop token is in no vocabulary.
    """
    n_vocabulary = max(len(tokenizer), int(architecture.vocab_size))
    for token_id in settings.stop_token_ids:
        if token_id >= n_vocabulary:
            raise ConfigError(
                f"stop token {token_id} is not in the base's vocabulary of {n_vocabulary}",
                mend="mend stop_token_ids in [generation]",
            )


def find_endings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: GenerationConfig
) -> Endings:
    """
    Collect what ends an answer: the run's own, and the end tokens of model and tokenizer.

    Raises:
        ConfigError: A stop token is in no vocabulary.
    """
    check_stop_tokens(model.config.get_text_config(), tokenizer, settings)
    named = model.generation_config.eos_token_id if model.generation_config else None
    listed = named if isinstance(named, list) else [named]
    known = [*listed, tokenizer.eos_token_id, *settings.stop_token_ids]
    return Endings(frozenset(int(i) for i in known if i is not None), settings.stop)


def measure_answer(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], endings: Endings
) -> int | None:
    """Count an answer's tokens up to the one that ends it, itself included; None without one."""
    ends = (i + 1 for i, token_id in enumerate(token_ids) if token_id in endings.token_ids)
    by_token = next(ends, None)
    if not endings.texts:
        return by_token
    strings = decode_tokens(tokenizer, token_ids[:by_token]).tokens
    text = "".join(strings)
    completed = [text.index(stop) + len(stop) for stop in endings.texts if stop in text]
    if not completed:
        return by_token
    written = accumulate(map(len, strings))
    return next(i + 1 for i, length in enumerate(written) if length >= min(completed))


class TextEndings(StoppingCriteria):
    """
    Stops each row once its answer holds a stop text.

    Only to save work: where the answer ends is for `measure_answer` to say.

    Args:
        tokenizer: The model's.
        endings: What ends an answer.
        prompt_width: Tokens that each row starts with, padding included.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, endings: Endings, prompt_width: int
    ) -> None:
        self._tokenizer = tokenizer
        self._endings = endings
        self._prompt_width = prompt_width
        self._window = max(len(stop.encode()) for stop in endings.texts) + _SPARE
        self._is_done: list[bool] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Tell which rows are done."""
        rows = input_ids[:, self._prompt_width :].tolist()
        done = self._is_done or [False] * len(rows)
        self._is_done = [
            is_done or self._ends(row) for is_done, row in zip(done, rows, strict=True)
        ]
        return torch.tensor(self._is_done, dtype=torch.bool, device=input_ids.device)

    def _ends(self, row: Sequence[int]) -> bool:
        latest = decode_ids(self._tokenizer, row[-self._window :])
        if not any(stop in latest for stop in self._endings.texts):
            return False
        # Some decoders write the first token of a window differently.
        return measure_answer(self._tokenizer, row, self._endings) is not None
