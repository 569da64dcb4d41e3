"""Reading a sample of a store's readings a second time, in other company: the noise floor."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import cycle, zip_longest

from tistore.capture.config import RunConfig
from tistore.capture.models.load import LoadedBase, load_architecture, load_base
from tistore.capture.planning.settings import resolve_settings
from tistore.capture.proof.parity import Deviation, find_tolerance, measure_deviation
from tistore.capture.proof.stored_reading import StoredReading, find_readings, read_back
from tistore.capture.reading.generate import choose_padding
from tistore.capture.reading.memory import work_in_parts
from tistore.capture.reading.prefill import Prefill, TokenSequence, prefill
from tistore.capture.running.progress import Progress, SilentProgress, Tally
from tistore.capture.running.provenance import describe_run
from tistore.capture.running.rounding import round_reading
from tistore.capture.running.stop import StopRequestedError, StopSignals, explain_stop
from tistore.errors import KeyConflictError, NotStoredError, ParityError
from tistore.query.noise import name_again
from tistore.schemas.digest import digest
from tistore.schemas.model import Model
from tistore.schemas.response import CaptureSettings, identify_reading
from tistore.store.base import BaseStore
from tistore.store.writer import Writer

BATCH_SIZES = (1, 3, 2, 5)
"""
Sequences read together, in turn: devices change how they add with the size of a batch, most of all
down to a single sequence. Of a bfloat16 model on a CPU, batches of 3 and 4 gave the very same bits.
"""


@dataclass(frozen=True, slots=True)
class NoiseReport:
    """
    What was read again.

    Attributes:
        run_id: The row in `runs`; None when there was nothing left to do.
        responses: Responses of the sample.
        readings: Readings that were added.
        skipped: Readings of the sample that had been read again before.
        exceeded: Readings that differ from the first by more than rounding explains, in words.
    """

    run_id: str | None
    responses: int
    readings: int
    skipped: int
    exceeded: tuple[str, ...] = ()

    def raise_if_exceeded(self) -> None:
        """
        Refuse to call it noise where rounding does not explain it.

        Raises:
            ParityError: A reading differs by more.
        """
        if self.exceeded:
            raise ParityError(
                f"{len(self.exceeded)} of {self.readings} readings are not what reading them again "
                f"gives: {'; '.join(self.exceeded[:3])}",
                mend="the rows of `parity` of kind 'noise' list all; was the store captured with "
                "other libraries or on another machine? `runs` says so",
            )


def read_again(
    store: BaseStore,
    config: RunConfig,
    *,
    responses: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> NoiseReport:
    """
    Read a sample of the stored readings once more, by the same models, in other batches.

    Each becomes a reading by `name_again(reader)`, so that the noise of any score is a query:
    `token_diffs` with `reader = 'x' AND baseline = 'x~again'`. How far the two lie apart goes into
    the table `parity`. What was read again before is skipped.

    Args:
        store: Whose readings.
        config: The run that made them: its models, layers and rows.
        responses: How many responses, spread over organisms; each is read by all of its readers.
        seed: Of the sample and of the batches.
        progress: Who follows; nobody when left out.

    Raises:
        NotStoredError: The store has no readings by these models at these settings.
        KeyConflictError: A model is not the one that made the stored readings.
        ModelLoadError: A model cannot be loaded.
        PartialRunError: A signal stopped it; what was read is committed.
    """
    store.refresh()
    settings_of = _resolve(config)
    sample = pick_sample(
        list(find_readings(store.snapshot, settings_of)), responses=responses, seed=seed
    )
    if not sample:
        raise NotStoredError(
            f"{store.path} has no readings by {', '.join(settings_of)} at the layers, components "
            "and rows of this config",
            mend="give the config the store was captured with",
        )
    missing = sum(not _is_stored(store, reading) for reading in sample)
    n_responses = len({reading.response_id for reading in sample})
    report = NoiseReport(None, n_responses, 0, len(sample) - missing)
    if not missing:
        return report
    watcher = progress or SilentProgress()
    try:
        with StopSignals() as stop, store.writer() as writer:
            again = _Again(store, config, seed, writer, stop, watcher, missing)
            try:
                for weights in config.weights:
                    again.read(weights, sample)
            except StopRequestedError as request:
                raise explain_stop(request, again.n_read, missing) from None
    finally:
        watcher.close()
    return replace(
        report, run_id=again.run_id, readings=again.n_read, exceeded=tuple(again.exceeded)
    )


def pick_sample(
    readings: Sequence[StoredReading], *, responses: int, seed: int
) -> list[StoredReading]:
    """
    Pick responses, one organism after the other, with all of their readings.

    It follows from the readings and the seed alone, so that a second call goes on with the first.
    """
    by_organism: dict[str, set[str]] = {}
    for reading in readings:
        by_organism.setdefault(reading.slot.organism, set()).add(reading.response_id)
    shuffled = [
        sorted(ids, key=lambda response_id: digest([seed, response_id]))
        for _, ids in sorted(by_organism.items())
    ]
    in_turn = [found for turn in zip_longest(*shuffled) for found in turn if found is not None]
    picked = set(in_turn[:responses])
    return [reading for reading in readings if reading.response_id in picked]


class _Again:
    """A second reading under way."""

    def __init__(
        self,
        store: BaseStore,
        config: RunConfig,
        seed: int,
        writer: Writer,
        stop: StopSignals,
        progress: Progress,
        total: int,
    ) -> None:
        self._store = store
        self._config = config
        self._seed = seed
        self._writer = writer
        self._stop = stop
        self._progress = progress
        self._total = total
        self._n_tokens = 0
        self._size_bytes = 0
        self.run_id = uuid.uuid4().hex
        self.n_read = 0
        self.exceeded: list[str] = []

    def read(self, weights: str, sample: Sequence[StoredReading]) -> None:
        """Read again what some weights, bare or with their adapters, have read."""
        readers = [weights, *self._config.adapters_on(weights)]
        by_reader = {
            reader: [reading for reading in sample if reading.reader == reader]
            for reader in readers
        }
        wanted = [
            reader
            for reader, readings in by_reader.items()
            if not all(_is_stored(self._store, reading) for reading in readings)
        ]
        if not wanted:
            return
        self._progress.note(f"loading {weights}")
        loaded = load_base(self._config, weights)
        # All of them before the first is read: a changed adapter costs nothing then.
        for reader in wanted:
            _refuse_another(self._store.snapshot.models[reader], loaded.describe(reader))
        for reader in wanted:
            for batch in self._cut(by_reader[reader]):
                self._read_batch(loaded, reader, batch)
            loaded.unload(reader)

    def _cut(self, readings: Sequence[StoredReading]) -> Iterator[list[StoredReading]]:
        """Cut a reader's part of the sample into batches of mixed sizes, lengths and authors."""
        mixed = sorted(readings, key=lambda one: digest([self._seed, one.reader, one.response_id]))
        sizes = cycle(BATCH_SIZES)
        while mixed:
            size = next(sizes)
            yield mixed[:size]
            mixed = mixed[size:]

    def _read_batch(self, loaded: LoadedBase, reader: str, batch: Sequence[StoredReading]) -> None:
        """Read a whole batch; store what is missing of it."""
        self._stop.check()
        missing = [not _is_stored(self._store, reading) for reading in batch]
        if not any(missing):
            return
        settings = batch[0].settings
        sequences = [reading.sequence for reading in batch]
        if len(sequences) == 1 and self._config.generation.batch_size == 1:
            # It was alone the first time, too.
            sequences.append(_double(sequences[0]))

        def work(part: Sequence[TokenSequence]) -> list[Prefill]:
            return prefill(
                model,
                part,
                settings,
                padding=choose_padding(loaded.tokenizer),
                logprobs=self._config.capture.logprobs,
            )

        with loaded.reading_as(reader) as model:
            read = work_in_parts(sequences, work)
        for reading, again, is_missing in zip(batch, read, missing, strict=False):
            if is_missing:
                self._add(reading, again, len(sequences))

    def _add(self, reading: StoredReading, again: Prefill, batch_size: int) -> None:
        label = f"{reading.slot}, read by {reading.reader}"
        halves = round_reading(again, reading.settings, label)
        rounded = read_back(halves, again.logprobs)
        deviations = measure_deviation(reading.read(), rounded, reading.settings)
        model = self._store.snapshot.models[reading.reader]
        self._note_excess(label, model, deviations)
        if not self.n_read:
            self._announce()
        self._writer.add(
            **reading.describe(),
            reader=replace(model, name=name_again(model.name)),
            activations=halves,
            logprobs=again.logprobs,
            run_id=self.run_id,
        )
        rows = [
            deviation.to_row(
                run_id=self.run_id,
                response_id=reading.response_id,
                organism=reading.slot.organism,
                reader=reading.reader,
                tolerance=find_tolerance(model),
                batch_size=batch_size,
                kind="noise",
            )
            for deviation in deviations
        ]
        self._writer.add_rows("parity", rows)
        self.n_read += 1
        self._n_tokens += len(reading.sequence.token_ids)
        self._size_bytes += sum(half.values.nbytes for half in halves.values())
        self._progress.update(Tally(self.n_read, self._total, 0, self._n_tokens, self._size_bytes))

    def _announce(self) -> None:
        """Record the run, once there is something to record."""
        row = describe_run(self.run_id, self._config, kind="noise")
        self._writer.add_rows("runs", [row])

    def _note_excess(self, label: str, model: Model, deviations: Sequence[Deviation]) -> None:
        tolerance = find_tolerance(model)
        for deviation in deviations:
            if not deviation.is_within(tolerance):
                self.exceeded.append(
                    f"{label}, {deviation.site}: row {deviation.row} lies "
                    f"{deviation.largest:.3g} off"
                )
                return


