"""A store of scores: everything but the activations, for a few vectors' worth of bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tistore.errors import QueryError, StoreError, StoreExistsError, VectorMismatchError
from tistore.exchange.selection import Selected, Selection, select
from tistore.exchange.stores.copy_groups import group_parts
from tistore.exchange.stores.export_run import describe_run
from tistore.exchange.stores.log_rows import select_log_rows
from tistore.query.massive import MassiveDims
from tistore.query.references import Direction, resolve
from tistore.query.scores import (
    ScoreCache,
    ScoreRequest,
    TokenScores,
    check_scannable,
    compute_scores,
)
from tistore.query.store import Store
from tistore.store.copies import Extract, SegmentCopy, copy_readings
from tistore.store.copy_log import CopyLog
from tistore.store.opened import locate
from tistore.store.posix import PosixFiles
from tistore.store.segment import Segment


@dataclass(frozen=True, slots=True)
class ScoreBundleReport:
    """
    What went into a bundle.

    Attributes:
        destination: Where it is.
        vectors: Vectors whose token scores are in it.
        readings: Its readings.
        tokens: Its token rows.
        size_bytes: Bytes of its files.
        activation_bytes: Bytes that the activations left behind take as float16.
    """

    destination: str
    vectors: tuple[str, ...]
    readings: int
    tokens: int
    size_bytes: int
    activation_bytes: int


def export_scores(
    store: Store,
    destination: str | Path,
    references: Sequence[str] | None = None,
    *,
    where: str | None = None,
    layer: int | None = None,
    progress: Callable[[int], None] = lambda n_readings: None,
) -> ScoreBundleReport:
    """
    Export scores as a store that opens, and answers the same questions, without activations.

    It has the readings' tokens, clauses, norms and response means, all vectors, the rest of the
    log, and the token scores of the vectors asked for. Of these, and of their combinations,
    everything can be asked; of any other vector, what the means answer: `project` and `scaled`
    over `responses` and `response_diffs`.

    Scores are taken from the store's cache, or computed and cached there: what was stopped has
    less to do the next time. The bundle appears whole or not at all.

    Args:
        store: Where to read.
        destination: A path where nothing is.
        references: Vector references and expressions; every vector whose site was captured when
            None.
        where: SQL condition on the columns of `responses`; every reading when None.
        layer: Layer to read, in place of the vectors' own.
        progress: Called with the readings of each segment once it is written.

    Raises:
        StoreExistsError: Something is at the destination.
        QueryError: A reference names nothing, the condition is malformed, or no vector is left.
        NotStoredError: Nothing is selected; or the store is itself a bundle, without these scores.
        NoRoomError: The disk is full.
    """
    target = locate(destination)
    if target.exists():
        raise StoreExistsError(f"{target} is there already", mend="choose a path that is free")
    selected = select(store, Selection.parse(where), with_second_readings=True)
    directions = _find_directions(store, selected, references, layer)
    building = target.with_name(f".{target.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # what one that was killed has left
    settings = {"where": where, "vectors": [str(direction) for direction in directions]}
    try:
        bundle = Store.create(building, features=["bundled-scores"])
        with CopyLog(bundle) as log:
            for copy in _build_copies(store, selected, directions):
                log.commit([copy])
                progress(copy.responses.num_rows)
            tables = select_log_rows(store, selected, {key: key for key in selected.keys()})
            del tables["heads"], tables["reader_heads"]  # no states, no lens
            log.commit(tables=tables, known=store.snapshot.keys)
            log.commit(tables={"runs": describe_run(store, bundle, "scores", settings)})
        info = bundle.info()
        _put_in_place(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return ScoreBundleReport(
        destination=str(target),
        vectors=tuple(map(str, directions)),
        readings=info.readings,
        tokens=info.tokens,
        size_bytes=info.stored_bytes,
        activation_bytes=selected.half_bytes,
    )


def _find_directions(
    store: Store, selected: Selected, references: Sequence[str] | None, layer: int | None
) -> list[Direction]:
    """Resolve references; without any, take every vector that some selected reading fits."""
    vectors = store.snapshot.vectors()
    segments = [part.segment for part in selected.parts]
    if references is None:
        hashes = dict.fromkeys(vector.content_hash for vector in vectors)
        every = [resolve(name, layer, vectors) for name in hashes]
        found = [one for one in every if any(_fits(one, segment) for segment in segments)]
        if not found:
            raise QueryError(
                "there are no vectors for the layers of these readings",
                mend="add one: tistore vectors add",
            )
    else:
        massive = MassiveDims(store.snapshot)
        found = [resolve(reference, layer, vectors, massive) for reference in references]
    for direction in found:
        if not any(_fits(direction, segment) for segment in segments):
            raise VectorMismatchError(
                f"{direction}: none of the readings selected was captured at {direction.site}, "
                f"{direction.vector.hidden} wide"
            )
    return list({direction.key: direction for direction in found}.values())


def _fits(direction: Direction, segment: Segment) -> bool:
    site = direction.site
    return segment.has(site) and segment.width(site.component) == direction.vector.hidden


def _build_copies(
    store: Store, selected: Selected, directions: Sequence[Direction]
) -> Iterator[SegmentCopy]:
    cache = ScoreCache(store.score_files)
    for group in group_parts(selected.parts):
        extracts = [Extract(part.segment, part.places) for part in group]
        fitting = [one for one in directions if _fits(one, group[0].segment)]
        yield SegmentCopy(
            extracts=extracts,
            layers=group[0].layers,
            components=group[0].components,
            responses=copy_readings(extracts),
            scores=_BundledScores(store, cache, extracts, fitting),
            keeps_activations=False,
        )


class _BundledScores(Mapping[str, TokenScores]):
    """
    Scores of some readings, looked up one direction at a time.

    Args:
        store: Where they are computed, all directions in one pass.
        cache: Where they are put until they are asked for.
        extracts: The readings.
        directions: Directions that fit their segments.
    """

    def __init__(
        self,
        store: Store,
        cache: ScoreCache,
        extracts: Sequence[Extract],
        directions: Sequence[Direction],
    ) -> None:
        self._cache = cache
        self._extracts = extracts
        self._directions = {direction.key: direction for direction in directions}
        requests = [
            ScoreRequest(direction, extract.segment)
            for extract in extracts
            for direction in directions
        ]
        missing = [request for request in requests if cache.find(request) is None]
        check_scannable(missing, store.snapshot.vectors())
        threads = store.limits.threads
        self._computed, _ = compute_scores(missing, cache, n_threads=threads, is_large=True)

    def __getitem__(self, key: str) -> TokenScores:
        """Look a direction's scores up: (row,) float32."""
        direction = self._directions[key]
        return np.concatenate(
            [
                self._look_up(ScoreRequest(direction, one.segment))[one.rows]
                for one in self._extracts
            ]
        )

    def _look_up(self, request: ScoreRequest) -> TokenScores:
        if request.key in self._computed:
            return self._computed[request.key]
        scores = self._cache.find(request)
        # The cache may have given up what it held a moment ago.
        return compute_scores([request], self._cache)[0][request.key] if scores is None else scores

    def __iter__(self) -> Iterator[str]:
        """Walk the directions' keys."""
        return iter(self._directions)

    def __len__(self) -> int:
        """Count them."""
        return len(self._directions)


def _put_in_place(building: Path, target: Path) -> None:
    """Let a finished bundle appear under its name, durably."""
    try:
        building.rename(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be made: {error.strerror}") from error
    PosixFiles(target.parent).sync_root()
