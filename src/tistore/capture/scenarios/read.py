"""Reading contrast scenarios into a store, so that vectors can be fitted on them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tistore.capture.config import GenerationConfig, RunConfig
from tistore.capture.layers import LayerSpan, select_layers
from tistore.capture.models.architecture import load_tokenizer
from tistore.capture.models.load import LoadedBase, load_architecture, load_base
from tistore.capture.planning.conflicts import refuse_changes as refuse_other_adapters
from tistore.capture.reading.generate import Draft, choose_padding, generate
from tistore.capture.reading.heads import HeadKeeper
from tistore.capture.reading.in_flight import count_tokens_in_flight, cut_batches
from tistore.capture.reading.memory import release_memory, work_in_parts
from tistore.capture.reading.prefill import BatchUnderway, TokenSequence, start_prefill
from tistore.capture.running.filing import Author, Filing
from tistore.capture.running.journal import Journal, describe_tally
from tistore.capture.running.progress import Progress, SilentProgress
from tistore.capture.running.provenance import describe_run
from tistore.capture.running.report import RunCounter, RunReport
from tistore.capture.running.stop import StopError, StopSignals, explain_stop
from tistore.capture.scenarios.stored import find_missing, find_prompts, refuse_changes
from tistore.capture.scenarios.tasks import Continuation, ScenarioTask, list_tasks
from tistore.capture.texts.answer import Answer
from tistore.datasets.scenarios import TraitScenarios
from tistore.errors import HeadError, ModelLoadError, nearest
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import CaptureSettings, ResponseSlot, Rows
from tistore.schemas.site import Component
from tistore.store.base import BaseStore
from tistore.vectors.scenario_readings import SCENARIO_AUTHOR

_BYTES_PER_MB = 1_000_000

_Response = tuple[Sequence[int], str | None]
"""Tokens of a response, and why it ended, where it was generated."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What is to be kept of each scenario; what is None is as the run's configuration has it.

    Attributes:
        layers: As in `[capture]`.
        components: The same.
        rows: The same.
    """

    layers: LayerSpan | Sequence[LayerSpan] | None = None
    components: tuple[Component, ...] | None = None
    rows: Rows | None = None

    def resolve(self, config: RunConfig, reader: str) -> CaptureSettings:
        """
        Resolve it against a model of the run; its weights are not loaded.

        Raises:
            SiteNotFoundError: The model has no such layer.
            ModelLoadError: There is no such model, or its configuration is malformed.
        """
        capture = config.capture
        layers = capture.layers if self.layers is None else self.layers
        n_layers = load_architecture(config.weights[find_weights(config, reader)]).num_hidden_layers
        return CaptureSettings(
            select_layers(layers, n_layers),
            tuple(sorted(set(self.components or capture.components))),
            self.rows or capture.rows,
        )


def find_weights(config: RunConfig, reader: str) -> str:
    """
    Name the weights that a model of a run is read with.

    Raises:
        ModelLoadError: The run has no such model, or none that can be loaded.
    """
    weights = config.weights_of(reader)
    if weights is None:
        known = [name for name in config.known_names if config.weights_of(name) is not None]
        raise ModelLoadError(f"no model {reader!r} in this run", mend=nearest(reader, known))
    return weights


def read_scenarios(
    store: BaseStore,
    config: RunConfig,
    traits: Sequence[TraitScenarios],
    *,
    reader: str | None = None,
    continuation: Continuation | None = None,
    wanted: Wanted | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """
    Continue and read both sides of every trait with one model, and commit the readings.

    A scenario with a response is read as a chat, by the author `scenarios`; what one without is
    continued to is the reader's own. The model is loaded once, and not at all when everything is
    stored. A run that was stopped goes on where it was.

    Args:
        store: Where the readings go.
        config: Names the models, and what of each reading is kept.
        traits: What to read.
        reader: A base or an organism of the run; its clean base when left out.
        continuation: How scenarios without a response go on.
        wanted: What to keep, where that is not what the configuration says.
        progress: Who follows it; to be closed by the caller.

    Returns:
        What was done.

    Raises:
        DatasetError: A scenario cannot be read in that manner, or has no tokens.
        ModelLoadError: The model cannot be loaded.
        KeyConflictError: The store holds other scenarios of that trait.
        PartialRunError: A signal stopped it; what was read is committed.
        InterruptedRunError: The same, from the keyboard.
    """
    reader = reader or config.base.name
    continuation = continuation or Continuation()
    settings = (wanted or Wanted()).resolve(config, reader)
    weights = find_weights(config, reader)
    store.refresh()
    refuse_other_adapters(store, config, ())
    tasks = list_tasks(traits, load_tokenizer(config.weights[weights]), reader, continuation.manner)
    prompts = find_prompts(store, tasks)
    refuse_changes(store, traits, tasks, continuation)
    work = _Work(
        tasks,
        prompts,
        find_missing(store, tasks, reader, settings),
        settings,
        config.generation.model_copy(
            update={"max_new_tokens": continuation.limit, "temperature": 0.0, "samples": 1}
        ),
    )
    if not work.missing:
        return RunReport(skipped=len(tasks))
    with StopSignals(says_so=progress is not None) as stop:
        return _Reading(store, config, reader, work, stop, progress or SilentProgress()).execute()


@dataclass(frozen=True, slots=True)
class _Work:
    """
    What is to be done.

    Attributes:
        tasks: Every scenario, stored or not.
        prompts: Those the store does not know yet.
        missing: Scenarios of which not all is stored.
        settings: What is kept.
        generation: How texts are continued.
    """

    tasks: Sequence[ScenarioTask]
    prompts: dict[ResponseSlot, Prompt]
    missing: set[ResponseSlot]
    settings: CaptureSettings
    generation: GenerationConfig

    def count_tokens(self, task: ScenarioTask) -> int:
        return task.count_tokens(self.generation.max_new_tokens)

    @property
    def longest(self) -> int:
        return max(map(self.count_tokens, self.tasks))

    def batches(self, most_tokens: int) -> list[list[ScenarioTask]]:
        """Cut batches: they follow from the scenarios alone, never from what is left to do."""
        ordered = sorted(self.tasks, key=lambda task: (self.count_tokens(task), task.slot))
        return list(
            cut_batches(
                ordered,
                self.count_tokens,
                most_tokens=most_tokens,
                most_items=self.generation.batch_size,
            )
        )


class _Reading:
    """Scenarios being read."""

    def __init__(
        self,
        store: BaseStore,
        config: RunConfig,
        reader: str,
        work: _Work,
        stop: StopSignals,
        progress: Progress,
    ) -> None:
        run_id = uuid.uuid4().hex
        self._store = store
        self._config = config
        self._reader = reader
        self._work = work
        self._stop = stop
        self._journal = Journal(progress, store.events, run_id)
        self._counter = RunCounter(run_id, len(work.tasks), self._journal)
        self._writer = store.writer()
        self._filing = Filing(
            self._writer,
            config.capture.queue_mb * _BYTES_PER_MB,
            run_id,
            self._counter.add_stored,
        )

    def execute(self) -> RunReport:
        """Do what is to be done, and log how it went."""
        self._log("started")
        try:
            self._work_through()
        except StopError as request:
            self._log("stopped", reason=str(request))
            tally = self._counter.tally
            raise explain_stop(request, tally.readings, tally.total) from None
        except Exception as error:
            self._log("failed", error=str(error))
            raise
        except BaseException:
            self._filing.abandon()  # a second Ctrl-C: nothing more is written
            raise
        self._log("finished")
        return self._counter.report

    def _work_through(self) -> None:
        """Read everything; whatever ends it but a second Ctrl-C, what was read is committed."""
        try:
            run_id = self._counter.report.run_id
            assert run_id is not None  # it was made with one
            self._filing.put_rows("runs", [describe_run(run_id, self._config, kind="extract")])
            self._read_all()
        except Exception:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        try:
            self._filing.close()
        finally:
            self._writer.close()  # what came before a failure is whole

    def _log(self, event: str, **facts: str) -> None:
        self._journal.log(event, **facts, **describe_tally(self._counter.tally))

    def _read_all(self) -> None:
        weights = find_weights(self._config, self._reader)
        base = self._config.weights[weights]
        self._journal.note(f"loading {weights} from {base.path}")
        loaded = load_base(self._config, weights)
        self._counter.add(loads=1, skipped=len(self._work.tasks) - len(self._work.missing))
        loaded.require(self._work.settings.sites)
        with loaded.reading_as(self._reader) as model:
            most_tokens = count_tokens_in_flight(
                self._work.generation,
                base.device,
                model,
                self._work.settings,
                self._work.longest,
            )
        self._keep_head(loaded)
        for batch in self._work.batches(most_tokens):
            self._stop.check()
            if any(task.slot in self._work.missing for task in batch):
                self._do_batch(loaded, batch)
        self._filing.commit()
        del loaded
        release_memory()

    def _keep_head(self, loaded: LoadedBase) -> None:
        """Keep what turns the stream into logits, as a run does: the lens needs it."""
        if not self._config.capture.head:
            return
        with loaded.reading_as(self._reader) as model, self._filing.borrow_writer() as writer:
            try:
                HeadKeeper(writer, loaded.tokenizer).keep(self._reader, model)
            except HeadError as error:
                self._journal.note(f"no logit lens of {self._reader!r}: {error.message}")

    def _do_batch(self, loaded: LoadedBase, batch: Sequence[ScenarioTask]) -> None:
        answers = self._find_answers(loaded, batch)
        made = work_in_parts(
            [answer.sequence for answer in answers],
            partial(self._read_part, loaded),
            halved=lambda size: self._journal.note(f"out of memory: batches of {size} now"),
        )
        parts: dict[tuple[int, str], list[tuple[Answer, BatchUnderway, int]]] = {}
        for answer, (under_way, place) in zip(answers, made, strict=True):
            if answer.slot in self._work.missing:
                of_one_author = parts.setdefault((id(under_way), answer.slot.organism), [])
                of_one_author.append((answer, under_way, place))
        for part in parts.values():
            self._file(loaded, part)
        if loaded.device.type == "cpu":
            self._filing.flush()  # as a run does: writing beside a model costs more than after it

    def _find_answers(self, loaded: LoadedBase, batch: Sequence[ScenarioTask]) -> list[Answer]:
        """Take responses as they are given or stored; have the model write the others."""
        known = {task.slot: self._take(task) for task in batch}
        rest = [task for task in batch if known[task.slot] is None]
        if rest:
            known |= self._write(loaded, rest)
        answers = []
        for task in batch:
            response = known[task.slot]
            assert response is not None  # it was written if it was not there
            prompt = self._work.prompts.get(task.slot)
            answers.append(task.answer(loaded.tokenizer, *response, prompt))
        return answers

    def _take(self, task: ScenarioTask) -> _Response | None:
        if task.response is not None:
            return task.response, None
        stored = self._store.stored_response(task.slot)
        if stored is None:
            return None
        return stored.token_ids[stored.prompt_length :], stored.finish_reason

    def _write(
        self, loaded: LoadedBase, tasks: Sequence[ScenarioTask]
    ) -> dict[ResponseSlot, _Response]:
        with loaded.reading_as(self._reader) as model:
            made = generate(
                model,
                loaded.tokenizer,
                [Draft(task.begun.token_ids) for task in tasks],
                self._work.generation,
                check=self._stop.check,
            )
        self._counter.add(responses=len(tasks), tokens=sum(len(one.token_ids) for one in made))
        return {
            task.slot: (one.token_ids, one.finish_reason)
            for task, one in zip(tasks, made, strict=True)
        }

    def _read_part(
        self, loaded: LoadedBase, sequences: Sequence[TokenSequence]
    ) -> list[tuple[BatchUnderway, int]]:
        self._stop.check()
        with loaded.reading_as(self._reader) as model:
            batch = start_prefill(
                model,
                sequences,
                self._work.settings,
                padding=choose_padding(loaded.tokenizer),
                logprobs=False,
            )
        return [(batch, place) for place in range(len(sequences))]

    def _file(self, loaded: LoadedBase, read: list[tuple[Answer, BatchUnderway, int]]) -> None:
        """Hand the readings of one author's responses in one batch to the store."""
        author = read[0][0].slot.organism
        model = Model(SCENARIO_AUTHOR) if author == SCENARIO_AUTHOR else loaded.describe(author)
        self._filing.put(
            Author(model, loaded.tokenizer),
            loaded.describe(self._reader),
            self._work.settings,
            read[0][1],
            [(place, answer) for answer, _, place in read],
        )
