"""Texts that are alike: the same words, or most of their word triples in common."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

_SHINGLE_WORDS = 3


@dataclass(frozen=True, slots=True)
class Likeness:
    """
    A text that is like an earlier one.

    Attributes:
        index: The later text.
        earlier: The first text it is like.
        resemblance: Share of their word triples that both have, 0 to 1; 1 where all words agree.
    """

    index: int
    earlier: int
    resemblance: float


def fold(text: str) -> str:
    """Reduce a text to what makes it the same as another: its words, in lower case."""
    return " ".join(word.strip(".,;:!?\"'()") for word in text.casefold().split())


def find_alike(texts: Sequence[str], at_least: float = 0.5) -> list[Likeness]:
    """
    Find texts that are like an earlier one; each text once, with the first it is like.

    Same words go before similar ones, wherever they stand.

    Source:
        Broder, On the resemblance and containment of documents, 1997: the Jaccard index of the
        sets of shingles; here of three words each. Candidates by Bayardo, Ma and Srikant, Scaling
        up all pairs similarity search, 2007: alike sets share one of their rarest members.
    """
    folded = [fold(text) for text in texts]
    shingles = [_shingle(text) for text in folded]
    rarity = Counter(shingle for own in shingles for shingle in own)
    first: dict[str, int] = {}
    holders: dict[str, list[int]] = defaultdict(list)
    found: list[Likeness] = []
    for index, own in enumerate(shingles):
        earlier = first.setdefault(folded[index], index)
        if earlier != index:
            found.append(Likeness(index, earlier, 1.0))
            continue
        ranked = sorted(own, key=lambda shingle: (rarity[shingle], shingle))
        rarest = ranked[: len(own) - math.floor(at_least * len(own)) + 1]
        candidates = sorted({holder for shingle in rarest for holder in holders[shingle]})
        alike = (Likeness(index, one, _resemblance(own, shingles[one])) for one in candidates)
        found += islice((one for one in alike if one.resemblance >= at_least), 1)
        for shingle in rarest:
            holders[shingle].append(index)
    return found


def _resemblance(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _shingle(folded: str) -> frozenset[str]:
    words = folded.split()
    starts = range(max(1, len(words) - _SHINGLE_WORDS + 1))
    return frozenset(" ".join(words[start : start + _SHINGLE_WORDS]) for start in starts)
