"""Messages of conversations, as files of responses give them."""

from __future__ import annotations

from typing import Any

from tistore.datasets.prompt_sets import MESSAGE_KEYS, ROLES
from tistore.datasets.trait_interp.documents import Node
from tistore.schemas.prompt import ASSISTANT, Message

THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Where servers and templates put an assistant's thinking."""

_KNOWN_KEYS = MESSAGE_KEYS | {
    ASSISTANT: (*MESSAGE_KEYS[ASSISTANT], *sorted(set(THINKING_KEYS) - {*MESSAGE_KEYS[ASSISTANT]}))
}
"""What is kept of a message: nothing that a template or a person would miss is left out."""


def read_messages(node: Node) -> tuple[Message, ...]:
    """
    Read a conversation.

    Contents, thinking and tool calls are kept as they are given; what is null or empty is left
    out, but for the content, which is empty where an assistant only thinks or calls.

    Raises:
        DatasetError: A message is malformed, empty, or holds what could not be kept; or a system
            prompt comes late. File, place and key are named.
    """
    return tuple(_read_message(element, index) for index, element in enumerate(node.elements()))


def says_more(message: Message) -> bool:
    """Whether a message holds more than its role and its content."""
    return len(message) > 2


def _read_message(node: Node, index: int) -> Message:
    role = node.require("role")
    if role.text() not in ROLES:
        role.fail(f"no role {role.value!r}", mend=f"roles are {', '.join(ROLES)}")
    if role.value == "system" and index:
        role.fail("a system prompt comes first", mend="move it up")
    known = _KNOWN_KEYS[role.value]
    for key, value in node.entries():
        if key not in known and value.value not in (None, [], ""):
            value.fail(
                f"{key!r} of a {role.value} message would be lost",
                mend="write it into the content as the model saw it, or give 'token_ids'",
            )
    more = {key: kept for key in known[2:] if (kept := _read_more(node, key)) is not None}
    # Servers write null beside calls.
    content = node.get("content") if more and role.value == ASSISTANT else node.require("content")
    text = content.text() if content else ""
    if role.value == ASSISTANT and not text and not more:
        node.fail("the answer is empty", mend="leave the turn out")
    return {"role": role.value, "content": text, **more}


def _read_more(node: Node, key: str) -> Any:
    """Read what stands beside the content; None where it says nothing."""
    found = node.get(key)
    if found is None or found.value in ("", []):
        return None
    if key != "tool_calls":
        return found.text()
    for call in found.elements():
        function = call.get("function") or call
        function.require("name").text()
        check_json(call)
    return found.value


def check_json(node: Node) -> None:
    """
    Check that a value can be kept as JSON.

    Raises:
        DatasetError: It holds half of a character, or a number that is none.
    """
    if isinstance(node.value, dict):
        for key, value in node.entries():
            Node(node.path, node.place, key).text()
            check_json(value)
    elif isinstance(node.value, list):
        for element in node.elements():
            check_json(element)
    elif isinstance(node.value, str):
        node.text()
    elif isinstance(node.value, float):
        node.number()
