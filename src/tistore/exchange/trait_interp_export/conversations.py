"""The messages that responses are part of, as far as a store has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tistore.schemas.prompt import Message
from tistore.schemas.response import ResponseSlot
from tistore.store.snapshot import Snapshot

_SLOT = ["organism", "prompt_set", "prompt_id", "sample"]


class Conversations:
    """
    Finds messages: those a response was imported with, else those of its prompt.

    Args:
        snapshot: The store's state.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        prompts = snapshot.table("prompts").select(["prompt_set", "prompt_id", "messages"])
        given = snapshot.table("generations").select([*_SLOT, "messages"])
        self._asked = {
            (r["prompt_set"], r["prompt_id"]): r["messages"] for r in prompts.to_pylist()
        }
        self._given = {
            tuple(row[name] for name in _SLOT): row["messages"]
            for row in given.to_pylist()
            if row["messages"] is not None
        }

    def find(self, slot: ResponseSlot) -> Sequence[Message]:
        """Give a response's conversation, without its system prompt; nothing where unknown."""
        key = (slot.organism, slot.prompt_set, slot.prompt_id, slot.sample)
        found = self._given.get(key) or self._asked.get(key[1:3])
        messages: list[dict[str, Any]] = json.loads(found) if found else []
        return [message for message in messages if message["role"] != "system"]
