"""A response that came without activations: a row of `generations`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tistore.schemas.digest import digest
from tistore.schemas.prompt import Message
from tistore.schemas.response import ResponseSlot


@dataclass(frozen=True, slots=True)
class Generation:
    """
    A response that was written elsewhere, to be read by a run.

    Given ids are the truth; without them the whole conversation in `messages`; without that, `text`
    answers the prompt of its slot.

    Attributes:
        slot: Who answered what.
        text: The answer; of a conversation with several, all of them, an empty line between.
        token_ids: Ids of prompt and response, in order.
        prompt_length: How many of the ids are the prompt's.
        messages: The conversation, system prompt and answers included, where it holds several
            answers, or one with thinking or tool calls; every assistant turn is under audit.
        finish_reason: Why it ended, such as "stop" or "length".
        tags: Labels to group by.
    """

    slot: ResponseSlot
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_length: int | None = None
    messages: tuple[Message, ...] | None = None
    finish_reason: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def content_hash(self) -> str:
        """Hash of everything but the slot."""
        return digest(
            [
                self.text,
                self.token_ids and list(self.token_ids),
                self.prompt_length,
                self.messages and list(self.messages),
                self.finish_reason,
                list(self.tags),
            ]
        )

    def to_row(self) -> dict[str, Any]:
        """Lay the response out as a row of the `generations` table."""
        messages = self.messages
        return {
            "organism": self.slot.organism,
            "prompt_set": self.slot.prompt_set,
            "prompt_id": self.slot.prompt_id,
            "sample": self.slot.sample,
            "text": self.text,
            "token_ids": None if self.token_ids is None else list(self.token_ids),
            "prompt_length": self.prompt_length,
            "messages": None if messages is None else json.dumps(messages, ensure_ascii=False),
            "finish_reason": self.finish_reason,
            "tags": list(self.tags),
            "content_hash": self.content_hash,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the response back from a row of the `generations` table."""
        ids, messages = row["token_ids"], row["messages"]
        return cls(
            slot=ResponseSlot(
                row["organism"], row["prompt_set"], row["prompt_id"], int(row["sample"])
            ),
            text=row["text"],
            token_ids=None if ids is None else tuple(ids),
            prompt_length=row["prompt_length"],
            messages=None if messages is None else tuple(json.loads(messages)),
            finish_reason=row["finish_reason"],
            tags=tuple(row["tags"]),
        )
