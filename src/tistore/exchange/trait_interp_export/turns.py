"""The turns of a conversation, as trait-interp's JSON has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from tistore.schemas.prompt import Message
from tistore.schemas.role import (
    ASSISTANT_ROLE,
    TEMPLATE_ROLE,
    THINKING_ROLE,
    TOOL_CALL_ROLE,
    name_speaker,
)

_TOOL = "tool"
_ARGUMENTS = ("arguments", "parameters")
"""What families call them: with a name beside them, an object is a call."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """
    Tokens of one speaker in one turn.

    Attributes:
        turn: Its number, which is that of its message.
        speaker: "user", "assistant", …
        roles: Of each token.
        strings: Of each token; None where the store does not hold it.
        start: Position of the first token.
        end: One past the last.
    """

    turn: int
    speaker: str
    roles: tuple[str, ...]
    strings: tuple[str | None, ...]
    start: int
    end: int


def lay_out_turns(tokens: pa.Table, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """
    Lay out the turns of a conversation; what its template wrote is part of none.

    Thinking and tool calls are of their assistant's turn, which tells that it holds them. Tools
    are named by the messages, and where there are none by the calls themselves, if they are JSON.

    Args:
        tokens: Rows of the `tokens` table.
        messages: The conversation without its system prompt, as far as the store has it.
    """
    return [
        _lay_out(stretch, messages)
        for stretch in _find_stretches(tokens)
        if stretch.speaker != TEMPLATE_ROLE
    ]


def _find_stretches(tokens: pa.Table) -> Iterator[_Stretch]:
    columns = ("turn", "role", "token", "position")
    rows = zip(*(tokens[name].to_pylist() for name in columns), strict=True)
    for (turn, speaker), group in groupby(rows, key=lambda row: (row[0], name_speaker(row[1]))):
        _, roles, strings, positions = zip(*group, strict=True)
        yield _Stretch(turn, speaker, roles, strings, positions[0], positions[-1] + 1)


def _lay_out(stretch: _Stretch, messages: Sequence[Message]) -> dict[str, Any]:
    said = {
        "role": stretch.speaker,
        "token_start": stretch.start,
        "token_end": stretch.end,
        "has_thinking": THINKING_ROLE in stretch.roles,
        "has_tool_calls": TOOL_CALL_ROLE in stretch.roles,
        "tool_names": [],
    }
    message = messages[stretch.turn] if stretch.turn < len(messages) else {}
    if message.get("role") != stretch.speaker:
        message = {}  # what answers the last of them, or not the words that were tokenised
    if stretch.speaker == ASSISTANT_ROLE and TOOL_CALL_ROLE in stretch.roles:
        calls = message.get("tool_calls") or ()
        said["tool_names"] = [_name(call) for call in calls] or _read_names(stretch)
    if stretch.speaker == _TOOL:
        said |= _describe_tool(message, messages[: stretch.turn])
    return said


def _name(call: Mapping[str, Any]) -> str:
    return str(call.get("function", call)["name"])


def _read_names(stretch: _Stretch) -> list[str]:
    """Read the names of the tools that a turn's tokens call."""
    pairs = zip(stretch.roles, stretch.strings, strict=True)
    text = "".join(string or "" for role, string in pairs if role == TOOL_CALL_ROLE)
    names = []
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            call = value.get("function", value)
            is_call = isinstance(call, dict) and any(key in call for key in _ARGUMENTS)
            if is_call and isinstance(call.get("name"), str):
                names.append(call["name"])
        at = text.find("{", at)
    return names


def _describe_tool(message: Message, before: Sequence[Message]) -> dict[str, str]:
    """Tell which call a tool's turn answers, and of which tool; only what is known."""
    call_id, name = message.get("tool_call_id"), message.get("name")
    called = {
        call.get("id"): _name(call) for asked in before for call in asked.get("tool_calls") or ()
    }
    known = {"tool_call_id": call_id, "tool_name": name or (call_id and called.get(call_id))}
    return {key: value for key, value in known.items() if value}
