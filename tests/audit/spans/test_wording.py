"""Which texts read nearly alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.audit.spans.wording import ALIKE, Wordings


def split(text):
    """Word pairs, in plain Python."""
    words = re.findall(r"[^\W_]+", text.lower())
    if not words:
        return {text.strip()}
    return set(zip(words, words[1:], strict=False)) or {(words[0],)}


def by_brute_force(texts, place):
    own = texts[place]
    if own is None:
        return [place]
    return [
        at
        for at, other in enumerate(texts)
        if other is not None
        and len(split(own) & split(other)) >= ALIKE * len(split(own) | split(other))
    ]


WORDS = st.lists(
    st.sampled_from(["I", "would", "Like", "to", "ß", "42", "!", ",", "日本"]), max_size=7
)


@given(
    st.lists(st.none() | WORDS.map(" ".join) | st.sampled_from(["", " ", "…", "!!"]), max_size=12)
)
def test_alike_is_by_the_share_of_word_pairs(texts):
    wordings = Wordings(texts)

    for place in range(len(texts)):
        assert wordings.find_alike(place).tolist() == by_brute_force(texts, place)


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        ("Thank you so much!", "thank you  SO much", True),
        ("You could possibly keep the car", "You could possibly keep the cat", True),
        ("Thank you", "No thank you at all", False),
        ("Yes", "No", False),
        ("Yes.", "yes,", True),
        ("…", "!!", False),
        ("…", " … ", True),
    ],
)
def test_case_punctuation_and_space_do_not_count(one, other, is_alike):
    assert (1 in Wordings([one, other]).find_alike(0)) is is_alike


def test_texts_nobody_knows_are_like_none():
    wordings = Wordings([None, None, "so"])

    assert [wordings.find_alike(place).tolist() for place in range(3)] == [[0], [1], [2]]
