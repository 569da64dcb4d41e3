"""A capture run: each organism answers, each reader reads, the store keeps it."""

from __future__ import annotations

import json
import platform
import signal
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from tistore.capture.answer import Answer, spell_answer
from tistore.capture.answered import ANSWER_ROLE
from tistore.capture.architecture import load_architecture
from tistore.capture.config import RunConfig
from tistore.capture.conflicts import refuse_changes, refuse_other_tokens
from tistore.capture.decode import decode_tokens
from tistore.capture.generate import Draft, choose_padding, generate
from tistore.capture.given import GivenResponses, read_given
from tistore.capture.load import LoadedBase, load_base
from tistore.capture.memory import work_in_parts
from tistore.capture.plan import check_room, measure_free, plan, resolve_settings
from tistore.capture.prefill import Prefill, TokenSequence, prefill
from tistore.capture.progress import Progress, SilentProgress, Tally
from tistore.capture.sampling import seed_response
from tistore.capture.stop import StopRequestedError, StopSignals
from tistore.capture.workload import (
    Question,
    Selection,
    Task,
    encode_questions,
    list_batches,
    list_slots,
    read_selections,
)
from tistore.errors import InterruptedRunError, PartialRunError
from tistore.schemas.response import CaptureSettings, ResponseSlot, identify_reading
from tistore.store.base import BaseStore
from tistore.store.writer import Writer
from tistore.version import __version__

LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class RunReport:
    """
    What a run did.

    Attributes:
        run_id: The run's row in `runs`; None when there was nothing left to do.
        readings: Readings it stored.
        skipped: Readings that were stored before.
        responses: Responses it wrote.
        tokens: Tokens it wrote or read.
        size_bytes: Of float16 activations it handed to the store.
        refused_system_prompts: Prompts, and imported responses, whose system prompt the chat
            template does not take.
        seconds: How long it took.
    """

    run_id: str | None = None
    readings: int = 0
    skipped: int = 0
    responses: int = 0
    tokens: int = 0
    size_bytes: int = 0
    refused_system_prompts: int = 0
    seconds: float = 0.0


def ingest(store: BaseStore, config: RunConfig, *, progress: Progress | None = None) -> RunReport:
    """
    Do what is left of a run, and commit it.

    What is stored already is skipped, so that a run that was stopped goes on where it was. The
    base is loaded once. Own readings and replays of a response come from the same batch and the
    same code, so that they differ by nothing but the adapter.

    Args:
        store: Where readings go.
        config: The run's.
        progress: Who follows it; nobody when left out.

    Raises:
        NoRoomError: Disk or device memory does not suffice.
        PartialRunError: A signal stopped the run; what was read is committed.
        InterruptedRunError: The same, from the keyboard.
        ModelLoadError: The base or an adapter cannot be loaded.
        SiteNotFoundError: The base has no such layer, or a block of it no such component.
        NonFiniteError: The model produced NaN or infinity.
        KeyConflictError: The store holds a model, prompt or response of the same name with other
            content.
        ConfigError: An organism's responses are to come from the store, which has none.
        CaptureError: A stored response does not fit the base.
    """
    settings = resolve_settings(config, load_architecture(config.base))
    selections = read_selections(config)
    store.refresh()
    refuse_changes(store, config, selections)
    given = read_given(store, config)
    refuse_other_tokens(store, given.values())
    keys = _list_keys(config, selections, given, settings)
    missing = sum(not store.holds(key) for key in keys)
    if not missing:
        return RunReport(skipped=len(keys))
    needed = plan(config, path=store.path, given=given).compressed_bytes * missing // len(keys)
    check_room(needed, measure_free(store.path))
    watcher = progress or SilentProgress()
    try:
        watcher.note(f"loading {config.base.path}")
        with StopSignals() as stop:
            loaded = load_base(config)
            loaded.require(settings.sites)  # before anything is generated in vain
            run = _Run(store, config, settings, loaded, given, stop, watcher, total=len(keys))
            return run.execute(selections)
    finally:
        watcher.close()


