"""
What tells the sides of a trait apart without reading them: one word, or the length.

A vector fitted on such scenarios may be a direction of that word, or of length. Both are reported
only where they are large and beyond what chance would do with so few scenarios.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tistore.datasets.likeness import fold

LARGE_DIFFERENCE = 0.5
"""Between the shares of both sides that have a word: three in four, say, against one in four."""

LARGE_AUROC = 0.7

_WORD_ERRORS = 4.0
"""Standard errors beyond chance; hundreds of words are looked at, so three would not do."""

_LENGTH_ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class TellingWord:
    """
    A word that one side has and the other mostly has not.

    Attributes:
        word: In lower case.
        positive_share: Share of the positive scenarios that have it.
        negative_share: Share of the negative ones.
    """

    word: str
    positive_share: float
    negative_share: float


def find_telling_words(positive: Sequence[str], negative: Sequence[str]) -> list[TellingWord]:
    """Find words that, wherever in a text they stand, tell the sides apart."""
    return _find_telling(positive, negative, lambda text: set(fold(text).split()))


def find_telling_endings(positive: Sequence[str], negative: Sequence[str]) -> list[TellingWord]:
    """Find words that tell the sides apart by standing last, where a vector is often read."""
    return _find_telling(positive, negative, lambda text: fold(text).split()[-1:])


def _find_telling(
    positive: Sequence[str], negative: Sequence[str], list_words: Callable[[str], Iterable[str]]
) -> list[TellingWord]:
    """
    Compare how many texts of each side have a word, for every word.

    Source:
        Youden, Index for rating diagnostic tests, 1950: the difference of shares; its standard
        error is that of two proportions with the pooled share.
    """
    held = [Counter(word for text in side for word in list_words(text))
            for side in (positive, negative)]  # fmt: skip
    n_positive, n_negative = len(positive), len(negative)
    found = []
    for word in sorted(held[0].keys() | held[1].keys() - {""}):
        shares = held[0][word] / n_positive, held[1][word] / n_negative
        pooled = (held[0][word] + held[1][word]) / (n_positive + n_negative)
        error = math.sqrt(pooled * (1 - pooled) * (1 / n_positive + 1 / n_negative))
        if abs(shares[0] - shares[1]) >= max(LARGE_DIFFERENCE, _WORD_ERRORS * error):
            found.append(TellingWord(word, *shares))
    return found


def measure_auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """
    Measure how well a number tells the sides apart: 1 and 0 perfectly, 0.5 not at all.

    Source:
        Mann and Whitney, 1947: the share of pairs in which the positive is larger, ties for half.
    """
    ordered = sorted(negative)
    twice = sum(bisect_left(ordered, one) + bisect_right(ordered, one) for one in positive)
    return twice / (2 * len(positive) * len(negative))


def find_telling_length(positive: Sequence[str], negative: Sequence[str]) -> float | None:
    """
    Find whether the number of words tells the sides apart.

    Returns:
        The AUROC of the length; None where it is not far from 0.5, or may be so by chance.

    Source:
        Mann and Whitney, 1947, for the variance under no difference, (n + m + 1) / 12nm.
    """
    n, m = len(positive), len(negative)
    auroc = measure_auroc([len(one.split()) for one in positive],
                          [len(one.split()) for one in negative])  # fmt: skip
    error = math.sqrt((n + m + 1) / (12 * n * m))
    is_large = abs(auroc - 0.5) >= max(LARGE_AUROC - 0.5, _LENGTH_ERRORS * error)
    return auroc if is_large else None
