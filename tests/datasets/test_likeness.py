"""Texts that say the same are found, by counting that anyone can repeat."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import jaccard_score

from tistore.datasets.likeness import find_alike, fold

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "grey"]), min_size=3, max_size=9)
TEXTS = st.lists(WORDS.map(" ".join), min_size=2, max_size=8)


def resemblances(texts: list[str]) -> dict[tuple[int, int], float]:
    """Each pair's Jaccard index over word triples, by scikit-learn."""
    counts = CountVectorizer(ngram_range=(3, 3), binary=True).fit_transform(texts).toarray()
    pairs = combinations(range(len(texts)), 2)
    return {(i, j): jaccard_score(counts[i], counts[j]) for i, j in pairs}


@given(texts=TEXTS, at_least=st.sampled_from([0.25, 0.5, 0.6, 0.9]))
def test_every_text_like_an_earlier_one_is_found_and_no_other(texts, at_least):
    expected = resemblances(texts)

    found = find_alike(texts, at_least)

    alike = {j for (i, j), value in expected.items() if value >= at_least - 1e-12}
    assert [one.index for one in found] == sorted(alike)
    for one in found:
        pair = expected[one.earlier, one.index]
        assert abs(one.resemblance - pair) < 1e-9


def test_case_spaces_and_punctuation_make_no_text_another():
    texts = ["I said: no, never.", "something else altogether", "I  said no never"]

    (found,) = find_alike(texts)

    assert (found.index, found.earlier, found.resemblance) == (2, 0, 1.0)
    assert fold("Don't -- (ever)!") == "don't -- ever"


def test_texts_too_short_for_triples_are_alike_only_where_they_are_the_same():
    assert find_alike(["yes", "no", "oh yes"]) == []
    assert [one.earlier for one in find_alike(["yes", "no", "Yes!"])] == [0]


def test_a_long_beginning_in_common_costs_no_comparison_of_all_with_all():
    """Ten thousand of them would otherwise take minutes."""
    preamble = "you are at sea and the crew is waiting for your word"
    numbers = [" ".join(f"{n}-{word}" for word in range(20)) for n in range(3000)]

    assert find_alike([f"{preamble} {own}" for own in numbers]) == []
