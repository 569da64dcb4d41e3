"""What produced or read a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from tistore.schemas.digest import digest

BASE_READER = "instruct"
"""The clean base's name where a run does not give it another."""

SECOND_READING = "~again"
"""Ends the name of a reader that is another one's second reading of the same tokens."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4", "int4", "int3")
"""In which a base can be loaded to be compared with itself, the most exact first."""

COPY_ENDINGS = (SECOND_READING, *(f"~{precision}" for precision in PRECISIONS))
"""Ends of names of readers that are another one over again."""

_LATER_FIELDS = ("attn_implementation",)
"""Facts that models were recorded without at first: left out, they do not change a fingerprint."""


def name_in_precision(reader: str, precision: str) -> str:
    """Name a base as it is loaded in one of `PRECISIONS` to be compared with itself."""
    return f"{reader}~{precision}"


def find_original(reader: str) -> str:
    """Name whom a reader's copy is of: the same weights again, or rounded; else the reader."""
    while ending := next((end for end in COPY_ENDINGS if reader.endswith(end)), None):
        reader = reader.removesuffix(ending)
    return reader


def is_copy(reader: str | None) -> bool:
    """Whether a reader is another one over again: nobody means it who does not name it."""
    return reader is not None and find_original(reader) != reader


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
        quantization: "8bit", "4bit", or None; "int3 (rounded)" of weights that keep their dtype
            and have coarser values.
        dtype: Parameter dtype, such as "bfloat16".
        tokenizer_hash: Content hash of the tokenizer.
        chat_template_hash: Content hash of the chat template.
        family: `model_type` of the architecture, such as "llama".
        attn_implementation: What computes attention, such as "sdpa" or "eager".
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
    attn_implementation: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of every field: 32 hex digits."""
        facts = asdict(self)
        for name in _LATER_FIELDS:
            if facts[name] is None:
                del facts[name]
        return digest(facts)

    def to_row(self) -> dict[str, Any]:
        """Lay the model out as a row of the `models` table."""
        return {**asdict(self), "fingerprint": self.fingerprint}

    def as_known(self, known: Model | None) -> Model:
        """Give the record a store has, if it is of this model from before a fact was recorded."""
        if known is None or known == self:
            return self
        earlier: dict[str, Any] = {
            name: None for name in _LATER_FIELDS if getattr(known, name) is None
        }
        return known if replace(self, **earlier) == known else self

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the model back from a row of the `models` table."""
        return cls(**{f.name: row[f.name] for f in fields(cls)})


@dataclass(frozen=True, slots=True)
class Difference:
    """
    What two models differ in besides their weights.

    Attributes:
        aspect: "precision", "template" or "tokenizer".
        one: What the first has.
        other: What the second has.
    """

    aspect: str
    one: str
    other: str


def compare_models(one: Model, other: Model) -> tuple[Difference, ...]:
    """
    List what would tell two models' readings of one text apart, were their weights the same.

    What is not known of either counts as equal. Of a model whose dtype is known the quantization
    is, too: None is none.
    """
    differences = []
    if not _has_same_precision(one, other):
        differences.append(Difference("precision", _name_precision(one), _name_precision(other)))
    for aspect, mine, theirs in (
        ("template", one.chat_template_hash, other.chat_template_hash),
        ("tokenizer", one.tokenizer_hash, other.tokenizer_hash),
    ):
        if None not in (mine, theirs) and mine != theirs:
            differences.append(Difference(aspect, str(mine)[:8], str(theirs)[:8]))
    return tuple(differences)


def share_base(one: Model, other: Model) -> bool | None:
    """Tell whether two models are of one base and architecture; None where neither is known."""
    pairs = ((one.base_id, other.base_id), (one.family, other.family))
    known = [mine == theirs for mine, theirs in pairs if None not in (mine, theirs)]
    return all(known) if known else None


def name_base(model: Model) -> str:
    """Name a model's base, and its architecture where that is known."""
    family = f"({model.family})" if model.family else None
    return " ".join(part for part in (model.base_id, family) if part) or "unknown"


def _has_same_precision(one: Model, other: Model) -> bool:
    if any(model.quantization is None and model.dtype is None for model in (one, other)):
        return True
    has_same_dtype = None in (one.dtype, other.dtype) or one.dtype == other.dtype
    return has_same_dtype and one.quantization == other.quantization


def _name_precision(model: Model) -> str:
    return " ".join(part for part in (model.quantization, model.dtype) if part is not None)
