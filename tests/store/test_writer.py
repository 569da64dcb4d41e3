"""What a writer promises: whole readings, checked before they are kept, committed once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from example_readings import HIDDEN, LAYERS, make_reading
from tistore.errors import InvalidRecordError, KeyConflictError, NonFiniteError, StoreError
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from tistore.schemas.site import Site
from tistore.store.base import BaseStore


@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(2), st.integers(1, 9)),
        elements=st.floats(-(2.0**90), 2.0**90, width=32),
    )
)
@settings(max_examples=60, deadline=None)
def test_values_come_back_as_the_nearest_float16(tmp_path_factory, values):
    """Where a layer overflows float16, to 11 bits relative to a power of two that fits it."""
    store = BaseStore.create(tmp_path_factory.mktemp("store") / "s.tistore")

    with store.writer() as writer:
        response_id = writer.add(
            **make_reading(
                token_ids=list(range(len(values) + 1)),
                prompt_length=1,
                tokens=None,
                activations={"residual": values},
            )
        )

    for place, layer in enumerate(LAYERS):
        read = store.activations(response_id, reader="flattery", layer=layer)
        wanted = values[:, place].astype(np.float64)
        largest = np.abs(wanted).max()
        if largest < 65520:
            np.testing.assert_array_equal(read, wanted.astype(np.float16))
        else:
            exponent = store.snapshot.segments[0].exponent(Site("residual", layer))
            assert largest / 2.0**exponent <= 65504 < largest / 2.0 ** (exponent - 1)
            scaled = np.ldexp(wanted, -exponent).astype(np.float16)
            np.testing.assert_array_equal(read, np.ldexp(scaled.astype(np.float32), exponent))


def test_bfloat16_is_kept_exactly_in_the_documented_range(store):
    rng = np.random.default_rng(0)
    magnitudes = np.exp2(rng.uniform(-14, 15.9, (5, 2, HIDDEN)))
    values = (magnitudes * rng.choice([-1, 1], magnitudes.shape)).astype(ml_dtypes.bfloat16)

    with store.writer() as writer:
        response_id = writer.add(**make_reading(activations={"residual": values}))

    read = store.activations(response_id, reader="flattery", layer=LAYERS[1])
    np.testing.assert_array_equal(read.astype(np.float32), values[:, 1].astype(np.float32))


def test_values_too_small_for_float16_are_counted(store):
    values = np.zeros((5, 2, HIDDEN))
    values[0, 0, :3] = [1e-9, -1e-9, 1e-3]

    with store.writer() as writer:
        writer.add(**make_reading(activations={"residual": values}))

    (row,) = store.snapshot.segments[0].table("responses").to_pylist()
    assert row["n_underflow"] == 2


def test_means_and_norms_are_those_of_the_stored_values(filled):
    segment = filled.snapshot.segments[0]
    responses = segment.table("responses").to_pylist()

    for site in (Site("residual", layer) for layer in LAYERS):
        rows = segment.read(site).astype(np.float64)
        means, norms = segment.means(site), segment.norms(site)

        np.testing.assert_allclose(norms, np.linalg.norm(rows, axis=1), rtol=1e-6)
        for index, response in enumerate(responses):
            start = response["row_start"]
            wanted = rows[start : start + response["n_rows"]].mean(axis=0)
            np.testing.assert_allclose(means[index], wanted, rtol=1e-6, atol=1e-7)


def test_means_run_over_the_response_only_when_all_tokens_are_captured(store):
    values = np.arange(7 * 2 * HIDDEN, dtype=np.float32).reshape(7, 2, HIDDEN)
    with store.writer() as writer:
        writer.add(**make_reading(activations={"residual": values}))

    segment = store.snapshot.segments[0]
    tokens = segment.table("tokens")

    assert tokens["position"].to_pylist() == list(range(7))
    assert tokens["is_response"].to_pylist() == [False] * 2 + [True] * 5
    np.testing.assert_allclose(segment.means(Site("residual", 2))[0], values[2:, 0].mean(axis=0))


def test_an_empty_response_has_no_mean(store):
    with store.writer() as writer:
        writer.add(
            **make_reading(
                prompt_length=7, tokens=None, activations={"residual": np.ones((7, 2, HIDDEN))}
            )
        )

    assert np.isnan(store.snapshot.segments[0].means(Site("residual", 2))).all()


def test_a_reading_without_rows_is_stored(store):
    empty = np.empty((0, 2, HIDDEN))
    with store.writer() as writer:
        response_id = writer.add(
            **make_reading(prompt_length=7, tokens=[], activations={"residual": empty})
        )

    assert store.activations(response_id, reader="flattery", layer=2).shape == (0, HIDDEN)
    assert store.verify().ok


def test_the_same_reading_again_adds_nothing(store):
    for _ in range(2):
        with store.writer() as writer:
            writer.add(**make_reading())
            writer.add(**make_reading())

    assert store.info().readings == 1
    assert store.snapshot.number == 1


def test_the_same_key_with_other_activations_is_refused(filled):
    other = {"residual": np.ones((5, 2, HIDDEN))}
    before = filled.snapshot.number

    with filled.writer() as writer, pytest.raises(KeyConflictError, match="other activations"):
        writer.add(**make_reading(activations=other))

    assert filled.snapshot.number == before


def test_a_replay_on_other_token_ids_is_refused(filled):
    """Pairs join on identical ids, so a re-tokenised replay must not enter."""
    with filled.writer() as writer, pytest.raises(KeyConflictError, match="other tokens"):
        writer.add(**make_reading(0, reader="other", token_ids=[9] * 7))


def test_a_name_cannot_mean_two_models(filled):
    retrained = Model("flattery", adapter_hash="other")

    with filled.writer() as writer, pytest.raises(KeyConflictError, match="models: flattery"):
        writer.add(**make_reading(7, organism=retrained, reader=retrained))

    assert filled.info().readings == 6


def test_a_prompt_id_cannot_have_two_texts(store):
    with store.writer() as writer:
        writer.add(**make_reading(prompt=Prompt("audit/discovery", "0", "What now?")))

        with pytest.raises(KeyConflictError, match="prompts: audit/discovery, 0"):
            writer.add(
                **make_reading(reader="x", prompt=Prompt("audit/discovery", "0", "What then?"))
            )

    assert store.snapshot.table("prompts")["text"].to_pylist() == ["What now?"]
    assert store.info().readings == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": []}, "token_ids must be"),
        ({"token_ids": [0.5] * 7}, "token_ids must be"),
        ({"token_ids": [-1] * 7}, "token_ids hold -1"),
        ({"prompt_length": 8}, "prompt_length is 8"),
        ({"layers": []}, "layers is empty"),
        ({"layers": [5, 2]}, "layers must be ascending"),
        ({"layers": [2, 2]}, "layers must be ascending"),
        ({"activations": {}}, "activations is empty"),
        ({"activations": {"resid": np.ones((5, 2, 8))}}, "no component 'resid'"),
        ({"activations": {"residual": np.ones((5, 3, 8))}}, "expected .rows, 2 layers, width"),
        ({"activations": {"residual": np.ones((5, 8))}}, "has shape"),
        ({"activations": {"residual": np.ones((4, 2, 8))}}, "4 rows, but there are 7 tokens"),
        ({"activations": {"residual": np.ones((5, 2, 8), dtype=int)}}, "not floating point"),
        ({"tokens": ["a"]}, "1 tokens, but there are 7"),
        ({"logprobs": [0.0]}, "1 logprobs"),
        ({"roles": ["user"]}, "1 roles for 7 tokens"),
        ({"text": "ab", "offsets": [(0, 9)] * 5}, "lies outside the text"),
        ({"organism": ""}, "named by a string"),
        ({"prompt_id": 3}, "prompt_id must be a string"),
        ({"prompt_id": "a\ud83d"}, "prompt_id holds .*half of a character"),
        ({"text": "a\ud83d"}, "text holds .*half of a character"),
        ({"tokens": ["\ud83d", "\ude42", "a", "b", "c"]}, "tokens holds .*half of a character"),
        ({"tokens": [b"a"] * 5}, "tokens must be text"),
        ({"roles": [1] * 7}, "roles must be text"),
        ({"finish_reason": "\ud83d"}, "finish_reason holds .*half of a character"),
        ({"reader": Model("r", base_id="\ud83d")}, "table models: .*half of a character"),
        (
            {"prompt": Prompt("audit/discovery", "0", "a\ud83d")},
            "table prompts: .*half of a character",
        ),
    ],
)
def test_a_reading_that_breaks_a_rule_changes_nothing(store, changes, message):
    with store.writer() as writer, pytest.raises(InvalidRecordError, match=message):
        writer.add(**make_reading(**changes))

    assert store.snapshot.number == 0
    assert store.info().readings == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_activations_are_refused_by_response_and_layer(store, bad):
    values = np.ones((5, 2, HIDDEN))
    values[3, 1, 4] = bad

    with store.writer() as writer, pytest.raises(NonFiniteError) as caught:
        writer.add(**make_reading(activations={"residual": values}))

    assert "flattery on audit/discovery#0" in str(caught.value)
    assert "layer 5" in str(caught.value)
    assert "row 3" in str(caught.value)
    assert store.snapshot.number == 0


def test_another_width_or_other_layers_open_another_segment(store):
    with store.writer() as writer:
        writer.add(**make_reading(0))
        writer.add(**make_reading(1, activations={"residual": np.ones((5, 2, 16))}))
        writer.add(**make_reading(2, layers=[3], activations={"residual": np.ones((5, 1, HIDDEN))}))

    shapes = [(one.width("residual"), one.layers) for one in store.snapshot.segments]
    assert shapes == [(8, (2, 5)), (16, (2, 5)), (8, (3,))]


def test_the_writer_commits_on_size_and_on_time(store):
    with store.writer(flush_bytes=300) as writer:
        for seed in range(4):
            writer.add(**make_reading(seed))
        assert writer.committed_readings == 4
        assert store.info().segments == 2

    with store.writer(flush_seconds=0) as writer:
        writer.add(**make_reading(9))
        assert store.info().readings == 5


def test_whole_readings_survive_an_error_in_the_block(store):
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        writer.add(**make_reading(0))
        raise ZeroDivisionError

    assert store.info().readings == 1


def test_a_caller_may_reuse_its_array(store):
    values = np.ones((5, 2, HIDDEN), dtype=np.float16)
    with store.writer() as writer:
        response_id = writer.add(**make_reading(activations={"residual": values}))
        values[:] = 7

    assert (store.activations(response_id, reader="flattery", layer=2) == 1).all()


def test_racing_writers_lose_nothing_and_commit_no_key_twice(store):
    """Six writers, each with readings of its own and some that all of them add."""

    def write(worker: int) -> None:
        own = BaseStore.open(store.path)
        with own.writer(flush_bytes=1) as writer:
            for seed in range(4):
                writer.add(**make_reading(seed))
                writer.add(**make_reading(1000 * (worker + 1) + seed))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))

    store.refresh()
    keys = [key for s in store.snapshot.segments for key in s.table("responses")["reading_key"]]
    assert len(keys) == len(set(keys)) == 4 + 6 * 4
    report = store.verify()
    assert report.ok
    assert report.uncommitted_segments == ()


def test_a_contested_key_with_other_content_fails_in_the_second_writer(store):
    """And takes nothing else with it: the rest of what waited is committed."""
    first, second = BaseStore.open(store.path), BaseStore.open(store.path)
    slow = second.writer()
    slow.add(**make_reading(activations={"residual": np.ones((5, 2, HIDDEN))}))
    slow.add(**make_reading(1))
    with first.writer() as writer:
        writer.add(**make_reading())

    with pytest.raises(KeyConflictError):
        slow.commit()

    store.refresh()
    assert store.info().prompt_sets == {"audit/discovery": 2}
    assert slow.pending_readings == 0
    assert store.verify().uncommitted_segments == ()


def test_a_reader_stays_on_its_snapshot(filled):
    reader = BaseStore.open(filled.path)
    with filled.writer() as writer:
        writer.add(**make_reading(50))

    assert reader.info().readings == 6
    reader.refresh()
    assert reader.info().readings == 7
    assert BaseStore.open(filled.path, at=1).info().vectors == ()


def test_an_old_snapshot_is_not_written_to(filled):
    with pytest.raises(StoreError, match="open at commit 1"):
        BaseStore.open(filled.path, at=1).writer()


def test_rows_of_keyed_tables_are_unique(store):
    row = {"prompt_set": "a", "description": "x", "n_prompts": 3}
    store.add_rows("prompt_sets", [row])
    store.add_rows("prompt_sets", [row])
    assert store.snapshot.number == 1

    with pytest.raises(KeyConflictError):
        store.add_rows("prompt_sets", [row | {"n_prompts": 4}])
    with pytest.raises(InvalidRecordError, match="did you mean 'annotations'"):
        store.add_rows("anotations", [])
    with pytest.raises(InvalidRecordError, match="no column 'labl'"):
        store.add_rows("annotations", [{"labl": "x"}])
    with pytest.raises(InvalidRecordError, match="lacks 'label'"):
        store.add_rows("annotations", [{"response_id": "x", "token_start": 0, "token_end": 1}])


@pytest.mark.parametrize("values", [[0.0, 0.0], [np.nan, 1.0], [], [[1.0]]])
def test_a_vector_must_be_a_direction(store, values):
    with pytest.raises(InvalidRecordError):
        store.add_vector("tone/x", values, layer=2)

    assert store.snapshot.number == 0


def test_a_reading_whose_last_token_has_no_row_is_stored_without_it(store):
    """As a generation's own states are: the last token was never an input."""
    reading = make_reading(tokens=["What", " now", "?", " Wait", " a", " bit", "."])
    rows = np.asarray(reading["activations"]["residual"])[:4]
    reading |= {"activations": {"residual": rows}, "first_position": 2}

    with store.writer() as writer:
        response_id = writer.add(**reading)

    [segment] = store.snapshot.segments
    [response] = segment.table("responses").to_pylist()
    tokens = segment.table("tokens")
    assert tokens["position"].to_pylist() == [2, 3, 4, 5]
    assert response["token_ids"] == reading["token_ids"]
    assert response["text"] == "? Wait a bit."
    assert (response["rows"], response["n_tokens"], response["n_rows"]) == ("response", 4, 4)
    stored = store.activations(response_id, reader="flattery", layer=5)
    np.testing.assert_array_equal(stored, rows[:, 1].astype(np.float16))
    np.testing.assert_allclose(
        segment.means(Site("residual", 5))[0], stored.astype(np.float64).mean(axis=0), rtol=1e-6
    )
    clauses = segment.table("clauses").to_pylist()
    assert [(c["token_start"], c["token_end"], c["text"]) for c in clauses] == [
        (2, 6, "? Wait a bit")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": ["a"] * 7},
        {"turns": [1.5] * 7},
        {"logprobs": ["x"] * 5},
        {"run_id": 5},
        {"sample": "x"},
        {"sample": 1.5},
    ],
    ids=str,
)
def test_numbers_no_table_could_hold_are_refused_at_once(store, changes):
    """At the commit they would cost every reading that waits."""
    writer = store.writer()
    writer.add(**make_reading(1))

    (name,) = changes
    with pytest.raises(InvalidRecordError, match=name):
        writer.add(**make_reading(2, **changes))

    writer.commit()
    assert store.info().readings == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_position": 1}, "do not fit 7 tokens"),
        ({"first_position": 3}, "do not fit 7 tokens"),
        ({"first_position": 2, "is_response": [False] * 6 + [True]}, "which have no row"),
    ],
)
def test_rows_that_cannot_be_placed_are_refused(store, changes, message):
    rows = np.zeros((4, 2, 8))

    with pytest.raises(InvalidRecordError, match=message):
        store.writer().add(**make_reading(activations={"residual": rows}, **changes))
