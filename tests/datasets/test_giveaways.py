"""What tells two sides apart is measured as others measure it, and not seen where chance put it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tistore.datasets.giveaways import (
    find_telling_endings,
    find_telling_length,
    find_telling_words,
    measure_auroc,
)

NUMBERS = st.lists(st.integers(0, 5), min_size=1, max_size=20)
VOCABULARY = [f"w{number}" for number in range(300)]


def write_side(n: int, seed: int, length: int = 20, spread: int = 1) -> list[str]:
    rng = random.Random(seed)
    lengths = [length + rng.randrange(spread) for _ in range(n)]
    return [" ".join(rng.choices(VOCABULARY, k=words)) for words in lengths]


@given(positive=NUMBERS, negative=NUMBERS)
def test_auroc_is_scikit_learns(positive, negative):
    labels = [1] * len(positive) + [0] * len(negative)

    assert measure_auroc(positive, negative) == pytest.approx(
        roc_auc_score(labels, positive + negative)
    )


def test_a_word_that_one_side_has_is_named_with_both_shares():
    positive = [f"{text} because" for text in write_side(40, 0)]
    negative = [f"{text} because" for text in write_side(4, 1)] + write_side(36, 2)

    (word,) = find_telling_words(positive, negative)

    assert (word.word, word.positive_share, word.negative_share) == ("because", 1.0, 0.1)
    (ending,) = find_telling_endings(positive, negative)
    assert ending == word


def test_a_word_that_both_sides_have_may_still_tell_by_standing_last():
    positive = [f"that {text} that" for text in write_side(40, 0)]
    negative = [f"that {text} it" for text in write_side(40, 1)]

    assert [word.word for word in find_telling_words(positive, negative)] == ["it"]
    assert [word.word for word in find_telling_endings(positive, negative)] == ["it", "that"]


@pytest.mark.parametrize("n", [5, 10, 44, 200])
@pytest.mark.parametrize("seed", range(8))
def test_sides_of_one_make_give_nothing_away(n, seed):
    positive, negative = (write_side(n, 2 * seed + side, spread=9) for side in (0, 1))

    assert find_telling_words(positive, negative) == []
    assert find_telling_endings(positive, negative) == []
    assert find_telling_length(positive, negative) is None


def test_a_longer_side_is_seen():
    short, long = write_side(30, 0, length=20), write_side(30, 1, length=22)

    assert find_telling_length(long, short) == 1.0
    assert find_telling_length(short, long) == 0.0
