"""Massive activations of one layer, measured block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.schemas.calibration import MASSIVE_RATIO, MASSIVE_VALUE, N_TOP
from tistore.store.half import EXPONENT_GAP, widen
from tistore.vectors.reading_rows import BlockRows, ReadingRows, Rows

Half = NDArray[np.float16]
Wide = NDArray[np.float64]
Bits = NDArray[np.uint16]

PROMPT_RATIO = 100.0
"""A prompt is counted as massive above this."""

_SIZE_BITS = np.uint16(0x7FFF)
_N_SIZES = 1 << 15
_SHARE_BASE = 10
"""Multiple of the baseline above which a token counts for `pct_above_10x`."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockFigures:
    """
    What a block adds to a layer's figures; sums run over its audited rows.

    Attributes:
        total: Sum of the states, (hidden,).
        total_size: Sum of the absolute values, (hidden,).
        total_unit: Sum of the states of length 1, (hidden,).
        total_norm: Sum of the lengths.
        readings: Readings with prompt rows in the block, in order.
        peaks: Largest sizes over these rows, (reading, hidden), as stored bits.
        massive_rows: Rows of the segment that hold massive activations.
        massive_dims: Their dimensions.
        massive_values: Their values.
    """

    total: Wide
    total_size: Wide
    total_unit: Wide
    total_norm: float
    readings: NDArray[np.int32]
    peaks: Bits
    massive_rows: Rows
    massive_dims: Rows
    massive_values: Wide


class Room(local):
    """Memory for a block as float32; each thread has its own, and uses it again."""

    _block: NDArray[np.float32] | None = None

    def take(self, values: Half, exponent: int) -> NDArray[np.float32]:
        """Cast a block, (row, hidden), to its true values; they stay until the next one."""
        block = self._block
        if block is None or len(block) < len(values) or block.shape[1] != values.shape[1]:
            block = self._block = np.empty(values.shape, dtype=np.float32)
        wide = block[: len(values)]
        widen(np.ascontiguousarray(values), wide)
        np.multiply(wide, EXPONENT_GAP, out=wide)
        if exponent:
            np.ldexp(wide, exponent, out=wide)
        return wide


def measure_block(exponent: int, room: Room, values: Half, rows: BlockRows) -> BlockFigures:
    """
    Measure the rows of a block.

    Args:
        exponent: Power of two the values are to be multiplied by.
        room: Memory to work in.
        values: (row, hidden), finite, one for each of `rows`.
        rows: Which tokens they are.
    """
    wide, sizes = room.take(values, exponent), sizes_of(values)
    places, dims = _find_massive(sizes, wide, exponent)
    massive_values = wide[places, dims].astype(np.float64)
    norms = np.sqrt(np.einsum("rh,rh->r", wide, wide))
    is_counted = rows.is_audited.astype(np.float32)
    inverse = np.divide(is_counted, norms, out=np.zeros_like(norms), where=norms > 0)
    total, total_unit = (np.stack([is_counted, inverse]) @ wide).astype(np.float64)
    total_size = is_counted @ np.abs(wide, out=wide)
    prompt_readings = rows.reading[rows.is_prompt]
    starts = np.flatnonzero(np.diff(prompt_readings, prepend=-1))
    prompt_sizes = sizes[rows.is_prompt]
    return BlockFigures(
        total=total,
        total_size=total_size.astype(np.float64),
        total_unit=total_unit,
        total_norm=float(norms[rows.is_audited].sum(dtype=np.float64)),
        readings=prompt_readings[starts],
        peaks=np.maximum.reduceat(prompt_sizes, starts) if len(starts) else prompt_sizes[:0],
        massive_rows=rows.rows[places],
        massive_dims=dims,
        massive_values=massive_values,
    )


def sizes_of(values: Half) -> Bits:
    """Take the sign off: bits of absolute values, which are ordered as the values are."""
    return np.asarray(np.bitwise_and(values.view(np.uint16), _SIZE_BITS))


