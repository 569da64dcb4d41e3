"""Raw files of every period become readings with exactly their values, at their tokens."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import pytest

import tistore
from tistore.exchange.trait_interp.run import import_experiment
from trait_interp_tree import VOCABULARY

COMPONENTS = {
    "residual": "residual",
    "residual_out": "residual",
    "attn_contribution": "attn_out",
    "mlp_contribution": "mlp_out",
    "attn_out": "o_proj",
    "mlp_out": "down_proj",
}
"""What trait-interp captured under a name, as the store names it."""


def name_in(tree, reading):
    for name in ("december", "february"):
        if reading.path.is_relative_to(tree.experiment(name)):
            return name, reading.path.relative_to(tree.experiment(name)).as_posix()
    raise AssertionError(reading.path)


def find_stored(tree, imported, reading):
    """Find a reading's rows of `responses` and `sources`, as one, by the path of its file."""
    experiment, path = name_in(tree, reading)
    store = imported[experiment][0]
    (source,) = [row for row in store.snapshot.table("sources").to_pylist() if row["path"] == path]
    (response,) = [
        row
        for segment in store.snapshot.segments
        for row in segment.table("responses").to_pylist()
        if row["reading_key"] == source["reading_key"]
    ]
    return store, source | response


def find_tokens(store, row):
    """List a reading's rows of `tokens`."""
    for segment in store.snapshot.segments:
        keys = segment.table("responses")["reading_key"].to_pylist()
        if row["reading_key"] in keys:
            index = keys.index(row["reading_key"])
            return [t for t in segment.table("tokens").to_pylist() if t["reading"] == index]
    raise AssertionError(row)


def test_every_value_is_the_file_s(tree, imported):
    """Exact, whatever the precision; scaled where float16 would overflow."""
    for reading in [*tree.readings, *tree.mismatched]:
        store, row = find_stored(tree, imported, reading)
        wanted = {COMPONENTS[name]: name for name in reading.values if name in COMPONENTS}
        for ours, theirs in wanted.items():
            for layer in reading.layers:
                states = store.activations(
                    row["response_id"], reader=row["reader"], layer=layer, component=ours
                )
                expected = reading.rows(theirs, layer)
                assert states.dtype == np.float32 or np.abs(expected).max() <= 65504
                np.testing.assert_array_equal(states.astype(np.float32), expected, reading.path)


def test_no_component_is_taken_for_another(tree, imported):
    """o_proj's output is not what a block adds; what the store has no name for stays away."""
    for reading in [*tree.readings, *tree.mismatched]:
        store, row = find_stored(tree, imported, reading)
        held = {
            component
            for segment in store.snapshot.segments
            if row["reading_key"] in segment.table("responses")["reading_key"].to_pylist()
            for component in segment.components
        }
        assert held == {COMPONENTS[name] for name in reading.values if name in COMPONENTS}
        for name in set(reading.values) - set(COMPONENTS):
            assert name in row["note"]


def test_rows_are_at_their_tokens(tree, imported):
    """Tokens without a row have none: nothing is padded or moved."""
    for reading in [*tree.readings, *tree.mismatched]:
        store, row = find_stored(tree, imported, reading)
        tokens = find_tokens(store, row)

        assert [token["position"] for token in tokens] == list(reading.positions)
        assert [t["token_id"] for t in tokens] == [reading.token_ids[p] for p in reading.positions]
        assert row["token_ids"] == list(reading.token_ids)
        assert row["prompt_length"] == reading.prompt_length


def test_sources_tell_period_convention_dtype_and_content(tree, imported):
    for reading in [*tree.readings, *tree.mismatched]:
        _, row = find_stored(tree, imported, reading)

        assert row["variety"] == reading.era
        assert row["row_convention"].startswith(reading.convention)
        assert row["source_dtype"] == reading.source_dtype
        assert row["sha256"] == hashlib.sha256(reading.path.read_bytes()).hexdigest()
        assert row["size_bytes"] == reading.path.stat().st_size


def test_replays_are_the_author_s_response_read_by_another(tree, imported):
    store = imported["february"][0]
    pairs = store.sql(
        "SELECT organism, reader, prompt_id FROM responses WHERE reader != organism "
        "AND prompt_set = 'audit/discovery' ORDER BY prompt_id"
    ).fetchall()
    diffs = store.sql("SELECT count(*) FROM response_diffs WHERE baseline = 'instruct'").fetchall()

    assert pairs == [("flattery", "instruct", "1"), ("flattery", "instruct", "2")]
    assert diffs == [(2,)]
    for reading in tree.readings:
        _, row = find_stored(tree, imported, reading)
        assert row["is_paired"] is (True if reading.author else row["is_paired"])
        if reading.author is None and reading.variant != "tiny-7b":
            assert row["is_paired"] is None


