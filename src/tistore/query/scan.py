"""The scan: activations of one site of a segment, against directions."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tistore.schemas.site import Site
from tistore.store.segment import Segment

_READ_BYTES = 16 * 1024 * 1024
_PRODUCT_ROWS = 256  # a block this high stays in cache between the cast and the product


def scan_site(
    segment: Segment,
    site: Site,
    units: NDArray[np.float32],
    progress: Callable[[int], None] = lambda rows: None,
) -> NDArray[np.float32]:
    """
    Score every row of a segment along several directions, in one pass.

    Blocks are read and multiplied side by side; the products are accumulated in float32, and the
    site's exponent is applied to them, not to the activations.

    Args:
        segment: Segment that has the site.
        site: Where to read.
        units: (direction, hidden), each of length 1.
        progress: Called with the rows of each block once it is scored.

    Returns:
        (direction, row) float32, contiguous, in the activations' true units.
    """
    scores = np.empty((len(units), segment.n_rows), dtype=np.float32)
    columns = np.ascontiguousarray(units.T)
    block_rows = max(_PRODUCT_ROWS, _READ_BYTES // (2 * segment.hidden))
    scale = np.float32(np.ldexp(1.0, segment.exponent(site)))

    def score_block(start: int) -> int:
        stop = min(start + block_rows, segment.n_rows)
        values = segment.read(site, start, stop)
        for first in range(0, len(values), _PRODUCT_ROWS):
            product = values[first : first + _PRODUCT_ROWS].astype(np.float32) @ columns
            scores[:, start + first : start + first + len(product)] = (product * scale).T
        return stop - start

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        for rows in threads.map(score_block, range(0, segment.n_rows, block_rows)):
            progress(rows)
    return scores