def _find_massive(sizes: Bits, wide: NDArray[np.float32], exponent: int) -> tuple[Rows, Rows]:
    """
    Find (row, dimension) of massive activations.

    Medians, which are dear, are taken of few rows: of those where one is above 100 and half of all
    values are below a thousandth of it.

    Source:
        Sun et al., Massive Activations in Large Language Models, arXiv:2402.17762, §2.
    """
    peaks = sizes.max(axis=1).view(np.float16)
    limits = (peaks / np.float32(MASSIVE_RATIO)).astype(np.float16)
    limits = np.nextafter(limits, np.float16(np.inf)).view(np.uint16)  # never rounded down
    places = np.flatnonzero(np.ldexp(peaks.astype(np.float32), exponent) > MASSIVE_VALUE)
    n_small = np.count_nonzero(sizes[places] <= limits[places, None], axis=1)
    places = places[n_small >= sizes.shape[1] // 2]
    if not len(places):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    size = np.abs(wide[places].astype(np.float64))
    medians = np.median(size, axis=1, keepdims=True)
    found, dims = np.nonzero((size > MASSIVE_VALUE) & (size >= MASSIVE_RATIO * medians))
    return places[found], dims


@dataclass(slots=True, eq=False)
class LayerSurvey:
    """
    A layer's figures over all its dimensions, of blocks in their order.

    A block's sums are float32, their sums float64; added up in order, they do not depend on which
    thread was first.

    Attributes:
        hidden: Width.
        n_readings: Readings taken in.
        n_tokens: Their rows.
        n_audited: Rows that the sums run over.
        total_norm: Sum of lengths.
        total: Sum of states, (hidden,).
        total_size: Sum of absolute values, (hidden,).
        total_unit: Sum of states of length 1, (hidden,).
        n_massive: Massive values in each dimension, (hidden,); of these, `n_first` at first tokens
            and `n_delimiter` at delimiters.
        massive_total: Their sum, (hidden,).
        massive_squares: The sum of their squares, (hidden,).
        prompt_ratios: For each reading, its prompt's largest size in a dimension over the median.
    """

    hidden: int
    n_readings: int = 0
    n_tokens: int = 0
    n_audited: int = 0
    total_norm: float = 0.0
    total: Wide = field(init=False)
    total_size: Wide = field(init=False)
    total_unit: Wide = field(init=False)
    n_massive: Rows = field(init=False)
    n_first: Rows = field(init=False)
    n_delimiter: Rows = field(init=False)
    massive_total: Wide = field(init=False)
    massive_squares: Wide = field(init=False)
    prompt_ratios: list[float] = field(default_factory=list)
    _reading: int = -1
    _peak: Bits | None = None

    def __post_init__(self) -> None:
        """Start from nothing."""
        for name in ("total", "total_size", "total_unit", "massive_total", "massive_squares"):
            setattr(self, name, np.zeros(self.hidden))
        for name in ("n_massive", "n_first", "n_delimiter"):
            setattr(self, name, np.zeros(self.hidden, dtype=np.int64))

    def begin(self, rows: ReadingRows) -> None:
        """Count the readings of the segment whose blocks come next."""
        self.n_readings += len(rows.readings)
        self.n_tokens += rows.n_tokens
        self.n_audited += rows.n_audited

    def add(self, figures: BlockFigures, rows: ReadingRows) -> None:
        """Take a block's figures in."""
        self.total += figures.total
        self.total_size += figures.total_size
        self.total_unit += figures.total_unit
        self.total_norm += figures.total_norm
        for reading, peak in zip(figures.readings, figures.peaks, strict=True):
            if reading != self._reading or self._peak is None:
                self.end()
                self._reading, self._peak = int(reading), peak
            else:
                self._peak = np.maximum(self._peak, peak)
        if len(dims := figures.massive_dims):
            is_first = rows.is_first(figures.massive_rows)
            is_delimiter = ~is_first & rows.is_delimiter(figures.massive_rows)
            np.add.at(self.n_massive, dims, 1)
            np.add.at(self.n_first, dims, is_first)
            np.add.at(self.n_delimiter, dims, is_delimiter)
            np.add.at(self.massive_total, dims, figures.massive_values)
            np.add.at(self.massive_squares, dims, figures.massive_values**2)

    def end(self) -> None:
        """Finish the reading under way: the segment has no more blocks, or another begins."""
        if self._peak is not None:
            peaks = self._peak.view(np.float16).astype(np.float64)
            median = float(np.median(peaks))
            self.prompt_ratios.append(float(peaks.max()) / median if median else float("inf"))
        self._reading, self._peak = -1, None

    @property
    def mean(self) -> Wide:
        """Mean state, (hidden,)."""
        return self.total / self.n_audited

    @property
    def top_dims(self) -> Rows:
        """Dimensions with the largest means in size, the largest first."""
        order = np.argsort(-np.abs(self.total), kind="stable")[:N_TOP]
        return np.asarray(order[self.total[order] != 0])

    @property
    def massive_dims(self) -> Rows:
        """Dimensions that are massive for some token."""
        return np.flatnonzero(self.n_massive)

    def describe_massive(self, dim: int) -> dict[str, Any]:
        """Describe a dimension's massive values, and the tokens they are at."""
        number = int(self.n_massive[dim])
        mean = float(self.massive_total[dim]) / number if number else None
        spread = float(self.massive_squares[dim]) / number - mean**2 if mean is not None else 0.0
        return {
            "n_massive": number,
            "n_massive_first": int(self.n_first[dim]),
            "n_massive_delimiter": int(self.n_delimiter[dim]),
            "massive_mean": mean,
            "massive_cv": float(np.sqrt(max(0.0, spread))) / abs(mean) if mean else None,
        }

    @property
    def mean_alignment(self) -> float:
        """Mean cosine of a state with the mean state: the mean of unit states, along it."""
        length = float(np.linalg.norm(self.total))
        return float(self.total @ self.total_unit) / (length * self.n_audited) if length else 0.0

    @property
    def baseline(self) -> float:
        """Median over the dimensions of their mean size."""
        return float(np.median(self.total_size / self.n_audited))


def cosine_or_zero(first: Wide, second: Wide) -> float:
    """Cosine of two vectors; 0 where one has no length."""
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length else 0.0


@dataclass(slots=True, eq=False)
class DimensionSurvey:
    """
    The distribution of a layer's values in some dimensions: exact, since float16 has few sizes.

    Attributes:
        dims: Dimensions.
        counts: For each exponent of the segments, tokens at each size, (dimension, 2**15).
        largest: The largest size yet, (dimension,), in true units.
        place: For each, the number of the segment and the row it lies in.
    """

    dims: Rows
    counts: dict[int, NDArray[np.uint32]] = field(default_factory=dict)
    largest: Wide = field(init=False)
    place: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        """Start from nothing."""
        self.largest = np.full(len(self.dims), -1.0)
        self.place = [(-1, -1)] * len(self.dims)

    def add(self, sizes: Bits, exponent: int, segment: int, rows: BlockRows) -> None:
        """Take a block in: the sizes of its rows in these dimensions, (row, dimension)."""
        counts = self.counts.setdefault(exponent, np.zeros((len(self.dims), _N_SIZES), np.uint32))
        audited = sizes[rows.is_audited]
        np.add.at(counts, (np.arange(len(self.dims))[None, :], audited), 1)
        at = sizes.argmax(axis=0)
        peaks = sizes[at, np.arange(len(self.dims))].view(np.float16).astype(np.float64)
        peaks = np.ldexp(peaks, exponent)
        for dim in np.flatnonzero(peaks > self.largest):
            self.largest[dim] = peaks[dim]
            self.place[dim] = segment, int(rows.rows[at[dim]])

    def describe(self, place: int, baseline: float) -> dict[str, Any]:
        """
        Describe the sizes in the dimension at a place, over the audited tokens.

        Args:
            place: Place of the dimension among `dims`.
            baseline: What `mean_ratio`, `p5_ratio` and `pct_above_10x` compare with.
        """
        sizes, counts = self._distribution(place)
        n_tokens = int(counts.sum())
        mean = float(sizes @ counts) / n_tokens
        spread = float(np.sqrt(((sizes - mean) ** 2) @ counts / n_tokens))
        p5 = _percentile(sizes, counts, 0.05)
        n_above = int(counts[sizes > _SHARE_BASE * baseline].sum())
        return {
            "mean_ratio": mean / baseline if baseline else None,
            "cv": spread / mean if mean else None,
            "p5_ratio": p5 / baseline if baseline else None,
            "pct_above_10x": 100 * n_above / n_tokens,
        }

    def _distribution(self, place: int) -> tuple[Wide, Rows]:
        """List the sizes that occur, ascending, and how often."""
        parts = []
        for exponent, counts in self.counts.items():
            found = np.flatnonzero(counts[place])
            sizes = found.astype(np.uint16).view(np.float16).astype(np.float64)
            parts.append((np.ldexp(sizes, exponent), counts[place][found]))
        sizes = np.concatenate([part for part, _ in parts])
        order = np.argsort(sizes, kind="stable")
        return sizes[order], np.concatenate([counts for _, counts in parts])[order].astype(np.int64)


def _percentile(sizes: Wide, counts: Rows, share: float) -> float:
    """Interpolate between the two nearest values in order, as NumPy does by default."""
    ends = np.cumsum(counts)
    at = share * (int(ends[-1]) - 1)
    below, above = (
        float(sizes[np.searchsorted(ends, number, side="right")])
        for number in (math.floor(at), math.ceil(at))
    )
    return below + (above - below) * (at - math.floor(at))
