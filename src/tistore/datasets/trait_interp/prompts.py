"""
Prompt sets of trait-interp: the common forms, and the few keys only these have.

`paragraphs` are prompts with `full_text`. What is known of a prompt beside its text (the bias it
invites, its domain, its split, its row in a data set) becomes tags, `key:value`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tistore.datasets.prompt_sets import PromptSet
from tistore.datasets.trait_interp.documents import Node, read_document
from tistore.datasets.trait_interp.natural_order import natural_key
from tistore.schemas.digest import DIGEST_LENGTH
from tistore.schemas.prompt import Prompt

_LISTS = ("prompts", "questions", "paragraphs")
_TEXTS = ("text", "prompt", "question", "full_text")
_TAGS = ("bias_id", "bias_description", "domain", "split", "dataset_idx")


def find_prompt_sets(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of each set below `datasets/inference`, in natural order."""
    paths = [path for path in folder.rglob("*.json") if path.is_file()]
    named = [(path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths]
    yield from sorted(named, key=lambda pair: natural_key(pair[0]))


def read_prompts(path: Path, name: str) -> PromptSet:
    """
    Read a prompt set.

    Args:
        path: A JSON file: a list of prompts, or an object with `prompts`, `questions` or
            `paragraphs`.
        name: What experiments call the set; may contain "/".

    Raises:
        DatasetError: The file is malformed or empty, a prompt has no text, or an id occurs twice.
    """
    node = read_document(path)
    is_list = isinstance(node.value, list)
    entries = node if is_list else next((n for key in _LISTS if (n := node.get(key))), None)
    if entries is None:
        node.fail(f"no prompts here: none of {', '.join(_LISTS)}")
    system_prompt = None if is_list else node.get_text("system_prompt")
    prompts = tuple(
        _read_prompt(entry, name, index, system_prompt)
        for index, entry in enumerate(entries.elements())
    )
    _check(entries, prompts)
    return PromptSet(
        name=name,
        description=None if is_list else node.get_text("description"),
        prompts=prompts,
        source=str(path),
        source_hash=hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST_LENGTH],
    )


def _read_prompt(entry: Node, name: str, index: int, system_prompt: str | None) -> Prompt:
    if isinstance(entry.value, str):
        entry = Node(entry.path, entry.place, {"text": entry.value})
    text = next((found.text() for key in _TEXTS if (found := entry.get(key))), "")
    if not text.strip():
        entry.fail(f"no text here: none of {', '.join(_TEXTS)}")
    identity = entry.get("id")
    return Prompt(
        prompt_set=name,
        prompt_id=identity.identity() if identity else str(index + 1),
        text=text,
        system_prompt=entry.get_text("system_prompt") or system_prompt,
        note=entry.get_text("note"),
        tags=tuple(tag for key in _TAGS for tag in _read_tag(entry, key)),
    )


def _read_tag(entry: Node, key: str) -> Iterator[str]:
    if found := entry.get(key):
        value = found.value if isinstance(found.value, str) else str(found.integer())
        yield f"{key}:{value}"


def _check(entries: Node, prompts: tuple[Prompt, ...]) -> None:
    if not prompts:
        entries.fail("the set holds no prompts", "leave it out")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.prompt_id in seen:
            entries.fail(f"two prompts have the id {prompt.prompt_id!r}", "give each its own")
        seen.add(prompt.prompt_id)
