"""Vectors are known by path and metadata; where the two disagree, the path wins and it is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.datasets.trait_interp.experiment import open_experiment
from tistore.datasets.trait_interp.files import VectorFile
from tistore.datasets.trait_interp.positions import (
    FolderPosition,
    decode_position,
    encode_position,
    is_position_code,
)
from tistore.datasets.trait_interp.vectors import (
    VectorRecord,
    read_loose_vectors,
    read_vectors,
)
from trait_interp_tree import BASE_MODEL, Tree, write_json


def read_all(tree: Tree, name: str) -> list[VectorRecord]:
    walked = open_experiment(tree.experiment(name)).walk()
    return list(read_vectors(entry for entry in walked if isinstance(entry, VectorFile)))


@pytest.mark.parametrize("name", ["december", "february"])
def test_every_vector_of_the_tree_is_known(tree: Tree, name: str):
    records = read_all(tree, name)

    folder = tree.experiment(name)
    expected = {path: facts for path, facts in tree.vectors.items() if folder in path.parents}
    assert {record.path for record in records} == set(expected)
    for record in records:
        facts = {key: v for key, v in expected[record.path].items() if key != "values"}
        assert {key: getattr(record, key) for key in facts} == facts
        assert record.doubts == ()


def file(folder: Path, **changes: Any) -> VectorFile:
    facts: dict[str, Any] = {
        "path": folder / "layer3.pt",
        "size": 1,
        "variant": "base",
        "trait": "c/t",
        "position_code": "response__5",
        "component": "residual",
        "method": "probe",
        "layer": 3,
        "metadata": folder / "metadata.json",
    }
    return VectorFile(**facts | changes)


def test_a_vector_without_metadata_is_known_by_its_path(tmp_path: Path):
    (record,) = read_vectors([file(tmp_path)])

    assert (record.position, record.position_is_lossy) == ("response[:5]", False)
    assert (record.norm, record.midpoint, record.model) == (None, None, None)
    assert record.doubts == ("no metadata",)


def test_disagreement_is_said_and_the_path_wins(tmp_path: Path):
    write_json(
        tmp_path / "metadata.json",
        {
            "model": "unknown",
            "trait": "old/t",
            "method": "mean_diff",
            "component": "attn_out",
            "position": "response[:]",
            "layers": {"4": {"norm": 1.0}},
        },
    )

    (record,) = read_vectors([file(tmp_path)])

    assert (record.trait, record.method, record.component) == ("c/t", "probe", "residual")
    assert record.position == "response[:5]"
    assert record.model is None
    assert record.doubts == (
        "the metadata has no layer 3",
        "the metadata says position response[:]",
        "the metadata says trait old/t",
        "the metadata says method mean_diff",
        "the metadata says component attn_out",
    )


def test_numbers_that_are_not_finite_are_unknown(tmp_path: Path):
    details = {"norm": math.inf, "baseline": math.nan, "bias": 1.5}
    write_json(tmp_path / "metadata.json", {"layers": {"3": details}})

    (record,) = read_vectors([file(tmp_path)])

    assert (record.norm, record.midpoint, record.bias) == (None, None, 1.5)
    assert record.doubts == ("norm is not finite", "baseline is not finite")


def test_metadata_shared_by_neighbours_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tistore.datasets.trait_interp import vectors

    path = write_json(tmp_path / "metadata.json", {"layers": {"3": {}, "4": {}}})
    read: list[Path] = []
    original = vectors.read_document
    monkeypatch.setattr(vectors, "read_document", lambda p: read.append(p) or original(p))

    records = list(read_vectors([file(tmp_path, layer=layer) for layer in (3, 4)]))

    assert len(records) == 2
    assert read == [path]


def test_a_two_sided_position_is_true_where_the_metadata_says_it(tmp_path: Path):
    write_json(tmp_path / "metadata.json", {"position": "response[5:10]", "layers": {"3": {}}})

    (record,) = read_vectors([file(tmp_path, position_code="response_5_10")])

    assert (record.position, record.position_is_lossy) == ("response[5:10]", False)


@pytest.mark.parametrize(
    ("code", "text", "is_lossy"),
    [
        ("response__5", "response[:5]", False),
        ("response_all", "response[:]", False),
        ("response_-1", "response[-1]", False),
        ("response_-5_", "response[-5:]", False),
        ("prompt_-3_", "prompt[-3:]", False),
        ("all_all", "all[:]", False),
        ("response_0", "response[0]", False),
        ("response__-2", "response[:-2]", False),
        ("response_5_10", "response[5:10]", True),
        ("response_-5_-1", "response[-5:-1]", True),
        ("turn_-1_thinking_all", "turn[-1]:thinking[:]", True),
        ("tool_call_all", "tool_call[:]", False),
        ("somewhere", "somewhere", True),
        ("response_", "response_", True),
    ],
)
def test_positions_are_read_from_folders(code: str, text: str, is_lossy: bool):
    assert decode_position(code) == FolderPosition(text, is_lossy)


ENDS = st.none() | st.integers(-99, 99)


@given(st.sampled_from(["prompt", "response", "all", "thinking"]), ENDS, ENDS, st.booleans())
def test_every_position_round_trips(
    frame: str, start: int | None, stop: int | None, is_index: bool
):
    first, last = ("" if end is None else str(end) for end in (start, stop))
    text = f"{frame}[{start}]" if is_index and start is not None else f"{frame}[{first}:{last}]"

    code = encode_position(text)

    assert is_position_code(code)
    assert decode_position(code).text == text
    two_sided = text.endswith(f"{first}:{last}]") and start is not None and stop is not None
    assert decode_position(code).is_lossy == two_sided


def test_loose_vectors_are_found_with_and_without_their_category(tree: Tree):
    records = read_loose_vectors(tree.root / "loose" / "manifest.json")

    assert {record.trait for record in records} == set(tree.loose_vectors)
    for record in records:
        expected = tree.loose_vectors[record.trait]
        assert record.path == expected["path"]
        assert (record.layer, record.method) == (expected["layer"], expected["method"])
        assert (record.delta, record.coefficient) == (-57.9, -74.7)
        assert (record.position, record.position_is_lossy) == ("response[:5]", False)
        assert (record.model, record.component) == (BASE_MODEL, "residual")
