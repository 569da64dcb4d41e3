"""Responses to scenarios and to steering questions: lists without tokens, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tistore.datasets.trait_interp.documents import (
    Node,
    decode_text,
    read_content,
    read_document,
)
from tistore.errors import DatasetError

_PROMPT_KEYS = ("prompt", "question")
_RESPONSE_KEYS = ("response", "answer")


@dataclass(frozen=True, slots=True)
class ScenarioResponse:
    """
    An answer to a scenario or a question.

    Attributes:
        index: Place in the file, from 0: annotations of such files point here.
        prompt: What was asked.
        response: What was said; None where generation failed.
        system_prompt: Instruction given before it, if any.
        scenario_index: Scenario of the trait that was asked, in older files.
        rollout_index: Which of several answers to it, in older files.
        full_text: Prompt and response as one, in older files.
        trait_score: A judge's score of the trait, 0 to 100, for a steered model.
        coherence_score: A judge's score of coherence, 0 to 100, for a steered model.
    """

    index: int
    prompt: str
    response: str | None
    system_prompt: str | None = None
    scenario_index: int | None = None
    rollout_index: int | None = None
    full_text: str | None = None
    trait_score: float | None = None
    coherence_score: float | None = None


def read_scenario_responses(path: Path) -> tuple[ScenarioResponse, ...]:
    """
    Read a list of responses: `pos.json`, `neg.json`, their CSV, or those of a steered model.

    Raises:
        DatasetError: The file is malformed or holds no responses, or an entry has no prompt.
    """
    nodes = _read_rows(path) if path.suffix == ".csv" else read_document(path).elements()
    responses = tuple(_read_entry(index, node) for index, node in enumerate(nodes))
    if not responses:
        raise DatasetError(f"{path} holds no responses", mend="leave it out")
    return responses


def _read_rows(path: Path) -> Iterator[Node]:
    """Read CSV as the objects that JSON would hold, numbers in their columns converted."""
    text = decode_text(path, read_content(path))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                Node(path, place, None).fail("the row has not as many cells as the header")
            kept = {key: cell for key, cell in row.items() if cell or key in _RESPONSE_KEYS}
            cells = {key: _convert(key, cell) for key, cell in kept.items()}
            yield Node(path, place, cells)
    except csv.Error as error:
        raise DatasetError(
            f"{path} is not valid CSV at line {reader.line_num}: {error}", mend="mend the file"
        ) from error


def _convert(key: str, cell: str) -> str | int | float:
    """Read a cell as the type its column has in JSON; text where it is not of that type."""
    kinds = {"scenario_idx": int, "rollout_idx": int, "trait_score": float}
    kind = kinds.get(key, float if key == "coherence_score" else str)
    try:
        converted: str | int | float = kind(cell)
    except ValueError:
        return cell
    return converted


def _read_entry(index: int, node: Node) -> ScenarioResponse:
    prompt = _first(node, _PROMPT_KEYS)
    if prompt is None:
        node.fail(f"no prompt here: none of {', '.join(_PROMPT_KEYS)}")
    response = _first(node, _RESPONSE_KEYS)
    return ScenarioResponse(
        index=index,
        prompt=prompt.text(),
        response=response.text() if response else None,
        system_prompt=node.get_text("system_prompt"),
        scenario_index=node.get_integer("scenario_idx"),
        rollout_index=node.get_integer("rollout_idx"),
        full_text=node.get_text("full_text"),
        trait_score=node.get_number("trait_score"),
        coherence_score=node.get_number("coherence_score"),
    )


def _first(node: Node, keys: tuple[str, ...]) -> Node | None:
    return next((found for key in keys if (found := node.get(key))), None)
