"""
The data sets that come with tistore, by name.

A shipped name, such as `alignment/deception` or `audit/discovery`, stands wherever a path may
stand. A path that exists goes before it; `tistore:audit/discovery` means what is shipped, whatever
lies on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tistore.datasets.library import PROMPT_SETS, TRAITS
from tistore.datasets.scenarios import list_traits
from tistore.errors import DatasetError, nearest

SCHEME = "tistore:"


def list_shipped_traits() -> list[str]:
    """List the traits that ship, as `category/name`, in name order."""
    return sorted(_traits())


def list_shipped_prompt_sets() -> list[str]:
    """List the prompt sets that ship, in name order."""
    return sorted(_prompt_sets())


def shipped_name(text: str) -> str | None:
    """Return the name that follows `tistore:`; None for a text that does not begin so."""
    return text.removeprefix(SCHEME).rstrip("/") if text.startswith(SCHEME) else None


def find_trait(name: str) -> Path:
    """
    Find a trait that ships.

    Args:
        name: `category/name`, with or without `tistore:`.

    Returns:
        Its folder.

    Raises:
        DatasetError: None is called so; the nearest is named.
    """
    return _find("trait", name, _traits())


def find_prompt_set(name: str) -> Path:
    """
    Find a prompt set that ships.

    Args:
        name: Such as `audit/discovery`, with or without `tistore:`.

    Returns:
        Its file.

    Raises:
        DatasetError: None is called so; the nearest is named.
    """
    return _find("prompt set", name, _prompt_sets())


def resolve_trait(text: str) -> Path:
    """
    Find what a user names as a trait: a path, or a trait or category that ships.

    Args:
        text: A path that exists, `category/name`, or `category`.

    Returns:
        A trait folder, or a folder of them, for `scenarios.list_traits`.

    Raises:
        DatasetError: No such path exists, and nothing that ships is called so.
    """
    path = Path(text).expanduser()
    if shipped_name(text) is None and path.exists():
        return path
    traits = _traits()
    categories = {name.split("/")[0]: folder.parent for name, folder in traits.items()}
    return _find("trait", text, {**categories, **traits})


def _traits() -> dict[str, Path]:
    return {f"{folder.parent.name}/{folder.name}": folder for folder in list_traits(TRAITS)}


def _prompt_sets() -> dict[str, Path]:
    files = sorted(PROMPT_SETS.rglob("*.json"))
    return {file.relative_to(PROMPT_SETS).with_suffix("").as_posix(): file for file in files}


def _find(kind: str, given: str, known: Mapping[str, Path]) -> Path:
    """Look a name up, trailing slash or not."""
    name = given.removeprefix(SCHEME).rstrip("/")
    if name in known:
        return known[name]
    where = "" if shipped_name(given) is not None else f"no path {given}, and "
    raise DatasetError(f"{where}no {kind} that ships is called {name!r}", mend=suggest(name, known))


def suggest(name: str, known: Mapping[str, object]) -> str:
    """Phrase which name may have been meant: one that ends in what was typed goes first."""
    ending = [one for one in sorted(known) if one.rsplit("/", 1)[-1] == name]
    return f"did you mean {ending[0]!r}?" if len(ending) == 1 else nearest(name, known)
