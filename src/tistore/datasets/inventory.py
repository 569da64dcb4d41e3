"""Data sets that ship, or that lie below a folder: traits and prompt sets, found and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tistore.datasets.prompt_sets import name_prompt_set, read_prompt_set
from tistore.datasets.scenarios import list_traits, read_trait
from tistore.datasets.shipped import (
    find_prompt_set,
    find_trait,
    list_shipped_prompt_sets,
    list_shipped_traits,
    shipped_name,
    suggest,
)
from tistore.datasets.steering import read_steering
from tistore.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Dataset:
    """
    A trait or a prompt set, by name and place.

    Attributes:
        kind: Which of the two.
        name: `category/name` of a trait; a prompt set's name, which may contain "/".
        path: A trait's folder, a prompt set's file.
    """

    kind: Literal["trait", "prompt_set"]
    name: str
    path: Path


def list_shipped() -> list[Dataset]:
    """List what comes with tistore: traits, then prompt sets."""
    traits = [Dataset("trait", name, find_trait(name)) for name in list_shipped_traits()]
    sets = list_shipped_prompt_sets()
    return [*traits, *(Dataset("prompt_set", name, find_prompt_set(name)) for name in sets)]


def list_below(folder: Path) -> list[Dataset]:
    """
    List what lies below a folder, the folder itself included: traits, then prompt sets.

    Every `.json` and `.jsonl` file outside trait folders is taken for a prompt set.
    """
    traits = list_traits(folder)
    files = sorted(file for file in folder.rglob("*.json*") if file.suffix in (".json", ".jsonl"))
    sets = [file for file in files if not set(file.parents) & set(traits)]
    return [_describe_trait(path) for path in traits] + [_describe_set(path) for path in sets]


def find_datasets(text: str) -> list[Dataset]:
    """
    Find what a user names.

    Args:
        text: A path, or a name that ships: a trait, a prompt set, or the folder of some of them.

    Returns:
        At least one.

    Raises:
        DatasetError: Nothing is there, nothing is called so, or the folder holds no data set.
    """
    path = Path(text).expanduser()
    name = shipped_name(text)
    if name is None and path.is_file():
        return [_describe_set(path)]
    if name is None and path.exists():
        return _require_some(path)
    wanted = (text if name is None else name).rstrip("/")
    shipped = list_shipped()
    found = [one for one in shipped if one.name == wanted or one.name.startswith(f"{wanted}/")]
    if not found:
        where = f"no path {text}, and " if name is None else ""
        raise DatasetError(
            f"{where}no trait or prompt set that ships is called {wanted!r}",
            mend=suggest(wanted, {one.name: one for one in shipped}),
        )
    return found


def _require_some(folder: Path) -> list[Dataset]:
    found = list_below(folder)
    if not found:
        raise DatasetError(
            f"{folder} holds neither a trait folder nor a prompt set",
            mend="a trait folder holds positive.txt and negative.txt, a prompt set is .json(l)",
        )
    return found


def _describe_trait(folder: Path) -> Dataset:
    resolved = folder.resolve()
    return Dataset("trait", f"{resolved.parent.name}/{resolved.name}", folder)


def _describe_set(file: Path) -> Dataset:
    return Dataset("prompt_set", name_prompt_set(file), file)


def count_dataset(dataset: Dataset) -> dict[str, Any]:
    """
    Count what a data set holds.

    Returns:
        A flat row with the same keys for every kind; a trait has no `prompts`, a prompt set no
        sides. `notes` and `tags` count different ones.

    Raises:
        DatasetError: It cannot be read.
    """
    counts: dict[str, Any] = {
        "kind": dataset.kind,
        "name": dataset.name,
        "positive": None,
        "negative": None,
        "questions": None,
        "definition": None,
        "prompts": None,
        "notes": None,
        "tags": None,
    }
    counted = _count_trait if dataset.kind == "trait" else _count_prompt_set
    return {**counts, **counted(dataset.path), "path": str(dataset.path)}


def _count_trait(folder: Path) -> dict[str, Any]:
    trait, steering = read_trait(folder), read_steering(folder)
    return {
        "positive": len(trait.positive),
        "negative": len(trait.negative),
        "questions": len(steering.questions) if steering else 0,
        "definition": trait.definition is not None,
    }


def _count_prompt_set(file: Path) -> dict[str, Any]:
    prompts = read_prompt_set(file).prompts
    return {
        "prompts": len(prompts),
        "notes": len({prompt.note for prompt in prompts if prompt.note}),
        "tags": len({tag for prompt in prompts for tag in prompt.tags}),
    }
