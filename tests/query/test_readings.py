"""Readings of the same response, paired."""

from __future__ import annotations

import numpy as np

import tistore


def add(writer, reader, layers, value):
    writer.add(
        organism="a",
        reader=reader,
        prompt_set="p",
        prompt_id="1",
        token_ids=[1, 2],
        prompt_length=1,
        layers=layers,
        activations={"residual": np.full((2, len(layers), 3), float(value))},
    )


def test_readings_of_several_settings_pair_within_their_settings(tmp_path):
    """A reader that has read a response twice is not its own baseline."""
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        for reader, layers, value in (("a", [2], 7), ("a", [5], 9), ("b", [2], 1), ("b", [5], 2)):
            add(writer, reader, layers, value)
        add(writer, "c", [2], 4)
    store.add_vector("x/y", [1, 0, 0], layer=2)

    rows = store.sql("SELECT reader, baseline, project('y') FROM response_diffs ORDER BY ALL")

    assert rows.fetchall() == [
        ("a", "b", 6.0),
        ("a", "b", None),
        ("a", "c", 3.0),
        ("b", "a", -6.0),
        ("b", "a", None),
        ("b", "c", -3.0),
        ("c", "a", -3.0),
        ("c", "b", 3.0),
    ]
    assert any("2 of 8 pairs of readings" in note for note in rows.notes)


def test_readings_of_other_settings_pair_where_there_is_nothing_better(tmp_path):
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        add(writer, "a", [2, 5], 7)
        add(writer, "b", [2], 1)
    store.add_vector("x/y", [1, 0, 0], layer=2)

    rows = store.sql("SELECT reader, project('y') FROM token_diffs WHERE position = 1 ORDER BY ALL")

    assert rows.fetchall() == [("a", 6.0), ("b", -6.0)]


def test_tokens_only_one_reading_kept_are_left_out_and_counted(tmp_path):
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        add(writer, "a", [2], 7)
        writer.add(
            organism="a", reader="b", prompt_set="p", prompt_id="1", token_ids=[1, 2],
            prompt_length=1, layers=[2], activations={"residual": np.ones((1, 1, 3))},
        )  # fmt: skip
    store.add_vector("x/y", [1, 0, 0], layer=2)

    rows = store.sql("SELECT position, project('y') FROM token_diffs WHERE reader = 'a'")

    assert rows.fetchall() == [(1, 6.0)]
    assert any("1 tokens in token_diffs have no partner" in note for note in rows.notes)


def test_an_empty_store_answers_with_no_rows(tmp_path):
    store = tistore.create(tmp_path / "store")
    store.add_vector("x/y", [1, 0, 0], layer=2)

    for relation in ("responses", "clauses", "tokens", "response_diffs", "token_diffs"):
        assert store.sql(f"SELECT *, project('y') FROM {relation}").fetchall() == []


def test_differences_run_over_the_same_tokens_or_are_null_and_said_so(tmp_path):
    """One reading lacks the last token's row, the other has it: with it, the mean is another."""
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        for sample, marks in ((0, [False, True, True, True]), (1, [False, True, True, False])):
            for reader, values in (("a", [1, 2, 3]), ("b", [0, 0, 0, 100])):
                activations = np.zeros((len(values), 1, 3))
                activations[:, 0, 0] = values
                writer.add(
                    organism="a",
                    reader=reader,
                    prompt_set="p",
                    prompt_id="1",
                    sample=sample,
                    token_ids=[1, 2, 3, 4],
                    tokens=["Go", " on", " and", " on"],
                    prompt_length=1,
                    first_position=0,
                    is_response=marks if reader == "b" else None,
                    layers=[2],
                    activations={"residual": activations},
                )
    store.add_vector("x/y", [1, 0, 0], layer=2)
    sql = "SELECT sample, project('y') FROM {} WHERE reader = 'a' ORDER BY ALL"
    other_way = sql.replace("reader = 'a'", "reader = 'b'")

    of_responses = store.sql(sql.format("response_diffs"))

    assert of_responses.fetchall() == [(0, None), (1, 2.5)]
    assert any("NULL for 1 of 2 pairs" in note for note in of_responses.notes)
    assert store.sql(sql.format("clause_diffs")).fetchall() == [(0, 2.5), (1, 2.5)]
    assert store.sql(other_way.format("clause_diffs")).fetchall() == [(0, -2.5), (1, -2.5)]
    assert store.sql(sql.format("token_diffs")).fetchall() == [
        (sample, value) for sample in (0, 1) for value in (1.0, 2.0, 3.0)
    ]