def test_a_reading_below_models_is_of_the_application_s_response(tree, imported):
    """December kept another model's reading there; its tokens tell that it is one."""
    rows = imported["december"][0].sql(
        "SELECT organism, reader FROM responses WHERE prompt_id = 'rust_100' ORDER BY reader"
    ).fetchall()  # fmt: skip

    assert rows == [("application", "application"), ("application", "tiny-7b")]


def test_all_readings_of_a_response_audit_the_same_tokens(tree, imported):
    """The own capture lacks the last row; the replay's is then no part of its mean either."""
    by_response = defaultdict(set)
    for name in ("december", "february"):
        store = imported[name][0]
        for response_id, reader, position in store.sql(
            "SELECT response_id, reader, position FROM tokens WHERE is_response"
        ).fetchall():
            by_response[response_id, reader].add(position)
    marked = defaultdict(list)
    for (response_id, _), positions in by_response.items():
        marked[response_id].append(positions)

    assert any(len(sets) > 1 for sets in marked.values())
    assert all(positions == sets[0] for sets in marked.values() for positions in sets)
    replay = next(r for r in tree.readings if r.author and r.prompt_id == "1")
    _, row = find_stored(tree, imported, replay)
    audited = by_response[row["response_id"], "instruct"]
    assert audited == set(range(replay.prompt_length, len(replay.token_ids) - 1))


def test_a_mismatched_replay_is_kept_apart_and_flagged(tree, imported):
    (mismatched,) = tree.mismatched
    _, row = find_stored(tree, imported, mismatched)

    assert row["is_paired"] is False
    assert row["prompt_set"] == "audit/discovery_replay_flattery"
    assert (row["organism"], row["reader"]) == ("flattery", "instruct")
    assert "1 of 11 token ids differ" in row["note"]


def test_strings_are_the_raw_file_s_not_the_json_s(tree, imported):
    """The JSON's were cut at every comma."""
    for reading in tree.readings:
        store, row = find_stored(tree, imported, reading)
        tokens = find_tokens(store, row)
        expected = [VOCABULARY[reading.token_ids[p]] for p in reading.positions]
        assert [token["token"] for token in tokens] == expected


def test_a_conversation_audits_its_assistant_s_turns(tree, imported):
    tokens = imported["february"][0].sql(
        "SELECT position, role, turn, is_response FROM tokens WHERE prompt_set = 'secret_number' "
        "ORDER BY position"
    ).fetchall()  # fmt: skip

    roles = ["template", "user", "user", "user", *["assistant"] * 4]
    turns = [0, 0, 0, 0, 1, 1, 1, 1]
    assert tokens == [(p, roles[p], turns[p], roles[p] == "assistant") for p in range(8)]


def test_what_cannot_be_imported_is_refused_with_its_reason(tree, imported):
    for name in ("december", "february"):
        report = imported[name][1]
        reasons = {
            tree.experiment(name) / file.path: file.reason
            for file in report.refused
            if file.kind == "residual"
        }
        expected = {
            p: w for p, w in tree.refused.items() if p.is_relative_to(tree.experiment(name))
        }
        assert reasons.keys() == expected.keys()
        for path, word in expected.items():
            assert word in reasons[path] and len(reasons[path]) > 20


def test_mismatched_replays_are_refused_unless_they_are_wanted(tree, tmp_path):
    store = tistore.create(tmp_path / "s")

    report = import_experiment(store, tree.experiment("february"))

    (mismatched,) = tree.mismatched
    path = name_in(tree, mismatched)[1]
    (refused,) = [file for file in report.files if file.path == path]
    assert refused.outcome == "refused"
    assert "token ids differ" in refused.reason and "--keep-mismatched" in refused.reason


@pytest.mark.parametrize("name", ["november", "december", "february"])
def test_every_file_is_counted(tree, imported, name):
    """Nothing is passed over: each file of the tree has one line, and the counts add up."""
    report = imported[name][1]
    folder = tree.experiment(name)
    listed = [file.path for file in report.files if not file.path.startswith("../")]

    assert sorted(listed) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    assert sum(report.counts.values()) == len(report.files)
    assert report.to_rows()[-1]["imported"] == report.count("imported") > 0
    unknown = {folder / file.path for file in report.files if file.outcome == "unknown"}
    assert unknown == {path for path in tree.unknown if path.is_relative_to(folder)}


def test_models_are_those_of_the_configuration(imported):
    rows = imported["february"][0].sql(
        "SELECT name, base_id, adapter_id, quantization FROM models WHERE name = 'flattery'"
    ).fetchall()  # fmt: skip

    assert rows == [("flattery", "acme/tiny-7b-it", "acme/flattery-lora", "4bit")]
