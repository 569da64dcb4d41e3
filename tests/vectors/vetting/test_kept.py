"""Which scenarios stay after vetting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tistore
from tistore.errors import ConfigError, DatasetError, NotStoredError
from tistore.schemas.judgement import Judgement
from tistore.vectors.vetting.kept import KeepRule, apply_rule, kept_scenarios, read_judgements
from tistore.vectors.vetting.options import read_threshold
from tistore.vectors.vetting.scenario_texts import read_texts
from vetting_store import TRAIT, make_text, write_scenarios

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def judge(store, scores, *, judge="judge-1", rubric_hash="r1", at=NOW):
    """Store scores: for each side, number → score."""
    rows = [
        Judgement(
            response_id=text.response_id,
            trait=TRAIT,
            side=text.side,
            judge=judge,
            endpoint="judge.example",
            rubric_hash=rubric_hash,
            score=scores[text.side][int(text.slot.prompt_id)],
            weight=None,
            source="text",
            raw="",
            n_words=16,
            n_asked=1,
            judged_at=at,
        ).to_row()
        for text in read_texts(store.snapshot, TRAIT, "instruct")
        if int(text.slot.prompt_id) in scores[text.side]
    ]
    store.add_rows("judgements", rows)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """12 a side; of the positives 2 are too low, 1 has no score, 1 is not judged."""
    store = write_scenarios(tmp_path_factory.mktemp("judged") / "s.tistore")
    positive = {number: 60.0 + number for number in range(1, 13)} | {3: 59.9, 4: 0.0, 5: None}
    del positive[6]
    negative = {number: 40.0 for number in range(1, 13)} | {7: 40.1}
    judge(store, {"positive": positive, "negative": negative})
    return store


def test_each_scenario_has_its_verdict(judged):
    vetted = apply_rule(judged.snapshot, TRAIT)

    assert [(one.side, one.prompt_id, one.verdict) for one in vetted.scenarios][:7] == [
        ("positive", "1", "kept"),
        ("positive", "2", "kept"),
        ("positive", "3", "too low"),
        ("positive", "4", "too low"),
        ("positive", "5", "no score"),
        ("positive", "6", "not judged"),
        ("positive", "7", "kept"),
    ]
    assert vetted.count("negative") == {"kept": 11, "too high": 1}
    assert len(vetted.response_ids) == vetted.n_kept("positive") + vetted.n_kept("negative") == 19


def test_pairs_stay_or_go_together(judged):
    vetted = apply_rule(judged.snapshot, TRAIT, rule=KeepRule(paired=True))

    kept = {side: {one.prompt_id for one in vetted.kept if one.side == side}
            for side in ("positive", "negative")}  # fmt: skip
    assert kept["positive"] == kept["negative"] == {"1", "2", "8", "9", "10", "11", "12"}
    assert vetted.count("positive")["without its pair"] == 1
    assert vetted.count("negative")["without its pair"] == 4


def test_too_few_is_an_error_with_the_numbers(judged):
    with pytest.raises(DatasetError) as caught:
        kept_scenarios(judged.snapshot, TRAIT)

    assert "60/40" in caught.value.message
    assert "8 of 12 positive (2 too low, 1 no score, 1 not judged)" in caught.value.message
    assert "11 of 12 negative (1 too high)" in caught.value.message
    assert "each side needs 10" in caught.value.message
    assert "--threshold" in caught.value.mend
    assert kept_scenarios(judged.snapshot, TRAIT, rule=KeepRule(minimum=8)).is_enough


@given(
    scores=st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=30),
    low=st.floats(0, 99),
    gap=st.floats(0.5, 50),
)
def test_the_rule_parts_scores_as_it_says(scores, low, gap):
    rule = KeepRule(positive_min=min(low + gap, 100), negative_max=low)

    for score in scores:
        positive, negative = rule.judge("positive", score), rule.judge("negative", score)
        assert (positive == "kept") == (score is not None and score >= rule.positive_min)
        assert (negative == "kept") == (score is not None and score <= rule.negative_max)
        assert not positive == negative == "kept"


def test_scores_of_two_judges_or_rubrics_are_never_mixed(tmp_path):
    store = write_scenarios(tmp_path / "s.tistore")
    numbers = range(1, 13)
    good = {"positive": dict.fromkeys(numbers, 90.0), "negative": dict.fromkeys(numbers, 5.0)}
    judge(store, good)
    judge(store, {"positive": {1: 0.0}, "negative": {}}, judge="judge-2")
    judge(store, {"positive": {2: 0.0}, "negative": {}}, rubric_hash="r2")

    newest = apply_rule(store.snapshot, TRAIT)
    assert (newest.judge, newest.rubric_hash) == ("judge-1", "r2")
    assert newest.count("positive") == {"too low": 1, "not judged": 11}
    assert apply_rule(store.snapshot, TRAIT, judge="judge-2").count("positive")["too low"] == 1
    assert kept_scenarios(store.snapshot, TRAIT, judge="judge-1", rubric_hash="r1").is_enough
    with pytest.raises(NotStoredError, match="by judge-3; did you mean"):
        apply_rule(store.snapshot, TRAIT, judge="judge-3")
    with pytest.raises(NotStoredError, match="under that rubric"):
        apply_rule(store.snapshot, TRAIT, judge="judge-2", rubric_hash="r2")


def test_what_was_never_judged_is_an_error_that_says_how(tmp_path):
    store = write_scenarios(tmp_path / "s.tistore")

    with pytest.raises(NotStoredError, match="has been judged") as caught:
        kept_scenarios(store.snapshot, TRAIT)

    assert "vectors vet" in caught.value.mend
    assert read_judgements(store.snapshot) == []


def test_a_models_own_responses_are_vetted_rather_than_given_ones(tmp_path):
    """Vectors are fitted on them."""
    store = write_scenarios(tmp_path / "s.tistore", n=2)
    own = write_scenarios(tmp_path / "own.tistore", n=2, author="instruct")

    (given_text, *_) = read_texts(store.snapshot, TRAIT, "instruct")
    (own_text, *_) = read_texts(own.snapshot, TRAIT, "instruct")
    assert (given_text.slot.organism, own_text.slot.organism) == ("scenarios", "instruct")
    assert own_text.prompt == "asked 1"
    assert own_text.response == make_text("positive", 1)
    with pytest.raises(NotStoredError):
        read_texts(own.snapshot, TRAIT, "instruct", "scenarios")


def test_judgements_round_trip_and_old_stores_read_as_unjudged(judged):
    (row, *_) = judged.snapshot.table("judgements").to_pylist()

    assert Judgement.from_row(row).to_row() == row
    assert row["judged_at"] - NOW == timedelta(0)
    before = tistore.open(judged.path, 1)
    assert read_judgements(before.snapshot, TRAIT) == []


@pytest.mark.parametrize(
    "arguments",
    [(40, 40), (40, 60), (101, 40), (60, -1), (float("nan"), 40)],
)
def test_thresholds_that_part_nothing_are_refused(arguments):
    with pytest.raises(ConfigError, match="thresholds"):
        KeepRule(*arguments)


def test_thresholds_are_written_as_two_numbers():
    assert read_threshold("60/40") == (60.0, 40.0)
    for text in ("60", "a/b", "60/40/20", ""):
        with pytest.raises(ConfigError, match="60/40"):
            read_threshold(text)
