"""Which organisms are variants of one behaviour, and so no control for each other."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tistore.errors import ConfigError

_FILES = {".json", ".csv", ".tsv"}


def read_families(given: str, organisms: Sequence[str]) -> dict[str, str]:
    """
    Read families from a file, or cut them out of the organisms' names.

    Args:
        given: A path that ends in .json (`{"organism": "family"}` or `{"family": ["organism"]}`),
            .csv or .tsv (columns `organism` and `family`); or a regular expression, whose first
            group, or whole match, in an organism's name is the name of its family.
        organisms: Names of all organisms; a file may name more. Those without a family are left
            out.

    Raises:
        ConfigError: The file cannot be read, or the expression is malformed or fits no organism.
    """
    path = Path(given)
    if path.suffix.lower() in _FILES:
        named = _read_file(path)
        return {name: named[name] for name in organisms if name in named}
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise ConfigError(
            f"--families {given!r} is no regular expression: {error}",
            mend="write one such as '^[^-]+', or name a .json, .csv or .tsv file",
        ) from error
    found = {name: match for name in organisms if (match := pattern.search(name))}
    if not found:
        raise ConfigError(
            f"--families {given!r} fits no organism of {', '.join(organisms)}",
            mend="write an expression that fits the start of their names, such as '^[^-]+'",
        )
    return {name: match[1] if pattern.groups else match[0] for name, match in found.items()}


def _read_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
        named = _read_json(text) if path.suffix.lower() == ".json" else _read_csv(path, text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} does not say which organism is of which family: {error}",
            mend='write {"organism": "family", …} as JSON, or columns organism and family as CSV',
        ) from error
    if not named:
        raise ConfigError(f"{path} names no organism")
    return named


def _read_csv(path: Path, text: str) -> dict[str, str]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    for row in rows:
        if not row["organism"] or not row["family"]:
            raise ValueError("a row lacks its organism or its family")
    return {row["organism"]: row["family"] for row in rows}


def _read_json(text: str) -> dict[str, str]:
    given: Any = json.loads(text)
    if not isinstance(given, Mapping):
        raise TypeError("it is no JSON object")
    named: dict[str, str] = {}
    for key, value in given.items():
        if isinstance(value, list):
            named |= {str(organism): key for organism in value}
        elif isinstance(value, str):
            named[key] = value
        else:
            raise TypeError(f"{key!r} has neither a family nor a list of organisms")
    return named
