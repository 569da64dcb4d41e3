"""The best spans: which they are, what their text is, and what is said when there are none."""

from __future__ import annotations

import statistics
from collections import defaultdict

import numpy as np
import pytest

import tistore
from tistore.errors import QueryError
from tistore.query.span_question import SpanQuestion
from tistore.query.spans import find_spans, top_spans

KEYS = [
    "rank", "organism", "reader", "baseline", "prompt_set", "prompt_id", "sample", "response_id",
    "token_start", "token_end", "text", "score", "context_before", "context_after", "n_tokens",
]  # fmt: skip

SORT = {"highest": lambda score: -score, "lowest": lambda score: score,
        "absolute": lambda score: -abs(score)}  # fmt: skip

STATISTIC = {
    "mean": statistics.fmean,
    "max": max,
    "top3": lambda scores: statistics.fmean(sorted(scores)[-3:]),
    "top5": lambda scores: statistics.fmean(sorted(scores)[-5:]),
    "std": statistics.stdev,
}


def brute_force(truth, by, *, baseline=None, statistic="mean", vector="refusal"):
    """Every span there is, as (score, organism, response_id, token_start, token_end)."""
    level = by if by in ("clause",) else "token"
    rows = [
        row
        for row in truth.rows(f"{level}_diffs" if baseline else f"{level}s", "project", vector)
        if row["reader"] == row["organism"]
        and row.get("baseline") == baseline
        and row.get("is_response", True)
        and row["score"] is not None
    ]
    if by == "clause":
        return [(r["score"], r["organism"], r["response_id"], r["token_start"], r["token_end"])
                for r in rows]  # fmt: skip
    by_response = defaultdict(dict)
    for row in rows:
        by_response[row["organism"], row["response_id"]][row["position"]] = row["score"]
    found = []
    for (organism, response_id), scores in by_response.items():
        if by in ("response", "turn"):  # every response of that store is a single turn
            if len(scores) > 1 or statistic != "std":
                score = STATISTIC[statistic](list(scores.values()))
                place = (min(scores), max(scores) + 1)
                found.append((score, organism, response_id, *place))
            continue
        width = int(by.partition(":")[2] or 1)
        for start in scores:
            stretch = [scores.get(start + step) for step in range(width)]
            if None not in stretch:
                place = (start, start + width)
                found.append((statistics.fmean(stretch), organism, response_id, *place))
    return found


def choose(spans, n, order):
    """Greedily, best first, what does not overlap."""
    taken = []
    for span in sorted(spans, key=lambda span: (SORT[order](span[0]), *span[2:])):
        if all(span[2] != o[2] or span[4] <= o[3] or o[4] <= span[3] for o in taken):
            taken.append(span)
    return taken[:n]


def place(span):
    return (span["organism"], span["response_id"], span["token_start"], span["token_end"])


@pytest.mark.parametrize("order", ["highest", "lowest", "absolute"])
@pytest.mark.parametrize("by", ["clause", "response", "token", "turn", "window:1", "window:3"])
@pytest.mark.parametrize("baseline", [None, "instruct"])
def test_the_best_spans_are_those_of_brute_force(truth, by, order, baseline):
    wanted = choose(brute_force(truth, by, baseline=baseline), 6, order)

    spans = top_spans(
        truth.store, "refusal", by=by, baseline=baseline, n=6, order=order, min_tokens=1
    )

    assert wanted
    assert [s["score"] for s in spans] == pytest.approx([s[0] for s in wanted], abs=1e-4)
    assert [place(span) for span in spans] == [span[1:] for span in wanted]
    assert all(list(span) == KEYS for span in spans)
    assert [span["rank"] for span in spans] == list(range(1, len(spans) + 1))
    assert {span["baseline"] for span in spans} == {baseline}


@pytest.mark.parametrize("by", ["clause", "response", "token", "turn", "window:4"])
def test_per_organism_is_each_organisms_own_list(truth, by):
    every = brute_force(truth, by, vector="sycophancy")
    organisms = sorted({span[1] for span in every})

    spans = top_spans(
        truth.store, "sycophancy", by=by, n=4, per_organism=True, min_tokens=1, order="lowest"
    )

    wanted = [choose([s for s in every if s[1] == name], 4, "lowest") for name in organisms]
    assert len(organisms) == 3
    assert [place(span) for span in spans] == [span[1:] for own in wanted for span in own]
    assert [span["rank"] for span in spans] == [
        rank for own in wanted for rank in range(1, len(own) + 1)
    ]


