"""A response ready to be read, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from tistore.capture.reading.prefill import TokenSequence
from tistore.capture.texts.decode import DecodedTokens, decode_tokens
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot

ANSWER_BREAK = "\n\n"
"""What stands between the answers of one conversation in a response's text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A response and all that is known of its tokens.

    Attributes:
        slot: Who answered what.
        sequence: Prompt and response.
        roles: Of each token of the sequence.
        turns: Of each token of the sequence.
        is_response: Which tokens are under audit; None for all after the prompt.
        finish_reason: Why it ended.
        prompt: What was asked; None where the store has it, or nobody knows.
        system_prompt_refused: Whether the template takes no system prompt.
    """

    slot: ResponseSlot
    sequence: TokenSequence
    roles: tuple[str, ...]
    turns: tuple[int, ...]
    is_response: tuple[bool, ...] | None = None
    finish_reason: str | None = None
    prompt: Prompt | None = None
    system_prompt_refused: bool = False


def spell_answer(tokenizer: PreTrainedTokenizerBase, answer: Answer) -> DecodedTokens:
    """
    Spell what follows the prompt.

    Returns:
        Its tokens, as `decode_tokens` has them. Where others speak in between, the text is the
        answers' alone, and the others' tokens have no width in it.
    """
    start = answer.sequence.prompt_length
    token_ids = answer.sequence.token_ids[start:]
    if answer.is_response is None or all(answer.is_response[start:]):
        return decode_tokens(tokenizer, token_ids)
    text = ""
    tokens: list[str] = []
    offsets: list[tuple[int, int]] = []
    flags = answer.is_response[start:]
    at = 0
    for is_answer, run in groupby(flags):
        length = len(list(run))
        decoded = decode_tokens(tokenizer, token_ids[at : at + length])
        tokens += decoded.tokens
        at += length
        if is_answer:
            text += ANSWER_BREAK if text else ""
            offsets += [(first + len(text), last + len(text)) for first, last in decoded.offsets]
            text += decoded.text
        else:
            offsets += [(len(text), len(text))] * length
    return DecodedTokens(text, tuple(tokens), tuple(offsets))
