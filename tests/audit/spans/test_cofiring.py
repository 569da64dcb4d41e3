"""Spans at which several traits fire: against plain regression, and with duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

import tistore
from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.cofiring import THRESHOLD, count_effective, find_cofiring, find_fired
from tistore.errors import QueryError
from tistore.query.span_question import SpanQuestion


def residual_z(z, target, given_):
    """How far a trait lies off what the others predict, over the rows, by scikit-learn."""
    if not given_:
        return z[:, target]
    model = LinearRegression().fit(z[:, given_], z[:, target])
    residual = z[:, target] - model.predict(z[:, given_])
    return residual / residual.std()


def draw(seed, n_traits, n_rows=400):
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((n_rows, n_traits)) @ rng.standard_normal((n_traits, n_traits))
    return (raw - raw.mean(axis=0)) / raw.std(axis=0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_traits=st.integers(2, 5),
    order=st.sampled_from(["highest", "lowest", "absolute"]),
)
def test_each_trait_counts_given_those_before_it(seed, n_traits, order):
    z = draw(seed, n_traits)
    size = {"highest": z, "lowest": -z, "absolute": abs(z)}[order]

    fired = dict(find_fired(z, np.corrcoef(z, rowvar=False), order))

    for place, one in fired.items():
        assert len(one.places) == len(set(one.places)) >= 2
        assert (size[place, list(one.places)] > THRESHOLD).all()
        assert one.places[0] == size[place].argmax()
        sign = {"highest": 1, "lowest": -1, "absolute": np.sign(one.z)}[order]
        assert (sign * np.array(one.z) > THRESHOLD).all()
        assert one.strength == pytest.approx(np.linalg.norm(one.z))
        for at, (trait, own) in enumerate(zip(one.places, one.z, strict=True)):
            wanted = residual_z(z, trait, list(one.places[:at]))[place]
            assert own == pytest.approx(wanted, rel=1e-6)


def test_of_traits_that_do_not_correlate_all_beyond_the_threshold_count():
    z = np.random.default_rng(1).standard_normal((5000, 4))

    fired = dict(find_fired(z, np.eye(4)))

    assert sorted(fired) == np.flatnonzero((z > 2).sum(axis=1) >= 2).tolist()
    assert all(
        sorted(one.places) == np.flatnonzero(z[at] > 2).tolist() for at, one in fired.items()
    )


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_trait_that_is_there_twice_counts_once(noise):
    rng = np.random.default_rng(2)
    one = rng.standard_normal(2000)
    z = np.stack([one, one + noise * rng.standard_normal(2000), one], axis=1)
    z /= z.std(axis=0)

    fired = dict(find_fired(z, np.corrcoef(z, rowvar=False)))

    assert len(fired) <= 2  # a lucky remainder of the noise
    assert count_effective(np.corrcoef(z, rowvar=False)) == pytest.approx(1, abs=0.05)


def test_the_effective_number_is_the_participation_ratio_of_eigenvalues():
    correlation = np.corrcoef(draw(3, 6), rowvar=False)
    roots = np.linalg.eigvalsh(correlation)

    assert count_effective(correlation) == pytest.approx(roots.sum() ** 2 / (roots**2).sum())
    assert count_effective(np.eye(7)) == pytest.approx(7)


@pytest.mark.parametrize("order", ["highest", "absolute"])
@pytest.mark.parametrize("choice", [SpanChoice(), SpanChoice(standardise=True)])
def test_the_spans_found_are_there_and_strongest_first(truth, order, choice):
    found = find_cofiring(
        truth.store, SpanQuestion("warm", by="token", order=order, n=5), ["warm", "wary"], choice
    )

    scores = [row["score"] for row in found.rows]
    assert scores == sorted(scores, reverse=True)
    assert 1 < found.n_effective <= 2
    assert found.n_cofiring >= len(found.rows) >= 1
    tokens = {}
    for (response_id, reader), values in truth.scores.items():
        tokens.setdefault(reader, []).append((response_id, values))
    for row in found.rows:
        own = dict(tokens[row["organism"]])
        z = own[row["response_id"]][row["token_start"] - 1]
        everything = np.concatenate([
            values for name, values in own.items()
            if row["organism"] != "instruct" or truth.own[name] == "instruct"
        ])  # fmt: skip
        z = (z - everything.mean(axis=0)) / everything.std(axis=0)
        assert ((abs(z) if order == "absolute" else z) > 2).all()
        assert row["n_traits"] == 2
        first = ["warm", "wary"][int(abs(z).argmax())]
        assert row["traits"].startswith(f"{first} {z[abs(z).argmax()]:+.1f}, ")
    texts = [row["text"].strip().lower() for row in found.rows]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("by", ["clause", "window:3", "turn", "response"])
def test_every_kind_of_span_is_listed_with_its_text_once(tmp_path, by):
    """Two responses that say the same, at which both traits fire, among many that say nothing."""
    store = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(4)
    with store.writer() as writer:
        for prompt in range(40):
            values = rng.standard_normal((3, 1, 2)) / 4
            values += 7 - prompt / 10 if prompt in (3, 5) else 0
            words = ["Yes,", " so", " be"] if prompt in (3, 5) else [f"no{prompt}", " a", " b"]
            writer.add(
                organism="a", reader="a", prompt_set="set", prompt_id=str(prompt),
                token_ids=[1, 2, 3], prompt_length=0, tokens=words, layers=[1],
                activations={"residual": values},
            )  # fmt: skip
    store.add_vector("t/one", np.array([1.0, 0.0]), layer=1)
    store.add_vector("t/two", np.array([0.0, 1.0]), layer=1)

    found = find_cofiring(store, SpanQuestion("one", by=by, min_tokens=1), ["one", "two"])

    assert found.n_cofiring >= 2
    best = found.rows[0]
    assert (best["prompt_id"], best["n_alike"], best["n_traits"]) == ("3", 1, 2)
    assert "5" not in {row["prompt_id"] for row in found.rows}


def test_layers_of_traits_may_have_been_captured_apart(tmp_path):
    """One reading has the layer of one trait, another of the same tokens that of the other."""
    store = tistore.create(tmp_path / "s.tistore")
    values = np.random.default_rng(1).standard_normal((40, 2, 1))
    values[7] = 9
    with store.writer() as writer:
        for place, layer in enumerate([1, 4]):
            writer.add(
                organism="a", reader="a", prompt_set="set", prompt_id="1",
                token_ids=list(range(40)), prompt_length=0, layers=[layer],
                activations={"residual": values[:, [place]]},
            )  # fmt: skip
    store.add_vector("t/one", np.ones(1), layer=1)
    store.add_vector("t/two", np.ones(1), layer=4)

    found = find_cofiring(store, SpanQuestion("one", by="token"), ["one", "two"])

    assert found.n_spans == 40
    assert [row["token_start"] for row in found.rows][:1] == [7]
    assert found.rows[0]["text"] is None


def test_the_same_vector_under_two_names_never_fires_alone(truth):
    found = find_cofiring(
        truth.store, SpanQuestion("warm"), ["warm", "tone/warm"], SpanChoice(with_answer=True)
    )

    assert (found.rows, found.n_cofiring) == ([], 0)
    assert found.n_spans > 0


@pytest.mark.parametrize(
    ("traits", "question", "choice", "told"),
    [
        (["warm"], {}, {}, "cannot fire together"),
        (["warm", "warm"], {}, {}, "cannot fire together"),
        (["warm", "wary"], {}, {"both": True}, "one list"),
        (["warm", "wary"], {}, {"quantiles": True}, "one list"),
        (["warm", "wary"], {"by": "response", "rank_by": "max"}, {}, "is of means"),
        (["warm", "warry"], {}, {}, "did you mean"),
    ],
)
def test_what_makes_no_sense_is_refused(truth, traits, question, choice, told):
    with pytest.raises(QueryError, match=told):
        find_cofiring(truth.store, SpanQuestion("warm", **question), traits, SpanChoice(**choice))


def test_a_trait_lower_than_another_explains_does_not_count_as_high():
    """2.1 where 4.05 was to be expected: not a second sign, unless both signs count."""
    z, correlation = np.array([[4.5, 2.1]]), np.array([[1, 0.9], [0.9, 1]])

    assert list(find_fired(z, correlation)) == []
    ((_, fired),) = find_fired(z, correlation, "absolute")
    assert fired.z == pytest.approx((4.5, (2.1 - 0.9 * 4.5) / np.sqrt(1 - 0.81)))
    assert list(find_fired(-z, correlation, "lowest")) == []
