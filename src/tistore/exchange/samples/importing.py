"""Samples that other tools wrote, as readings of a store: placed, read in parallel, added once."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from tistore.datasets.foreign.sample import ForeignSample, Unreadable
from tistore.errors import (
    DatasetError,
    InvalidRecordError,
    KeyConflictError,
    TistoreError,
)
from tistore.exchange.samples.places import Place, Supplied, place_sample
from tistore.store.base import BaseStore
from tistore.store.writer import FLUSH_BYTES, FLUSH_SECONDS, Writer

Outcome = Literal["imported", "present", "refused"]

WINDOW_BYTES = 128 << 20
"""Most bytes of samples that are read ahead of the one being added; a larger one goes alone."""

_WINDOW_SAMPLES = 64

# How Python spells the bytes of a file's name that are not UTF-8.
_HALF = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SampleOutcome:
    """
    What became of one sample, or of a file that could not be read.

    Attributes:
        path: The file, and behind a "#" which sample of it.
        outcome: A dry run says "imported" of what it would import.
        organism: Author of the response.
        reader: Model whose activations they are.
        prompt_set: Set of the prompt.
        prompt_id: Prompt's id in the set.
        sample: Which of several generations for the prompt.
        n_tokens: Tokens of prompt and response.
        n_rows: Rows of activations.
        n_layers: Layers.
        source_dtype: Element type in the file.
        size_bytes: Bytes of the activations in the file.
        note: Why it was refused.
    """

    path: str
    outcome: Outcome
    organism: str | None = None
    reader: str | None = None
    prompt_set: str | None = None
    prompt_id: str | None = None
    sample: int | None = None
    n_tokens: int | None = None
    n_rows: int | None = None
    n_layers: int | None = None
    source_dtype: str | None = None
    size_bytes: int | None = None
    note: str | None = None

    def to_row(self) -> dict[str, Any]:
        """Lay it out flat."""
        return asdict(self)


@dataclass(slots=True)
class SampleImport:
    """What an import did, or would do: everything seen, in the order of the source."""

    outcomes: list[SampleOutcome] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        """Count the samples that came out so."""
        return sum(seen.outcome == outcome for seen in self.outcomes)

    @property
    def imported_bytes(self) -> int:
        """Bytes of activations in the files that were imported, or would be."""
        return sum(seen.size_bytes or 0 for seen in self.outcomes if seen.outcome == "imported")


def import_samples(
    store: BaseStore | None,
    samples: Iterable[ForeignSample | Unreadable],
    supplied: Supplied,
    *,
    source_format: str,
    is_dry_run: bool = False,
    tell: Callable[[SampleImport], None] = lambda report: None,
) -> SampleImport:
    """
    Import samples as readings.

    A sample that is wrong is refused and costs no other. What was imported from the same file is
    not read again, so that the same import after a crash goes on where it was, and a second one
    adds nothing. Each reading is committed together with its row in `sources`.

    Args:
        store: Where to; None for one that is not made yet, in a dry run.
        samples: As the readers of `tistore.datasets.foreign` yield them.
        supplied: What the files do not say.
        source_format: Name of the format, for `sources`.
        is_dry_run: Only report.
        tell: Told of the report after every sample.

    Raises:
        DatasetError: The source as a whole cannot be read; what came before it is committed.
        StoreError: The store cannot be written.
    """
    report = SampleImport()
    if is_dry_run or store is None:
        _Import(store, None, supplied, source_format, report, tell).run(samples)
        return report
    # Commits are made between samples only, so that a reading never goes without its source.
    with store.writer(flush_bytes=sys.maxsize, flush_seconds=math.inf) as writer:
        _Import(store, writer, supplied, source_format, report, tell).run(samples)
    return report


def _read_sources(store: BaseStore) -> set[tuple[str, str, int]]:
    """List which readings came from which files: those need not be read again."""
    columns = ["reading_key", "path", "size_bytes"]
    table = store.snapshot.table("sources").select(columns)
    return set(zip(*(table[name].to_pylist() for name in columns), strict=True))


@dataclass(slots=True)
class _Waiting:
    """A sample on its way: being read while those before it are added."""

    sample: ForeignSample
    place: Place
    at: int
    future: Future[tuple[dict[str, NDArray[Any]], str]]


class _Import:
    """One run over a source."""

    def __init__(
        self,
        store: BaseStore | None,
        writer: Writer | None,
        supplied: Supplied,
        source_format: str,
        report: SampleImport,
        tell: Callable[[SampleImport], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._supplied = supplied
        self._source_format = source_format
        self._report = report
        self._tell = tell
        self._seen: dict[str, str] = {}
        self._sources = _read_sources(store) if store else set()
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._committed_at = time.monotonic()

    def run(self, samples: Iterable[ForeignSample | Unreadable]) -> None:
        """Take every sample to its outcome."""
        workers = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, "import") as pool:
            try:
                for found in samples:
                    self._take(found, pool)
            finally:
                # What was read is kept, also when the source breaks off.
                while self._queue:
                    self._add_next()

    def _take(self, found: ForeignSample | Unreadable, pool: ThreadPoolExecutor) -> None:
        if isinstance(found, Unreadable):
            self._record(SampleOutcome(found.where, "refused", note=_on_one_line(found.reason)))
            return
        try:
            place = place_sample(found, self._supplied)
            outcome = self._judge(found, place)
        except (DatasetError, InvalidRecordError) as error:
            self._record(_describe(found, None, "refused", error))
            return
        self._record(_describe(found, place, outcome))
        source = (place.reading_key, found.where, found.file.size_bytes)
        if self._writer is None or source in self._sources:
            return
        # A reading that came from elsewhere is read: the writer tells whether it is the same.
        while self._queue and (
            self._queued_bytes + found.nbytes > WINDOW_BYTES or len(self._queue) >= _WINDOW_SAMPLES
        ):
            self._add_next()
        self._queued_bytes += found.nbytes
        future = pool.submit(_read, found, place)
        self._queue.append(_Waiting(found, place, len(self._report.outcomes) - 1, future))

    def _judge(self, sample: ForeignSample, place: Place) -> Outcome:
        """Tell whether a reading is new, in the store, or contradicts what was seen before."""
        if (before := self._seen.setdefault(place.reading_key, sample.where)) != sample.where:
            raise DatasetError(
                f"{sample.where} is the same reading as {before}",
                mend="give each a prompt_id, or a sample number, of its own",
            )
        if _HALF.search(sample.where):
            raise DatasetError(
                f"{sample.where}: the file's name is not UTF-8, and `sources` records it",
                mend="rename the file",
            )
        if self._store is None:
            return "imported"
        stored = self._store.stored_response(place.slot)
        if stored is None:
            return "imported"
        token_ids, prompt_length = sample.token_ids.tolist(), place.prompt_length
        if (stored.token_ids, stored.prompt_length) != (token_ids, prompt_length):
            other = "other tokens"
            if stored.token_ids == token_ids:
                other = f"prompt_length {stored.prompt_length}, not {prompt_length}"
            raise KeyConflictError(
                f"{sample.where}: {place.slot} is in the store with {other}",
                mend="give the new one another sample, or its organism another name",
            )
        return "present" if self._store.holds(place.reading_key) else "imported"

    def _add_next(self) -> None:
        waiting = self._queue.popleft()
        self._queued_bytes -= waiting.sample.nbytes
        try:
            arrays, sha256 = waiting.future.result()
            self._add(waiting.sample, waiting.place, arrays, sha256)
        except (DatasetError, InvalidRecordError) as error:
            refused = _describe(waiting.sample, waiting.place, "refused", error)
            self._report.outcomes[waiting.at] = refused

    def _add(
        self, sample: ForeignSample, place: Place, arrays: Mapping[str, NDArray[Any]], sha256: str
    ) -> None:
        writer = self._writer
        assert writer is not None  # a dry run queues nothing
        identity = sample.identity
        writer.add(
            organism=place.organism,
            reader=place.reader,
            prompt_set=place.slot.prompt_set,
            prompt_id=place.slot.prompt_id,
            sample=place.slot.sample,
            token_ids=sample.token_ids.tolist(),
            prompt_length=place.prompt_length,
            layers=place.layers,
            activations=arrays,
            first_position=place.first_position,
            text=identity.text,
            tokens=place.tokens,
            logprobs=identity.logprobs,
            roles=identity.roles,
            turns=identity.turns,
            is_response=place.is_response,
            finish_reason=identity.finish_reason,
            prompt=place.prompt,
        )
        source = {
            "source_format": self._source_format,
            "path": sample.where,
            "sha256": sha256,
            "size_bytes": sample.file.size_bytes,
            "kind": "reading",
            "reading_key": place.reading_key,
            "row_convention": self._supplied.row_convention,
            "source_dtype": sample.dtype,
        }
        try:
            writer.add_rows("sources", [source])
        except KeyConflictError:
            # The same file was imported before under other names.
            path = f"{sample.where}#{place.reading_key}"
            writer.add_rows("sources", [source | {"path": path}])
        self._commit_if_due(writer)

    def _commit_if_due(self, writer: Writer) -> None:
        waited = time.monotonic() - self._committed_at
        if writer.pending_bytes >= FLUSH_BYTES or waited >= FLUSH_SECONDS:
            writer.commit()
            self._committed_at = time.monotonic()

    def _record(self, outcome: SampleOutcome) -> None:
        self._report.outcomes.append(outcome)
        self._tell(self._report)


def _read(sample: ForeignSample, place: Place) -> tuple[dict[str, NDArray[Any]], str]:
    """Read a sample's activations, rows placed, and hash its file."""
    arrays: dict[str, NDArray[Any]] = {
        component: sample.read(name)[place.skipped_rows :]
        for component, name in place.components.items()
    }
    return arrays, sample.file.sha256()


def _describe(
    sample: ForeignSample, place: Place | None, outcome: Outcome, error: TistoreError | None = None
) -> SampleOutcome:
    slot = place.slot if place else None
    return SampleOutcome(
        path=sample.where,
        outcome=outcome,
        organism=slot.organism if slot else sample.identity.organism,
        reader=place.reader_name if place else sample.identity.reader,
        prompt_set=slot.prompt_set if slot else sample.identity.prompt_set,
        prompt_id=slot.prompt_id if slot else sample.identity.prompt_id,
        sample=slot.sample if slot else sample.identity.sample,
        n_tokens=len(sample.token_ids),
        n_rows=sample.n_rows - (place.skipped_rows if place else 0),
        n_layers=sample.n_layers,
        source_dtype=sample.dtype,
        size_bytes=sample.nbytes,
        note=_on_one_line(str(error)) if error else None,
    )


def _on_one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines())