def _resolve(config: RunConfig) -> Mapping[str, CaptureSettings]:
    """For each model that can be loaded, what its readings keep."""
    return {
        reader: settings
        for weights, base in config.weights.items()
        for settings in [resolve_settings(config, load_architecture(base))]
        for reader in (weights, *config.adapters_on(weights))
    }


def _is_stored(store: BaseStore, reading: StoredReading) -> bool:
    key = identify_reading(reading.slot, name_again(reading.reader), reading.settings)
    return store.holds(key)


def _double(sequence: TokenSequence) -> TokenSequence:
    """Make a longer neighbour of a sequence that has none: nobody looks at what becomes of it."""
    return TokenSequence(sequence.token_ids + sequence.token_ids[:1], sequence.prompt_length)


def _refuse_another(stored: Model, loaded: Model) -> None:
    """Refuse a model that is not the stored one; facts that were once not recorded are let be."""
    if loaded.as_known(stored) == stored:
        return
    told = ", ".join(
        f"{field.name} {getattr(loaded, field.name)} instead of {getattr(stored, field.name)}"
        for field in fields(Model)
        if getattr(loaded, field.name) != getattr(stored, field.name)
    )
    raise KeyConflictError(
        f"this config's {stored.name!r} is not the model that made the stored readings: it has "
        f"{told}",
        mend="noise is of one and the same model: give the config the store was captured with",
    )
