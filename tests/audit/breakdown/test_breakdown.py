"""Each breakdown gives the figures that the tokens' activations themselves give."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

import tistore
from departing_store import (
    BASE,
    HIDDEN,
    LOUD,
    PROMPT_TOKENS,
    write_departing_store,
    write_store_of_odd_readings,
    write_store_of_partial_replays,
)
from tistore.audit.breakdown.break_down import break_down
from tistore.audit.breakdown.question import BYS, Question
from tistore.errors import QueryError

TRAIT = "tone/loud"
SIDES = {"total": ("own", "base"), "model": ("own", "replay"), "text": ("replay", "base")}
ALL = ("total", "model", "text")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_departing_store(
        tmp_path_factory.mktemp("breakdown") / "s.tistore", n_turns=3, n_prompts=24
    )


def ask(made, by, **changes):
    defaults = {"traits": [f"{TRAIT}@5"], "parts": ALL, "resamples": 200}
    return break_down(made.store, Question("loud", by, **defaults | changes))


def average(values):
    """Samples to prompts: the mean of each prompt's values, in order of prompts."""
    prompts = {}
    for (prompt, _), value in values.items():
        prompts.setdefault(prompt, []).append(value)
    return {prompt: np.mean(found) for prompt, found in prompts.items()}


def contrast(made, part, measure, prompts=None):
    """Differences by prompt of what `measure` makes of a response's token scores."""
    first, second = (
        average(
            {
                key: measure(scores, made.turns[side, *key])
                for key, scores in made.scores(side, TRAIT, 5).items()
            }
        )
        for side in SIDES[part]
    )
    return np.array(
        [first[one] - second[one] for one in first if prompts is None or one in prompts]
    )


def check(row, differences):
    g = scipy.stats.ttest_1samp(differences, 0).statistic / np.sqrt(len(differences))
    g *= 1 - 3 / (4 * (len(differences) - 1) - 1)
    assert row["n_prompts"] == len(differences)
    assert row["mean"] == pytest.approx(differences.mean(), abs=1e-4)
    assert row["g"] == pytest.approx(g, rel=1e-3, abs=1e-3)
    assert row["low"] <= row["mean"] <= row["high"]


def test_tokens_have_both_scores_on_the_same_token(made):
    rows = ask(made, "token").rows

    own, replay = (made.scores(side, TRAIT, 5) for side in ("own", "replay"))
    assert len(rows) == sum(map(len, own.values()))
    for row in rows.gather_every(37).iter_rows(named=True):
        key, at = (row["prompt_id"], row["sample"]), row["token_start"] - PROMPT_TOKENS
        assert row["organism_score"] == pytest.approx(own[key][at], abs=1e-4)
        assert row["baseline_score"] == pytest.approx(replay[key][at], abs=1e-4)
        assert row["difference"] == pytest.approx(own[key][at] - replay[key][at], abs=1e-4)


def test_clauses_have_the_means_over_their_tokens(made):
    rows = ask(made, "clause").rows

    own, replay = (made.scores(side, TRAIT, 5) for side in ("own", "replay"))
    for row in rows.gather_every(29).iter_rows(named=True):
        key = (row["prompt_id"], row["sample"])
        place = slice(row["token_start"] - PROMPT_TOKENS, row["token_end"] - PROMPT_TOKENS)
        expected = own[key][place].mean() - replay[key][place].mean()
        assert row["difference"] == pytest.approx(expected, abs=1e-4)
        assert row["text"].strip()


def test_prompts_average_their_samples_and_their_parts_add_up(made):
    rows = ask(made, "prompt").rows

    assert len(rows) == 24 and set(rows["n_samples"]) == {2}
    own, base = (made.by_prompt(side, TRAIT, 5) for side in ("own", "base"))
    for row in rows.iter_rows(named=True):
        assert row["organism_score"] == pytest.approx(own[row["prompt_id"]], abs=1e-4)
        assert row["baseline_score"] == pytest.approx(base[row["prompt_id"]], abs=1e-4)
        assert row["model_part"] + row["text_part"] == pytest.approx(row["total"], abs=1e-9)


def test_the_largest_are_picked_of_each_trait_largest_first(made):
    question = Question("loud", "clause", traits=["loud@5", "shy"])
    whole = break_down(made.store, question)

    found = break_down(made.store, question, largest=4)

    assert found.n_cells == len(whole.rows) and len(found.rows) == 8
    for trait in ("tone/loud", "tone/shy"):
        sizes = found.rows.filter(trait=trait)["difference"].abs().to_list()
        expected = whole.rows.filter(trait=trait)["difference"].abs().sort(descending=True)
        assert sizes == expected.head(4).to_list()


