"""Projections are read in all five forms, with what tells which vector and states they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tistore.datasets.trait_interp.massive import read_calibration
from tistore.datasets.trait_interp.projections import Halves, read_projections
from trait_interp_tree import BASE_MODEL, MODEL, Tree, dump_compact, write_json


def test_every_projection_of_the_tree_is_read(tree: Tree):
    for path, (schema, records) in tree.projections.items():
        document = read_projections(path)

        assert document.schema == schema
        found = [
            (p.vector.trait, p.vector.method, p.layer, p.component, p.scores.prompt,
             p.scores.response)
            for p in document.projections
        ]  # fmt: skip
        assert found == records


def test_all_five_forms_are_in_the_tree(tree: Tree):
    assert {schema for schema, _ in tree.projections.values()} == {"P0", "P1", "P2", "P3", "P4"}


def test_the_tree_holds_its_own_scores(tree: Tree):
    """Scores, recomputed from the tree's rows and vectors, are those of its projection files."""
    base = tree.experiment("february") / "extraction" / "behavioral" / "refusal" / "base"
    vector = base / "vectors" / "response__5" / "residual" / "probe" / "layer3.pt"
    values = tree.vectors[vector]["values"].astype(np.float64)
    for path, (schema, records) in tree.projections.items():
        if schema != "P3":
            continue
        reading = next(
            r for r in tree.readings if r.variant == "flattery" and r.prompt_id == path.stem
        )
        rows = reading.rows("residual", 3).astype(np.float64)
        expected = rows @ values / np.linalg.norm(values)
        assert np.allclose([*records[0][4], *records[0][5]], expected, atol=1e-5)


def test_the_nested_form_projects_every_layer_on_one_vector(tree: Tree):
    path = next(p for p, (schema, _) in tree.projections.items() if schema == "P1")

    document = read_projections(path)

    assert {p.vector.layer for p in document.projections} == {3}
    assert {p.layer for p in document.projections} == {0, 1, 2, 3, 4}
    # Layers that were not captured hold zeros, which are no scores.
    placeholders = {p.layer for p in document.projections if p.scores.is_all_zero}
    assert placeholders == {0, 2}


def test_the_single_form_keeps_where_the_vector_is_from(tree: Tree):
    path = next(p for p, (schema, _) in tree.projections.items() if schema == "P3")

    document = read_projections(path)

    (projection,) = document.projections
    assert projection.vector.position == "response[:5]"
    assert (projection.vector.model, projection.vector.experiment) == (BASE_MODEL, "february")
    assert (projection.centered, projection.baseline) == (False, -1.5)
    assert projection.selection_source == "steering"
    norms = projection.token_norms
    assert norms is not None and len(norms.prompt) == 4
    assert (document.prompt_set, document.prompt_id) == ("audit/discovery", path.stem)
    assert (document.n_prompt_tokens, document.n_response_tokens) == (4, 7)


def test_massive_values_are_those_of_the_states(tree: Tree):
    reading = next(r for r in tree.readings if r.variant == "flattery" and r.prompt_id == "2")
    path = next(
        p for p, (schema, _) in tree.projections.items() if schema == "P3" and p.stem == "2"
    )

    massive = read_projections(path).massive

    assert massive is not None
    assert (massive.dims, massive.top_dims) == ((2, 5), {3: (5, 2)})
    rows = reading.rows("residual", 3)
    assert massive.prompt_values[5] == tuple(rows[:4, 5].tolist())
    assert massive.response_values[2] == tuple(rows[4:, 2].tolist())
    assert set(massive.vector_values) == {2, 5}


def test_several_vectors_share_norms_at_the_top_only_by_layer(tmp_path: Path):
    """Early files had them there, of the first vector's layer."""
    entry = {"method": "probe", "prompt": [], "response": [1.0]}
    path = write_json(
        tmp_path / "1.json",
        {
            "metadata": {"component": "attn_contribution", "centered": True},
            "projections": [entry | {"layer": layer} for layer in (5, 7, 5)],
            "token_norms": {"prompt": [], "response": [9.0]},
        },
    )

    first, second, third = read_projections(path).projections

    assert first.token_norms == third.token_norms == Halves((), (9.0,))
    assert second.token_norms is None
    assert first.centered and first.component == "attn_contribution"


@pytest.mark.parametrize(("n_sublayers", "names"), [
    (3, ["residual_in", "after_attn", "residual_out"]),
    (2, ["after_attn", "residual_out"]),
    (1, ["attn_out"]),
])  # fmt: skip
def test_sublayers_are_named_by_how_many_there_are(
    tmp_path: Path, n_sublayers: int, names: list[str]
):
    table = [[[float(s) for s in range(n_sublayers)]]]
    path = write_json(
        tmp_path / "1.json", {"metadata": {}, "projections": {"prompt": [], "response": table}}
    )

    projections = read_projections(path).projections

    assert [p.component for p in projections] == names
    assert [p.scores.response for p in projections] == [(float(s),) for s in range(n_sublayers)]
    assert projections[0].vector.layer is None


SCORES = st.lists(st.floats(-1e6, 1e6), max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(
        st.fixed_dictionaries(
            {
                "method": st.sampled_from(["probe", "mean_diff"]),
                "layer": st.integers(0, 80),
                "baseline": st.floats(-9, 9),
                "prompt": SCORES,
                "response": SCORES,
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_several_vectors_round_trip_through_the_incumbents_writer(
    tmp_path: Path, entries: list[dict[str, Any]]
):
    path = write_json(tmp_path / "1.json", {"metadata": {}, "projections": entries}, dump_compact)

    document = read_projections(path)

    assert document.schema == "P4"
    for projection, entry in zip(document.projections, entries, strict=True):
        assert projection.scores == Halves(tuple(entry["prompt"]), tuple(entry["response"]))
        assert (projection.layer, projection.baseline) == (entry["layer"], entry["baseline"])


def test_calibrations_are_read_past_their_infinite_ratios(tree: Tree):
    for path, top in tree.massive.items():
        assert "Infinity" in path.read_text()

        calibration = read_calibration(path)

        assert calibration.top_dims == {layer: tuple(dims) for layer, dims in top.items()}
        assert calibration.dims == (0, 2, 5, 7)
        assert calibration.dims_at(2) == (2, 5)
        assert calibration.dims_at(3) == (5,)
        assert (calibration.model, calibration.variant) == (MODEL, "instruct")
        assert calibration.layer_norms == {1: 10.5, 3: 20.5, 4: 30.5}
        assert calibration.magnitudes == {5: (150.5, 90.25, 80.0)}
        assert (calibration.n_prompts, calibration.n_per_prompt) == (50, 1)
        assert calibration.is_calibration


def test_integers_are_scores_too(tmp_path: Path):
    path = tmp_path / "1.json"
    content = {"prompt_idx": 1, "scores": [1, 2.5], "metadata": {"layer": 3}}
    path.write_text(json.dumps(content))

    (projection,) = read_projections(path).projections

    assert projection.scores == Halves((), (1.0, 2.5))
