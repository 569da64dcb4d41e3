"""What produced or read a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from tistore.schemas.digest import digest

BASE_READER = "instruct"
"""The clean base's name where a run does not give it another."""


@dataclass(frozen=True, slots=True)
class Model:
    """
    A base model, perhaps with an adapter, exactly as it was loaded.

    A field is None where the fact is unknown or does not apply. Every field is part of the
    fingerprint: two models that differ in any of them are two models.

    Attributes:
        name: What people call it; unique in a store.
        base_id: Hub id or path of the base weights, as given.
        base_revision: Hub revision, or the content hash of local weights.
        adapter_id: Hub id or path of the LoRA adapter, as given.
        adapter_hash: Content hash of the adapter's files.
        quantization: "8bit", "4bit", or None.
        dtype: Parameter dtype, such as "bfloat16".
        tokenizer_hash: Content hash of the tokenizer.
        chat_template_hash: Content hash of the chat template.
        family: `model_type` of the architecture, such as "llama".
    """

    name: str
    base_id: str | None = None
    base_revision: str | None = None
    adapter_id: str | None = None
    adapter_hash: str | None = None
    quantization: str | None = None
    dtype: str | None = None
    tokenizer_hash: str | None = None
    chat_template_hash: str | None = None
    family: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of every field: 32 hex digits."""
        return digest(asdict(self))

    def to_row(self) -> dict[str, Any]:
        """Lay the model out as a row of the `models` table."""
        return {**asdict(self), "fingerprint": self.fingerprint}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the model back from a row of the `models` table."""
        return cls(**{f.name: row[f.name] for f in fields(cls)})
