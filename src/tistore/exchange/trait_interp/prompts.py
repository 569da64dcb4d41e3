"""Prompts: from the data sets where they are, else from the responses to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tistore.datasets.prompt_sets import PromptSet
from tistore.datasets.trait_interp.prompts import find_prompt_sets, read_prompts
from tistore.datasets.trait_interp.responses import Response
from tistore.schemas.prompt import Prompt

_DATA_SETS = Path("datasets") / "inference"
_SOURCE_TAGS = ("type", "environment", "run", "sample_idx", "classification", "truncated")


def find_data_sets(experiment: Path) -> Path | None:
    """Find the folder of prompt sets: `datasets/inference`, beside `experiments` or above it."""
    for folder in experiment.parents[:4]:
        if (folder / _DATA_SETS).is_dir():
            return folder / _DATA_SETS
    return None


def list_sets(folder: Path, wanted: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """List the files of the wanted sets."""
    names = set(wanted)
    yield from ((name, path) for name, path in find_prompt_sets(folder) if name in names)


def lay_out_set(found: PromptSet, source: str) -> dict[str, Any]:
    """Lay a set out as a row of `prompt_sets`, its source by the path the import calls it."""
    return found.to_row() | {"source": source}


def read_set(path: Path, name: str) -> PromptSet:
    """
    Read a prompt set.

    Raises:
        DatasetError: The file is malformed.
    """
    return read_prompts(path, name)


def describe_prompt(
    prompt_set: str, prompt_id: str, response: Response | None, text: str | None
) -> Prompt | None:
    """
    Make a prompt of what a response says it was asked: its text, the chat template filled in.

    Args:
        prompt_set: The set.
        prompt_id: Its id in the set.
        response: The response's JSON.
        text: The prompt's text in the raw file, for want of a JSON.

    Returns:
        None where neither has a text.
    """
    spoken = (response.prompt_text if response else "") or text or ""
    if not spoken.strip():
        return None
    return Prompt(
        prompt_set,
        prompt_id,
        spoken,
        system_prompt=response.system_prompt if response else None,
        note=response.note if response else None,
        tags=(*response.tags, *_tag(response.source)) if response else (),
    )


def _tag(source: Mapping[str, Any]) -> Iterator[str]:
    """Keep where a conversation came from as tags, `key:value`."""
    for key in _SOURCE_TAGS:
        if (value := source.get(key)) is not None:
            yield f"{key}:{str(value).lower() if isinstance(value, bool) else value}"
