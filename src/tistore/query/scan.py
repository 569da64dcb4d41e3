"""The scan: activations of sites, against directions, in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.query.product import Product, choose_product, one_thread_each
from tistore.schemas.site import Site
from tistore.store.chunks import Chunk
from tistore.store.segment import Segment, SiteStream
from tistore.store.threads import start

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """
    One site of a segment, and the directions to score it along.

    Attributes:
        segment: Segment that has the site.
        site: Where to read.
        units: (direction, width) float32, each of length 1.
    """

    segment: Segment
    site: Site
    units: NDArray[np.float32]


def run_scans(
    scans: Sequence[Scan],
    finish: Callable[[Scan, Scores], None],
    progress: Callable[[int], None] = lambda size_bytes: None,
    n_threads: int | None = None,
) -> None:
    """
    Score every row of some sites, reading each once.

    Reading, decoding and multiplying go on side by side, a chunk to a thread, and from one
    segment straight on to the next; a thread needs room for one chunk, whatever the store's size.
    When it is interrupted, or a chunk is damaged, what is finished has been handed over.

    Args:
        scans: What to score, in this order.
        finish: Given each scan's scores once they are complete, (direction, row) float32 in the
            activations' true units; called from the scan's threads.
        progress: Called with the bytes of activations of each block once it is scored.
        n_threads: Threads; one for each processor when None.

    Raises:
        IntegrityError: A chunk is damaged.
    """
    for scan in scans:
        if scan.segment.n_rows == 0:
            finish(scan, np.empty((len(scan.units), 0), dtype=np.float32))
    scans = [scan for scan in scans if scan.segment.n_rows]
    if not scans:
        return
    n_values = sum(scan.segment.n_rows * scan.units.shape[1] for scan in scans)
    crew = _Crew(
        work=_list_work(scans),
        make_product=choose_product(max(len(scan.units) for scan in scans), n_values),
        finish=finish,
        progress=progress,
    )
    with one_thread_each():
        crew.run(n_threads or count_processors())


def count_processors() -> int:
    """Count the processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Pass:
    """A scan under way."""

    scan: Scan
    stream: SiteStream
    scores: Scores
    blocks_left: int


def _list_work(scans: Sequence[Scan]) -> Iterator[tuple[_Pass, Chunk]]:
    """Give out blocks one after the other, the disk being told of the next scan beforehand."""
    following = iter(scans)
    upcoming = _open_stream(next(following, None))
    for scan in scans:
        stream, upcoming = upcoming, _open_stream(next(following, None))
        assert stream is not None
        blocks = stream.blocks()
        scores = np.empty((len(scan.units), scan.segment.n_rows), dtype=np.float32)
        under_way = _Pass(scan, stream, scores, len(blocks))
        for block in blocks:
            yield under_way, block


def _open_stream(scan: Scan | None) -> SiteStream | None:
    if scan is None:
        return None
    stream = scan.segment.stream(scan.site)
    stream.expect()
    return stream


@dataclass(slots=True, eq=False)
class _Crew:
    """The threads of one run, and what they share."""

    work: Iterator[tuple[_Pass, Chunk]]
    make_product: Callable[[NDArray[np.float32]], Product]
    finish: Callable[[Scan, Scores], None]
    progress: Callable[[int], None]
    lock: Lock = field(default_factory=Lock)
    ended: SimpleQueue[BaseException | None] = field(default_factory=SimpleQueue)
    is_stopped: bool = False

    def run(self, n_threads: int) -> None:
        threads = [Thread(target=self._labour, daemon=True) for _ in range(n_threads)]
        begun: list[Thread] = []
        failure: BaseException | None = None
        try:
            for thread in threads:
                start(thread)
                begun.append(thread)
            for _ in begun:
                failure = self.ended.get() or failure
                self.is_stopped |= failure is not None
        finally:
            # An interrupt lands here, too: nobody is left at work when it goes on its way.
            self.is_stopped = True
            for thread in begun:
                thread.join()
        if failure is not None:
            raise failure

    def _labour(self) -> None:
        buffers: dict[tuple[int, ...], NDArray[Any]] = {}
        units: NDArray[np.float32] | None = None
        try:
            while not self.is_stopped and (task := self._take()) is not None:
                under_way, block = task
                if under_way.scan.units is not units:
                    units = under_way.scan.units
                    product = self.make_product(units)
                self._score(under_way, block, product, buffers)
                self._check_off(under_way)
        except BaseException as error:
            self.ended.put(error)
        else:
            self.ended.put(None)

    def _take(self) -> tuple[_Pass, Chunk] | None:
        with self.lock:
            return next(self.work, None)

    def _score(
        self,
        under_way: _Pass,
        block: Chunk,
        product: Product,
        buffers: dict[tuple[int, ...], NDArray[Any]],
    ) -> None:
        rows = under_way.stream.read(block, buffers)
        scores = under_way.scores[:, block.start : block.stop]
        product(rows, scores)
        if exponent := under_way.scan.segment.exponent(under_way.scan.site):
            scores *= np.float32(np.ldexp(1.0, exponent))
        self.progress(rows.nbytes)

    def _check_off(self, under_way: _Pass) -> None:
        with self.lock:
            under_way.blocks_left -= 1
            is_last = under_way.blocks_left == 0
        if is_last:
            self.finish(under_way.scan, under_way.scores)
