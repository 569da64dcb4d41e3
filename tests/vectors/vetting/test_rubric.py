"""What a judge is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.errors import ConfigError, DatasetError
from tistore.vectors.vetting.rubric import Rubric, read_rubric
from vetting_store import TRAIT, write_trait

RUBRIC = Rubric(TRAIT, "Short {braces} and all.")


def write_steering(folder, eval_prompt):
    (folder / "steering.json").write_text(
        json.dumps({"questions": ["Why?"], "eval_prompt": eval_prompt})
    )


def test_a_rubric_is_made_of_the_definition(tmp_path):
    folder = write_trait(tmp_path)
    write_steering(folder, "Is it rude?")

    rubric = read_rubric(folder)

    assert (rubric.trait, rubric.source) == (TRAIT, "definition")
    assert rubric.definition == "Short to the point of rudeness."


def test_without_a_definition_it_is_made_of_the_steering_question(tmp_path):
    folder = write_trait(tmp_path)
    (folder / "definition.txt").unlink()
    write_steering(folder, "Rate {answer} to {question}: 0 to 100.")

    rubric = read_rubric(folder, words=2)

    assert rubric.source == "eval_prompt"
    asked = rubric.ask("why {answer}?", "so {question} it is")
    assert asked == [{"role": "user", "content": "Rate so {question} to why {answer}?: 0 to 100."}]
    assert rubric.to_row()["instructions"] is None


def test_a_trait_nobody_has_described_cannot_be_judged(tmp_path):
    folder = write_trait(tmp_path)
    (folder / "definition.txt").unlink()

    with pytest.raises(DatasetError, match="no definition.txt") as caught:
        read_rubric(folder)

    assert "definition.txt" in caught.value.mend


def test_everything_the_judge_is_told_is_in_the_hash():
    """Scores under another wording are scores of another kind."""
    others = [
        replace(RUBRIC, trait="tone/other"),
        replace(RUBRIC, definition="Other."),
        replace(RUBRIC, words=17),
        replace(RUBRIC, words=None),
    ]

    hashes = {RUBRIC.rubric_hash, *(one.rubric_hash for one in others)}
    assert len(hashes) == 5
    assert Rubric(TRAIT, "Short {braces} and all.").rubric_hash == RUBRIC.rubric_hash


def test_the_hash_of_a_wording_never_changes():
    """A change here means: raise the version, since all stored scores are asked for anew."""
    assert RUBRIC.rubric_hash == "ee1d6c8c73de0963531d702cb0db7b1f"


def test_the_row_holds_every_word_the_judge_is_told():
    row = RUBRIC.to_row()

    system, user = RUBRIC.ask("P", "R")
    assert row["instructions"] == system["content"]
    assert user["content"] == row["question"].replace("{prompt}", "P").replace("{response}", "R")
    again = RUBRIC.ask_again([system, user], "well")
    assert again[-1]["content"] == row["reminder"]
    assert "Short {braces} and all." in row["instructions"]


@given(text=st.text(alphabet=" \n\tab.é", max_size=60), words=st.integers(1, 8))
def test_the_first_words_are_shown_as_they_stand(text, words):
    """Oracle: str.split."""
    shown = replace(RUBRIC, words=words).cut(text)

    assert shown.split() == text.split()[:words]
    assert shown in text
    assert replace(RUBRIC, words=None).cut(text) == text.strip()


def test_no_words_are_nothing_to_judge():
    with pytest.raises(ConfigError):
        replace(RUBRIC, words=0)