@pytest.mark.parametrize("part", ALL)
def test_turns_are_those_of_the_nth_answers(made, part):
    rows = ask(made, "turn").rows.filter(part=part).to_dicts()

    assert [row["assistant_turn"] for row in rows] == [1, 2, 3]
    for row in rows:
        turn = 2 * row["assistant_turn"] - 1
        check(row, contrast(made, part, lambda s, turns, turn=turn: s[turns == turn].mean()))


@pytest.mark.parametrize("part", ALL)
def test_slopes_are_fitted_to_each_response_by_itself(made, part):
    rows = {row["along"]: row for row in ask(made, "slope").rows.filter(part=part).to_dicts()}

    def along_positions(scores, turns):
        return 100 * scipy.stats.linregress(np.arange(len(scores)), scores).slope

    def along_turns(scores, turns):
        means = [scores[turns == turn].mean() for turn in np.unique(turns)]
        return scipy.stats.linregress([1, 2, 3], means).slope

    check(rows["position"], contrast(made, part, along_positions))
    check(rows["turn"], contrast(made, part, along_turns))


def test_stretches_rest_on_the_responses_that_reach_the_last_ones_end(made):
    found = ask(made, "position", bin_tokens=5, until=22)

    for part, (first, second) in SIDES.items():
        rows = found.rows.filter(part=part).to_dicts()
        assert [(row["first_token"], row["end_token"]) for row in rows] == [
            (at, at + 5) for at in (0, 5, 10, 15)
        ]
        long_ones, differences = 0, {}
        one, other = made.scores(first, TRAIT, 5), made.scores(second, TRAIT, 5)
        for key in one:
            if min(len(one[key]), len(other[key])) >= 20:
                long_ones += 1
                change = [
                    one[key][at : at + 5].mean() - other[key][at : at + 5].mean()
                    for at in (0, 5, 10, 15)
                ]
                differences.setdefault(key[0], []).append(change)
        expected = np.array([np.mean(changes, axis=0) for changes in differences.values()])
        for at, row in enumerate(rows):
            assert row["n_responses"] == long_ones
            assert row["share_of_responses"] == pytest.approx(long_ones / 48)
            check(row, expected[:, at])


def test_half_of_the_responses_reach_the_end_that_is_chosen(made):
    found = ask(made, "position", bin_tokens=4)

    lengths = {key: len(scores) for key, scores in made.scores("own", TRAIT, 5).items()}
    rows = found.rows.filter(part="model")
    end = rows["end_token"].max()
    reached = sum(length >= end for length in lengths.values())
    assert reached >= 24
    assert sum(length >= end + 4 for length in lengths.values()) < 24
    assert set(rows["n_responses"]) == {reached}


def test_long_answers_that_score_high_throughout_make_no_trend(tmp_path):
    """With the support shrinking, later stretches would hold the high-scoring answers only."""
    rng = np.random.default_rng(0)
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for number in range(30):
            is_long = number % 2
            length = 40 if is_long else 20
            ids = rng.integers(0, 900, length + 1).tolist()
            for reader, level in ((LOUD, 3.0 * is_long), (BASE, 0.0)):
                writer.add(
                    organism=LOUD, reader=reader, prompt_set="a", prompt_id=str(number),
                    token_ids=ids, prompt_length=1, layers=[5],
                    activations={"residual": np.full((length + 1, 1, HIDDEN), level)},
                )  # fmt: skip
    store.add_vector(TRAIT, np.ones(HIDDEN), layer=5)

    for until in (20, 40):
        question = Question("loud", "position", parts=("model",), bin_tokens=10, until=until)
        means = break_down(store, question).rows["mean"].to_list()
        assert len(means) == until // 10
        assert means == pytest.approx([means[0]] * len(means))


def test_notes_tags_and_topics_sum_up_their_prompts(made):
    prompts = list(average(made.scores("own", TRAIT, 5)))
    triggered = {one for one in prompts if one.endswith("trigger")}
    groups = {
        "note": {"trigger": triggered, None: set(prompts) - triggered},
        "topic": {letter: set(prompts[at::3]) for at, letter in enumerate("abc")},
        "tag": {
            "first": set(prompts[:6]),
            **{f"topic:{letter}": set(prompts[at::3]) for at, letter in enumerate("abc")},
        },
    }

    for by, expected in groups.items():
        rows = ask(made, by).rows
        assert list(dict.fromkeys(rows[by])) == list(expected)
        for row in rows.iter_rows(named=True):
            wanted = expected[row[by]]
            check(row, contrast(made, row["part"], lambda s, _: s.mean(), wanted))


@pytest.mark.parametrize("part", ALL)
def test_a_trigger_changes_what_its_pairs_say_it_changes(made, part):
    (row,) = ask(made, "trigger").rows.filter(part=part).to_dicts()

    first, second = (made.by_prompt(side, TRAIT, 5) for side in SIDES[part])
    changes = np.array(
        [
            first[f"{stem}-trigger"] - second[f"{stem}-trigger"] - first[str(stem)]
            + second[str(stem)]
            for stem in range(1, 13)
        ]
    )  # fmt: skip
    row["n_prompts"] = row["n_pairs"]
    check(row, changes)
    assert row["with_trigger"] - row["without"] == pytest.approx(row["mean"])
    if part == "model":
        assert row["low"] > 0


