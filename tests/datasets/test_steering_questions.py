"""`steering.json` comes in as people keep it, or is refused by file and place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tistore.datasets.steering import SteeringQuestions, read_steering
from tistore.errors import DatasetError


def write(folder: Path, value: Any) -> Path:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "steering.json").write_text(text)
    return folder


def test_questions_are_texts_or_objects(tmp_path):
    folder = write(tmp_path, {"questions": ["How?", {"question": "Why?", "id": 3}]})

    assert read_steering(folder) == SteeringQuestions(("How?", "Why?"))


def test_everything_else_is_kept_as_it_stands(tmp_path):
    fields = {
        "questions": ["Be blunt. How?"],
        "direction": "negative",
        "eval_prompt": "Is it kind?",
        "adversarial_prefix": "Be blunt.",
    }

    read = read_steering(write(tmp_path, fields))

    assert read == SteeringQuestions(("Be blunt. How?",), "negative", "Is it kind?", "Be blunt.")


def test_null_is_as_good_as_left_out(tmp_path):
    fields = {"questions": ["How?"], "direction": None, "eval_prompt": None}

    assert read_steering(write(tmp_path, fields)) == SteeringQuestions(("How?",))


def test_a_folder_without_the_file_has_no_questions(tmp_path):
    assert read_steering(tmp_path) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{oops", "line 1"),
        (["How?"], "holds no object"),
        ({}, "holds no questions"),
        ({"questions": []}, "holds no questions"),
        ({"questions": "How?"}, "holds no questions"),
        ({"questions": ["How?", " "]}, "question at index 1"),
        ({"questions": ["How?", {"text": "Why?"}]}, "question at index 1"),
        ({"questions": ["How?"], "direction": "up"}, "direction is 'up'"),
        ({"questions": ["How?"], "direction": ["positive"]}, "direction is ['positive']"),
        ({"questions": ["How?"], "eval_prompt": 3}, "eval_prompt is not text"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, value, expected):
    with pytest.raises(DatasetError) as caught:
        read_steering(write(tmp_path, value))

    assert expected in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert caught.value.mend
