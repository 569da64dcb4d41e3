"""
The logit lens: what a state in the middle of a model would say, put straight to the model's head.

Source:
    nostalgebraist, "interpreting GPT: the logit lens", 2020. The final norm is applied first, as
    the model itself does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.schemas.head import Head, VocabularyBlock
from tistore.store.unembedding import Unembedding

TOP = 10
"""How many of the likeliest tokens are kept."""

NO_TOKEN = -1
"""Stands for the next token where there is none."""

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]

_STATES_BYTES = 1 << 26
_HELD_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What is asked of the lens beyond the sum over the vocabulary.

    Attributes:
        rank: The next token's rank, which takes a reading of its row beforehand.
        entropy: The entropy of the distribution.
        top: The likeliest tokens.
    """

    rank: bool = True
    entropy: bool = True
    top: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """
    What the lens shows of some states.

    Attributes:
        rank: (row,) int64, 1 for the likeliest: 1 + how many tokens are likelier than the next
            one; 0 where there is no next token, or it was not asked for.
        logprob: (row,) natural log of the next token's probability; NaN where there is none.
        entropy: (row,) of the whole distribution, in nats; NaN where it was not asked for.
        top_ids: (row, top) token ids, the likeliest first; equal ones in the order of their ids.
        top_logprobs: (row, top) natural logs of their probabilities.
    """

    rank: NDArray[np.int64]
    logprob: Sums
    entropy: Sums
    top_ids: NDArray[np.int64]
    top_logprobs: Sums


def see(
    unembedding: Unembedding,
    states: Floats,
    next_ids: NDArray[np.int64],
    wanted: Wanted,
    progress: Callable[[int], None] = lambda size_bytes: None,
) -> Seen:
    """
    Put states to a head.

    Logits are float32 products of a block of the vocabulary at a time; sums over the vocabulary
    are carried along in float64, so that memory grows with neither vocabulary nor store.

    Args:
        unembedding: The head's.
        states: (row, hidden), in the stream's own units.
        next_ids: (row,) the token that followed in truth; NO_TOKEN where none did.
        wanted: What to find out.
        progress: Called with the bytes of each block of the unembedding that is done.

    Raises:
        IntegrityError: The unembedding is damaged.
    """
    head = unembedding.head
    normed = head.normalize(states)
    if len(states) * head.n_vocabulary * 4 <= _HELD_BYTES:
        return _see_few(unembedding, normed, next_ids, wanted, progress)
    # What a rank counts must be known before the first block; else it is met on the way.
    targets = _find_targets(unembedding, normed, next_ids) if wanted.rank else None
    running = _Running(next_ids, wanted, targets)
    for block in unembedding.blocks():
        running.add(block.first, _multiply(head, normed, block))
        progress(block.values.nbytes)
    return running.finish()


def _see_few(
    unembedding: Unembedding,
    normed: Floats,
    next_ids: NDArray[np.int64],
    wanted: Wanted,
    progress: Callable[[int], None],
) -> Seen:
    """Read the unembedding once: the logits of a few rows can be held together."""
    head = unembedding.head
    logits = np.empty((len(normed), head.n_vocabulary), dtype=np.float32)
    for block in unembedding.blocks():
        stop = block.first + len(block.values)
        logits[:, block.first : stop] = _multiply(head, normed, block)
        progress(block.values.nbytes)
    followed = np.flatnonzero(next_ids != NO_TOKEN)
    targets = np.full(len(normed), np.nan)
    targets[followed] = logits[followed, next_ids[followed]]
    running = _Running(next_ids, wanted, targets)
    for start in range(0, head.n_vocabulary, head.block_rows):
        running.add(start, logits[:, start : start + head.block_rows])
    return running.finish()


