"""What is wrong with a configuration, in the words of its file: table, key, what would work."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tistore.errors import ConfigError, nearest

Location = Sequence[int | str]


def explain_mistake(source: str, record: type[BaseModel], error: ValidationError) -> ConfigError:
    """
    Name file, table and key of the first mistake.

    Args:
        source: What to call the configuration.
        record: What it was read into.
        error: What pydantic found.
    """
    mistakes = error.errors(include_url=False)
    # A misspelt key also leaves its right spelling missing: the cause goes first.
    mistake = min(mistakes, key=lambda found: found["type"] != "extra_forbidden")
    tables, key = _split_location(mistake["loc"])
    where = _name_table(tables)
    if mistake["type"] == "extra_forbidden":
        mend = _find_home(record, key) or nearest(key, _known_keys(record, tables))
        return ConfigError(f"{source}: unknown key {key!r} in {where}", mend=mend)
    if mistake["type"] == "missing":
        return ConfigError(f"{source}: {where} lacks {key!r}", mend=f"add {key} to {where}")
    return ConfigError(
        f"{source}: {key} in {where} is {mistake['input']!r}: {mistake['msg'].lower()}",
        mend=f"mend {key} in {where}",
    )


def _split_location(location: Location) -> tuple[Location, str]:
    """Split into the tables on the way, and the key: the last name that the file holds."""
    # Names of types, in whose place pydantic tried the value, also stand in a location.
    parts = [part for part in location if isinstance(part, int) or part.isidentifier()]
    parts = [part for part in parts if part not in ("int", "str")]
    names = [index for index, part in enumerate(parts) if isinstance(part, str)]
    last = names[-1] if names else 0
    return parts[:last], str(parts[last]) if names else "config"


def _name_table(tables: Location) -> str:
    """Write a table as TOML does, with its number where there are several."""
    names = ".".join(part for part in tables if isinstance(part, str))
    numbers = [part + 1 for part in tables if isinstance(part, int)]
    if not names:
        return "the top level"
    return f"[[{names}]] number {numbers[0]}" if numbers else f"[{names}]"


def _known_keys(record: type[BaseModel], tables: Location) -> list[str]:
    for table in tables:
        if isinstance(table, str):
            record = _find_record(record.model_fields[table].annotation) or record
    return list(record.model_fields)


def _find_home(record: type[BaseModel], key: str) -> str | None:
    """Say which table knows a key that stands in another one, where exactly one does."""
    tables = {
        table: found
        for table, field in record.model_fields.items()
        if (found := _find_record(field.annotation)) and key in found.model_fields
    }
    return f"it belongs in [{next(iter(tables))}]" if len(tables) == 1 else None


def _find_record(annotation: Any) -> type[BaseModel] | None:
    """Find the record in `Record`, `Record | None` or `tuple[Record, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, list, Union, UnionType):
        return next((found for part in get_args(annotation) if (found := _find_record(part))), None)
    return None
