"""Reading stored scenarios once more, token for token, with a base in some precision."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from tistore.capture.config import RunConfig
from tistore.capture.models.load import LoadedBase, load_base
from tistore.capture.proof.stored_reading import StoredReading
from tistore.capture.reading.generate import choose_padding
from tistore.capture.reading.in_flight import count_tokens_in_flight, cut_batches
from tistore.capture.reading.memory import release_memory, work_in_parts
from tistore.capture.reading.prefill import Prefill, TokenSequence, prefill
from tistore.capture.running.progress import Progress, Tally
from tistore.capture.running.provenance import describe_run
from tistore.capture.running.rounding import round_reading
from tistore.capture.running.stop import StopRequestedError, StopSignals, explain_stop
from tistore.errors import KeyConflictError, ModelLoadError
from tistore.schemas.model import Model
from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import Site
from tistore.store.base import BaseStore
from tistore.store.snapshot import Snapshot
from tistore.store.writer import Writer
from tistore.vectors.scenario_readings import StoredScenario, scenario_set, walk_readings


@dataclass(frozen=True, slots=True)
class TraitTexts:
    """
    Scenarios of a trait that every arm is to read.

    Attributes:
        trait: `category/name`.
        scenarios: As whoever read them first has them in the store.
        settings: What is to be kept of each reading.
    """

    trait: str
    scenarios: Sequence[StoredScenario]
    settings: CaptureSettings

    def find_missing(self, snapshot: Snapshot, reader: str) -> list[StoredReading]:
        """Find what a reader has not read, or not at all of the sites; as it is to be read."""
        wanted, needs_all = set(self.settings.sites), self.settings.rows == "all"
        read: dict[str, set[Site]] = {}
        sets = [scenario_set(self.trait, side) for side in ("positive", "negative")]
        for reading in walk_readings(snapshot, sets, reader):
            if needs_all and reading.row["rows"] != "all":
                continue
            read.setdefault(reading.row["response_id"], set()).update(
                Site(component, layer)
                for component in reading.segment.components
                for layer in reading.segment.layers
            )
        return [
            self._take(scenario)
            for scenario in self.scenarios
            if not wanted <= read.get(scenario.response_id, set())
        ]

    def _take(self, scenario: StoredScenario) -> StoredReading:
        """Take one of its readings to read again: one that tells most of its tokens."""
        source = max(scenario.readings, key=lambda reading: reading.row["rows"] == "all")
        return StoredReading(source.segment, source.index, source.row, self.settings)


def read_in_precision(
    store: BaseStore,
    config: RunConfig,
    traits: Sequence[TraitTexts],
    *,
    like: Model,
    progress: Progress,
) -> int:
    """
    Read with a run's base what it has not read of some traits, and commit the readings.

    The base is loaded once for all traits, and not at all if nothing is missing. What was read
    stays if a signal stops it.

    Args:
        store: Holds the texts, and takes the readings.
        config: Its base is the reader, in the precision it is loaded in.
        traits: What is to be read; token ids are those of the store.
        like: Whose weights they must be, in whatever precision.
        progress: Who follows it.

    Returns:
        How many readings were added.

    Raises:
        ModelLoadError: The base cannot be loaded so.
        KeyConflictError: It differs by more than precision.
        NonFiniteError: A state is NaN or infinite, as in a dtype that is too narrow.
        PartialRunError: A signal stopped it.
        InterruptedRunError: The same, from the keyboard.
    """
    store.refresh()
    reader = config.base.name
    missing = [one for each in traits for one in each.find_missing(store.snapshot, reader)]
    if not missing:
        _refuse_other_weights(like, store.snapshot.models[reader])
        return 0
    with StopSignals(says_so=True) as stop:
        progress.note(f"loading {reader} from {config.base.path}")
        loaded = _load(config)
        model = loaded.describe(reader)
        _refuse_other_weights(like, model)
        with store.writer() as writer:
            reading = _Reading(config, loaded, model, writer, stop, progress, len(missing))
            try:
                reading.read_all(missing)
            except StopRequestedError as request:
                raise explain_stop(request, reading.n_read, len(missing)) from None
        del loaded, reading
        release_memory()
    store.refresh()
    return len(missing)


def _refuse_other_weights(one: Model, other: Model) -> None:
    """Refuse to compare what differs by more than precision, as far as that is known."""
    for aspect in ("base_revision", "adapter_hash", "tokenizer_hash", "family"):
        mine, theirs = getattr(one, aspect), getattr(other, aspect)
        if None not in (mine, theirs) and mine != theirs:
            raise KeyConflictError(
                f"{one.name!r} and {other.name!r} differ by more than precision: their {aspect} "
                f"is {mine} and {theirs}",
                mend="give the base that the store knows, or another store",
            )


def _load(config: RunConfig) -> LoadedBase:
    try:
        return load_base(config)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"{config.base.name}: {error.message}",
            mend=f"{error.mend}; or leave this precision out of --arms",
        ) from error


class _Reading:
    """Scenarios being read by one model."""

    def __init__(
        self,
        config: RunConfig,
        loaded: LoadedBase,
        model: Model,
        writer: Writer,
        stop: StopSignals,
        progress: Progress,
        total: int,
    ) -> None:
        self._config = config
        self._loaded = loaded
        self._model = model
        self._writer = writer
        self._stop = stop
        self._progress = progress
        self._total = total
        self._run_id = uuid.uuid4().hex
        self._n_tokens = 0
        self._size_bytes = 0
        self.n_read = 0

    def read_all(self, readings: Sequence[StoredReading]) -> None:
        """Read them batch by batch, the shortest first."""
        run = describe_run(self._run_id, self._config, kind="quantise")
        self._writer.add_rows("runs", [run])
        by_settings: dict[CaptureSettings, list[StoredReading]] = {}
        for reading in readings:
            by_settings.setdefault(reading.settings, []).append(reading)
        for settings, some in by_settings.items():
            self._loaded.require(settings.sites)
            some.sort(key=lambda one: (len(one.sequence.token_ids), one.slot))
            for batch in cut_batches(
                some,
                lambda one: len(one.sequence.token_ids),
                most_tokens=self._bound_tokens(settings, len(some[-1].sequence.token_ids)),
                most_items=self._config.generation.batch_size,
            ):
                self._read_batch(settings, batch)

    def _bound_tokens(self, settings: CaptureSettings, longest: int) -> int:
        with self._loaded.reading_as(self._loaded.name) as model:
            generation, device = self._config.generation, self._config.base.device
            return count_tokens_in_flight(generation, device, model, settings, longest)

    def _read_batch(self, settings: CaptureSettings, batch: Sequence[StoredReading]) -> None:
        def work(part: Sequence[TokenSequence]) -> list[Prefill]:
            self._stop.check()
            padding = choose_padding(self._loaded.tokenizer)
            return prefill(model, part, settings, padding=padding, logprobs=False)

        with self._loaded.reading_as(self._loaded.name) as model:
            made = work_in_parts([reading.sequence for reading in batch], work)
        for reading, states in zip(batch, made, strict=True):
            label = f"{reading.slot}, read by {self._model.name}"
            halves = round_reading(states, settings, label)
            self._writer.add(
                **reading.describe(), reader=self._model, activations=halves, run_id=self._run_id
            )
            self.n_read += 1
            self._n_tokens += len(reading.sequence.token_ids)
            self._size_bytes += sum(half.values.nbytes for half in halves.values())
        self._progress.update(Tally(self.n_read, self._total, 0, self._n_tokens, self._size_bytes))
