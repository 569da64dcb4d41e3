"""Scores computed again from stored states, and how far trait-interp's own may lie from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tistore.schemas.site import Site
from tistore.store.segment import Segment

_UNIT = 2.0**-24
"""Largest relative rounding error of one float32 operation."""

_SPREAD = 4.0
"""How many times √n units a float32 sum of n terms may stray, as a share of the terms' sizes. The
theorem below makes it some units; the most seen of torch's sums is 0.3, for n up to 8192 and with
or without an outlying term."""

_HALF_STEP = 2.0**-25
"""Half of float16's smallest step: how far a tiny state may have been rounded on its way in."""

_EPSILON = 1e-8
"""What trait-interp adds to a vector's length before it divides."""

_BLOCK_ROWS = 1024
_HALVES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

Doubles = NDArray[np.float64]


class StoredStates:
    """
    One reading's states at one site. Those of a short reading are kept once they are read.

    Args:
        segment: Segment they lie in.
        site: Component and layer.
        row_start: First row.
        n_rows: How many rows.
    """

    def __init__(self, segment: Segment, site: Site, row_start: int, n_rows: int) -> None:
        self._segment = segment
        self._site = site
        self._rows = range(row_start, row_start + n_rows)
        self._kept: Doubles | None = None
        self.exponent = segment.exponent(site)

    @property
    def hidden(self) -> int:
        """Width."""
        return self._segment.width(self._site.component)

    @property
    def step(self) -> float:
        """How far a state may lie from the one that was imported, for rounding to float16."""
        return float(np.ldexp(_HALF_STEP, self.exponent))

    def blocks(self) -> Iterator[Doubles]:
        """Read the states, [row, hidden], some rows at a time."""
        if self._kept is not None:
            yield self._kept
            return
        starts = self._rows[::_BLOCK_ROWS]
        for start in starts:
            stop = min(start + _BLOCK_ROWS, self._rows.stop)
            block = self._segment.read(self._site, start, stop).astype(np.float64)
            wide = np.ldexp(block, self.exponent) if self.exponent else block
            if len(starts) == 1:
                self._kept = wide
            yield wide


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """
    Numbers computed again, and how far from each another's may lie.

    Attributes:
        values: One a row.
        tolerance: One a row, without what the file's own rounding adds.
    """

    values: Doubles
    tolerance: Doubles


def recompute_scores(states: StoredStates, vector: NDArray[Any], baseline: float) -> Recomputed:
    """
    Score every row in float64: state · vector / (‖vector‖ + 1e-8), less the baseline.

    trait-interp computed the same in float32. There the sum over n dimensions may stray by
    4·√n·2⁻²⁴ of Σ|xᵢvᵢ|/‖v‖, the length, a root, by half as much, and root, division, subtraction
    and result by 2⁻²⁴ each; the tolerance is the sum of these. A state too small for float16 was
    rounded by up to 2⁻²⁵ when it was imported, times 2ᵉ where its layer is stored with an exponent,
    which moves a score by that times Σ|vᵢ|/‖v‖.

    Args:
        states: Where the rows are.
        vector: (hidden,), as it was projected on.
        baseline: What was subtracted; 0 for scores that are not centred.

    Source:
        Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019, theorem 2.4.
    """
    wide = vector.astype(np.float64)
    length = float(np.linalg.norm(wide)) + _EPSILON
    parts = [(block @ wide, np.abs(block) @ np.abs(wide)) for block in states.blocks()]
    products, sizes = (_join(part) / length for part in zip(*parts, strict=True))
    rounding = (1.5 * _SPREAD * math.sqrt(wide.size) + 4) * _UNIT
    stored = states.step * float(np.abs(wide).sum()) / length
    return Recomputed(products - baseline, rounding * (sizes + abs(baseline)) + stored)


def recompute_norms(states: StoredStates) -> Recomputed:
    """
    Measure every row's length in float64.

    The float32 of trait-interp strays by up to 2·√n·2⁻²⁴ of it, and rounding to float16 on the way
    in by the step of `recompute_scores` times √n.
    """
    values = _join(np.linalg.norm(block, axis=1) for block in states.blocks())
    root = math.sqrt(states.hidden)
    return Recomputed(values, (0.5 * _SPREAD * root + 4) * _UNIT * values + states.step * root)


def cast_vector(values: NDArray[np.float32], source_dtype: str | None) -> NDArray[Any] | None:
    """
    Round a vector as the later path of trait-interp did: to float16, then to the states' type.

    Returns:
        None where that changes nothing, or leaves no direction.
    """
    with np.errstate(over="ignore"):
        cast = values.astype(np.float16).astype(_HALVES.get(source_dtype or "", np.float32))
    wide = cast.astype(np.float32)
    if np.array_equal(wide, values) or not wide.any() or not np.isfinite(wide).all():
        return None
    return np.asarray(wide)


def shown_rounding(numbers: Iterable[float]) -> float:
    """Tell how far numbers of a file may have been rounded: half of the last decimal shown."""
    exponents = (Decimal(repr(number)).as_tuple().exponent for number in numbers)
    last = min((exponent for exponent in exponents if isinstance(exponent, int)), default=0)
    return 0.5 * 10.0 ** min(last, 0)


def _join(parts: Iterable[Doubles]) -> Doubles:
    return np.concatenate(list(parts))
