"""What a sample of another format says of itself, as JSON beside its numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from tistore.datasets.foreign.json_objects import describe, parse_object
from tistore.errors import ForeignFileError

METADATA_KEY = "tistore"
"""Key under which files keep this JSON where a format has metadata of its own."""

_LARGEST = 2**31 - 1
_LARGEST_FLOAT = sys.float_info.max


@dataclass(frozen=True, slots=True)
class SampleIdentity:
    """
    Which reading a sample is; a field is None where the file does not say.

    Attributes:
        organism: Author of the response.
        reader: Model whose activations these are.
        prompt_set: Set of the prompt.
        prompt_id: Prompt's id in the set.
        sample: Which of several generations for the prompt.
        prompt_length: How many of the token ids are the prompt's.
        first_position: Position in the sequence of row 0.
        layers: Ascending block numbers of the layer axis.
        component: What was captured.
        text: The response.
        tokens: A string for each token of the sequence.
        roles: A role for each token.
        turns: A turn for each token, from 0.
        is_response: Which tokens are under audit.
        logprobs: Natural-log probability of each token, None where unknown.
        finish_reason: Why generation ended.
        organism_model: Row of the `models` table; None where only the name is known.
        reader_model: The same of the reader.
        prompt: Row of the `prompts` table.
    """

    organism: str | None = None
    reader: str | None = None
    prompt_set: str | None = None
    prompt_id: str | None = None
    sample: int | None = None
    prompt_length: int | None = None
    first_position: int | None = None
    layers: tuple[int, ...] | None = None
    component: str | None = None
    text: str | None = None
    tokens: tuple[str | None, ...] | None = None
    roles: tuple[str, ...] | None = None
    turns: tuple[int, ...] | None = None
    is_response: tuple[bool, ...] | None = None
    logprobs: tuple[float | None, ...] | None = None
    finish_reason: str | None = None
    organism_model: Mapping[str, Any] | None = None
    reader_model: Mapping[str, Any] | None = None
    prompt: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """Write what is known, in ASCII: text may hold lone surrogates, which no file encodes."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if value is not None},
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, content: str, where: str) -> Self:
        """
        Read it back; keys of other tools' are passed over, and null means unknown.

        Args:
            content: A JSON object.
            where: What to call it in an error.

        Raises:
            ForeignFileError: It is no JSON object, or a field has the wrong type.
        """
        return cls.from_fields(parse_object(content, where), where)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any], where: str) -> Self:
        """
        Take the fields out of an object that was parsed already; see `from_json`.

        Raises:
            ForeignFileError: A field has the wrong type.
        """
        known: dict[str, Any] = {}
        for name, (due, convert) in _FIELDS.items():
            if (value := values.get(name)) is None:
                continue
            try:
                known[name] = convert(value)
            except _WrongType as wrong:
                raise ForeignFileError(
                    f"{where}: {name!r} is {due}, not {describe(wrong.value)}",
                    mend="mend it there, or leave it out and name it with an option",
                ) from None
        return cls(**known)


class _WrongType(Exception):
    """A value, or one inside it, is not what is due."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongType(value)
    return value


def _name(value: Any) -> str:
    if not _text(value):
        raise _WrongType(value)
    return value  # type: ignore[no-any-return]


def _prompt_id(value: Any) -> str:
    # Other tools number their prompts; a store names them.
    return str(_integer(value)) if type(value) is int else _name(value)


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise _WrongType(value)
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _WrongType(value)
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or abs(value) > _LARGEST_FLOAT or value != value:
        raise _WrongType(value)
    return float(value)


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongType(value)
    return value


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def convert_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise _WrongType(value)
        return tuple(convert(item) for item in value)

    return convert_all


def _or_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


_INTEGER = "an integer from 0"
_TEXT = "text"
_NAME = "text, and not empty"
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "organism": (_NAME, _name),
    "reader": (_NAME, _name),
    "prompt_set": (_NAME, _name),
    "prompt_id": (_NAME, _prompt_id),
    "sample": (_INTEGER, _integer),
    "prompt_length": (_INTEGER, _integer),
    "first_position": (_INTEGER, _integer),
    "layers": ("a list of integers from 0", _each(_integer)),
    "component": (_NAME, _name),
    "text": (_TEXT, _text),
    "tokens": ("a list of texts or nulls", _each(_or_none(_text))),
    "roles": ("a list of texts", _each(_text)),
    "turns": ("a list of integers from 0", _each(_integer)),
    "is_response": ("a list of true and false", _each(_boolean)),
    "logprobs": ("a list of finite numbers or nulls", _each(_or_none(_number))),
    "finish_reason": (_TEXT, _text),
    "organism_model": ("an object", _record),
    "reader_model": ("an object", _record),
    "prompt": ("an object", _record),
}
FIELD_NAMES = tuple(_FIELDS)
"""Every field, in the order of the record."""

assert FIELD_NAMES == tuple(field.name for field in fields(SampleIdentity))
