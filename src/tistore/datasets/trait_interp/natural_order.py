"""Natural order: 2 before 10, whatever stands around the digits."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"([0-9]+)")

Key = tuple[tuple[int, int, str], ...]


def natural_key(name: str) -> Key:
    """
    Make a sort key by which numbers in names count as numbers.

    Names that differ only in leading zeros keep a fixed order, so that the order is total.
    """
    parts = _DIGITS.split(name)
    keys: list[tuple[int, int, str]] = []
    for index, part in enumerate(parts):
        if index % 2:
            digits = part.lstrip("0")
            keys.append((0, len(digits), digits))
        elif part:
            keys.append((1, 0, part))
    return (*keys, (-1, 0, name))