def rows_at_once(head: Head) -> int:
    """How many states are put to a head together: each group reads the whole unembedding."""
    return max(1, _STATES_BYTES // (4 * max(head.hidden, head.block_rows)))


def _multiply(head: Head, normed: Floats, block: VocabularyBlock) -> Floats:
    """Logits of a block of the vocabulary: (row, token)."""
    logits = normed @ block.values.T
    if block.bias is not None:
        logits += block.bias
    return head.finish(logits)


def _find_targets(unembedding: Unembedding, normed: Floats, next_ids: NDArray[np.int64]) -> Sums:
    """Logits of the tokens that followed: (row,), NaN where none did."""
    targets = np.full(len(normed), np.nan)
    ids = next_ids[next_ids != NO_TOKEN]
    for block in unembedding.blocks(ids) if len(ids) else ():
        here = _locate(next_ids, block.first, len(block.values))
        values = block.values[next_ids[here] - block.first]
        logits = np.einsum("ij,ij->i", normed[here], values)
        if block.bias is not None:
            logits += block.bias[next_ids[here] - block.first]
        targets[here] = unembedding.head.finish(logits)
    return targets


def _locate(next_ids: NDArray[np.int64], first: int, n_tokens: int) -> NDArray[np.int64]:
    return np.flatnonzero((next_ids >= first) & (next_ids < first + n_tokens))


class _Running:
    """Sums over the vocabulary so far, for each row."""

    def __init__(self, next_ids: NDArray[np.int64], wanted: Wanted, targets: Sums | None) -> None:
        n_rows = len(next_ids)
        self._next_ids = next_ids
        self._wanted = wanted
        self._targets = np.full(n_rows, np.nan) if targets is None else targets
        self._largest = np.full((n_rows, 1), -np.inf, dtype=np.float32)
        self._total = np.zeros(n_rows)  # of exp(logit - largest)
        self._weighted = np.zeros(n_rows)  # of (logit - largest) exp(logit - largest)
        self._above = np.zeros(n_rows, dtype=np.int64)
        self._top = np.empty((n_rows, 0), dtype=np.float32)
        self._top_ids = np.empty((n_rows, 0), dtype=np.int64)

    def add(self, first: int, logits: Floats) -> None:
        """Take in the logits of a block of tokens; they are overwritten."""
        if self._wanted.top:
            self._keep_top(first, logits)
        if self._wanted.rank:
            self._count_above(first, logits)
        else:
            self._meet_targets(first, logits)
        largest = np.maximum(self._largest, logits.max(axis=1, keepdims=True))
        with np.errstate(invalid="ignore"):
            moved = np.where(np.isinf(self._largest), 0.0, self._largest - largest)[:, 0]
        moved = moved.astype(np.float64)
        shrunk = np.exp(moved)
        logits -= largest
        shares = np.exp(logits)
        if self._wanted.entropy:
            self._weighted = shrunk * (self._weighted + moved * self._total)
            np.multiply(logits, shares, out=logits)
            self._weighted += logits.sum(axis=1, dtype=np.float64)
        self._total = shrunk * self._total + shares.sum(axis=1, dtype=np.float64)
        self._largest = largest

    def finish(self) -> Seen:
        """Turn the sums into probabilities."""
        targets = self._targets
        whole = np.log(self._total) + self._largest[:, 0]
        unasked = np.full(len(whole), np.nan)
        return Seen(
            rank=np.where(np.isnan(targets) | (not self._wanted.rank), 0, self._above + 1),
            logprob=np.minimum(targets - whole, 0.0),
            entropy=np.log(self._total) - self._weighted / self._total
            if self._wanted.entropy
            else unasked,
            top_ids=self._top_ids,
            top_logprobs=np.minimum(self._top.astype(np.float64) - whole[:, None], 0.0),
        )

    def _meet_targets(self, first: int, logits: Floats) -> None:
        here = _locate(self._next_ids, first, logits.shape[1])
        is_new = np.isnan(self._targets[here])
        met = logits[here, self._next_ids[here] - first]
        self._targets[here] = np.where(is_new, met, self._targets[here])

    def _count_above(self, first: int, logits: Floats) -> None:
        is_above = logits > self._targets[:, None].astype(np.float32)
        # The token itself is one product here and another there: rounding must not put it above.
        here = _locate(self._next_ids, first, logits.shape[1])
        is_above[here, self._next_ids[here] - first] = False
        self._above += is_above.sum(axis=1)

    def _keep_top(self, first: int, logits: Floats) -> None:
        ids = np.arange(first, first + logits.shape[1])
        best = _largest_places(logits)
        values = np.concatenate([self._top, np.take_along_axis(logits, best, axis=1)], axis=1)
        known = np.concatenate([self._top_ids, ids[best]], axis=1)
        order = np.lexsort((known, -values), axis=1)[:, :TOP]
        self._top = np.take_along_axis(values, order, axis=1)
        self._top_ids = np.take_along_axis(known, order, axis=1)


def _largest_places(values: NDArray[Any]) -> NDArray[np.int64]:
    """Places of the largest values of each row, in any order; all where there are few."""
    if values.shape[1] <= TOP:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -TOP, axis=1)[:, -TOP:]
