"""A list of spans, chosen one by one among all there are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tistore.audit.spans.choice import Band, SpanChoice
from tistore.audit.spans.pool import Pool
from tistore.audit.spans.wording import Wordings
from tistore.query.span_question import Order

Values = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Listed:
    """
    A span that was chosen.

    Attributes:
        place: Its place in the pool.
        rank: Its place in its band, from 1.
        band: The part of the list it is in.
        n_alike: How many others were left out because they read nearly like it; None where
            nobody looked.
    """

    place: int
    rank: int
    band: Band
    n_alike: int | None = None


def list_spans(pool: Pool, values: Values, choice: SpanChoice) -> list[Listed]:
    """
    Choose spans: of each organism with the question's `per_organism`, of all without.

    Args:
        pool: All there are.
        values: What they are ranked by, (span,); what is NaN is left out.
        choice: How.
    """
    wordings = Wordings(pool.wordings.to_pylist()) if choice.dedupe else None
    told = np.flatnonzero(np.isfinite(values))
    if not pool.question.per_organism:
        return list(_list(pool, values, choice, told, wordings))
    names, codes = pool.organisms
    groups = [told[codes[told] == place] for place in range(len(names))]
    return [one for group in groups for one in _list(pool, values, choice, group, wordings)]


def _list(
    pool: Pool, values: Values, choice: SpanChoice, group: Places, wordings: Wordings | None
) -> Iterator[Listed]:
    is_left = np.zeros(len(pool), dtype=bool)
    is_left[group] = True
    taker = _Taker(pool, choice, wordings, is_left)
    for band in choice.bands:
        order = _order(pool, values, group, band, pool.question.order, choice.seed)
        yield from taker.take(order, band)


def _order(
    pool: Pool, values: Values, group: Places, band: Band, order: Order, seed: int
) -> Places:
    """Put spans in the order in which a band takes them; ties by response and place."""
    _, responses = pool.responses
    own = values[group]
    if band == "random":
        own = np.random.default_rng(seed).permutation(len(group)).astype(np.float64)
        fixed = np.lexsort((pool.starts[group], responses[group]))
        return np.asarray(group[fixed][np.argsort(own)])
    if band == "middle":
        key = np.abs(own - np.median(own)) if len(own) else own
    elif band == "bottom" or order == "lowest":
        key = own
    else:
        key = -np.abs(own) if order == "absolute" else -own
    return np.asarray(group[np.lexsort((pool.starts[group], responses[group], key))])


@dataclass(slots=True)
class _Taker:
    """Takes spans in order, leaving out what overlaps, repeats, or is too much of one prompt."""

    pool: Pool
    choice: SpanChoice
    wordings: Wordings | None
    is_left: NDArray[np.bool_]
    taken: defaultdict[int, list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def take(self, order: Places, band: Band) -> Iterator[Listed]:
        of_prompt: Counter[int] = Counter()
        rank = 0
        for place in order.tolist():
            if rank == self.pool.question.n:
                return
            prompt = int(self.pool.prompts[place])
            is_full = of_prompt[prompt] == self.choice.per_prompt
            if is_full or not self.is_left[place] or self._overlaps(place):
                continue
            of_prompt[prompt] += 1
            rank += 1
            yield Listed(place, rank, band, self._take(place))

    def _overlaps(self, place: int) -> bool:
        start, end = int(self.pool.starts[place]), int(self.pool.ends[place])
        others = self.taken[int(self.pool.responses[1][place])]
        return any(start < stop and first < end for first, stop in others)

    def _take(self, place: int) -> int | None:
        """Take a span; count those it stands for."""
        pool = self.pool
        span = (int(pool.starts[place]), int(pool.ends[place]))
        self.taken[int(pool.responses[1][place])].append(span)
        self.is_left[place] = False
        if self.wordings is None:
            return None
        alike = self.wordings.find_alike(place)
        alike = alike[self.is_left[alike]]
        self.is_left[alike] = False
        return self._count_apart(alike.tolist(), place)

    def _count_apart(self, places: Sequence[int], taken: int) -> int:
        """Count the places in the texts: windows that overlap are one, those of `taken` none."""
        pool = self.pool
        spans = sorted(
            (int(pool.responses[1][place]), int(pool.starts[place]), int(pool.ends[place]))
            for place in places
        )
        here = (int(pool.responses[1][taken]), int(pool.starts[taken]), int(pool.ends[taken]))
        count, last = 0, (-1, 0)
        for response, start, end in spans:
            if response == here[0] and start < here[2] and here[1] < end:
                continue
            if (response, start) >= last:
                count, last = count + 1, (response, end)
        return count
