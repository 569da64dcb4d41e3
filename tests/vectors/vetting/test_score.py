"""From a judge's answer to a score, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.vectors.vetting.score import Answer, Candidate, read_number, score_answer, weigh

NUMBERS = [str(number) for number in range(101)]
WORDS = ["The", "I", "-5", "101", "7.5", "½", "٣", "1e1", "", "²"]
TOKENS = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(NUMBERS).map(" {}".format), st.sampled_from(WORDS)
)


@given(st.lists(st.tuples(TOKENS, st.floats(-30, 0)), max_size=20, unique_by=lambda pair: pair[0]))
def test_a_score_is_the_mean_of_the_numbers_weighted_by_probability(pairs):
    """Oracle: numpy.average in float64."""
    value, weight = weigh([Candidate(token, logprob) for token, logprob in pairs])

    on_numbers = [(int(token), logprob) for token, logprob in pairs if token.strip() in NUMBERS]
    scores = np.array([score for score, _ in on_numbers], dtype=np.float64)
    p = np.exp(np.array([logprob for _, logprob in on_numbers], dtype=np.float64))
    assert weight == pytest.approx(p.sum(), rel=1e-12, abs=1e-300)
    if abs(p.sum() - 0.25) > 1e-12:
        assert (value is None) == (p.sum() < 0.25)
    if value is not None:
        assert value == pytest.approx(np.average(scores, weights=p), rel=1e-12, abs=1e-300)
        assert 0 <= value <= 100


def test_a_quarter_of_the_probability_is_enough_and_less_is_not():
    assert weigh([Candidate("80", math.log(0.25) + 1e-12)])[0] == pytest.approx(80)
    assert weigh([Candidate("80", math.log(0.2499))])[0] is None
    assert weigh([]) == (None, 0.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72),
        (" 72\n", 72),
        ("0", 0),
        ("100", 100),
        ("Score: 72.", 72),
        ("72/100", 72),
        ("72 / 100", 72),
        ("72%", 72),
        ("72, yes, 72", 72),
        ("<think>Maybe 40, or 50.</think>\n72", 72),
        ("101", None),
        ("-5", None),
        ("7.5", None),
        ("1,000", None),
        ("between 60 and 70", None),
        ("I cannot tell", None),
        ("", None),
        ("٧٢", None),
    ],
)
def test_an_answer_holds_one_whole_number_or_none(text, number):
    assert read_number(text) == number


def candidates(**probabilities: float) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(token.removeprefix("n"), math.log(p)) for token, p in probabilities.items()
    )


def test_probabilities_go_before_the_text():
    score = score_answer(Answer("80", ("80",), candidates(n80=0.6, n60=0.2)))

    assert score.value == pytest.approx(75)
    assert (score.weight, score.source) == (pytest.approx(0.8), "logprobs")


def test_without_probabilities_the_text_counts_and_says_so():
    score = score_answer(Answer("80"))

    assert (score.value, score.weight, score.source) == (80, None, "text")


def test_a_number_spelled_digit_by_digit_is_not_taken_for_its_first_digit():
    """As by the tokenizers of Qwen, Gemma and Llama 2: `7` and `2` are 72, not 7."""
    spelled = Answer("72", ("7", "2"), candidates(n7=0.9, n8=0.1))
    digits = {f"n{digit}": 0.1 for digit in range(10)}
    alone = Answer("8", ("8",), candidates(**digits))

    assert score_answer(spelled).value == 72
    assert score_answer(spelled).source == "text"
    assert score_answer(alone).value == 8
    assert score_answer(alone).source == "text"


def test_a_number_the_model_hardly_believes_is_no_score():
    score = score_answer(Answer("80", ("80",), candidates(n80=0.1, No=0.8)))

    assert (score.value, score.source) == (None, None)
    assert score.weight == pytest.approx(0.1)


def test_a_plain_number_after_a_line_break_is_read_as_text():
    score = score_answer(Answer("\n80", ("\n", "80"), candidates(**{"\n": 0.99})))

    assert (score.value, score.source) == (80, "text")
