"""Token scores: from memory, from the cache's files, or from a scan."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tistore.errors import NotStoredError, StoreError
from tistore.query.references import Direction
from tistore.query.scan import Scan, run_scans
from tistore.schemas.vector import Vector
from tistore.store.score_files import ScoreFolder
from tistore.store.segment import Segment

_MEMORY_BYTES = 256 * 1024 * 1024

TokenScores = NDArray[np.float32]
Key = tuple[str, str]
"""A direction's key, and a segment's uuid."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A direction's scores over all rows of a segment that has its site."""

    direction: Direction
    segment: Segment

    @property
    def key(self) -> Key:
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
        folder: Where they lie on disk.
        memory_bytes: How much is kept in memory, the least recently used going first.
    """

    def __init__(self, folder: ScoreFolder, memory_bytes: int = _MEMORY_BYTES) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._kept: OrderedDict[Key, TokenScores] = OrderedDict()
        self._kept_bytes = 0
        self._lock = Lock()

    def directions(self, segments: Iterable[Segment]) -> set[str]:
        """Keys of the directions that have scores for some segment, cached or part of it."""
        with self._lock:
            kept = {direction for direction, _ in self._kept}
        return kept.union(self.folder.directions(), *(segment.scored for segment in segments))

    def holds(self, request: ScoreRequest) -> bool:
        """Whether the scores seem to be there; a damaged file is only found when it is read."""
        direction, _ = request.key
        is_bundled = direction in request.segment.scored
        return is_bundled or request.key in self._kept or self.folder.has(*request.key)

    def find(self, request: ScoreRequest) -> TokenScores | None:
        """
        Look up scores; None when they must be computed.

        Raises:
            IntegrityError: They are part of the segment, and damaged.
        """
        with self._lock:
            if request.key in self._kept:
                self._kept.move_to_end(request.key)
                return self._kept[request.key]
        direction, _ = request.key
        if direction in request.segment.scored:
            scores: TokenScores | None = request.segment.scores(direction)
        else:
            scores = self.folder.read(*request.key, request.segment.n_rows)
        if scores is not None:
            self._keep(request.key, scores)
        return scores

    def add(self, request: ScoreRequest, scores: TokenScores) -> bool:
        """Keep computed scores; False when they could be kept in memory only."""
        self._keep(request.key, scores)
        return self.folder.write(*request.key, scores)

    def forget(self, directions: Collection[str]) -> None:
        """Give up what is kept in memory of some directions."""
        with self._lock:
            for key in [key for key in self._kept if key[0] in directions]:
                self._kept_bytes -= self._kept.pop(key).nbytes

    def _keep(self, key: Key, scores: TokenScores) -> None:
        with self._lock:
            known = self._kept.pop(key, None)
            self._kept[key] = scores
            self._kept_bytes += scores.nbytes - (0 if known is None else known.nbytes)
            while self._kept_bytes > self.memory_bytes and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= dropped.nbytes


class ScoresOnDemand(Mapping[Key, TokenScores]):
    """
    Scores too many for memory: looked up when they are asked for, and given up again.

    Args:
        requests: All there are.
        known: Those that are nowhere else.
        look_up: Where the others are; what it has lost since is computed again.
        cache: Where that is kept.
    """

    def __init__(
        self,
        requests: Sequence[ScoreRequest],
        known: Mapping[Key, TokenScores],
        look_up: Callable[[ScoreRequest], TokenScores | None],
        cache: ScoreCache,
    ) -> None:
        self._requests = {request.key: request for request in requests}
        self._known = known
        self._look_up = look_up
        self._cache = cache

    def __getitem__(self, key: Key) -> TokenScores:
        """Look up, or compute."""
        if key in self._known:
            return self._known[key]
        request = self._requests[key]
        scores = self._look_up(request)
        return compute_scores([request], self._cache)[0][key] if scores is None else scores

    def __iter__(self) -> Iterator[Key]:
        """Walk the keys."""
        return iter(self._requests)

    def __len__(self) -> int:
        """Count them."""
        return len(self._requests)


def find_scores(
    requests: Iterable[ScoreRequest], cache: ScoreCache
) -> tuple[dict[Key, TokenScores], list[ScoreRequest]]:
    """Split requests into the scores that are there and the requests that need a scan."""
    found: dict[Key, TokenScores] = {}
    missing: dict[Key, ScoreRequest] = {}
    requests = list(requests)
    scored = cache.directions(request.segment for request in requests)
    for request in requests:
        if request.key in found or request.key in missing:
            continue
        scores = cache.find(request) if request.direction.key in scored else None
        if scores is None:
            missing[request.key] = request
        else:
            found[request.key] = scores
    return found, list(missing.values())


def check_scannable(missing: Sequence[ScoreRequest], vectors: Sequence[Vector]) -> None:
    """
    Check that what is not scored can be.

    Args:
        missing: Requests without scores.
        vectors: Every vector of the store.

    Raises:
        NotStoredError: A segment holds scores in place of activations, but not these.
    """
    for request in missing:
        direction, segment = request.direction, request.segment
        if segment.has_activations(direction.site.component):
            continue
        named = {str(vector): vector for vector in map(_at_home, vectors)}
        there = sorted(name for name, at_home in named.items() if at_home.key in segment.scored)
        raise NotStoredError(
            f"{direction} was not bundled: this store holds the token scores of some vectors, "
            f"and no activations to compute others from. It has {', '.join(there) or 'none'}",
            mend="ask of responses, whose means are here: SELECT project('trait') FROM responses; "
            "or export again with this vector",
        )


def _at_home(vector: Vector) -> Direction:
    return Direction(vector, vector.site)


def read_bytes(requests: Sequence[ScoreRequest]) -> int:
    """Estimate what a scan for these would read: each site of a segment once."""
    sites = {(r.segment.uuid, r.direction.site): r.segment for r in requests}
    return sum(segment.site_bytes(site) for (_, site), segment in sites.items())


def compute_scores(
    requests: Sequence[ScoreRequest],
    cache: ScoreCache,
    progress: Callable[[int], None] = lambda size_bytes: None,
    n_threads: int | None = None,
    is_large: bool = False,
) -> tuple[dict[Key, TokenScores], bool]:
    """
    Compute scores, all directions at one site of a segment in one pass, and cache them.

    Each segment's are cached as soon as they are complete, so that an interrupted query has less
    to do the next time.

    Args:
        requests: What to compute.
        cache: Where to.
        progress: Called with the bytes of activations of each block once it is scored.
        n_threads: Threads; one for each processor when None.
        is_large: Give back only what could not be cached on disk; the rest is read from there.

    Returns:
        The scores, and whether all of them were cached on disk.
    """
    computed: dict[Key, TokenScores] = {}
    unwritten: list[ScoreRequest] = []

    def finish(request: ScoreRequest, scores: TokenScores) -> None:
        is_written = cache.add(request, scores)
        if not is_written:
            unwritten.append(request)
        if not (is_written and is_large):
            computed[request.key] = scores

    _scan(requests, finish, progress, n_threads)
    return computed, not unwritten


def warm_scores(
    requests: Sequence[ScoreRequest],
    folder: ScoreFolder,
    progress: Callable[[int], None] = lambda size_bytes: None,
    n_threads: int | None = None,
) -> None:
    """
    Compute scores and cache them on disk, keeping none in memory.

    Raises:
        StoreError: They could not be written.
    """

    def finish(request: ScoreRequest, scores: TokenScores) -> None:
        if not folder.write(*request.key, scores):
            raise StoreError(
                f"scores could not be written to {folder.path}",
                mend="free some space there, or set TISTORE_CACHE_DIR to a folder with room",
            )

    _scan(requests, finish, progress, n_threads)


@dataclass(frozen=True, slots=True)
class Warmed:
    """
    What was done to have one direction's scores in the cache.

    Attributes:
        vector: The direction, as people call it.
        site: Where it is read.
        segments: Segments it was wanted for.
        computed: How many of them were not in the cache.
        read_bytes: What a pass for these, for it alone, reads.
    """

    vector: str
    site: str
    segments: int
    computed: int
    read_bytes: int


def summarise(wanted: Sequence[ScoreRequest], missing: Sequence[ScoreRequest]) -> list[Warmed]:
    """Count what was wanted and what was missing, direction by direction."""
    segments = Counter(request.direction.key for request in wanted)
    lacking: dict[str, list[ScoreRequest]] = {}
    for request in missing:
        lacking.setdefault(request.direction.key, []).append(request)
    directions = {request.direction.key: request.direction for request in wanted}
    return [
        Warmed(
            vector=str(direction),
            site=str(direction.site),
            segments=segments[key],
            computed=len(lacking.get(key, [])),
            read_bytes=read_bytes(lacking.get(key, [])),
        )
        for key, direction in directions.items()
    ]


def scan_bytes(requests: Iterable[ScoreRequest]) -> int:
    """Count the bytes of activations a scan for these would go through, decoded."""
    sites = {(r.segment.uuid, r.direction.site): r.segment for r in requests}
    return sum(
        2 * segment.n_rows * segment.width(site.component) for (_, site), segment in sites.items()
    )


def _scan(
    requests: Sequence[ScoreRequest],
    finish: Callable[[ScoreRequest, TokenScores], None],
    progress: Callable[[int], None],
    n_threads: int | None,
) -> None:
    """Run one pass for each site of a segment, over all directions asked of it."""
    together: dict[Key, list[ScoreRequest]] = {}
    for request in requests:
        together.setdefault((request.segment.uuid, str(request.direction.site)), []).append(request)
    units: dict[tuple[str, ...], NDArray[np.float32]] = {}
    asked: dict[int, list[ScoreRequest]] = {}
    scans = []
    for group in together.values():
        keys = tuple(request.direction.key for request in group)
        if keys not in units:
            units[keys] = np.stack([request.direction.vector.unit for request in group])
        # Scans along the same directions share their array, so that its copies are made once.
        scan = Scan(group[0].segment, group[0].direction.site, units[keys])
        asked[id(scan)] = group
        scans.append(scan)

    def hand_out(scan: Scan, scores: TokenScores) -> None:
        group = asked[id(scan)]
        for request, row in zip(group, scores, strict=True):
            # A row of several would keep all of them in memory for as long as it is kept.
            finish(request, row if len(group) == 1 else row.copy())

    run_scans(scans, hand_out, progress, n_threads)
