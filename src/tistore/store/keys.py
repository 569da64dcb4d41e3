"""Unique keys: what a commit promises will never be committed again with other content."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from tistore.schemas.digest import digest
from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import TABLE_KEYS

_CONTENT_COLUMN = {
    "prompts": "content_hash",
    "vectors": "vector_hash",
    "models": "fingerprint",
    "heads": "head_hash",
}


def slot_key(slot: ResponseSlot) -> str:
    """Hash of the place of a response; its content is the `response_id`."""
    return digest([slot.organism, slot.prompt_set, slot.prompt_id, slot.sample])


def row_key(table: str, row: Mapping[str, Any]) -> str:
    """Hash of the columns that are unique in a table; a fresh one where rows may repeat."""
    if table not in TABLE_KEYS:
        return uuid.uuid4().hex
    return digest([row.get(column) for column in TABLE_KEYS[table]])


def row_content(table: str, row: Mapping[str, Any]) -> str:
    """Hash that tells the same row from another one under the same key."""
    if column := _CONTENT_COLUMN.get(table):
        return str(row[column])
    return digest({name: str(value) for name, value in row.items() if value is not None})