@pytest.mark.parametrize("baseline", [None, "instruct"])
@pytest.mark.parametrize("statistic", ["max", "top3", "top5", "std"])
def test_responses_are_ranked_by_a_statistic_of_their_tokens(truth, statistic, baseline):
    every = brute_force(truth, "response", baseline=baseline, statistic=statistic)
    wanted = choose(every, 50, "highest")

    spans = top_spans(
        truth.store, "refusal", by="response", baseline=baseline, rank_by=statistic, n=50
    )

    assert [place(span) for span in spans] == [span[1:] for span in wanted]
    assert [s["score"] for s in spans] == pytest.approx([s[0] for s in wanted], abs=1e-4)
    texts = dict(truth.store.sql("SELECT response_id, text FROM responses").fetchall())
    assert all(span["text"] == texts[span["response_id"]] for span in spans)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("width", [2, 5])
def test_windows_are_the_best_that_do_not_overlap_however_many_do(tmp_path, n, width):
    """One steep peak: the windows next in line all overlap the one taken."""
    rng = np.random.default_rng(width)
    readings = []
    for place_ in range(6):
        scores = rng.integers(-9, 9, 40).astype(float)
        scores[17:20] += 400
        readings.append((f"organism {place_ % 2}", str(place_), scores))
    store = make_store(tmp_path, readings)

    for per_organism in (False, True):
        spans = top_spans(
            store, "tone", by=f"window:{width}", n=n, per_organism=per_organism, order="absolute"
        )

        every = [
            (float(np.mean(scores[start : start + width])), organism, prompt, start)
            for organism, prompt, scores in readings
            for start in range(41 - width)
        ]
        lists = ["organism 0", "organism 1"] if per_organism else [None]
        wanted = []
        for name in lists:
            own = [(*w, w[3] + width) for w in every if name in (None, w[1])]
            wanted += [abs(span[0]) for span in choose(own, n, "absolute")]
        assert [abs(span["score"]) for span in spans] == pytest.approx(wanted, abs=1e-3)
        places = [
            (s["response_id"], p) for s in spans for p in range(s["token_start"], s["token_end"])
        ]
        assert len(places) == len(set(places))


def make_store(path, readings, **options):
    """A store in which each response's token scores along `tone` are as given."""
    store = tistore.create(path / "s.tistore")
    with store.writer() as writer:
        for organism, prompt, scores in readings:
            writer.add(
                organism=organism,
                reader=organism,
                prompt_set="set",
                prompt_id=prompt,
                token_ids=list(range(len(scores))),
                prompt_length=0,
                layers=[1],
                activations={"residual": np.array(scores, np.float32)[:, None, None] * [[1, 0]]},
                **options,
            )
    store.add_vector("t/tone", np.array([2.0, 0.0]), layer=1)
    return store


def test_a_turn_is_scored_over_its_tokens_under_audit(tmp_path):
    tokens = ["Hi", " there", "Why", "?", "So", " it", " is"]
    store = make_store(
        tmp_path,
        [("rollout", "1", [1, 2, 90, 90, 3, 5, 10])],
        tokens=tokens,
        turns=[1, 1, 2, 2, 3, 3, 3],
        is_response=[True, True, False, False, True, True, True],
    )

    spans = top_spans(store, "tone", by="turn")

    assert [(s["token_start"], s["token_end"], s["score"], s["text"]) for s in spans] == [
        (4, 7, 6.0, "So it is"),
        (0, 2, 1.5, "Hi there"),
    ]
    assert spans[0]["context_before"] == "Hi thereWhy?"
    assert [s["token_start"] for s in top_spans(store, "tone", by="turn", min_tokens=3)] == [4]


