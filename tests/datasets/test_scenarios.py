"""Trait folders come in as two sides, or are refused by file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tistore.datasets.scenarios import Scenario, list_traits, read_trait
from tistore.errors import DatasetError


def write_trait(root: Path, **files: str) -> Path:
    folder = root / "emotion" / "hedging"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_text_files_hold_one_scenario_a_line(tmp_path: Path):
    folder = write_trait(
        tmp_path,
        positive__txt="Perhaps it could\n\n  It may be \n",
        negative__txt="It is\r\nIt was",
        definition__txt="HIGH: hedges.\nLOW: does not.\n",
    )

    trait = read_trait(folder)

    assert trait.trait == "emotion/hedging"
    assert trait.positive == (Scenario("Perhaps it could"), Scenario("It may be"))
    assert trait.negative == (Scenario("It is"), Scenario("It was"))
    assert trait.definition == "HIGH: hedges.\nLOW: does not."


def test_json_lines_may_fix_response_and_system_prompt(tmp_path: Path):
    line = '{"prompt": "Is it?", "response": "Perhaps.", "system_prompt": "Hedge."}\n'
    folder = write_trait(tmp_path, positive__jsonl=line, negative__txt="It is")

    trait = read_trait(folder)

    assert trait.positive == (Scenario("Is it?", "Perhaps.", "Hedge."),)
    assert trait.definition is None


def test_trait_folders_are_found_below_a_folder(tmp_path: Path):
    folder = write_trait(tmp_path, positive__txt="a", negative__txt="b")

    assert list_traits(tmp_path) == [folder]
    assert list_traits(folder) == [folder]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"positive__txt": "a"}, "neither negative.txt nor negative.jsonl"),
        ({"positive__txt": "a", "positive__jsonl": "{}"}, "both positive.txt and positive.jsonl"),
        ({"positive__txt": "\n \n", "negative__txt": "b"}, "positive.txt holds no scenarios"),
        ({"positive__jsonl": '{"text": "a"}', "negative__txt": "b"}, "index 0 has no prompt"),
        ({"positive__jsonl": '{"prompt": "a", "response": 3}'}, "index 0 has a field"),
        ({"positive__jsonl": '{"prompt": '}, "line 1"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    tmp_path: Path, files: dict[str, str], expected: str
):
    folder = write_trait(tmp_path, **files)

    with pytest.raises(DatasetError) as caught:
        read_trait(folder)

    assert expected in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.mend


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(DatasetError, match="no trait folder at"):
        read_trait(tmp_path / "nowhere")
