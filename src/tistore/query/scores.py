"""Token scores: from memory, from the cache's files, or from a scan."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tistore.query.references import Direction
from tistore.query.scan import scan_site
from tistore.store.score_files import has_scores, read_scores, write_scores
from tistore.store.segment import Segment

_MEMORY_BYTES = 512 * 1024 * 1024

TokenScores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A direction's scores over all rows of a segment that has its site."""

    direction: Direction
    segment: Segment

    @property
    def key(self) -> tuple[str, str]:
        """What the scores depend on: the direction at its site, and the segment."""
        return self.direction.key, self.segment.uuid

    @property
    def size_bytes(self) -> int:
        """Size of the scores."""
        return 4 * self.segment.n_rows


class ScoreCache:
    """
    Scores computed before. Shared by all queries of a store.

    Args:
        folder: Where score files lie; made when the first is written.
        memory_bytes: How much is kept in memory, the least recently used going first.
    """

    def __init__(self, folder: Path, memory_bytes: int = _MEMORY_BYTES) -> None:
        self.folder = folder
        self._memory_bytes = memory_bytes
        self._kept: OrderedDict[tuple[str, str], TokenScores] = OrderedDict()
        self._lock = Lock()

    def holds(self, request: ScoreRequest) -> bool:
        """Whether the scores seem to be there; a damaged file is only found when it is read."""
        return request.key in self._kept or has_scores(self.folder, *request.key)

    def find(self, request: ScoreRequest) -> TokenScores | None:
        """Look up scores; None when they must be computed."""
        with self._lock:
            if request.key in self._kept:
                self._kept.move_to_end(request.key)
                return self._kept[request.key]
        scores = read_scores(self.folder, *request.key, request.segment.n_rows)
        if scores is not None:
            self._keep(request.key, scores)
        return scores

    def add(self, request: ScoreRequest, scores: TokenScores) -> bool:
        """Keep computed scores; False when they could be kept in memory only."""
        self._keep(request.key, scores)
        return write_scores(self.folder, *request.key, scores)

    def _keep(self, key: tuple[str, str], scores: TokenScores) -> None:
        with self._lock:
            self._kept[key] = scores
            self._kept.move_to_end(key)
            size = sum(kept.nbytes for kept in self._kept.values())
            while size > self._memory_bytes and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                size -= dropped.nbytes


def find_scores(
    requests: Iterable[ScoreRequest], cache: ScoreCache
) -> tuple[dict[tuple[str, str], TokenScores], list[ScoreRequest]]:
    """Split requests into the scores that are there and the requests that need a scan."""
    found: dict[tuple[str, str], TokenScores] = {}
    missing: dict[tuple[str, str], ScoreRequest] = {}
    for request in requests:
        if request.key in found or request.key in missing:
            continue
        scores = cache.find(request)
        if scores is None:
            missing[request.key] = request
        else:
            found[request.key] = scores
    return found, list(missing.values())


def read_bytes(requests: Sequence[ScoreRequest]) -> int:
    """Estimate what a scan for these would read: each site of a segment once."""
    sites = {(r.segment.uuid, r.direction.site): r.segment for r in requests}
    return sum(segment.site_bytes(site) for (_, site), segment in sites.items())


def compute_scores(
    requests: Sequence[ScoreRequest],
    cache: ScoreCache,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[dict[tuple[str, str], TokenScores], bool]:
    """
    Compute scores, all directions at one site of a segment in one pass, and cache them.

    Returns:
        The scores, and whether all of them were cached on disk.
    """
    passes: dict[tuple[str, str], list[ScoreRequest]] = {}
    for request in requests:
        passes.setdefault((request.segment.uuid, str(request.direction.site)), []).append(request)
    computed: dict[tuple[str, str], TokenScores] = {}
    is_cached = True
    for together in passes.values():
        units = np.stack([request.direction.vector.unit for request in together])
        segment, site = together[0].segment, together[0].direction.site
        for request, scores in zip(
            together, scan_site(segment, site, units, progress), strict=True
        ):
            computed[request.key] = scores
            is_cached &= cache.add(request, scores)
    return computed, is_cached
