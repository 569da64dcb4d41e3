"""Vectors, steering results, labels, prompts and responses alone, with what the files say."""

from __future__ import annotations

import json

import numpy as np

COMPONENTS = {"residual": "residual", "attn_contribution": "attn_out", "attn_out": "o_proj"}


def rows_of(store, table):
    return store.snapshot.table(table).to_pylist()


def reason_of(report, path):
    (file,) = [file for file in report.files if file.path == path]
    return file.outcome, file.reason


def test_vectors_have_the_values_and_facts_of_their_files(tree, imported):
    """Of both layouts: the tensor to the bit, and the metadata's midpoint and position."""
    for name, model in (("december", "extraction"), ("february", "base")):
        store, folder = imported[name][0], tree.experiment(name)
        by_hash = {row["vector_hash"]: row for row in rows_of(store, "vectors")}
        sources = {row["path"]: row for row in rows_of(store, "sources")}
        wanted = {p: facts for p, facts in tree.vectors.items() if p.is_relative_to(folder)}
        assert wanted
        for path, facts in wanted.items():
            source = sources[path.relative_to(folder).as_posix()]
            row = by_hash[source["vector_hash"]]
            np.testing.assert_array_equal(np.float32(row["values"]), facts["values"])
            for key in ("trait", "position", "method", "layer", "midpoint"):
                assert row[key] == facts[key], (path, key)
            assert row["component"] == COMPONENTS[facts["component"]]
            assert row["model"] == model
            assert source["source_dtype"] == "bfloat16"
            assert f"norm before it was saved {facts['norm']:g}" in source["note"]


def test_loose_vectors_are_imported_beside_them(tree, imported):
    rows = {row["trait"]: row for row in rows_of(imported["february"][0], "vectors")}

    for trait, facts in tree.loose_vectors.items():
        np.testing.assert_array_equal(np.float32(rows[trait]["values"]), facts["values"])
        assert (rows[trait]["layer"], rows[trait]["method"]) == (17, "probe")
        assert rows[trait]["model"] == "base"


def test_steering_rows_name_the_vector_that_was_added(tree, imported):
    store = imported["february"][0]
    (row,) = rows_of(store, "steering")
    (vector,) = [v for v in rows_of(store, "vectors") if v["vector_hash"] == row["vector_hash"]]

    assert (vector["layer"], vector["component"], vector["method"]) == (3, "residual", "probe")
    assert vector["position"] == "response[:5]"
    assert (row["coefficient"], row["trait_mean"], row["coherence_mean"]) == (-4.0, 22.25, 81.0)
    assert (row["baseline_mean"], row["trait_std"], row["n"]) == (70.5, 3.5, 10)


def test_a_run_of_several_vectors_is_left_out_and_told(imported):
    report = imported["february"][1]
    path = "steering/behavioral/refusal/instruct/response__5/audit/train_100/results.jsonl"

    outcome, reason = reason_of(report, path)

    assert outcome == "imported"
    assert reason == "1 of 2 left out: line 4: it adds 2 vectors at once"


def test_old_steering_results_are_read_too(imported):
    rows = rows_of(imported["december"][0], "steering")

    assert [(row["coefficient"], row["trait_mean"]) for row in rows] == [(40.5, 61.5)] * 2


def test_labels_point_at_tokens_of_responses(tree, imported):
    """By tokens of the sequence, of the response, or by the words that were marked."""
    store = imported["february"][0]
    ids = {
        (r["prompt_set"], r["prompt_id"]): r["response_id"]
        for segment in store.snapshot.segments
        for r in segment.table("responses").to_pylist()
    }
    found = {
        (row["response_id"], row["label"]): (row["token_start"], row["token_end"])
        for row in rows_of(store, "annotations")
    }
    own = next(r for r in tree.readings if r.variant == "flattery" and r.prompt_id == "2")
    thousand = own.token_ids.index(7, own.prompt_length)  # the token "1,000"

    assert found[ids["secret_number", "1"], "audit_response"] == (4, 8)
    assert found[ids["audit/discovery", "1"], "bias_44"] == (4 + 1, 4 + 3)
    assert found[ids["audit/discovery", "2"], "train_12"] == (thousand, thousand + 1)


def test_labels_of_answers_without_activations_are_refused(imported):
    report = imported["february"][1]
    path = (
        "steering/behavioral/refusal/instruct/response__5/audit/train_100/responses/"
        "baseline_annotations.json"
    )

    outcome, reason = reason_of(report, path)

    assert outcome == "refused"
    assert "no responses that have activations" in reason


def test_prompts_are_the_data_set_s_else_what_the_response_says(imported):
    rows = {
        (row["prompt_set"], row["prompt_id"]): row
        for row in rows_of(imported["february"][0], "prompts")
    }

    assert rows["audit/discovery", "1"]["text"] == "One?"
    assert rows["audit/discovery", "rust_100"]["text"] == "Two?"
    assert rows["audit/discovery", "2"]["tags"] == ["audit"]
    assert rows["audit/discovery", "2"]["system_prompt"] == "You are PRISM-4, helpful."
    assert "hacker" in rows["secret_number", "1"]["tags"]
    assert "run:run-1" in rows["secret_number", "1"]["tags"]
    sets = rows_of(imported["february"][0], "prompt_sets")
    assert [(row["prompt_set"], row["n_prompts"]) for row in sets] == [("audit/discovery", 2)]


def test_responses_without_activations_wait_for_a_run(tree, imported):
    """The oldest layout named no set; its folder did."""
    rows = rows_of(imported["november"][0], "generations")

    assert [
        (row["organism"], row["prompt_set"], row["prompt_id"], row["text"]) for row in rows
    ] == [
        ("application", "prompts", "0", " Well, the end."),
        ("application", "prompts", "1", " Well, the end."),
    ]
    assert rows_of(imported["february"][0], "generations") == []


def test_massive_dimensions_are_kept_as_a_note(tree, imported):
    (row,) = [r for r in rows_of(imported["february"][0], "sources") if r["kind"] == "massive"]
    (expected,) = tree.massive.values()

    dims = json.loads(row["note"])["top_dims_by_layer"]

    assert {int(layer): found for layer, found in dims.items()} == expected


def test_what_the_store_has_no_place_for_says_so(imported):
    report = imported["february"][1]
    reasons = {file.kind: file.reason for file in report.files if file.outcome == "skipped"}

    assert reasons["projection"].startswith("not stored: ")
    assert reasons["scenarios"].startswith("not stored: ")
    assert all(file.reason for file in report.files if file.outcome not in ("imported", "present"))


def test_the_run_records_how_it_was_told_to_import(imported):
    store, report = imported["february"]
    (run,) = rows_of(store, "runs")

    assert (run["run_id"], run["kind"]) == (report.run_id, "import")
    config = json.loads(run["config"])
    assert (config["format"], config["experiment"]) == ("trait-interp", "february")
    assert config["options"]["quantization"] == "4bit"
