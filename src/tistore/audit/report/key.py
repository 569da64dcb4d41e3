"""The key of a blind report: who is who, apart from the report."""

from __future__ import annotations

import json
from pathlib import Path

from tistore.audit.report.names import Names
from tistore.errors import ConfigError, StoreError


def check_key(key: Path | None, folder: Path, is_blind: bool) -> None:
    """
    Check where a key is to go, before anything is made.

    Raises:
        ConfigError: There is nothing to be told, or it would lie beside the report.
    """
    if key is None:
        return
    if not is_blind:
        raise ConfigError("a key tells nothing of a report that shows names", mend="add --blind")
    if key.resolve().parent == folder.resolve():
        raise ConfigError(
            f"{key} would lie beside the report, where its reader finds it",
            mend="write the key to another folder",
        )


def write_key(names: Names, path: Path) -> Path:
    """
    Write who is who, as JSON: pseudonym to name.

    Raises:
        StoreError: The file cannot be written.
    """
    known = {
        "organisms": {called: name for name, called in names.organisms.items()},
        "notes": {called: name for name, called in names.notes.items()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the key cannot be written to {path}: {error.strerror}") from error
    return path
