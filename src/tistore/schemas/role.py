"""Roles: whose words a token is, as the `tokens` table has them."""

from __future__ import annotations

ASSISTANT_ROLE = "assistant"
THINKING_ROLE = "thinking"
TOOL_CALL_ROLE = "tool_call"

ANSWER_ROLES = frozenset({ASSISTANT_ROLE, THINKING_ROLE, TOOL_CALL_ROLE})
"""Of what an assistant writes."""

TEMPLATE_ROLE = "template"
"""Of what a chat template writes around everybody's words."""

UNKNOWN_ROLE = "prompt"
"""Of a prompt's tokens where nobody can tell."""


def name_speaker(role: str) -> str:
    """Name who speaks: an assistant's thinking and tool calls are its own."""
    return ASSISTANT_ROLE if role in ANSWER_ROLES else role
