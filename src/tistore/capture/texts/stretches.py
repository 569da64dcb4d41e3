"""Stretches of an assistant's turn that are no plain words: thinking, and tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from tistore.capture.texts.decode import decode_ids, decode_tokens, find_special
from tistore.schemas.role import ASSISTANT_ROLE, THINKING_ROLE, TOOL_CALL_ROLE

_CALL_KEYS = ({"name", "parameters"}, {"name", "arguments"})
_SPECIAL = re.compile(r"<\|[^|<>]+\|>")


@dataclass(frozen=True, slots=True)
class Marks:
    """
    What a family writes around a stretch.

    Attributes:
        role: Of the stretch, its marks included.
        begin: The mark before it.
        end: The mark behind it; empty where the stretch runs to the end of the turn.
    """

    role: str
    begin: str
    end: str


KNOWN_MARKS = (
    Marks(THINKING_ROLE, "<think>", "</think>"),  # Qwen3, DeepSeek-R1, GLM, Kimi-K2-Thinking
    Marks(THINKING_ROLE, "[THINK]", "[/THINK]"),  # Magistral
    Marks(THINKING_ROLE, "<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks(THINKING_ROLE, "<thought>", "</thought>"),  # EXAONE Deep
    Marks(THINKING_ROLE, "◁think▷", "◁/think▷"),  # Kimi-VL
    Marks(THINKING_ROLE, "<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Marks(THINKING_ROLE, "<|channel|>analysis<|message|>", "<|end|>"),  # gpt-oss
    Marks(TOOL_CALL_ROLE, "<|channel|>commentary to=", "<|call|>"),  # gpt-oss
    Marks(TOOL_CALL_ROLE, "<|START_ACTION|>", "<|END_ACTION|>"),  # Command A
    Marks(TOOL_CALL_ROLE, "<tool_call>", "</tool_call>"),  # Qwen, Hermes, GLM
    Marks(TOOL_CALL_ROLE, "<seed:tool_call>", "</seed:tool_call>"),  # Seed-OSS
    Marks(TOOL_CALL_ROLE, "<|tool_call|>", "<|/tool_call|>"),  # Phi-4-mini
    Marks(TOOL_CALL_ROLE, "<|tool_call_start|>", "<|tool_call_end|>"),  # LFM2
    Marks(TOOL_CALL_ROLE, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),  # Kimi-K2
    Marks(TOOL_CALL_ROLE, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),  # DeepSeek
    Marks(TOOL_CALL_ROLE, "[TOOL_CALLS]", ""),  # Mistral
    Marks(TOOL_CALL_ROLE, "<|python_tag|>", ""),  # Llama 3.1
)
"""Marks of the families; one row each, the longer of two that begin alike first."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """
    A stretch in a text.

    Attributes:
        marks: Those around it.
        start: Its first character, that of the mark before it.
        end: One past its last character, that of the mark behind it.
        is_closed: Whether the mark behind it is there.
    """

    marks: Marks
    start: int
    end: int
    is_closed: bool


def find_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[Marks, ...]:
    """List the marks that a model knows: its tokenizer has them as tokens, or its template."""
    template = str(getattr(tokenizer, "chat_template", None) or "")

    def is_token(mark: str) -> bool:
        token_id = tokenizer.convert_tokens_to_ids(mark)
        # What is no token becomes the one for unknown words.
        return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == mark

    def is_known(marks: Marks) -> bool:
        parts = _SPECIAL.findall(marks.begin)
        return marks.begin in template or all(map(is_token, parts or [marks.begin]))

    return tuple(marks for marks in KNOWN_MARKS if is_known(marks))


def find_stretches(
    text: str, known: Sequence[Marks], opened: Marks | None = None
) -> Iterator[Stretch]:
    """
    Find the stretches of an assistant's turn, in order; none lies in another.

    Args:
        text: Of the turn.
        known: Marks to look for.
        opened: Marks of a stretch that is open where the text begins.
    """
    start = at = 0
    marks = opened
    while marks is not None or (marks := _find_next(text, known, at)) is not None:
        if marks is not opened:
            start = text.index(marks.begin, at)
            at = start + len(marks.begin)
        found = text.find(marks.end, at) if marks.end else -1
        end = len(text) if found < 0 else found + len(marks.end)
        yield Stretch(marks, start, end, is_closed=found >= 0)
        start = at = end
        marks = opened = None


def find_opened(opening: str, known: Sequence[Marks]) -> Marks | None:
    """Find the marks of the stretch that is open at the end of a text."""
    stretches = list(find_stretches(opening, known))
    return stretches[-1].marks if stretches and not stretches[-1].is_closed else None


def split_thinking(content: str, known: Sequence[Marks]) -> tuple[str, str] | None:
    """Split what an assistant wrote into thinking and answer; None where it is not so begun."""
    for marks in known:
        if marks.role != THINKING_ROLE:
            continue
        before, end, answer = content.partition(marks.end)
        empty, _, thinking = before.rpartition(marks.begin)
        if end and not empty.strip():
            return thinking, answer
    return None


def assign_answer_roles(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], opening: str = ""
) -> tuple[str, ...]:
    """
    Give each token of a response the role "assistant", "thinking" or "tool_call".

    A stretch counts by the marks that the tokenizer or its template knows, marks included; one
    that a limit cut runs to the end. A response that is a JSON call and nothing else, as Llama's
    are, is a tool call where the template knows any. A token over a seam counts as what it ends
    in.

    Args:
        tokenizer: The model's.
        token_ids: The response's alone.
        opening: The prompt's text behind the last turn that was not the assistant's: a stretch
            may be open there, since some templates begin the thinking themselves.
    """
    if not token_ids:
        return ()
    plain = (ASSISTANT_ROLE,) * len(token_ids)
    known = find_marks(tokenizer)
    opened = find_opened(opening, known)
    text = decode_ids(tokenizer, token_ids)
    if opened is None and not any(marks.begin in text for marks in known):
        is_call = text.lstrip().startswith("{") and _is_call(tokenizer, token_ids)
        return (TOOL_CALL_ROLE,) * len(plain) if is_call else plain
    strings = decode_tokens(tokenizer, token_ids).tokens
    stretches = list(find_stretches("".join(strings), known, opened))
    roles = _assign(strings, stretches)
    is_left_open = bool(stretches) and not stretches[-1].is_closed
    if is_left_open and token_ids[-1] in find_special(tokenizer, token_ids[-1:]):
        roles[-1] = ASSISTANT_ROLE  # it ends the turn, not the stretch
    return tuple(roles)


def _assign(strings: Sequence[str], stretches: Sequence[Stretch]) -> list[str]:
    """Give each token the role of its last character."""
    owners = [ASSISTANT_ROLE] * (sum(map(len, strings)) + 1)
    for stretch in stretches:
        owners[stretch.start : stretch.end] = [stretch.marks.role] * (stretch.end - stretch.start)
    ends = accumulate(map(len, strings))
    # A token without characters is the first part of the next one's.
    return [owners[end - 1 if string else end] for string, end in zip(strings, ends, strict=True)]


def _find_next(text: str, known: Sequence[Marks], at: int) -> Marks | None:
    found = [(text.find(marks.begin, at), index) for index, marks in enumerate(known)]
    places = [place for place in found if place[0] >= 0]
    return known[min(places)[1]] if places else None


def _is_call(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> bool:
    """Tell whether a response is one JSON call and nothing else."""
    if "tool_call" not in str(getattr(tokenizer, "chat_template", None) or ""):
        return False
    special = find_special(tokenizer, token_ids)
    text = decode_ids(tokenizer, [token_id for token_id in token_ids if token_id not in special])
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) in _CALL_KEYS
