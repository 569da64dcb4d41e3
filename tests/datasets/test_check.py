"""`check_dataset` finds what was planted, and nothing in a folder that is as it should be."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tistore.datasets.check import Problem, check_dataset
from tistore.datasets.inventory import Dataset, find_datasets

VOCABULARY = [f"word{number}" for number in range(400)]


def write_lines(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(VOCABULARY, k=15)) for _ in range(n)]


def write_trait(root: Path, positive: list[str], negative: list[str], **files: str) -> Dataset:
    folder = root / "tone" / "curt"
    folder.mkdir(parents=True)
    (folder / "positive.txt").write_text("\n".join(positive))
    (folder / "negative.txt").write_text("\n".join(negative))
    texts = {"definition.txt": "HIGH: brief.", "steering.json": '{"questions": ["How?"]}'}
    for name, text in {**texts, **files}.items():
        (folder / name).write_text(text)
    (dataset,) = find_datasets(str(folder))
    return dataset


def write_set(root: Path, prompts: list[Any]) -> Dataset:
    path = root / "mine.json"
    path.write_text(json.dumps({"prompts": prompts}))
    (dataset,) = find_datasets(str(path))
    return dataset


def list_found(dataset: Dataset) -> list[tuple[str, str, str | None]]:
    return [(one.level, one.check, one.where) for one in check_dataset(dataset)]


def test_a_trait_as_it_should_be_has_no_problem(tmp_path):
    assert check_dataset(write_trait(tmp_path, write_lines(20, 0), write_lines(20, 1))) == []


def test_a_line_that_comes_twice_is_an_error_and_one_that_nearly_does_a_warning(tmp_path):
    positive = write_lines(20, 0)
    positive[7] = positive[2].upper() + "."
    positive[9] = positive[4].rsplit(" ", 1)[0] + " otherwise"

    found = list_found(write_trait(tmp_path, positive, write_lines(20, 1)))

    assert found == [
        ("error", "duplicate", "positive#8"),
        ("warning", "near duplicate", "positive#10"),
    ]


def test_a_line_on_both_sides_is_an_error_more_so_in_one_pair(tmp_path):
    positive, negative = write_lines(20, 0), write_lines(20, 1)
    negative[3] = positive[3]
    negative[5] = positive[11]

    problems = check_dataset(write_trait(tmp_path, positive, negative))

    assert problems == [
        Problem("error", "tone/curt", "identical pair", "positive#4", "both sides say the same"),
        Problem(
            "error", "tone/curt", "in both sides", "positive#12", "says the same as negative#6"
        ),
    ]


def test_sides_of_different_length_and_few_scenarios_are_warnings(tmp_path):
    found = list_found(write_trait(tmp_path, write_lines(12, 0), write_lines(9, 1)))

    assert found == [("warning", "few scenarios", "negative"), ("warning", "uneven sides", None)]


def test_what_gives_the_sides_away_is_a_warning(tmp_path):
    positive = [f"{line} and so I" for line in write_lines(20, 0)]

    problems = check_dataset(write_trait(tmp_path, positive, write_lines(20, 1)))

    assert {one.level for one in problems} == {"warning"}
    assert [one.check for one in problems] == [
        "telling word", "telling word", "telling word", "telling ending", "telling length",
    ]  # fmt: skip
    assert "'i' ends 100% of the positive and 0% of the negative" in problems[3].message
    assert "the positive side is longer" in problems[4].message


def test_a_trait_may_do_without_definition_and_questions_but_one_is_told(tmp_path):
    dataset = write_trait(tmp_path, write_lines(20, 0), write_lines(20, 1))
    (dataset.path / "definition.txt").unlink()
    (dataset.path / "steering.json").unlink()

    assert list_found(dataset) == [
        ("warning", "no definition", None),
        ("warning", "no questions", None),
    ]


def test_every_part_that_cannot_be_read_is_listed_and_the_rest_is_checked(tmp_path):
    dataset = write_trait(
        tmp_path, write_lines(3, 0), write_lines(3, 1), **{"steering.json": '{"questions": []}'}
    )
    (dataset.path / "negative.txt").unlink()
    (dataset.path / "definition.txt").write_bytes(b"\xff\xfe\xfa")

    assert list_found(dataset) == [
        ("error", "unreadable", "negative"),
        ("warning", "few scenarios", "positive"),
        ("error", "unreadable", "definition"),
        ("error", "unreadable", "steering"),
    ]


def test_a_beginning_that_pulls_the_other_way_makes_no_questions_alike(tmp_path):
    prefix = "Answer me in one word and leave out everything that is not needed, please."
    questions = [f"{prefix} {asked}" for asked in ("How?", "Why so?", "Where to, then?")]
    lone = {"questions": questions}
    positive, negative = write_lines(20, 0), write_lines(20, 1)
    told = {**lone, "adversarial_prefix": prefix}
    (tmp_path / "a").mkdir()

    assert (
        list_found(
            write_trait(tmp_path / "a", positive, negative, **{"steering.json": json.dumps(told)})
        )
        == []
    )
    assert list_found(
        write_trait(tmp_path, positive, negative, **{"steering.json": json.dumps(lone)})
    )  # fmt: skip


def test_chats_are_compared_by_all_of_their_words(tmp_path):
    dataset = write_trait(tmp_path, write_lines(20, 0), write_lines(20, 1))
    (dataset.path / "positive.txt").unlink()
    lines = [{"prompt": "Well?", "response": answer} for answer in write_lines(20, 2)]
    (dataset.path / "positive.jsonl").write_text("\n".join(map(json.dumps, lines)))

    found = list_found(dataset)

    assert ("error", "duplicate", "positive#2") not in found
    assert ("warning", "telling word", None) in found  # "Well?"


def test_ids_and_texts_that_repeat_in_a_prompt_set_are_listed(tmp_path):
    asked = ["Why is the sky blue at noon?", "How do tides work here?", "Who built this bridge?"]
    prompts = [{"id": 1, "text": asked[0]}, {"id": 2, "text": asked[1]},
               {"id": 1, "text": asked[2]}, {"id": 3, "text": asked[1].lower()},
               {"id": 4, "text": "And why is the sky blue at noon?"}]  # fmt: skip

    assert list_found(write_set(tmp_path, prompts)) == [
        ("error", "repeated id", "#1"),
        ("warning", "duplicate", "#3"),
        ("warning", "near duplicate", "#4"),
    ]


def test_conversations_that_end_alike_are_not_the_same(tmp_path):
    opened = [{"role": "user", "content": "Tell me about the tides."},
              {"role": "assistant", "content": "They come and go with the moon."}]  # fmt: skip
    asked = {"role": "user", "content": "Why?"}

    assert list_found(
        write_set(tmp_path, ["Why?", {"messages": [*opened, asked]}, {"id": "x", "text": "Where?"}])
    ) == []  # fmt: skip


@pytest.mark.parametrize("text", ["{oops", "[]", '[{"note": "no text"}]', "3"])
def test_a_prompt_set_that_cannot_be_read_is_an_error(tmp_path, text):
    (tmp_path / "mine.json").write_text(text)
    (dataset,) = find_datasets(str(tmp_path / "mine.json"))

    assert list_found(dataset) == [("error", "unreadable", None)]
