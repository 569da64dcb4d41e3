"""Which spans read nearly alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Places = NDArray[np.int64]

ALIKE = 0.6
"""Share of their word pairs that two texts have in common from which on they read alike."""


class Wordings:
    """
    Texts, ready to be asked which others read nearly alike.

    Two do if the Jaccard index of their sets of word pairs is 0.6 or more. Case, punctuation and
    white space do not count. A single word is a pair with nothing; a text without a word is like
    those that are the same, character by character.

    Args:
        texts: What each says; nothing is like None.

    Source:
        Broder, On the resemblance and containment of documents, 1997.
    """

    def __init__(self, texts: Sequence[str | None]) -> None:
        text, shingle = _list_shingles(texts)
        n = len(texts)
        self._sizes = np.bincount(text, minlength=n)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._shingles = shingle
        order = np.argsort(shingle, kind="stable")
        self._holders = text[order]
        n_shingles = int(shingle.max(initial=-1)) + 1
        self._first_holder = np.concatenate(
            [[0], np.cumsum(np.bincount(shingle, minlength=n_shingles))]
        )

    def find_alike(self, place: int) -> Places:
        """List the texts that read like one, itself included, ascending."""
        own = self._shingles[self._starts[place] : self._starts[place + 1]]
        if not len(own):
            return np.array([place])
        holders = [
            self._holders[self._first_holder[one] : self._first_holder[one + 1]] for one in own
        ]
        others, shared = np.unique(np.concatenate(holders), return_counts=True)
        union = len(own) + self._sizes[others] - shared
        return np.asarray(others[shared >= ALIKE * union])


def _list_shingles(texts: Sequence[str | None]) -> tuple[Places, Places]:
    """Number the word pairs of each text: (pair,) text and (pair,) number, in order of texts."""
    import polars as pl

    said = pl.DataFrame(
        {"text": np.arange(len(texts)), "said": pl.Series([*texts], dtype=pl.String)}
    )
    said = said.with_columns(pl.col("said").str.to_lowercase().str.strip_chars())
    found = pl.col("said").str.extract_all(r"[\p{L}\p{M}\p{N}]+")
    whole = pl.concat_list("said")
    words = (
        said.drop_nulls()
        .select("text", word=pl.when(found.list.len() == 0).then(whole).otherwise(found))
        .explode("word")
    )
    text, word = words["text"].to_numpy(), _number(words["word"].to_arrow())
    starts = np.diff(text, prepend=-1) != 0
    ends = np.diff(text, append=-1) != 0
    after = np.where(ends, 0, np.append(word[1:], 0) + 1)
    pair = _number(pa.array(word * (word.max(initial=0) + 2) + after))
    n_pairs = pair.max(initial=0) + 1
    kept = np.sort((text * n_pairs + pair)[starts | ~ends])
    kept = kept[np.diff(kept, prepend=-1) != 0]
    return kept // n_pairs, kept % n_pairs


def _number(values: pa.Array) -> Places:
    """Give equal values the same number, from 0."""
    return np.asarray(values.dictionary_encode().indices.to_numpy(), np.int64)