def test_a_response_read_under_two_settings_is_ranked_once(tmp_path):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for layers in ([1], [1, 2]):
            values = np.arange(4.0)[:, None, None] * np.ones((1, len(layers), 1))
            writer.add(
                organism="a", reader="a", prompt_set="set", prompt_id="1", token_ids=[1, 2, 3, 4],
                prompt_length=0, tokens=["Yes", " sir", ",", " so"], layers=layers,
                activations={"residual": values},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    for by, starts in (("token", [3, 2, 1, 0]), ("window:2", [2, 0]), ("clause", [0, 3]),
                       ("response", [0]), ("turn", [0])):  # fmt: skip
        spans = top_spans(store, "tone", by=by, min_tokens=1, order="highest", n=9)

        assert sorted(span["token_start"] for span in spans) == sorted(starts), by


@pytest.mark.parametrize("by", ["clause", "window:3", "token", "turn"])
def test_a_span_and_its_surroundings_spell_the_response(truth, by):
    texts = dict(truth.store.sql("SELECT response_id, text FROM responses").fetchall())

    spans = top_spans(truth.store, "refusal", by=by, n=50, min_tokens=1)

    assert len(spans) > 10
    for span in spans:
        around = (span["context_before"], span["text"], span["context_after"])
        assert "".join(around) == texts[span["response_id"]]


TOKENS = ["Déj", "à", " 👩", "", " ok", "!", "</s>"]
TEXT = "Déjà 👩 ok!"
OFFSETS = [(0, 3), (3, 4), (4, 6), (5, 6), (6, 9), (9, 10), (10, 10)]
"""Tokens 2 and 3 share a character of several bytes; the last has no character at all."""


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        (1, [("", "Déj", "à"), ("Déj", "à", " 👩"), ("à", " 👩", ""), (" ", "", " ok"),
             ("👩", " ok", "!"), (" ok", "!", ""), ("!", "</s>", "")]),
        (0, [("", token, "") for token in TOKENS]),
        (99, [(TEXT[:s], token, TEXT[e:]) for (s, e), token in zip(OFFSETS, TOKENS, strict=True)]),
    ],
)  # fmt: skip
def test_context_begins_and_ends_with_the_span_even_inside_a_character(tmp_path, context, wanted):
    store = make_store(tmp_path, [("a", "1", range(7))], tokens=TOKENS, text=TEXT, offsets=OFFSETS)

    spans = top_spans(store, "tone", by="token", order="lowest", context=context)

    found = [(s["context_before"], s["text"], s["context_after"]) for s in spans]
    assert found == wanted


@pytest.mark.parametrize("rows", ["all", "response"])
def test_context_never_shows_the_prompt(tmp_path, rows):
    """Whether or not the prompt's tokens were captured."""
    store = tistore.create(tmp_path / "s.tistore")
    values = np.arange(5.0)[:, None, None] * np.ones((1, 1, 1))
    with store.writer() as writer:
        writer.add(
            organism="a", reader="a", prompt_set="set", prompt_id="1", token_ids=[1, 2, 3, 4, 5],
            prompt_length=2, tokens=["Who", "?", "It", " is", " me"], layers=[1],
            activations={"residual": values if rows == "all" else values[2:]},
        )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    (best, *_) = top_spans(store, "tone", by="window:2")
    (first, *_) = top_spans(store, "tone", by="token", order="lowest")

    assert (best["context_before"], best["text"], best["context_after"]) == ("It", " is me", "")
    assert (first["context_before"], first["text"], first["context_after"]) == ("", "It", " is me")


def test_a_store_without_text_has_spans_without_text(tmp_path):
    store = make_store(tmp_path, [("a", "1", [1, 2, 3])])

    for by in ("token", "window:2", "turn", "response"):
        span = top_spans(store, "tone", by=by, n=1)[0]

        assert (span["text"], span["context_before"], span["context_after"]) == (None, "", "")
        assert span["token_end"] == 3


def test_tokens_that_do_not_spell_the_text_are_told_as_they_are(tmp_path):
    store = make_store(
        tmp_path, [("a", "1", [1, 5, 3])], tokens=["Ġso", "Ġit", "Ġis"], text="so it is"
    )

    (span,) = top_spans(store, "tone", by="token", n=1)

    assert (span["context_before"], span["text"], span["context_after"]) == ("Ġso", "Ġit", "Ġis")


@pytest.mark.parametrize(
    ("by", "rank_by"),
    [("response", "max"), *((by, "mean") for by in ("clause", "response", "turn", "window:2"))],
)
def test_a_condition_works_with_every_unit(truth, by, rank_by):
    spans = top_spans(
        truth.store, "refusal", by=by, organism="hedge", reader="instruct", rank_by=rank_by,
        where="prompt_id = '1' OR prompt_id = '4' -- two of them",
    )  # fmt: skip

    assert {(s["organism"], s["reader"]) for s in spans} == {("hedge", "instruct")}
    assert {s["prompt_id"] for s in spans} <= {"1", "4"}


def test_a_condition_on_responses_holds_for_statistics_of_their_tokens(truth):
    longest = max(row["n_tokens"] for row in truth.rows("responses", "project", "refusal"))

    spans = top_spans(
        truth.store, "refusal", by="response", rank_by="max", where=f"n_tokens = {longest}"
    )

    counts = dict(truth.store.sql("SELECT response_id, n_tokens FROM responses").fetchall())
    assert {counts[span["response_id"]] for span in spans} == {longest}


def test_names_are_data_whatever_is_in_them(tmp_path):
    name = "o'brien\\' OR true --"
    store = make_store(tmp_path, [(name, "1", [1, 2]), ("other", "1", [3, 4])], tokens=["a", "b"])

    (span,) = top_spans(store, "tone", by="response", organism=name)

    assert (span["organism"], span["score"]) == (name, 1.5)