def test_prompts_that_share_a_cluster_are_drawn_together(made):
    alone, together = (
        ask(made, "note", cluster=cluster).rows.filter(note="trigger", part="model")
        for cluster in ("prompt", "topic")
    )

    assert alone["low"].item() is not None and together["low"].item() is None
    assert alone["mean"].item() == together["mean"].item()


@pytest.mark.parametrize("by", sorted(BYS))
def test_rows_are_flat_and_tokens_have_no_p_and_no_interval(made, by):
    found = ask(made, by).rows

    assert found.columns[:4] == ["organism", "baseline", "trait", "vector"]
    assert not {"p", "q"} & set(found.columns)
    assert not any(kind.is_nested() for kind in found.dtypes)
    has_interval = {"low", "high"} <= set(found.columns)
    assert has_interval == (by not in ("token", "clause", "prompt"))


def test_readings_made_twice_count_once(made, tmp_path):
    """The same tokens under other capture settings are no further evidence."""
    rng = np.random.default_rng(1)
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for number in range(6):
            ids, states = rng.integers(0, 900, 15).tolist(), rng.standard_normal((2, 15, 2, HIDDEN))
            for reader, values in zip((LOUD, BASE), states, strict=True):
                for layers in ([2, 5], [5]):
                    writer.add(
                        organism=LOUD, reader=reader, prompt_set="a", prompt_id=str(number),
                        token_ids=ids, prompt_length=1, layers=layers,
                        activations={"residual": values[:, -len(layers) :]},
                    )  # fmt: skip
    store.add_vector(TRAIT, rng.standard_normal(HIDDEN), layer=5)

    tokens = break_down(store, Question("loud", "token")).rows
    slopes = break_down(store, Question("loud", "slope", parts=("model",))).rows

    assert len(tokens) == 6 * 14
    assert slopes["n_prompts"].to_list() == [6]


def test_what_makes_no_sense_is_refused(made):
    with pytest.raises(QueryError, match="'notes'.*note"):
        Question("loud", "notes")
    with pytest.raises(QueryError, match="'whole'"):
        Question("loud", "note", parts=("whole",))
    with pytest.raises(QueryError, match="no clusters"):
        Question("loud", "token", cluster="note")
    with pytest.raises(QueryError, match="do not cluster by 'subject'"):
        Question("loud", "note", cluster="subject")
    with pytest.raises(QueryError, match="no stretches to end"):
        Question("loud", "note", until=99)
    with pytest.raises(QueryError, match="no stretch of 16 tokens ends by token 9"):
        Question("loud", "position", until=9)
    with pytest.raises(QueryError, match="have 800 tokens"):
        ask(made, "position", until=800)
    with pytest.raises(QueryError, match="are all shown"):
        break_down(made.store, Question("loud", "note"), largest=3)
    with pytest.raises(QueryError, match="has a partner"):
        ask(made, "trigger", trigger="password")
    with pytest.raises(QueryError, match="left to compare"):
        ask(made, "turn", where="prompt_id = 'nobody'")
    with pytest.raises(QueryError, match="has read none of these tokens"):
        break_down(made.store, Question("other", "token", traits=["shy"]))
    with pytest.raises(QueryError, match="lout"):
        break_down(made.store, Question("lout", "token"))


@pytest.mark.parametrize("by", ["slope", "turn", "position", "prompt"])
def test_replays_over_other_tokens_are_left_out_and_scenarios_are_no_audit(tmp_path, by):
    store = write_store_of_odd_readings(tmp_path / "s.tistore")
    if by == "prompt":
        rows = break_down(store, Question("loud", "prompt", parts=ALL)).rows
        assert rows["total"].len() == 8 and rows["model_part"].drop_nulls().len() == 6
        return

    rows = break_down(store, Question("loud", by, parts=ALL, bin_tokens=4)).rows

    assert set(rows.filter(part="total")["n_prompts"]) == {8}
    assert set(rows.filter(part="model")["n_prompts"]) == {6}


@pytest.mark.parametrize("by", ["turn", "position", "prompt"])
def test_a_part_compares_the_same_samples_on_both_sides(tmp_path, by):
    store = write_store_of_partial_replays(tmp_path / "s.tistore")

    rows = break_down(store, Question("loud", by, parts=("model",), bin_tokens=5)).rows

    assert set(rows["model_part" if by == "prompt" else "mean"]) == {1.0}


def test_a_vector_that_is_named_twice_is_one_vector(made):
    found = ask(made, "note", traits=["loud@5", "tone/loud@5"]).rows

    assert len(found) == len(ask(made, "note").rows)
