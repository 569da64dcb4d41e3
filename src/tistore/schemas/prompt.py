"""What a model was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from tistore.schemas.digest import digest

Message = Mapping[str, Any]
"""
One turn of a chat, as chat templates take it.

`role` and `content`; perhaps `reasoning_content` and `tool_calls` of an assistant, `tool_call_id`
and `name` of a tool.
"""

ASSISTANT = "assistant"

SCENARIO_SETS = "scenarios/"
"""How the names of prompt sets begin that hold contrast scenarios, which are no audit's."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    A question, by itself or as the start of a conversation.

    Attributes:
        prompt_set: Name of its set; may contain "/".
        prompt_id: Unique in its set; a string, whatever the file held.
        text: The question. For a conversation, its last user turn.
        messages: The conversation before the answer, without the system prompt; empty when
            `text` is all of it. One that ends with the assistant is to be continued there.
        system_prompt: Instruction given before the conversation, if any.
        note: What kind of prompt this is, for people.
        tags: Labels to group by.
        tools: Descriptions of the tools the model may call, as chat templates take them.
    """

    prompt_set: str
    prompt_id: str
    text: str
    messages: tuple[Message, ...] = ()
    system_prompt: str | None = None
    note: str | None = None
    tags: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def conversation(self) -> list[Message]:
        """The turns to answer, system prompt left out."""
        return list(self.messages) if self.messages else [{"role": "user", "content": self.text}]

    @property
    def is_prefilled(self) -> bool:
        """Whether the answer is begun already, so that the model goes on with it."""
        return bool(self.messages) and self.messages[-1]["role"] == ASSISTANT

    @property
    def content_hash(self) -> str:
        """Hash of everything a model would see, and of the labels."""
        content = asdict(self)
        if not self.tools:
            del content["tools"]  # as prompts were hashed before there were any
        return digest(content)

    def prefill(self, words: str) -> Self:
        """Begin the answer with the given words, unless it is begun already."""
        if self.is_prefilled:
            return self
        return replace(self, messages=(*self.conversation, {"role": ASSISTANT, "content": words}))

    def to_row(self) -> dict[str, Any]:
        """Lay the prompt out as a row of the `prompts` table."""
        row = asdict(self)
        row["messages"] = json.dumps(self.conversation, ensure_ascii=False)
        row["tags"] = list(self.tags)
        row["tools"] = json.dumps(self.tools, ensure_ascii=False) if self.tools else None
        row["content_hash"] = self.content_hash
        return row
