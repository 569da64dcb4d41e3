"""Traits that go together are told, at the level they do, and never with a token for a unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tistore
from made_cells import make_cells
from made_store import make_store
from tistore.audit.cells import read_cells
from tistore.audit.correlate import (
    correlate_organisms,
    correlate_responses,
    correlate_tokens,
    count_effective,
)
from tistore.errors import QueryError

FEW = {"resamples": 200}


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(8, 40))
@settings(max_examples=30, deadline=None)
def test_one_organisms_responses_correlate_as_numpy_says(seed, width, n):
    values = np.random.default_rng(seed).normal(size=(n, width)) * 100 + 1e4

    found = correlate_responses(make_cells(values), resamples=20)

    expected = np.corrcoef(values, rowvar=False)
    pairs = [(a, b) for a in range(width) for b in range(a + 1, width)]
    assert [row["r"] for row in found.rows] == pytest.approx([expected[pair] for pair in pairs])
    eigenvalues = np.linalg.eigvalsh(expected)
    assert found.effective_traits == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def test_what_parts_organisms_is_no_correlation_of_their_responses():
    rng = np.random.default_rng(2)
    shift = np.repeat([[0, 0], [9, 9], [-9, -9]], 60, axis=0)
    noise = rng.normal(size=(180, 2))
    names = [name for name in "abc" for _ in range(60)]
    ids = [str(at) for at in range(60)] * 3
    cells = make_cells(shift + noise, organisms=names, prompts=ids)

    (within,) = correlate_responses(cells, **FEW).rows
    (between,) = correlate_organisms(cells).rows

    assert within["low"] < 0 < within["high"] and within["n"] == 180
    assert between["r"] > 0.99 and between["n"] == 3
    assert between["low"] is None and between["high"] is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(100):
        values = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=60)
        (row,) = correlate_responses(make_cells(values), resamples=300, seed=trial).rows
        hits += row["low"] <= 0.5 <= row["high"]
    assert 88 <= hits <= 99


def test_prompts_that_share_a_cluster_are_drawn_together():
    rng = np.random.default_rng(5)
    values = np.repeat(rng.normal(size=(12, 2)), 12, axis=0) + 0.1 * rng.normal(size=(144, 2))
    alone = make_cells(values)
    together = make_cells(values, clusters=[f"c{at // 12}" for at in range(144)])

    widths = [
        row["high"] - row["low"]
        for cells in (alone, together)
        for row in correlate_responses(cells, **FEW).rows
    ]

    assert widths[1] > 2 * widths[0]


def test_effective_traits_count_duplicates_once():
    assert count_effective(np.eye(5)) == pytest.approx(5)
    assert count_effective(np.ones((5, 5))) == pytest.approx(1)
    assert count_effective(np.kron(np.eye(2), np.ones((3, 3)))) == pytest.approx(2)


def test_too_few_traits_or_responses_are_errors():
    with pytest.raises(QueryError, match="1 trait goes with no other"):
        correlate_responses(make_cells([1.0, 2.0, 3.0]))
    with pytest.raises(QueryError, match="2 responses have no correlation"):
        correlate_responses(make_cells(np.ones((2, 2))))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("tokens") / "s.tistore")


def pool(made, authors, lag, part="own"):
    """Pearson of two axes, `lag` tokens apart, about response means, by plain loops."""
    first, then = [], []
    for (author, reader, prompt), states in made.states.items():
        if author not in authors or reader != author:
            continue
        if part == "model":
            states = states - made.states[author, "instruct", prompt]
        axes = states[:, 1, :2] - states[:, 1, :2].mean(0)
        for at in range(len(axes)):
            if 0 <= at + lag < len(axes):
                first.append(axes[at, 0])
                then.append(axes[at + lag, 1])
    first, then = np.array(first), np.array(then)
    return len(first), (first * then).sum() / np.sqrt((first**2).sum() * (then**2).sum())


@pytest.mark.parametrize("part", ["own", "model"])
def test_tokens_correlate_within_their_responses_at_every_lag(made, part):
    cells = read_cells(made.store, organisms=["loud", "shy"])

    found = correlate_tokens(made.store, cells, part, lags=3)

    assert [row["lag"] for row in found.rows] == list(range(-3, 4))
    for row in found.rows:
        n, r = pool(made, ("loud", "shy"), row["lag"], part)
        assert (row["n"], row["r"]) == (n, pytest.approx(r, abs=1e-5))
        assert row["low"] is None and row["high"] is None
    if part == "own":
        assert max(found.rows, key=lambda row: row["r"])["lag"] == 1


def test_tokens_of_some_responses_only_are_looked_at_where_that_is_asked(made):
    cells = read_cells(made.store, organisms=["loud"], where="prompt_id = '2'")

    found = correlate_tokens(made.store, cells, lags=0, where="prompt_id = '2'")

    assert [row["n"] for row in found.rows] == [len(made.states["loud", "loud", "2"])]


def test_lags_longer_than_any_response_have_no_correlation(made):
    cells = read_cells(made.store, organisms=["loud"])

    found = correlate_tokens(made.store, cells, lags=40)

    assert (found.rows[0]["lag"], found.rows[0]["r"], found.rows[0]["n"]) == (-40, None, 0)


@pytest.mark.parametrize("part", ["own", "model"])
def test_a_second_reading_at_other_layers_takes_no_token_away(tmp_path, part):
    found = []
    for name, layers in (("once", [[1, 3]]), ("twice", [[1, 3], [1]])):
        store = tistore.create(tmp_path / f"{name}.tistore")
        rng = np.random.default_rng(6)
        with store.writer() as writer:
            for prompt in "123":
                ids = rng.integers(0, 90, 14).tolist()
                for reader in ("loud", "instruct"):
                    states = rng.standard_normal((12, 2, 2))
                    for read in layers:
                        writer.add(
                            organism="loud", reader=reader, prompt_set="audit/one",
                            prompt_id=prompt, token_ids=ids, prompt_length=2, layers=read,
                            activations={"residual": states[:, : len(read)]},
                        )  # fmt: skip
        for at, trait in enumerate(("tone/first", "tone/second")):
            store.add_vector(trait, np.eye(2)[at], layer=3, method="mean_diff")
        found.append(correlate_tokens(store, read_cells(store), part, lags=1))

    once, twice = found
    assert [row["n"] for row in twice.rows] == [row["n"] for row in once.rows] == [33, 36, 33]
    assert [row["r"] for row in twice.rows] == pytest.approx([row["r"] for row in once.rows])
    assert not any("lack a score" in note for note in twice.notes)


def test_tokens_have_no_total(made):
    with pytest.raises(QueryError, match="no 'total' part"):
        correlate_tokens(made.store, read_cells(made.store), "total")