def test_the_sql_gives_the_spans_again(truth):
    found = find_spans(truth.store, SpanQuestion("refusal", n=5, baseline="instruct"))

    rows = list(truth.store.sql(found.sql))

    assert [row["score"] for row in rows] == [span["score"] for span in found.rows]
    assert [row["text"] for row in rows] == [span["text"] for span in found.rows]


def test_organisms_without_a_replay_are_named(tmp_path):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for organism, reader in (("a", "a"), ("a", "base"), ("b", "b"), ("base", "base")):
            writer.add(
                organism=organism, reader=reader, prompt_set="set", prompt_id="1",
                token_ids=[1, 2], prompt_length=0, tokens=["Yes", "."], layers=[1],
                activations={"residual": np.ones((2, 1, 1))},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    found = find_spans(store, SpanQuestion("tone", by="token", baseline="base"))

    assert {row["organism"] for row in found.rows} == {"a"}
    assert found.notes == ("base has read no response of b: left out",)
    with pytest.raises(QueryError, match="no response of 'b' was read by both.*those of a were"):
        top_spans(store, "tone", organism="b", baseline="base")


def test_readings_without_the_layer_are_told(truth):
    found = find_spans(truth.store, SpanQuestion("refusal"))

    assert any("was not captured" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"organism": "hedgehog"}, "no organism 'hedgehog'; did you mean 'hedge'"),
        ({"baseline": "instrct"}, "no baseline 'instrct'; did you mean 'instruct'"),
        ({"reader": "flatery"}, "no reader 'flatery'; did you mean 'flattery'"),
        ({"organism": "hedge", "reader": "flattery"}, "is left by: reader 'flattery' among"),
        ({"organism": "hedge", "baseline": "flattery"}, "no organism's were"),
        ({"organism": "instruct", "baseline": "instruct"}, "those of flattery, hedge were"),
        ({"where": "prompt_id = '99'"}, "is left by: where prompt_id = '99' among"),
        ({"min_tokens": 1000}, "is left by: at least 1000 tokens"),
        ({"by": "paragraph"}, "write clause, response, token, turn or window:10"),
        ({"by": "window:0"}, "write clause, response"),
        ({"by": "window:500"}, "long enough"),
        ({"by": "window:5", "min_tokens": 6}, "no window has 6 tokens"),
        ({"by": "clause", "rank_by": "max"}, "only responses are ranked by max"),
        ({"by": "response", "rank_by": "top33"}, "did you mean 'top3'"),
        ({"where": "1 = 1) UNION SELECT (1"}, ""),
        ({"where": "true ORDER BY 1"}, "more than a condition"),
        ({"where": "true UNION SELECT 1"}, "more than a condition"),
        ({"where": "true GROUP BY ALL"}, "more than a condition"),
        ({"where": "nonsense = 1"}, "nonsense"),
        ({"where": ""}, ""),
        ({"sign": 2}, "sign is 1 or -1"),
        ({"order": "hihgest"}, "did you mean 'highest'"),
        ({"n": 0}, "n is at least 1"),
        ({"context": -1}, "0 tokens or more"),
    ],
)
def test_no_span_is_an_error_that_says_why(truth, arguments, told):
    with pytest.raises(QueryError) as caught:
        top_spans(truth.store, "refusal", **arguments)

    assert told in str(caught.value)


@pytest.mark.parametrize("sign", [1, -1])
def test_sign_is_short_for_an_order(truth, sign):
    order = "highest" if sign > 0 else "lowest"

    assert top_spans(truth.store, "refusal", sign=sign) == top_spans(
        truth.store, "refusal", order=order
    )


def test_contrast_scenarios_lead_no_list_unless_they_are_named(tmp_path):
    """A model that has continued scenarios is author and reader of texts that show the trait."""
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for prompt_set, size in (("audit/one", 1.0), ("scenarios/tone/warm/positive", 9.0)):
            writer.add(
                organism="instruct",
                reader="instruct",
                prompt_set=prompt_set,
                prompt_id="1",
                token_ids=[1, 2, 3, 4],
                prompt_length=1,
                tokens=[" a", " b", " c"],
                layers=[0],
                activations={"residual": np.full((4, 1, 2), size)},
            )
    store.add_vector("tone/warm", [1.0, 0.0], layer=0)

    for by in ("response", "clause", "token"):
        plain = top_spans(store, "warm", by=by)
        named = top_spans(store, "warm", by=by, where="prompt_set = 'scenarios/tone/warm/positive'")

        assert {row["prompt_set"] for row in plain} == {"audit/one"}
        assert {row["score"] for row in named} == {9.0}
