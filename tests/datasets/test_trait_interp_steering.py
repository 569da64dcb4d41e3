"""Steering results and annotations are read in every form; runs fit the table or say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tistore.datasets.trait_interp.annotations import Annotation, read_annotations
from tistore.datasets.trait_interp.steering import SteeringRun, read_steering
from tistore.errors import DatasetError
from tistore.schemas.tables import STEERING
from trait_interp_tree import BASE_MODEL, MODEL, Tree, write_json


def summarise(run: SteeringRun) -> tuple[Any, ...]:
    vectors = [(v.layer, v.component, v.method, v.weight) for v in run.vectors]
    baseline = run.baseline.trait_mean if run.baseline else None
    result = run.result
    return vectors, result.trait_mean, result.coherence_mean, baseline, result.n


def test_every_results_file_of_the_tree_is_read(tree: Tree):
    for path, expected in tree.steering.items():
        results = read_steering(path)

        assert results.direction == expected["direction"]
        assert [summarise(run) for run in results.runs] == expected["runs"]
        assert (results.trait, results.model) == ("behavioral/refusal", MODEL)
        assert (results.judge_model, results.judge_method) == ("gpt-4.1-mini", "logprob")
        assert results.unread == ()


def test_an_unknown_model_of_the_vectors_is_none(tree: Tree):
    models = {path.suffix: read_steering(path).vector_model for path in tree.steering}

    assert models == {".json": None, ".jsonl": BASE_MODEL}


def test_a_run_of_one_vector_is_a_row_of_the_table(tree: Tree):
    path = next(path for path in tree.steering if path.suffix == ".jsonl")

    one, two = read_steering(path).runs

    row = one.to_row("behavioral/refusal", "f" * 32)
    assert pa.Table.from_pylist([row], schema=STEERING).to_pylist() == [
        {
            "trait": "behavioral/refusal",
            "vector_hash": "f" * 32,
            "coefficient": -4.0,
            "trait_mean": 22.25,
            "trait_std": 3.5,
            "coherence_mean": 81.0,
            "baseline_mean": 70.5,
            "n": 10,
        }
    ]
    assert two.misfit == "it adds 2 vectors at once"
    with pytest.raises(DatasetError, match="line 4 fits no row"):
        two.to_row("behavioral/refusal", "f" * 32)


def write_lines(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


HEADER = {"type": "header", "trait": "c/t"}
VECTOR = {"layer": 1, "weight": 2.0}


def run(**changes: Any) -> dict[str, Any]:
    result = {"trait_mean": 1.0, "n": 5}
    return {"config": {"vectors": [VECTOR]}, "result": result} | changes


def test_a_baseline_counts_for_runs_of_its_own_judge(tmp_path: Path):
    def judged(judge: str | None) -> dict[str, Any]:
        return {"eval": {"trait_judge": judge}}

    path = write_lines(
        tmp_path,
        HEADER,
        {"type": "baseline", "result": {"trait_mean": 1.0}} | judged(None),
        {"type": "baseline", "result": {"trait_mean": 2.0}} | judged("pv/x"),
        {"type": "baseline", "result": {"trait_mean": 3.0}} | judged("pv/x"),
        run() | judged("pv/x"),
        run(),
        run() | judged("pv/y"),
    )

    results = read_steering(path)

    baselines = [r.baseline.trait_mean if r.baseline else None for r in results.runs]
    assert baselines == [3.0, 1.0, None]
    assert [judge for judge, _ in results.baselines] == [None, "pv/x"]


def test_lines_of_unknown_kinds_are_named_not_dropped(tmp_path: Path):
    path = write_lines(tmp_path, HEADER, {"type": "ablation", "result": {}}, run())

    results = read_steering(path)

    assert results.unread == (("line 2", "ablation"),)
    assert len(results.runs) == 1


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_mean_of_no_answers_is_none_and_a_misfit(tmp_path: Path, value: float | None):
    path = write_lines(tmp_path, HEADER, run(result={"trait_mean": value, "n": 0}))

    (only,) = read_steering(path).runs

    assert only.result.trait_mean is None
    assert only.misfit == "none of its answers was scored"


def test_a_run_without_a_count_is_a_misfit(tmp_path: Path):
    path = write_lines(tmp_path, HEADER, run(result={"trait_mean": 1.0}))

    assert read_steering(path).runs[0].misfit == "it does not say how many answers were scored"


@pytest.mark.parametrize(("lines", "n"), [([run()], 0), ([HEADER, HEADER], 2)])
def test_a_file_has_one_header(tmp_path: Path, lines: list[dict[str, Any]], n: int):
    with pytest.raises(DatasetError, match=f"has {n} headers, not one"):
        read_steering(write_lines(tmp_path, *lines))


def test_every_annotation_file_of_the_tree_is_read(tree: Tree):
    for path, expected in tree.annotations.items():
        found = read_annotations(path).annotations

        assert [
            (a.subject, a.label, a.token_start, a.token_end, a.frame, a.text) for a in found
        ] == expected


def test_all_three_forms_are_in_the_tree(tree: Tree):
    documents = [read_annotations(path) for path in tree.annotations]

    assert {document.form for document in documents} == {"spans", "ranges", "exploitations"}


def test_responses_without_findings_are_subjects_all_the_same(tree: Tree):
    by_name = {path.name: read_annotations(path) for path in tree.annotations}

    spans = by_name["discovery_annotations.json"]
    assert spans.subjects == ("2", "rust_100")
    exploited = by_name["bias_exploitation_annotations.json"]
    assert exploited.subjects == ("1", "2")
    assert exploited.source == "inference/flattery/responses/audit/discovery/"
    assert exploited.annotations[0].note == "voting"


def test_doubt_is_kept_in_both_of_its_forms(tree: Tree):
    by_name = {path.name: read_annotations(path) for path in tree.annotations}

    listed = by_name["discovery_annotations.json"].annotations
    flagged = by_name["baseline_annotations.json"].annotations
    assert [(a.is_borderline, a.note) for a in listed] == [(False, None), (True, "unsure")]
    assert [a.is_borderline for a in flagged] == [False, True]


def test_tokens_are_located_in_the_whole_sequence():
    ranged = Annotation("1", "x", 2, 5, "sequence")
    exploited = Annotation("1", "x", 2, 5, "response")
    worded = Annotation("1", "x", text="word")

    assert ranged.locate(4, 9) == (2, 5)
    assert exploited.locate(4, 9) == (6, 9)
    assert exploited.locate(4, 8) is None
    assert worded.locate(4, 9) is None


def test_metadata_beside_ranges_is_no_response(tmp_path: Path):
    path = write_json(
        tmp_path / "set_annotations.json",
        {
            "metadata": {"response_source": "here"},
            "7": {"annotations": [{"token_start": 0, "token_end": 0, "label": "l", "note": "n"}]},
        },
    )

    document = read_annotations(path)

    assert (document.subjects, document.source) == (("7",), "here")
    assert document.annotations == (Annotation("7", "l", 0, 0, "sequence", note="n"),)
