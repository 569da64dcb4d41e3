"""Writing responses, several prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig as Recipe
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tistore.capture.config import GenerationConfig
from tistore.capture.families import find_device
from tistore.capture.reading.memory import work_in_parts
from tistore.capture.reading.sampling import SeededSampling
from tistore.capture.texts.endings import Endings, TextEndings, find_endings, measure_answer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Draft:
    """
    A prompt to answer.

    Attributes:
        token_ids: The prompt's.
        seed: The response's own; without effect at temperature 0.
    """

    token_ids: tuple[int, ...]
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """
    An answer.

    Attributes:
        token_ids: The answer's alone, its end token included where there is one.
        finish_reason: "stop" after an end token or a stop text, which is the end of the answer;
            "length" where the limit cut it.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    drafts: Sequence[Draft],
    settings: GenerationConfig,
    *,
    check: Callable[[], None] = lambda: None,
) -> list[Generation]:
    """
    Answer prompts as one batch, or as smaller ones where memory runs out.

    Args:
        model: Read as whichever adapter is switched on.
        tokenizer: The model's.
        drafts: Best of about one length: padding costs time.
        settings: How; `batch_size` and `samples` are for the caller.
        check: Called before each token; raises to give up.

    Raises:
        ConfigError: A stop token is in no vocabulary.
        NoRoomError: A single prompt does not fit into the device's memory.
    """
    endings = find_endings(model, tokenizer, settings)

    def answer(part: Sequence[Draft]) -> list[Generation]:
        rows = _generate_rows(model, tokenizer, part, settings, endings, check)
        return [_cut(row, measure_answer(tokenizer, row, endings)) for row in rows]

    return work_in_parts(drafts, answer)


def choose_padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """Choose the id that fills batches up; masks hide it, so that any will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token_id) for token_id in known if token_id is not None), 0)


def _generate_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    drafts: Sequence[Draft],
    settings: GenerationConfig,
    endings: Endings,
    check: Callable[[], None],
) -> list[list[int]]:
    padding = choose_padding(tokenizer)
    width = max(len(draft.token_ids) for draft in drafts)
    # On the left, so that every answer begins in the same column.
    filled = [[padding] * (width - len(d.token_ids)) + list(d.token_ids) for d in drafts]
    mask = [[0] * (width - len(d.token_ids)) + [1] * len(d.token_ids) for d in drafts]
    device = find_device(model)
    options: dict[str, Any] = {}
    if settings.temperature > 0:
        sampling = SeededSampling(settings, [draft.seed for draft in drafts], width)
        options["logits_processor"] = LogitsProcessorList([sampling])
    criteria: list[StoppingCriteria] = [_Check(check)]
    if endings.texts:
        criteria.append(TextEndings(tokenizer, endings, width))
    write: Any = model.generate
    output = write(
        input_ids=torch.tensor(filled, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=_write_recipe(settings, endings.token_ids, padding),
        stopping_criteria=StoppingCriteriaList(criteria),
        **options,
    )
    rows: list[list[int]] = output[:, width:].tolist()
    return rows


def _write_recipe(settings: GenerationConfig, stops: frozenset[int], padding: int) -> Recipe:
    # What is left out here is filled in from the model's own recipe, so these are spelt out.
    return Recipe(  # type: ignore[no-untyped-call]
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        eos_token_id=sorted(stops) or None,
        pad_token_id=padding,
        use_cache=True,
    )


def _cut(row: Sequence[int], length: int | None) -> Generation:
    """Cut a row at its end, if it has one."""
    if length is None:
        return Generation(tuple(row), "length")
    return Generation(tuple(row[:length]), "stop")


class _Check(StoppingCriteria):
    """Stops nothing by itself; calls a check that may raise."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self._check()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
