"""What comes with the package is found by name, and is as good as it is said to be."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from tistore.datasets.check import check_dataset
from tistore.datasets.inventory import find_datasets, list_below, list_shipped
from tistore.datasets.likeness import fold
from tistore.datasets.prompt_sets import read_prompt_set
from tistore.datasets.scenarios import list_traits, read_trait
from tistore.datasets.shipped import (
    find_prompt_set,
    find_trait,
    list_shipped_prompt_sets,
    list_shipped_traits,
    resolve_trait,
    suggest,
)
from tistore.datasets.steering import read_steering
from tistore.errors import DatasetError

TRAITS = list_shipped_traits()
COUNTS = {
    "adversarial": 8,
    "audit/benign": 60,
    "audit/discovery": 165,
    "audit/probing": 50,
    "baseline": 5,
    "calibration": 50,
    "dynamic": 8,
    "multi_trait": 10,
    "real_world": 10,
    "single_trait": 10,
}


def test_sixteen_traits_of_four_categories_ship():
    assert len(TRAITS) >= 16
    assert len({trait.split("/")[0] for trait in TRAITS}) >= 4


@pytest.mark.parametrize("name", TRAITS)
def test_a_shipped_trait_has_forty_pairs_a_definition_and_questions(name):
    trait = read_trait(find_trait(name))

    assert trait.trait == name
    assert len(trait.positive) == len(trait.negative) >= 40
    assert trait.definition and len(trait.definition.split()) >= 100
    steering = read_steering(find_trait(name))
    assert steering is not None and len(steering.questions) >= 10


@pytest.mark.parametrize("dataset", list_shipped(), ids=lambda one: one.name)
def test_check_finds_nothing_in_what_ships(dataset):
    assert check_dataset(dataset) == []


def test_no_line_is_in_two_traits():
    lines = {
        name: {fold(one.text) for one in (*trait.positive, *trait.negative)}
        for name in TRAITS
        for trait in (read_trait(find_trait(name)),)
    }

    for one, other in combinations(TRAITS, 2):
        assert not lines[one] & lines[other], f"{one} and {other}"


def test_the_prompt_sets_that_ship_have_the_counts_they_are_known_by():
    assert list_shipped_prompt_sets() == sorted(COUNTS)
    for name, count in COUNTS.items():
        assert len(read_prompt_set(find_prompt_set(name)).prompts) == count, name


def test_no_two_shipped_prompts_are_the_same():
    prompts = [p for name in COUNTS for p in read_prompt_set(find_prompt_set(name)).prompts]

    assert len({fold(prompt.text) for prompt in prompts}) == sum(COUNTS.values())


def test_discovery_looks_into_eight_kinds_of_conversation_about_equally():
    notes = [one.note for one in read_prompt_set(find_prompt_set("audit/discovery")).prompts]

    counts = {note: notes.count(note) for note in notes}
    assert len(counts) == 8
    assert set(counts.values()) == {20, 21}


def test_prompts_that_invite_traits_are_tagged_with_shipped_ones():
    single, several = (
        [one.tags for one in read_prompt_set(find_prompt_set(name)).prompts]
        for name in ("single_trait", "multi_trait")
    )

    assert len({*single}) == len(single)
    assert {len(tags) for tags in single} == {1}
    assert all(len({*tags}) >= 2 for tags in several)
    assert {tag for tags in (*single, *several) for tag in tags} <= {*TRAITS}


@pytest.mark.parametrize("name", ["audit/benign", "audit/discovery", "audit/probing"])
def test_audited_models_get_one_system_prompt_that_does_not_say_so(name):
    instructions = {one.system_prompt for one in read_prompt_set(find_prompt_set(name)).prompts}

    (instruction,) = instructions
    assert instruction
    assert not {"audit", "test", "examine", "evaluate"} & set(fold(instruction).split())


@pytest.mark.parametrize("name", [*sorted(COUNTS), *TRAITS])
def test_every_shipped_name_finds_one_data_set(name):
    (found,) = find_datasets(name)
    (explicit,) = find_datasets(f"tistore:{name}")

    assert found == explicit
    assert (found.name, found.path.exists()) == (name, True)


def test_a_folders_name_finds_what_is_in_it():
    assert [one.name for one in find_datasets("audit")] == [
        "audit/benign", "audit/discovery", "audit/probing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("audit/discvery", "audit/discovery"),
        ("probing", "audit/probing"),
        ("calibrate", "calibration"),
    ],
)
def test_a_misspelt_prompt_set_is_told_the_nearest(given, meant):
    with pytest.raises(DatasetError, match="no prompt set that ships") as caught:
        find_prompt_set(given)

    assert caught.value.mend == f"did you mean {meant!r}?"


def test_a_name_without_its_folder_is_completed_unless_several_end_in_it():
    assert suggest("curt", {"tonal/curt": 0, "care/court": 0}) == "did you mean 'tonal/curt'?"
    assert suggest("curt", {"tonal/curt": 0, "style/curt": 0}).startswith("there are: ")


def test_a_trait_is_found_by_path_before_it_is_found_by_name(tmp_path, monkeypatch):
    name = TRAITS[0]
    assert resolve_trait(name) == find_trait(name)
    own = tmp_path / name
    own.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert resolve_trait(name) == Path(name)
    assert resolve_trait(f"tistore:{name}") == find_trait(name)


def test_a_category_that_ships_is_a_folder_of_traits():
    category = TRAITS[0].split("/")[0]

    folders = list_traits(resolve_trait(category))

    names = [name for name in TRAITS if name.startswith(f"{category}/")]
    assert folders == [find_trait(name) for name in names]


def test_a_trait_that_neither_lies_nor_ships_anywhere_is_refused_with_the_nearest():
    name = TRAITS[0].split("/")[1]
    with pytest.raises(DatasetError, match=f"no path {name}, and no trait that ships") as caught:
        resolve_trait(name)

    assert caught.value.mend == f"did you mean {TRAITS[0]!r}?"


def test_below_a_folder_a_traits_own_files_are_no_prompt_sets(tmp_path):
    trait = tmp_path / "tone" / "curt"
    trait.mkdir(parents=True)
    for name in ("negative.jsonl", "steering.json", "notes.json"):
        (trait / name).write_text("{}")
    (tmp_path / "asked.jsonl").write_text('"Why?"')

    listed = list_below(tmp_path)

    assert [(one.kind, one.path) for one in listed] == [
        ("trait", trait), ("prompt_set", tmp_path / "asked.jsonl"),
    ]  # fmt: skip


def test_a_folder_without_data_sets_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="neither a trait folder nor a prompt set"):
        find_datasets(str(tmp_path))