class _Run:
    """A run under way."""

    def __init__(
        self,
        store: BaseStore,
        config: RunConfig,
        settings: CaptureSettings,
        loaded: LoadedBase,
        given: Mapping[str, GivenResponses],
        stop: StopSignals,
        progress: Progress,
        total: int,
    ) -> None:
        self._store = store
        self._config = config
        self._settings = settings
        self._loaded = loaded
        self._given = given
        self._stop = stop
        self._progress = progress
        self._total = total
        self._started = time.monotonic()
        self._report = RunReport(run_id=uuid.uuid4().hex)

    def execute(self, selections: Sequence[Selection]) -> RunReport:
        questions = encode_questions(self._loaded.tokenizer, selections)
        self._note_refusals(questions)
        writer = self._store.writer()
        try:
            self._announce(writer, selections)
            for organism in self._config.answerers:
                if organism in self._given:
                    self._process_given(writer, organism, self._given[organism])
                else:
                    self._process_organism(writer, organism, questions)
                for name in {organism, *self._readers(organism)}:
                    self._loaded.unload(name)
        except StopRequestedError as request:
            writer.close()
            raise self._explain(request) from None
        except Exception:
            writer.close()
            raise
        # A second Ctrl-C comes past all of these: nothing more is written then.
        writer.close()
        return replace(self._report, seconds=time.monotonic() - self._started)

    def _process_organism(
        self, writer: Writer, organism: str, questions: Sequence[Question]
    ) -> None:
        for batch in list_batches(self._config, organism, questions):
            missing = self._find_missing(organism, [task.slot for task in batch])
            if missing:
                self._read_batch(writer, organism, self._answer(organism, batch), missing)
            self._count(skipped=len(batch) * len(self._readers(organism)) - len(missing))

    def _process_given(self, writer: Writer, organism: str, given: GivenResponses) -> None:
        for batch in given.batches(self._config.generation.batch_size):
            missing = self._find_missing(organism, [place.slot for place in batch])
            if missing:
                answers = [given.encode(place.row) for place in batch]
                self._read_batch(writer, organism, answers, missing)
            self._count(skipped=len(batch) * len(self._readers(organism)) - len(missing))

    def _read_batch(
        self,
        writer: Writer,
        organism: str,
        answers: Sequence[Answer],
        missing: set[tuple[ResponseSlot, str]],
    ) -> None:
        """Read the whole batch; store what is missing of it."""
        wanted = {reader for _, reader in missing}
        readers = [reader for reader in self._readers(organism) if reader in wanted]
        sequences = [answer.sequence for answer in answers]
        readings = work_in_parts(sequences, lambda part: self._read(readers, part))
        for answer, by_reader in zip(answers, readings, strict=True):
            for reader, reading in by_reader.items():
                if (answer.slot, reader) in missing:
                    self._add(writer, answer, reader, reading)

    def _readers(self, organism: str) -> tuple[str, ...]:
        return self._config.readers_of(organism)

    def _find_missing(
        self, organism: str, slots: Sequence[ResponseSlot]
    ) -> set[tuple[ResponseSlot, str]]:
        pairs = ((slot, reader) for slot in slots for reader in self._readers(organism))
        return {
            (slot, reader)
            for slot, reader in pairs
            if not self._store.holds(identify_reading(slot, reader, self._settings))
        }

    def _answer(self, organism: str, batch: Sequence[Task]) -> list[Answer]:
        """Look the batch's responses up; write all of it anew if any is missing."""
        stored = {task.slot: self._look_up(task) for task in batch}
        written: Mapping[ResponseSlot, Answer] = {}
        if None in stored.values():
            written = self._write(organism, batch)
            self._count(responses=sum(answer is None for answer in stored.values()))
        return [stored[task.slot] or written[task.slot] for task in batch]

    def _look_up(self, task: Task) -> Answer | None:
        found = self._store.stored_response(task.slot)
        if found is None:
            return None
        sequence = TokenSequence(tuple(found.token_ids), found.prompt_length)
        return _complete(task, sequence, found.finish_reason)

    def _write(self, organism: str, batch: Sequence[Task]) -> dict[ResponseSlot, Answer]:
        settings = self._config.generation
        drafts = [
            Draft(task.question.encoded.token_ids, seed_response(settings.seed, task.slot))
            for task in batch
        ]
        tokenizer = self._loaded.tokenizer
        with self._loaded.reading_as(organism) as model:
            made = generate(model, tokenizer, drafts, settings, check=self._stop.check)
        self._count(tokens=sum(len(generation.token_ids) for generation in made))
        return {
            task.slot: _complete(
                task,
                TokenSequence(draft.token_ids + generation.token_ids, len(draft.token_ids)),
                generation.finish_reason,
            )
            for task, draft, generation in zip(batch, drafts, made, strict=True)
        }

    def _read(
        self, readers: Sequence[str], sequences: Sequence[TokenSequence]
    ) -> list[dict[str, Prefill]]:
        """Read the same batch with one reader after the other."""
        by_reader: dict[str, list[Prefill]] = {}
        for reader in readers:
            self._stop.check()
            with self._loaded.reading_as(reader) as model:
                by_reader[reader] = prefill(
                    model,
                    sequences,
                    self._settings,
                    padding=choose_padding(self._loaded.tokenizer),
                    logprobs=self._config.capture.logprobs,
                )
        return [{reader: by_reader[reader][i] for reader in readers} for i in range(len(sequences))]

    def _add(self, writer: Writer, answer: Answer, reader: str, reading: Prefill) -> None:
        slot, sequence = answer.slot, answer.sequence
        decoded = spell_answer(self._loaded.tokenizer, answer)
        prompt_ids = sequence.token_ids[: sequence.prompt_length]
        spelled = decode_tokens(self._loaded.tokenizer, prompt_ids)
        is_loadable = slot.organism in self._loaded.names
        writer.add(
            organism=self._loaded.describe(slot.organism) if is_loadable else slot.organism,
            reader=self._loaded.describe(reader),
            prompt_set=slot.prompt_set,
            prompt_id=slot.prompt_id,
            sample=slot.sample,
            token_ids=sequence.token_ids,
            prompt_length=sequence.prompt_length,
            layers=self._settings.layers,
            activations=reading.activations,
            text=decoded.text,
            tokens=spelled.tokens + decoded.tokens,
            logprobs=reading.logprobs,
            offsets=decoded.offsets,
            roles=answer.roles,
            turns=answer.turns,
            is_response=answer.is_response,
            finish_reason=answer.finish_reason,
            prompt=answer.prompt,
            run_id=self._report.run_id,
        )
        size = sum(states.numel() for states in reading.activations.values()) * 2
        self._count(readings=1, tokens=len(sequence.token_ids), size_bytes=size)

    def _announce(self, writer: Writer, selections: Sequence[Selection]) -> None:
        """Record the run and its prompt sets."""
        versions = {library: version(library) for library in LIBRARIES}
        versions |= {"tistore": __version__, "python": platform.python_version()}
        row = {
            "run_id": self._report.run_id,
            "kind": "ingest",
            "config": self._config.model_dump_json(),
            "versions": json.dumps(versions, sort_keys=True),
            "started_at": datetime.now(UTC),
        }
        writer.add_rows("runs", [row])
        rows = [selection.prompt_set.to_row() for selection in selections]
        writer.add_rows("prompt_sets", rows)

    def _note_refusals(self, questions: Sequence[Question]) -> None:
        refused = sum(question.encoded.system_prompt_refused for question in questions)
        for given in self._given.values():
            refused += sum(place.system_prompt_refused for place in given.places)
        if refused:
            self._progress.note(
                f"the chat template takes no system prompt; {refused} prompts go without"
            )
        self._count(refused_system_prompts=refused)

    def _count(self, **more: int) -> None:
        """Add to the report, and show it."""
        report = self._report
        added = {name: getattr(report, name) + value for name, value in more.items()}
        self._report = report = replace(report, **added)
        done = report.readings + report.skipped
        tally = Tally(done, self._total, report.skipped, report.tokens, report.size_bytes)
        self._progress.update(tally)

    def _explain(self, request: StopRequestedError) -> PartialRunError:
        done = self._report.readings + self._report.skipped
        kind = InterruptedRunError if request.number == signal.SIGINT else PartialRunError
        return kind(
            f"stopped by {request} after {done} of {self._total} readings; they are committed",
            mend="run the same command again to go on from there",
        )


def _complete(task: Task, sequence: TokenSequence, finish_reason: str | None) -> Answer:
    """Say of a generated response's tokens what is known of them."""
    encoded = task.question.encoded
    n_response = len(sequence.token_ids) - sequence.prompt_length
    return Answer(
        slot=task.slot,
        sequence=sequence,
        roles=encoded.roles + (ANSWER_ROLE,) * n_response,
        turns=encoded.turns + (encoded.answer_turn,) * n_response,
        finish_reason=finish_reason,
        prompt=task.question.prompt,
    )


def _list_keys(
    config: RunConfig,
    selections: Sequence[Selection],
    given: Mapping[str, GivenResponses],
    settings: CaptureSettings,
) -> list[str]:
    """List the keys of every reading of a run."""
    prompts = [prompt for selection in selections for prompt in selection.prompts]
    return [
        identify_reading(slot, reader, settings)
        for organism in config.answerers
        for slot in (
            [place.slot for place in given[organism].places]
            if organism in given
            else list_slots(config, organism, prompts)
        )
        for reader in config.readers_of(organism)
    ]
