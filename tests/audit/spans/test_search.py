"""The list an auditor reads, against lists made by brute force."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import chisquare

import tistore
from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.length_scale import measure_scale
from tistore.audit.spans.listing import list_spans
from tistore.audit.spans.pool import read_pool
from tistore.audit.spans.search import find_top
from tistore.audit.spans.wording import Wordings
from tistore.errors import PairingError, QueryError
from tistore.query.span_question import SpanQuestion
from tistore.query.spans import find_spans
from tistore.schemas.model import Model

EXTRA = ("z", "band", "n_alike", "answer")


def list_clauses(truth, *, baseline=None, organism=None, least=3):
    """Every clause with its mean score and its z, in plain Python."""
    found = []
    rows = truth.store.sql(
        "SELECT organism, reader, prompt_id, response_id, token_start, token_end, text "
        "FROM clauses WHERE reader = organism ORDER BY response_id, token_start"
    )
    scores = {
        (r, reader): values[:, 0] - (truth.scores[r, baseline][:, 0] if baseline else 0)
        for (r, reader), values in truth.scores.items()
        if baseline is None or (r, baseline) in truth.scores
    }
    for row in rows:
        if (row["response_id"], row["reader"]) not in scores or row["reader"] == baseline:
            continue
        own = scores[row["response_id"], row["reader"]]
        row["n_tokens"] = row["token_end"] - row["token_start"]
        row["score"] = own[row["token_start"] - 1 : row["token_end"] - 1].mean()
        found.append(row)
    for row in found:
        everything = [
            scores[r, row["organism"]]
            for r in {o["response_id"] for o in found if o["organism"] == row["organism"]}
        ]
        scale = measure_scale(everything, max(one["n_tokens"] for one in found))
        row["z"] = scale.standardise(np.array([row["score"]]), np.array([row["n_tokens"]]))[0]
    return [
        row for row in found
        if row["n_tokens"] >= least and organism in (None, row["organism"])
    ]  # fmt: skip


def place(row):
    return row["response_id"], row["token_start"], row["token_end"]


def order(rows, key):
    return sorted(rows, key=lambda row: (key(row), row["response_id"], row["token_start"]))


@pytest.mark.parametrize("by", ["clause", "token", "window:4", "turn", "response"])
@pytest.mark.parametrize("baseline", [None, "instruct"])
def test_without_a_choice_the_list_is_the_querys(truth, by, baseline):
    question = SpanQuestion("warm", by=by, baseline=baseline, n=6)

    found = find_top(truth.store, question)

    asked = find_spans(truth.store, question)
    assert found.sql == asked.sql
    assert found.notes == asked.notes
    assert [{k: v for k, v in row.items() if k not in EXTRA} for row in found.rows] == asked.rows
    assert all(
        row["band"] == "top" and row["n_alike"] is row["answer"] is None for row in found.rows
    )


@pytest.mark.parametrize("order_by", ["highest", "lowest", "absolute"])
@pytest.mark.parametrize("by", ["clause", "token", "window:4", "turn", "response"])
def test_a_list_chosen_from_all_spans_is_the_querys_when_nothing_is_left_out(truth, by, order_by):
    """More of a prompt than there are leave nothing out."""
    question = SpanQuestion("warm", by=by, n=9, order=order_by)

    found = find_top(truth.store, question, SpanChoice(per_prompt=10_000))

    asked = find_top(truth.store, question)
    assert found.rows == asked.rows
    if by != "window:4":  # of these, those that may begin one are counted
        assert found.n_spans == asked.n_spans


@pytest.mark.parametrize("baseline", [None, "instruct"])
def test_ranked_by_z_the_list_is_that_of_brute_force(truth, baseline):
    wanted = order(list_clauses(truth, baseline=baseline, least=1), lambda row: -row["z"])[:15]

    found = find_top(
        truth.store, SpanQuestion("warm", baseline=baseline, n=15), SpanChoice(standardise=True)
    ).rows

    assert [place(row) for row in found] == [place(row) for row in wanted]
    assert [row["z"] for row in found] == pytest.approx([row["z"] for row in wanted], abs=1e-4)
    assert [row["score"] for row in found] == pytest.approx(
        [row["score"] for row in wanted], abs=1e-4
    )
    assert min(row["n_tokens"] for row in found) < 3


def test_the_raw_list_has_z_beside_the_score(truth):
    clauses = {place(row): row for row in list_clauses(truth)}

    found = find_top(truth.store, SpanQuestion("warm", n=30)).rows

    wanted = [clauses[place(row)]["z"] for row in found]
    assert [row["z"] for row in found] == pytest.approx(wanted, abs=1e-4)
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)


def test_a_condition_limits_the_tokens_that_z_is_measured_by(truth):
    kept = [row for row in list_clauses(truth, organism="hedge") if int(row["prompt_id"]) < 5]
    tokens = [truth.scores[r, "hedge"][:, 0] for r in {row["response_id"] for row in kept}]

    found = find_top(
        truth.store, SpanQuestion("warm", organism="hedge", where="prompt_id < '5'", n=10)
    ).rows

    scale = measure_scale(tokens, 30)
    for row in found:
        (z,) = scale.standardise(np.array([row["score"]]), np.array([row["n_tokens"]]))
        assert row["z"] == pytest.approx(z, abs=1e-4)


def test_both_ends_are_the_highest_and_the_lowest(truth):
    clauses = list_clauses(truth)

    found = find_top(truth.store, SpanQuestion("warm", n=5), SpanChoice(both=True)).rows

    assert [row["band"] for row in found] == ["top"] * 5 + ["bottom"] * 5
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5] * 2
    highest = order(clauses, lambda row: -row["score"])[:5]
    lowest = order(clauses, lambda row: row["score"])[:5]
    assert [place(row) for row in found] == [place(row) for row in (*highest, *lowest)]


def test_quantiles_are_from_the_middle_and_at_random(truth):
    clauses = list_clauses(truth)
    median = np.median([row["score"] for row in clauses])
    question = SpanQuestion("warm", n=6)

    found = find_top(truth.store, question, SpanChoice(quantiles=True, seed=1)).rows

    bands = {band: [row for row in found if row["band"] == band] for band in
             ("top", "middle", "random")}  # fmt: skip
    assert [len(rows) for rows in bands.values()] == [6, 6, 6]
    assert len({place(row) for row in found}) == 18
    middle = order(clauses, lambda row: abs(row["score"] - median))[:6]
    assert {place(row) for row in bands["middle"]} == {place(row) for row in middle}
    again = find_top(truth.store, question, SpanChoice(quantiles=True, seed=1)).rows
    other = find_top(truth.store, question, SpanChoice(quantiles=True, seed=2)).rows
    assert found == again
    assert found[:12] == other[:12]
    assert found[12:] != other[12:]


def test_random_spans_are_drawn_evenly(truth):
    """Over many seeds each of those that are in no other band about as often: chi-squared."""
    pool = read_pool(truth.store, SpanQuestion("warm", n=10))
    listed = [
        one
        for seed in range(300)
        for one in list_spans(pool, pool.scores, SpanChoice(quantiles=True, seed=seed))
    ]

    drawn = Counter(one.place for one in listed if one.band == "random")
    fixed = {one.place for one in listed if one.band != "random"}
    assert set(drawn) == set(range(len(pool))) - fixed
    assert chisquare(list(drawn.values())).pvalue > 1e-4


@pytest.mark.parametrize("limit", [1, 2])
def test_of_each_prompt_there_are_so_many_at_most(truth, limit):
    wanted, counts = [], Counter()
    for row in order(list_clauses(truth), lambda row: -row["score"]):
        counts[row["prompt_id"]] += 1
        if counts[row["prompt_id"]] <= limit:
            wanted.append(row)

    found = find_top(truth.store, SpanQuestion("warm", n=8), SpanChoice(per_prompt=limit)).rows

    assert [place(row) for row in found] == [place(row) for row in wanted[:8]]


@pytest.mark.parametrize("per_organism", [False, True])
def test_of_texts_that_read_alike_the_strongest_is_kept_and_the_others_counted(truth, per_organism):
    clauses = order(list_clauses(truth), lambda row: -row["score"])
    groups = ["flattery", "hedge", "instruct"] if per_organism else [None]
    wanted = []
    for group in groups:
        left = [row for row in clauses if group in (None, row["organism"])]
        for _ in range(6):
            if not left:
                break
            alike = Wordings([row["text"] for row in left]).find_alike(0).tolist()
            wanted.append((place(left[0]), len(alike) - 1))
            left = [row for at, row in enumerate(left) if at not in alike]

    question = SpanQuestion("warm", n=6, per_organism=per_organism)
    found = find_top(truth.store, question, SpanChoice(dedupe=True)).rows

    assert [(place(row), row["n_alike"]) for row in found] == wanted
    assert max(row["n_alike"] for row in found) > 3


def test_windows_that_overlap_are_no_repeats_of_each_other(tmp_path):
    """Of 8 words, windows a word apart read alike; the same text elsewhere is one repeat."""
    store = tistore.create(tmp_path / "s.tistore")
    tokens = [f" {word}" for word in "one two three four five six seven eight nine ten".split()]
    with store.writer() as writer:
        for prompt in ("1", "2"):
            values = np.arange(10.0)[:, None, None] * (3 - int(prompt))
            writer.add(
                organism="a", reader="a", prompt_set="set", prompt_id=prompt,
                token_ids=list(range(10)), prompt_length=0, tokens=tokens, layers=[1],
                activations={"residual": values},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    (best,) = find_top(
        store, SpanQuestion("tone", by="window:8", n=1), SpanChoice(dedupe=True)
    ).rows

    assert (best["prompt_id"], best["token_start"], best["n_alike"]) == ("1", 2, 1)


@pytest.mark.parametrize("rank_by", ["mean", "max"])
def test_responses_that_read_alike_are_listed_once(tmp_path, rank_by):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for prompt, word in enumerate(["yes", "yes", "no", "yes"]):
            writer.add(
                organism="a", reader="a", prompt_set="set", prompt_id=str(prompt),
                token_ids=[1, 2], prompt_length=0, tokens=[f"{word} it", " is"], layers=[1],
                activations={"residual": np.array([1.0, 2.0 + prompt])[:, None, None]},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    found = find_top(
        store, SpanQuestion("tone", by="response", rank_by=rank_by), SpanChoice(dedupe=True)
    ).rows

    assert [(row["prompt_id"], row["n_alike"]) for row in found] == [("3", 2), ("2", 0)]


@pytest.mark.parametrize("by", ["clause", "token", "window:3", "turn", "response"])
def test_what_was_read_under_two_settings_is_chosen_from_once(tmp_path, by):
    store = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(1)
    values = rng.standard_normal((30, 2, 1))
    tokens = [f" w{place}" + "." * (place % 5 == 4) for place in range(30)]
    with store.writer() as writer:
        for layers in ([1], [1, 2]):
            writer.add(
                organism="a", reader="a", prompt_set="set", prompt_id="1",
                token_ids=list(range(30)), prompt_length=0, tokens=tokens, layers=layers,
                activations={"residual": values[:, : len(layers)]},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    found = find_top(store, SpanQuestion("tone", by=by, n=99), SpanChoice(per_prompt=99)).rows

    assert [place(row) for row in found] == [
        place(row) for row in find_spans(store, SpanQuestion("tone", by=by, n=99)).rows
    ]
    scale = measure_scale([values[:, 0, 0].astype(np.float16).astype(np.float64)], 30)
    for row in found:
        (z,) = scale.standardise(np.array([row["score"]]), np.array([row["n_tokens"]]))
        assert row["z"] == pytest.approx(z, abs=1e-3)


def test_pairs_that_are_not_alike_are_kept_and_marked_if_wanted(tmp_path):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for reader in (Model("a", quantization="4bit"), Model("instruct", quantization="8bit")):
            values = np.random.default_rng(len(reader.name)).standard_normal((30, 1, 1))
            writer.add(
                organism=Model("a", quantization="4bit"), reader=reader, prompt_set="set",
                prompt_id="1", token_ids=list(range(30)), prompt_length=0, layers=[1],
                activations={"residual": values},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)
    question = SpanQuestion("tone", by="token", baseline="instruct", n=3)

    with pytest.raises(PairingError, match="--any-pairing"):
        find_top(store, question, SpanChoice(standardise=True))
    found = find_top(store, replace(question, any_pairing=True), SpanChoice(standardise=True))

    assert {row["pairing"] for row in found.rows} == {"precision"}
    assert all(row["z"] > 0 for row in found.rows)


def test_prose_has_no_heading_code_or_bare_marker(truth):
    everything = find_top(truth.store, SpanQuestion("warm", n=9999, min_tokens=1)).rows
    found = find_top(
        truth.store, SpanQuestion("warm", n=9999, min_tokens=1), SpanChoice(prose=True)
    )

    kept = {place(row) for row in found.rows}
    dropped = [row["text"] for row in everything if place(row) not in kept]
    assert {"# A plan", "x = 1"} <= set(dropped)
    assert set(dropped) <= {"# A plan", "```", "x = 1"}
    assert not any("#" in row["text"] or "`" in row["text"] for row in found.rows)
    assert found.notes == (f"{len(dropped)} of {len(everything)} spans are no prose: left out",)


@pytest.mark.parametrize("by", ["token", "window:3"])
def test_tokens_of_headings_and_code_are_no_prose(truth, by):
    found = find_top(truth.store, SpanQuestion("warm", by=by, n=9999), SpanChoice(prose=True))

    texts = [row["text"] for row in found.rows]
    assert not any(text.strip() in ("#", "```", "```x", "=", "plan") for text in texts)
    assert any("cat" in text for text in texts)


def test_the_answer_is_the_baselines_own_to_the_same_prompt(truth):
    answers = dict(
        truth.store.sql(
            "SELECT prompt_id, text FROM responses WHERE organism = 'instruct'"
        ).fetchall()
    )

    whole = find_top(
        truth.store, SpanQuestion("warm", n=40), SpanChoice(with_answer=True), context=10_000
    ).rows
    cut = find_top(
        truth.store, SpanQuestion("warm", n=40), SpanChoice(with_answer=True), context=4
    ).rows

    for row, short in zip(whole, cut, strict=True):
        own = row["organism"] == "instruct"
        assert row["answer"] == (None if own else answers[row["prompt_id"]])
        if not own:
            inner = short["answer"].strip("…")
            assert inner in answers[row["prompt_id"]]
            assert 0 < len(inner.split()) <= row["n_tokens"] + 9


@pytest.mark.parametrize(
    ("choice", "question", "told"),
    [
        ({"both": True}, {"order": "lowest"}, "both ends"),
        ({"standardise": True}, {"by": "response", "rank_by": "max"}, "only means"),
        ({"prose": True}, {"by": "response"}, "may have headings"),
        ({"standardise": True}, {"organism": "hegde"}, "did you mean 'hedge'"),
        ({"dedupe": True}, {"where": "prompt_id = '77'"}, "is left by: where prompt_id = '77'"),
        ({"with_answer": True}, {"baseline": "hedge", "organism": "hedge", "reader": "instruct"},
         ""),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(truth, choice, question, told):
    if not told:
        found = find_top(truth.store, SpanQuestion("warm", **question), SpanChoice(**choice))
        assert {row["answer"] for row in found.rows} == {None}
        return
    with pytest.raises(QueryError) as caught:
        find_top(truth.store, SpanQuestion("warm", **question), SpanChoice(**choice))

    assert told in str(caught.value)


@pytest.mark.parametrize("arguments", [{"per_prompt": 0}, {"seed": -1}])
def test_a_choice_that_is_none_is_refused(arguments):
    with pytest.raises(QueryError):
        SpanChoice(**arguments)


@pytest.mark.parametrize("choice", [{"dedupe": True}, {"prose": True}])
def test_a_store_without_text_says_so(tmp_path, choice):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        writer.add(
            organism="a", reader="a", prompt_set="set", prompt_id="1", token_ids=[1, 2, 3],
            prompt_length=0, layers=[1], activations={"residual": np.ones((3, 1, 1))},
        )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    with pytest.raises(QueryError, match="holds no text"):
        find_top(store, SpanQuestion("tone", by="token"), SpanChoice(**choice))
    with pytest.raises(QueryError, match="nothing can be standardised"):
        find_top(store, SpanQuestion("tone", by="token"), SpanChoice(standardise=True))
    with pytest.raises(QueryError, match="no answers of 'instruct'"):
        find_top(store, SpanQuestion("tone", by="token"), SpanChoice(with_answer=True))


def test_in_noise_short_clauses_are_no_more_of_the_top_than_of_all(tmp_path):
    """AR(1) noise, clauses of 8 tokens on average, 20 organisms with a top 20 each."""
    store = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for number in range(160):
            noise = lfilter([1.0], [1.0, -0.6], rng.standard_normal(500))[200:]
            ends = rng.random(300) < 1 / 8
            writer.add(
                organism=f"o{number % 20}", reader=f"o{number % 20}", prompt_set="set",
                prompt_id=str(number // 20), token_ids=list(range(300)), prompt_length=0,
                tokens=[" so." if end else " so" for end in ends], layers=[1],
                activations={"residual": noise[:, None, None]},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)
    ((overall,),) = store.sql("SELECT avg((n_tokens <= 2)::INT) FROM clauses").fetchall()

    def count_short(choice):
        question = SpanQuestion("tone", per_organism=True, n=20, min_tokens=1)
        rows = find_top(store, question, choice).rows
        assert len(rows) == 400
        return sum(row["n_tokens"] <= 2 for row in rows) / len(rows)

    # A top 20 is a fifteenth of an organism's clauses here: less extreme than 20 of 100,000.
    assert count_short(SpanChoice()) > overall + 0.15
    assert abs(count_short(SpanChoice(standardise=True)) - overall) <= 0.05
