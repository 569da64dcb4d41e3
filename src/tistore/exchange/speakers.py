"""Who speaks where a token has one of the roles of the `tokens` table."""

from __future__ import annotations

ASSISTANT = "assistant"
THINKING = "thinking"
TOOL_CALL = "tool_call"
TEMPLATE = "template"
ANSWER_ROLES = frozenset({ASSISTANT, THINKING, TOOL_CALL})
"""Roles of what an assistant writes."""


def name_speaker(role: str) -> str:
    """Name who speaks: an assistant's thinking and tool calls are its own."""
    return ASSISTANT if role in ANSWER_ROLES else role
