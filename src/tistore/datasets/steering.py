"""What a trait is steered on: questions in which it may show, read from `steering.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tistore.datasets.prompt_sets import parse_json, read_bytes
from tistore.errors import DatasetError

STEERING_FILE = "steering.json"

Direction = Literal["positive", "negative"]


@dataclass(frozen=True, slots=True)
class SteeringQuestions:
    """
    How a trait's vectors are tried by adding them to the model.

    Attributes:
        questions: What the steered model is asked; at least one, in file order.
        direction: Whether the trait is to be brought about ("positive") or held down ("negative").
        eval_prompt: What a judge is asked about an answer; None for the trait's definition.
        adversarial_prefix: Words that pull against `direction`. Some files have them at the head
            of each question already, so they are for the reader to know, not to add.
    """

    questions: tuple[str, ...]
    direction: Direction = "positive"
    eval_prompt: str | None = None
    adversarial_prefix: str | None = None


def read_steering(folder: Path) -> SteeringQuestions | None:
    """
    Read a trait folder's steering questions.

    Returns:
        None where the folder has no `steering.json`.

    Raises:
        DatasetError: The file is malformed, or holds no questions.
    """
    path = folder / STEERING_FILE
    if not path.exists():
        return None
    fields = parse_json(path, read_bytes(path))
    if not isinstance(fields, dict):
        raise DatasetError(f"{path} holds no object", mend='write {"questions": ["…"]}')
    return SteeringQuestions(
        questions=_read_questions(path, fields.get("questions")),
        direction=_read_direction(path, fields.get("direction")),
        eval_prompt=_read_text(path, fields, "eval_prompt"),
        adversarial_prefix=_read_text(path, fields, "adversarial_prefix"),
    )


def _read_questions(path: Path, entries: Any) -> tuple[str, ...]:
    if not isinstance(entries, list) or not entries:
        raise DatasetError(f"{path} holds no questions", mend='write {"questions": ["…"]}')
    return tuple(_read_question(path, index, entry) for index, entry in enumerate(entries))


def _read_question(path: Path, index: int, entry: Any) -> str:
    question = entry.get("question") if isinstance(entry, dict) else entry
    if not isinstance(question, str) or not question.strip():
        raise DatasetError(
            f"{path}: question at index {index} has no text",
            mend='write a text, or {"question": "…"}',
        )
    return question


def _read_direction(path: Path, value: Any) -> Direction:
    # Left out or null, as most files have it, is the trait itself.
    known = get_args(Direction)
    if value is not None and value not in known:
        raise DatasetError(
            f"{path}: direction is {value!r}", mend=f"write {' or '.join(map(repr, known))}"
        )
    return value or "positive"


def _read_text(path: Path, fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise DatasetError(f"{path}: {key} is not text", mend="write a text, or null")
    return value or None
