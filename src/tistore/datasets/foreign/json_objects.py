"""JSON that other tools put beside their numbers: parsed within limits, by one strict reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tistore.errors import ForeignFileError

MAX_CHARACTERS = 16 << 20
"""Longest JSON that is parsed: Python objects take many times the bytes of their text."""

MAX_NODES = 1_000_000
"""Lists and objects it may hold."""


def parse_object(content: str | bytes, where: str) -> dict[str, Any]:
    """
    Parse a JSON object.

    Args:
        content: The JSON; bytes are UTF-8.
        where: What to call it in an error; begins with the file's path.

    Raises:
        ForeignFileError: It is no JSON object, too long or too deep, or names a key twice.
    """
    if len(content) > MAX_CHARACTERS:
        raise ForeignFileError(
            f"{where} has {len(content):,} characters of JSON, more than the "
            f"{MAX_CHARACTERS:,} that are read",
            mend="keep the numbers in arrays, or split the file",
        )
    try:
        # A byte order mark is no part of the text.
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        if text.count("[") + text.count("{") > MAX_NODES:
            raise ValueError(f"it holds more than {MAX_NODES:,} lists and objects")
        value = json.loads(text, object_pairs_hook=_build)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{where} is no JSON: {error}", mend="write it anew") from error
    if not isinstance(value, dict):
        raise ForeignFileError(
            f"{where} is no JSON object, but {describe(value)}", mend="write it anew"
        )
    return value


def describe(value: Any) -> str:
    """Show a value in a message: short, and nothing a terminal would act on."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    shown = ascii(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge integer"
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it names the key {describe(twice)} twice")
    return built
