"""What a model was asked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tistore.schemas.digest import digest

Message = dict[str, str]
"""One turn of a chat: `role` and `content`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    A question, by itself or as the start of a conversation.

    Attributes:
        prompt_set: Name of its set; may contain "/".
        prompt_id: Unique in its set; a string, whatever the file held.
        text: The question. For a conversation, its last user turn.
        messages: The conversation before the answer, without the system prompt; empty when
            `text` is all of it.
        system_prompt: Instruction given before the conversation, if any.
        note: What kind of prompt this is, for people.
        tags: Labels to group by.
    """

    prompt_set: str
    prompt_id: str
    text: str
    messages: tuple[Message, ...] = ()
    system_prompt: str | None = None
    note: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def conversation(self) -> list[Message]:
        """The turns to answer, system prompt left out."""
        return list(self.messages) if self.messages else [{"role": "user", "content": self.text}]

    @property
    def content_hash(self) -> str:
        """Hash of everything a model would see, and of the labels."""
        return digest(asdict(self))

    def to_row(self) -> dict[str, Any]:
        """Lay the prompt out as a row of the `prompts` table."""
        row = asdict(self)
        row["messages"] = json.dumps(self.conversation, ensure_ascii=False)
        row["tags"] = list(self.tags)
        row["content_hash"] = self.content_hash
        return row
