"""Sizes as people write them: 500MB, 2GB, 1.5GiB."""

from __future__ import annotations

import re

from tistore.errors import ConfigError

_UNITS: dict[str, int] = {"": 1} | {
    f"{prefix}{ending}": int(base**power)
    for base, ending in ((1000, ""), (1000, "b"), (1024, "ib"))
    for power, prefix in enumerate(("", "k", "m", "g", "t"))
    if prefix or ending == "b"
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)


def parse_size(option: str, text: str) -> int:
    """
    Read a size in bytes.

    Args:
        option: Where it was written, for the error.
        text: A number, with or without a unit: kB, MB, GB, TB, or KiB, MiB, GiB, TiB.

    Raises:
        ConfigError: It is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(
            f"{option} {text!r} is no size",
            mend="write bytes, or a number and a unit: 500MB, 2GB, 1.5GiB",
        )
    return round(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
