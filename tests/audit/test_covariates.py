"""What of a difference goes with the texts being surprising, long or marked up is told apart."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

import tistore
from made_cells import make_cells
from tistore.audit.cells import read_cells
from tistore.audit.covariates import NAMES, Covariates, hold_covariates, read_covariates
from tistore.audit.statistics.regression import fit_clustered
from tistore.errors import QueryError


@given(st.integers(0, 10**6), st.integers(8, 60), st.integers(1, 3), st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_fits_are_those_of_statsmodels_with_clustered_errors(seed, n, k, n_clusters):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k)) * 10.0 ** rng.integers(-3, 4, k)
    clusters = np.arange(n) % n_clusters
    y = 3 + x[:, 0] + rng.normal(size=n) + rng.normal(size=n_clusters)[clusters]

    fit = fit_clustered(y, x, clusters)

    model = sm.OLS(y, sm.add_constant(x)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    assert fit.coefficients == pytest.approx(model.params, rel=1e-6)
    assert fit.errors == pytest.approx(model.bse, rel=1e-6)
    assert np.stack([fit.low, fit.high], axis=1) == pytest.approx(model.conf_int(), rel=1e-6)
    assert fit.r2 == pytest.approx(model.rsquared)


def test_covariates_that_go_together_are_refused():
    x = np.arange(8.0)

    with pytest.raises(QueryError, match="go together"):
        fit_clustered(x, np.stack([x, 2 * x], axis=1), np.arange(8))
    with pytest.raises(QueryError, match="too few"):
        fit_clustered(x[:2], x[:2, None], np.arange(2))


def test_a_model_part_that_is_surprise_only_is_not_left_when_surprise_is_held():
    rng = np.random.default_rng(11)
    surprise, length = rng.normal(2, 1, 300), rng.normal(size=300)
    noise = rng.normal(0, 0.2, (2, 300))
    values = np.stack([surprise, length, np.zeros(300)], axis=1)
    zeros = np.zeros((300, 2))
    own = np.stack([0.7 * surprise + noise[0], 1 + 0.7 * surprise + noise[1]], axis=1)
    cells = make_cells(own, zeros, zeros)

    rows, notes = hold_covariates(cells, Covariates(values))

    found = {(r["trait"], r["term"]): r for r in rows if r["part"] == "model_part"}
    assert found["tone/trait0", "as it is"]["low"] > 1
    left = found["tone/trait0", "left"]
    assert left["low"] < 0 < left["high"] and left["high"] - left["low"] < 0.3
    assert found["tone/trait1", "left"]["low"] > 0.8
    assert found["tone/trait1", "surprisal"]["estimate"] == pytest.approx(0.7, abs=0.06)
    assert notes == ["loud: markup differs from the baseline's nowhere: left out"]


def test_what_lies_outside_of_the_texts_that_were_seen_is_said_to():
    rng = np.random.default_rng(6)
    values = np.stack([rng.uniform(1, 3, 40), *rng.normal(size=(2, 40))], axis=1)

    _, notes = hold_covariates(
        make_cells(rng.normal(size=40), np.zeros(40), np.zeros(40)), Covariates(values)
    )

    assert len(notes) == 1 and "surprisal differs" in notes[0] and "extrapolated" in notes[0]


def test_responses_without_a_covariate_are_left_out_and_told():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 3))
    values[4, 1] = np.nan
    cells = make_cells(rng.normal(size=30), np.zeros(30), np.zeros(30))

    rows, notes = hold_covariates(cells, Covariates(values))

    assert {row["n_responses"] for row in rows} == {29}
    assert notes == ["loud: 1 responses lack a covariate, and are left out"]


@pytest.fixture
def store(tmp_path):
    """An organism and its base, two prompts, texts and probabilities of one's own making."""
    store = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(3)
    texts = {
        ("loud", "1"): (["# Head\n", "word"], [-2.0, -4.0]),
        ("loud", "2"): (["plain", " words", " only", "."], [-1.0, -1.0, -1.0, -2.0]),
        ("instruct", "1"): (["Four", " words", " of", " it"], [-0.5, -0.5, -0.5, -0.5]),
        ("instruct", "2"): (["Two", " words"], [-1.0, -0.0]),
    }
    with store.writer() as writer:
        for (author, prompt), (tokens, logprobs) in texts.items():
            for reader in dict.fromkeys((author, "instruct")):
                told = logprobs if reader == "instruct" else [-9.0] * len(tokens)
                writer.add(
                    organism=author,
                    reader=reader,
                    prompt_set="audit/one",
                    prompt_id=prompt,
                    token_ids=[1, 2, *range(10, 10 + len(tokens))],
                    prompt_length=2,
                    text="".join(tokens),
                    tokens=tokens,
                    logprobs=told,
                    layers=[3],
                    activations={"residual": rng.standard_normal((len(tokens), 1, 4))},
                )
    store.add_vector("tone/loud", rng.standard_normal(4), layer=3)
    return store


def test_covariates_are_those_of_the_texts_as_the_baseline_reads_them(store):
    cells = read_cells(store)

    found = read_covariates(store, cells).values

    assert cells.rows["prompt_id"].to_list() == ["1", "2"]
    expected = [[3.0 - 0.5, -1.0, 6 / 11], [1.25 - 0.5, 1.0, 0.0]]
    assert found == pytest.approx(np.array(expected), abs=1e-6)
    assert NAMES == ("surprisal", "length", "markup")
