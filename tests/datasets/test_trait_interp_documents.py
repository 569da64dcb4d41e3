"""JSON of other people is read within limits, or refused by file and place."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tistore.datasets.trait_interp.annotations import read_annotations
from tistore.datasets.trait_interp.config import read_config
from tistore.datasets.trait_interp.documents import (
    MAX_DEPTH,
    Node,
    find_problem,
    read_document,
    read_lines,
)
from tistore.datasets.trait_interp.massive import read_calibration
from tistore.datasets.trait_interp.natural_order import natural_key
from tistore.datasets.trait_interp.projections import read_projections
from tistore.datasets.trait_interp.prompts import read_prompts
from tistore.datasets.trait_interp.responses import read_response
from tistore.datasets.trait_interp.scenarios import read_scenario_responses
from tistore.datasets.trait_interp.steering import read_steering
from tistore.datasets.trait_interp.vectors import read_loose_vectors
from tistore.errors import ConfigError, DatasetError
from trait_interp_tree import VOCABULARY, dump_compact

READERS = {
    "config": read_config,
    "response": read_response,
    "scenarios": read_scenario_responses,
    "projections": read_projections,
    "annotations": read_annotations,
    "massive": read_calibration,
    "steering": read_steering,
    "manifest": read_loose_vectors,
    "prompts": lambda path: read_prompts(path, "set"),
}

FLAT: dict[str, Any] = {
    "prompt": "a",
    "response": "b",
    "token_ids": [1, 2, 3],
    "prompt_end": 1,
    "tokens": ["a", "b", "c"],
}
SINGLE: dict[str, Any] = {
    "metadata": {"vector_source": {"layer": 3}},
    "projections": {"prompt": [1.0], "response": [2.0]},
}
MASSIVE: dict[str, Any] = {
    "dims": [2],
    "vec_norm": 1.0,
    "vec_components": {"2": 0.5},
    "activation_values": {"prompt": {}, "response": {"2": [1.0]}},
}


def turned(start: Any, end: Any) -> dict[str, Any]:
    turn = {"role": "user", "token_start": start, "token_end": end}
    return FLAT | {"turn_boundaries": [turn]}


BYTES = {
    "nothing": (b"", "line 1, column 1"),
    "white space": (b" \n", "not valid JSON"),
    "cut short": (b'{"prompt": "a", "resp', "line 1, column"),
    "cut after a backslash": (b'{"prompt": "a\\', "not valid JSON"),
    "deep lists": (b"[" * 500_000, "nest deeper"),
    "deep objects": (b'{"a":' * 500_000, "nest deeper"),
    "deep, closed": (b"[" * 65 + b"]" * 65, "nest deeper"),
    "deep in an object": (b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nest deeper"),
    "duplicate key": (b'{"prompt": "a", "prompt": "b", "response": ""}', "'prompt' twice"),
    "duplicate key below": (b'{"metadata": {"a": 1, "a": 2}}', "'a' twice"),
    "many lists": (b"[" + b"[]," * 2_000_001 + b"1]", "more than 2,000,000 lists"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8 at byte 0"),
    "Latin-1": ('{"prompt": "é"}'.encode("latin-1"), "not UTF-8 at byte 12"),
    "huge integer": (b'{"prompt_end": ' + b"9" * 5000 + b"}", "4300"),
    "two values": (b"{} {}", "Extra data"),
    "control character": (b'{"prompt": "a\x00"}', "not valid JSON"),
    "a string that never ends": (b'"' + b'\\"' * 200_000, "not valid JSON"),
    "Python's own": (b"{'prompt': None}", "line 1, column 2"),
    "a pickle": (b"\x80\x02}q\x00.", "not UTF-8"),
}

VALUES: dict[str, tuple[str, Any, str]] = {
    "list for object": ("response", [FLAT], "a response is an object"),
    "null": ("response", None, "a response is an object"),
    "missing prompt": ("response", {"response": "b"}, "no 'prompt' here; there are: response"),
    "missing response": ("response", {"prompt": "b"}, "no 'response' here"),
    "number for text": ("response", FLAT | {"response": 3}, "at response: text is due"),
    "text for ids": ("response", FLAT | {"token_ids": "1 2"}, "at token_ids: a list is due"),
    "true for an id": ("response", FLAT | {"token_ids": [1, True, 3]}, "token_ids[1]: an integer"),
    "float for an id": ("response", FLAT | {"token_ids": [1.0, 2, 3]}, "token_ids[0]: an integer"),
    "negative id": ("response", FLAT | {"token_ids": [1, -2, 3]}, "token_ids[1]: -2 is not"),
    "id past 32 bits": ("response", FLAT | {"token_ids": [2**31, 1, 1]}, "token_ids[0]"),
    "id of 4000 digits": ("response", FLAT | {"token_ids": [10**4000, 1, 1]}, "the integer is not"),
    "prompt past the end": ("response", FLAT | {"prompt_end": 4}, "4 of 3 tokens"),
    "negative prompt": ("response", FLAT | {"prompt_end": -1}, "at prompt_end"),
    "strings without ids": ("response", FLAT | {"tokens": ["a"]}, "1 token strings beside 3"),
    "tags as text": ("response", FLAT | {"tags": "a"}, "at tags: a list is due here, not text"),
    "turn backwards": ("response", turned(2, 1), "turn_boundaries[0]: tokens 2 to 1 run backwards"),
    "turn past the end": ("response", turned(0, 4), "tokens 0 to 4 of 3"),
    "turn without a role": (
        "response",
        FLAT | {"turn_boundaries": [{"token_start": 0, "token_end": 1}]},
        "no 'role' here",
    ),
    "sentence past the response": (
        "response",
        FLAT
        | {"sentence_boundaries": [{"sentence_num": 0, "token_start": 0, "token_end": 3}]},
        "sentence_boundaries[0]: tokens 0 to 3 of 2",
    ),
    "source with a list": ("response", FLAT | {"source": {"run": [1]}}, "source.run"),
    "nested with half the ids": (
        "response",
        {
            "prompt": {"text": "a", "tokens": ["a"], "token_ids": [1]},
            "response": {"text": "b", "tokens": ["b"], "token_ids": []},
        },
        "one of prompt and response has token ids",
    ),
    "nested id that leads elsewhere": (
        "response",
        {
            "prompt": {"text": "a"},
            "response": {"text": "b"},
            "metadata": {"prompt_id": "../../etc/passwd"},
        },
        "'../../etc/passwd' cannot be an id",
    ),
    "empty list": ("scenarios", [], "holds no responses"),
    "object for list": ("scenarios", {"prompt": "a"}, "a list is due here, not an object"),
    "scenario without a prompt": ("scenarios", [{"response": "a"}], "at [0]: no prompt"),
    "NaN score": ("projections", SINGLE | {"projections": {"response": [1.0, math.nan]}},
                  "projections.response[1]: nan is no finite number"),
    "infinite score": ("projections", SINGLE | {"projections": {"response": [-math.inf]}},
                       "projections.response[0]: -inf"),
    "no layer": ("projections", SINGLE | {"metadata": {"vector_source": {}}}, "no 'layer'"),
    "no projections": ("projections", {"metadata": {}, "projections": []}, "no projections"),
    "other norms than scores": (
        "projections",
        SINGLE | {"token_norms": {"prompt": [], "response": [1.0]}},
        "0 norms beside 1 scores of the prompt",
    ),
    "uneven layers": (
        "projections",
        SINGLE | {"projections": {"prompt": [[[1.0], [1.0]]], "response": [[[1.0]]]}},
        "tokens differ",
    ),
    "uneven sublayers": (
        "projections",
        SINGLE | {"projections": {"prompt": [[[1.0], [1.0, 2.0]]], "response": []}},
        "projections.prompt[0]: the layers of a token differ",
    ),
    "four sublayers": (
        "projections",
        SINGLE | {"projections": {"prompt": [[[1.0] * 4]], "response": []}},
        "4 sublayers",
    ),
    "massive value of an unlisted dimension": (
        "projections",
        SINGLE | {"massive_dim_data": MASSIVE | {"vec_components": {"9": 1.0}}},
        "dimension 9",
    ),
    "massive dimension with a leading zero": (
        "projections",
        SINGLE | {"massive_dim_data": MASSIVE | {"vec_components": {"02": 1.0}}},
        "'02' is no layer or dimension",
    ),
    "layer of words": (
        "massive",
        {"aggregate": {"top_dims_by_layer": {"three": [1]}}},
        "aggregate.top_dims_by_layer.three: 'three' is no layer",
    ),
    "no aggregate": ("massive", {"dims": [1]}, "no 'aggregate'"),
    "unknown annotations": ("annotations", {"marks": []}, "no annotations of a known form"),
    "annotation id with a newline": (
        "annotations",
        {"1\n2": {"annotations": []}},
        "cannot be an id: it holds the character '\\n'",
    ),
    "annotation id with a slash": (
        "annotations",
        {"a/b": {"annotations": []}},
        "'a/b' cannot be an id",
    ),
    "annotated twice": (
        "annotations",
        {"annotations": [{"idx": 1, "spans": []}, {"idx": 1, "spans": []}]},
        "'1' is annotated twice",
    ),
    "span without text": (
        "annotations",
        {"annotations": [{"idx": 1, "spans": [{"span": " "}]}]},
        "annotations[0].spans[0]: the span is empty",
    ),
    "range with three ends": (
        "annotations",
        {"detailed_annotations": {"1": {"exploitations": [{"bias": 1, "tokens": [1, 2, 3]}]}}},
        "a range has two ends, not 3",
    ),
    "range backwards": (
        "annotations",
        {"detailed_annotations": {"1": {"exploitations": [{"bias": 1, "tokens": [2, 1]}]}}},
        "run backwards",
    ),
    "no runs": ("steering", {"trait": "a/b"}, "no 'runs'"),
    "steering lists of two lengths": (
        "steering",
        {"runs": [{"config": {"layers": [1], "coefficients": [1.0, 2.0]}, "result": {}}]},
        "runs[0].config: 1 layers, 2 coefficients",
    ),
    "direction sideways": ("steering", {"direction": "up", "runs": []}, "'up' is neither"),
    "manifest without traits": ("manifest", {"layer": 1}, "no 'traits'"),
    "manifest without a tensor": (
        "manifest",
        {"traits": {"a/b": {"layer": 1, "method": "probe"}}},
        "no tensor for a/b",
    ),
    "manifest that leads elsewhere": (
        "manifest",
        {"traits": {"a/b": {"layer": 1, "method": "probe", "file": "../b.pt"}}},
        "'..' cannot name a tensor",
    ),
    "manifest with an absolute path": (
        "manifest",
        {"traits": {"a/b": {"layer": 1, "method": "probe", "file": "/etc/passwd"}}},
        "cannot name a tensor",
    ),
    "variant without a model": ("config", {"model_variants": {"a": {}}}, "no 'model'"),
    "variant that leads elsewhere": (
        "config",
        {"model_variants": {"../a": {"model": "m"}}},
        "cannot be an id",
    ),
    "empty prompt set": ("prompts", {"prompts": []}, "no prompts"),
    "prompt id twice": ("prompts", [{"id": 1, "text": "a"}, {"id": "1", "text": "b"}], "id '1'"),
    "prompt without text": ("prompts", [{"id": 1}], "no text here"),
}  # fmt: skip


def write(folder: Path, content: bytes, name: str = "file.json") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", BYTES)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_bytes_are_refused_by_every_reader(tmp_path: Path, reader: str, case: str):
    content, expected = BYTES[case]
    path = write(tmp_path, content)

    with pytest.raises(DatasetError) as caught:
        READERS[reader](path)

    assert str(path) in caught.value.message
    assert expected in caught.value.message
    assert caught.value.mend


@pytest.mark.parametrize("case", VALUES)
def test_wrong_values_are_refused_by_place(tmp_path: Path, case: str):
    reader, value, expected = VALUES[case]
    path = write(tmp_path, json.dumps(value).encode())

    with pytest.raises(DatasetError) as caught:
        READERS[reader](path)

    assert str(path) in caught.value.message
    assert expected in caught.value.message
    assert caught.value.mend


def test_a_default_that_names_no_variant_is_refused_with_the_nearest(tmp_path: Path):
    config = {
        "defaults": {"application": "instrct"},
        "model_variants": {"instruct": {"model": "m"}},
    }
    path = write(tmp_path, json.dumps(config).encode())

    with pytest.raises(ConfigError, match="did you mean 'instruct'"):
        read_config(path)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path):
    path = write(tmp_path, b"\xef\xbb\xbf" + json.dumps(FLAT).encode())

    assert read_response(path).response_text == "b"


def test_a_file_past_the_cap_is_refused_and_one_at_it_is_read(tmp_path: Path):
    path = write(tmp_path, b'"' + b"a" * 98 + b'"')

    assert read_document(path, 100).text() == "a" * 98
    with pytest.raises(DatasetError, match="larger than 99 bytes"):
        read_document(path, 99)


def test_depth_is_counted_outside_strings(tmp_path: Path):
    brackets = "[{" * 1000 + '\\"' * 3
    path = write(tmp_path, json.dumps({"a": brackets}).encode())

    assert read_document(path).require("a").text() == brackets
    at_cap = write(tmp_path, b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert read_document(at_cap).value


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "unreadable"])
def test_what_is_no_readable_file_is_refused_without_waiting(tmp_path: Path, kind: str):
    path = tmp_path / "file.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.write_text("{}")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user reads everything")
    failures: list[BaseException] = []

    def read() -> None:
        try:
            read_document(path)
        except DatasetError as error:
            failures.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)

    assert not thread.is_alive()
    assert failures and str(path) in str(failures[0])


def test_a_broken_line_is_named(tmp_path: Path):
    path = write(tmp_path, b'{"a": 1}\n\n{"a": [}\n', "results.jsonl")

    with pytest.raises(DatasetError, match="line 3, column 8"):
        list(read_lines(path))


def test_a_number_that_overflows_is_no_finite_number(tmp_path: Path):
    path = write(tmp_path, b'{"a": 1e999, "b": ' + b"1" * 400 + b"}")

    with pytest.raises(DatasetError, match="at a: inf is no finite number"):
        read_document(path).require("a").number()
    with pytest.raises(DatasetError, match="at b: the number is too large"):
        read_document(path).require("b").number()


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "a\\b", "a\nb", "\x00", "\x7f", "\u2028", "\udc80"]
)
def test_names_that_lead_elsewhere_or_cannot_be_printed_are_problems(name: str):
    assert find_problem(name)


@pytest.mark.parametrize("name", ["1", "rust_100", "a b", "é", "日本", "...", "-1"])
def test_ordinary_names_are_no_problem(name: str):
    assert find_problem(name) is None


IN_ONE_FOLDER = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["prompt", "response", "tokens", "token_ids", "metadata", "projections", "scores", "runs"]
    + ["annotations", "idx", "spans", "traits", "aggregate", "config", "result", "type", "vectors"]
    + ["model_variants", "defaults", "prompts", "text", "layer", "detailed_annotations"]
)
SHAPED = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=4), max_size=6)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=SHAPED | st.lists(SHAPED, max_size=3) | JSON, reader=st.sampled_from(sorted(READERS)))
def test_any_json_gives_a_record_or_a_named_error(tmp_path: Path, value: Any, reader: str):
    """No other exception, whatever the file holds."""
    path = write(tmp_path, json.dumps(value).encode())

    try:
        READERS[reader](path)
    except (DatasetError, ConfigError) as error:
        assert str(path) in error.message


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200), reader=st.sampled_from(sorted(READERS)))
def test_any_bytes_give_a_record_or_a_named_error(tmp_path: Path, content: bytes, reader: str):
    path = write(tmp_path, content)

    try:
        READERS[reader](path)
    except (DatasetError, ConfigError) as error:
        assert str(path) in error.message


@given(JSON)
def test_places_grow_with_every_step(value: Any):
    def check(node: Node) -> None:
        if isinstance(node.value, dict):
            for key, below in node.entries():
                assert below.value is node.value[key]
                assert below.place.startswith(node.place)
                check(below)
        elif isinstance(node.value, list):
            for index, below in enumerate(node.elements()):
                assert below.place == f"{node.place}[{index}]"
                check(below)

    check(Node(Path("f"), "", value))


@given(st.lists(st.from_regex(r"[a-z_]{0,3}[0-9]{0,4}", fullmatch=True), max_size=8))
def test_natural_order_counts_numbers_as_numbers(names: list[str]):
    ordered = sorted(names, key=natural_key)

    assert sorted(reversed(names), key=natural_key) == ordered
    for first, second in zip(ordered, ordered[1:], strict=False):
        stem = first.rstrip("0123456789")
        if stem == second.rstrip("0123456789") and first != stem and second != stem:
            assert int(first[len(stem) :]) <= int(second[len(stem) :])


def test_natural_order_of_ids_as_they_occur():
    names = ["10", "2", "rust_100", "rust_20", "1", "a", "a1", "L3_c10", "L3_c9"]

    assert sorted(names, key=natural_key) == [
        "1", "2", "10", "L3_c9", "L3_c10", "a", "a1", "rust_20", "rust_100",
    ]  # fmt: skip


def test_leading_zeros_do_not_count_but_keep_an_order():
    names = ["9", "010", "1", "02", "01", "0"]

    assert sorted(names, key=natural_key) == ["0", "01", "1", "02", "9", "010"]


@given(st.lists(st.sampled_from(VOCABULARY) | st.text(max_size=4), max_size=12))
def test_the_incumbents_writer_changes_strings_but_never_how_many(tokens: list[str]):
    """This is why counts of token strings are trusted, and the strings are not."""
    read = json.loads(dump_compact({"tokens": tokens, "token_ids": list(range(len(tokens)))}))

    assert len(read["tokens"]) == len(tokens)
    assert read["token_ids"] == list(range(len(tokens)))


def test_the_incumbents_writer_corrupts_as_reported():
    def through(tokens: list[str]) -> list[str]:
        read: list[str] = json.loads(dump_compact({"tokens": tokens}))["tokens"]
        return read

    assert through([","]) == [", "]
    assert through(["1,000"]) == ["1, 000"]
    assert through([" ,x"]) == [", x"]
    assert through([",", "1,000", "]"]) == [",", "1,000", "]"]
