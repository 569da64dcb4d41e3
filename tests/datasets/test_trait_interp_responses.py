"""Responses are read in every form, by ids; corrupt token strings stay out."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tistore.datasets.trait_interp.prompts import find_prompt_sets, read_prompts
from tistore.datasets.trait_interp.responses import Response, Sentence, Turn, read_response
from tistore.datasets.trait_interp.scenarios import read_scenario_responses
from tistore.errors import DatasetError
from trait_interp_tree import VOCABULARY, Tree, dump_compact, write_json


def test_every_response_of_the_tree_is_read(tree: Tree):
    for path, expected in tree.responses.items():
        response = read_response(path)

        wanted = {key: value for key, value in expected.items() if key != "n_turns"}
        assert {key: getattr(response, key) for key in wanted} == wanted
        assert len(response.turns) == expected.get("n_turns", 0)


def test_every_reading_has_the_ids_of_its_response(tree: Tree):
    """The tree agrees with itself: what joins readings in an import is there to be joined."""
    ids = {read_response(path).token_ids for path in tree.responses}

    assert all(reading.token_ids in ids for reading in tree.readings)
    assert not any(reading.token_ids in ids for reading in tree.mismatched)


def test_token_strings_are_not_offered(tree: Tree):
    names = {field.name for field in dataclasses.fields(Response)}

    assert "tokens" not in names
    assert Response.token_strings_are_reliable is False


def test_a_rollout_is_told_by_its_turns(tree: Tree):
    path = next(path for path in tree.responses if "secret_number" in path.parts)

    response = read_response(path)

    assert response.is_rollout
    assert response.prompt_length == len(response.token_ids) == 8
    assert response.turns == (
        Turn("user", 1, 4),
        Turn("assistant", 4, 8, has_thinking=True, has_tool_calls=True, tool_names=("bash",)),
    )
    assert pickle.loads(pickle.dumps(response)) == response
    assert not any(read_response(p).is_rollout for p in tree.responses if p != path)


def test_sentences_count_from_the_response(tmp_path: Path):
    path = write_json(
        tmp_path / "1.json",
        {
            "prompt": "a",
            "response": "b c",
            "token_ids": [1, 2, 3],
            "prompt_end": 1,
            "sentence_boundaries": [
                {"sentence_num": 0, "token_start": 0, "token_end": 2, "cue_p": 0.25},
                {"sentence_num": 1, "token_start": 2, "token_end": 2},
            ],
        },
    )

    assert read_response(path).sentences == (Sentence(0, 0, 2, 0.25), Sentence(1, 2, 2))


def test_a_response_without_ids_says_so(tmp_path: Path):
    path = write_json(tmp_path / "1.json", {"prompt": "a", "response": "b", "prompt_end": 9})

    response = read_response(path)

    assert (response.token_ids, response.n_token_strings) == ((), None)
    assert not response.is_rollout


def test_captures_of_internals_have_strings_but_no_ids(tmp_path: Path):
    half = {"text": "a b", "tokens": ["a", " b"], "token_ids": [], "n_tokens": 2}
    path = write_json(tmp_path / "1.json", {"prompt": half, "response": half, "metadata": {}})

    response = read_response(path)

    assert (response.token_ids, response.prompt_length) == ((), None)
    assert response.n_token_strings == 4


def test_an_unknown_model_is_none(tmp_path: Path):
    path = write_json(
        tmp_path / "1.json", {"prompt": "a", "response": "", "inference_model": "unknown"}
    )

    assert read_response(path).model is None


FLAT = st.fixed_dictionaries(
    {
        "prompt": st.text(max_size=8),
        "response": st.text(max_size=8),
        "tokens": st.lists(st.sampled_from(VOCABULARY) | st.text(max_size=3), max_size=9),
        "system_prompt": st.none() | st.text(min_size=1, max_size=4),
        "prompt_note": st.none() | st.text(min_size=1, max_size=4),
        "tags": st.lists(st.from_regex("[a-z]{1,5}", fullmatch=True), max_size=3),
    }
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=FLAT, data=st.data())
def test_flat_responses_round_trip_through_the_incumbents_writer(
    tmp_path: Path, content: dict[str, Any], data: st.DataObject
):
    n_tokens = len(content["tokens"])
    ids = data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=n_tokens, max_size=n_tokens))
    prompt_end = data.draw(st.integers(0, n_tokens))
    path = write_json(
        tmp_path / "1.json", content | {"token_ids": ids, "prompt_end": prompt_end}, dump_compact
    )

    response = read_response(path)

    assert (response.token_ids, response.prompt_length) == (tuple(ids), prompt_end)
    assert (response.prompt_text, response.response_text) == (
        content["prompt"],
        content["response"],
    )
    assert (response.system_prompt, response.note) == (
        content["system_prompt"],
        content["prompt_note"],
    )
    assert response.tags == tuple(content["tags"])
    assert response.n_token_strings == n_tokens


def test_every_scenario_file_is_read(tree: Tree):
    for path, expected in tree.scenarios.items():
        found = read_scenario_responses(path)

        assert [(r.prompt, r.response, r.system_prompt) for r in found] == expected
        assert [r.index for r in found] == list(range(len(expected)))


def test_scores_and_places_of_scenarios_are_kept(tree: Tree):
    steered = next(path for path in tree.scenarios if path.name == "baseline.json")
    table = next(path for path in tree.scenarios if path.name == "pos.csv")

    first, second = read_scenario_responses(steered)
    (row,) = read_scenario_responses(table)

    assert (first.trait_score, first.coherence_score) == (71.5, 90.0)
    assert (second.trait_score, second.coherence_score) == (None, None)
    assert (row.scenario_index, row.rollout_index) == (4, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no responses"),
        ("prompt,response\n", "holds no responses"),
        ("prompt,response\na\n", "line 2: the row has not as many cells"),
        ("prompt,response\na,b,c\n", "line 2: the row has not as many cells"),
        ("words,response\na,b\n", "line 2: no prompt here"),
        ('prompt,response\n"a,b\n', "not valid CSV"),
        ("prompt,response,scenario_idx\na,b,first\n", "scenario_idx: an integer is due"),
        ("prompt,response,scenario_idx\na,b," + "9" * 5000 + "\n", "scenario_idx"),
        ("prompt,trait_score\na,nan\n", "nan is no finite number"),
    ],
)
def test_malformed_tables_are_refused_by_line(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "pos.csv"
    path.write_text(text)

    with pytest.raises(DatasetError) as caught:
        read_scenario_responses(path)

    assert str(path) in caught.value.message
    assert expected in caught.value.message


def test_line_breaks_within_cells_are_kept(tmp_path: Path):
    path = tmp_path / "pos.csv"
    path.write_bytes(b'\xef\xbb\xbfprompt,response\r\n"a\r\nb","c,d"\r\ne,\r\n')

    found = read_scenario_responses(path)

    assert [(r.prompt, r.response) for r in found] == [("a\r\nb", "c,d"), ("e", "")]


def test_prompt_sets_of_the_tree_are_read(tree: Tree):
    folder = tree.root / "datasets" / "inference"

    found = {name: read_prompts(path, name) for name, path in find_prompt_sets(folder)}

    assert list(found) == sorted(tree.prompt_sets)
    for name, expected in tree.prompt_sets.items():
        assert {p.prompt_id: p.text for p in found[name].prompts} == expected
        assert found[name].name == name
    first, second = found["audit/discovery"].prompts
    assert (first.tags, first.note) == (("bias_id:44", "domain:politics"), "open")
    assert second.tags == ("split:train", "dataset_idx:7")
    assert first.system_prompt and second.system_prompt == first.system_prompt


def test_a_prompt_sets_hash_is_that_of_its_bytes(tree: Tree):
    import hashlib

    path = tree.root / "datasets" / "inference" / "bare.json"

    assert (
        read_prompts(path, "bare").source_hash
        == (hashlib.sha256(path.read_bytes()).hexdigest()[:32])
    )
    assert json.loads(path.read_text())[0]["id"] == 2
