"""One pass of a run: with some weights in memory, authors write and readers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from tistore.capture.config import RunConfig
from tistore.capture.models.load import LoadedBase
from tistore.capture.models.machine import measure_free
from tistore.capture.proof.parity import find_tolerance, pick_canary, run_canary
from tistore.capture.reading.generate import Draft, choose_padding, generate
from tistore.capture.reading.heads import HeadKeeper
from tistore.capture.reading.in_flight import count_tokens_in_flight
from tistore.capture.reading.memory import work_in_parts
from tistore.capture.reading.prefill import BatchUnderway, TokenSequence, start_prefill
from tistore.capture.reading.sampling import seed_response
from tistore.capture.running.agenda import Agenda, Item
from tistore.capture.running.filing import Author, Filing
from tistore.capture.running.journal import Journal
from tistore.capture.running.passes import Pass, Stage
from tistore.capture.running.report import RunCounter
from tistore.capture.running.stop import ReserveReachedError, StopSignals
from tistore.capture.running.workload import Task
from tistore.capture.texts.answer import Answer
from tistore.capture.texts.given import GivenPlace
from tistore.capture.texts.stretches import assign_answer_roles
from tistore.errors import CaptureError, HeadError
from tistore.schemas.model import Model
from tistore.schemas.response import ResponseSlot, identify_response
from tistore.store.base import BaseStore

Missing = set[tuple[ResponseSlot, str]]
"""Responses, and readers whose readings of them are not stored."""

Made = dict[str, tuple[BatchUnderway, int]]
"""For each reader, the batch that a response was read in, and its place there."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What all passes of a run share.

    Attributes:
        written: Responses that this run has written, of authors who are also read in another
            stage; the store may not have them yet, since a response is stored with a reading.
        authors: Authors that this run has loaded, as they were.
    """

    store: BaseStore
    config: RunConfig
    agenda: Agenda
    filing: Filing
    journal: Journal
    counter: RunCounter
    stop: StopSignals
    written: dict[ResponseSlot, Answer] = field(default_factory=dict)
    authors: dict[str, Model] = field(default_factory=dict)


class Executor:
    """
    Does what a pass asks for.

    Args:
        run: What all passes share.
        loaded: The weights in memory.
        weights: Their name.
    """

    def __init__(self, run: Surroundings, loaded: LoadedBase, weights: str) -> None:
        self._run = run
        self._loaded = loaded
        self._settings = run.agenda.settings_of(weights)
        self._padding = choose_padding(loaded.tokenizer)
        with run.filing.borrow_writer() as writer:
            self._heads = HeadKeeper(writer, loaded.tokenizer)
        self._headed: set[str] = set()
        with loaded.reading_as(loaded.name) as model:
            self._most_tokens = count_tokens_in_flight(
                run.config.generation,
                run.config.weights[weights].device,
                model,
                self._settings,
                run.agenda.longest,
            )
        run.journal.log("loaded", weights=weights, tokens_in_flight=self._most_tokens)

    def do(self, one: Pass) -> None:
        """Do all of a pass."""
        for stage in one.stages:
            self._run.journal.log("organism", organism=stage.author, readers=list(stage.readers))
            for number, batch in enumerate(
                self._run.agenda.batches_of(stage.author, self._most_tokens)
            ):
                self._do_batch(stage, number, batch)
            for name in {stage.author, *stage.readers} & set(self._loaded.names):
                self._loaded.unload(name)

    def _do_batch(self, stage: Stage, number: int, batch: Sequence[Item]) -> None:
        self._check()
        missing = find_missing(self._run.agenda, stage, [item.slot for item in batch])
        if missing or must_write(self._run, stage, [item.slot for item in batch]):
            answers = self._find_answers(stage, batch)
            self._read(stage, number, answers, missing)
        self._run.counter.add(skipped=len(batch) * len(stage.readers) - len(missing))

    def _check(self) -> None:
        """Stop here if somebody asked for it, or the disk is nearly full."""
        self._run.stop.check()
        self._run.journal.pulse()
        reserve = int(self._run.config.capture.reserve_gb * 1e9)
        free = measure_free(self._run.store.path) - self._run.filing.waiting_bytes
        if free < reserve:
            raise ReserveReachedError(free, reserve)

    def _find_answers(self, stage: Stage, batch: Sequence[Item]) -> list[Answer]:
        """Look the batch's responses up; write all of it anew if any is missing."""
        found = {item.slot: self._look_up(stage, item) for item in batch}
        if None not in found.values():
            return [answer for answer in found.values() if answer is not None]
        tasks = [item for item in batch if isinstance(item, Task)]
        if not stage.is_own:
            lost = next(slot for slot, answer in found.items() if answer is None)
            raise CaptureError(
                f"{lost} was to be read by {', '.join(stage.readers)}, and nobody has written it",
                mend="run the same command again",
            )
        written = self._write(stage, tasks)
        self._run.counter.add(responses=sum(answer is None for answer in found.values()))
        return [answer or written[slot] for slot, answer in found.items()]

    def _look_up(self, stage: Stage, item: Item) -> Answer | None:
        if isinstance(item, GivenPlace):
            return self._run.agenda.given[stage.author].encode(item.row)
        found = self._run.store.stored_response(item.slot)
        if found is None:
            return self._run.written.get(item.slot)
        sequence = TokenSequence(tuple(found.token_ids), found.prompt_length)
        tokenizer = self._run.agenda.tokenizer_of(stage.author)
        return _complete(tokenizer, item, sequence, found.finish_reason)

    def _write(self, stage: Stage, batch: Sequence[Task]) -> dict[ResponseSlot, Answer]:
        author, settings = stage.author, self._run.config.generation
        drafts = [
            Draft(task.question.encoded.token_ids, seed_response(settings.seed, task.slot))
            for task in batch
        ]
        with self._loaded.reading_as(author) as model:
            made = generate(
                model, self._loaded.tokenizer, drafts, settings, check=self._check_token
            )
        self._run.counter.add(tokens=sum(len(generation.token_ids) for generation in made))
        answers = {
            task.slot: _complete(
                self._loaded.tokenizer,
                task,
                TokenSequence(draft.token_ids + generation.token_ids, len(draft.token_ids)),
                generation.finish_reason,
            )
            for task, draft, generation in zip(batch, drafts, made, strict=True)
        }
        if set(self._run.config.readers_of(author)) - set(stage.readers):
            self._run.written.update(answers)
            self._run.authors[author] = self._loaded.describe(author)
        return answers

    def _check_token(self) -> None:
        self._run.stop.check()
        self._run.journal.pulse()

    def _read(self, stage: Stage, number: int, answers: Sequence[Answer], missing: Missing) -> None:
        """Read the whole batch; store what is missing of it."""
        wanted = {reader for _, reader in missing}
        readers = [reader for reader in stage.readers if reader in wanted]
        for reader in readers:
            self._keep_head(reader)
        sequences = [answer.sequence for answer in answers]
        made = work_in_parts(
            sequences,
            partial(self._read_part, readers),
            halved=lambda size: self._run.journal.note(f"out of memory: batches of {size} now"),
        )
        lengths = [len(sequence.token_ids) for sequence in sequences]
        canary = pick_canary(number, lengths, every=self._run.config.capture.canary_every)
        for reader in readers:
            if canary is not None:
                self._prove(reader, answers[canary], *made[canary][reader])
            self._file(reader, answers, made, missing)
        if self._loaded.device.type == "cpu":
            # Beside a model on the same processors, writing costs more than before or after it:
            # a thread of the model that is held up holds up all the others.
            self._run.filing.flush()

    def _keep_head(self, reader: str) -> None:
        """Keep what turns a reader's stream into logits, the first time it reads."""
        if reader in self._headed or not self._run.config.capture.head:
            return
        self._headed.add(reader)
        with (
            self._loaded.reading_as(reader) as model,
            self._run.filing.borrow_writer(),  # the keeper's own
        ):
            try:
                self._heads.keep(reader, model)
            except HeadError as error:
                self._run.journal.note(f"no logit lens of {reader!r}: {error.message}")

    def _read_part(self, readers: Sequence[str], sequences: Sequence[TokenSequence]) -> list[Made]:
        """Read the same batch with one reader after the other."""
        batches: dict[str, BatchUnderway] = {}
        for reader in readers:
            self._run.stop.check()
            with self._loaded.reading_as(reader) as model:
                batches[reader] = start_prefill(
                    model,
                    sequences,
                    self._settings,
                    padding=self._padding,
                    logprobs=self._run.config.capture.logprobs,
                )
        places = range(len(sequences))
        return [{reader: (batches[reader], place) for reader in readers} for place in places]

    def _prove(self, reader: str, answer: Answer, batch: BatchUnderway, place: int) -> None:
        """Read one response of a batch again, alone: its rows are to be the same."""
        described = self._loaded.describe(reader)
        tolerance = find_tolerance(described)
        with self._loaded.reading_as(reader) as model:
            deviations = run_canary(
                model,
                batch.sequences,
                batch.prefills,
                place,
                self._settings,
                tolerance=tolerance,
                label=f"{answer.slot}, read by {reader}",
                padding=self._padding,
            )
        sequence = answer.sequence
        response_id = identify_response(answer.slot, sequence.token_ids, sequence.prompt_length)
        rows = [
            deviation.to_row(
                run_id=self._run.counter.report.run_id,
                response_id=response_id,
                organism=answer.slot.organism,
                reader=reader,
                tolerance=tolerance,
                batch_size=len(batch.sequences),
                kind="canary",
            )
            for deviation in deviations
        ]
        self._run.filing.put_rows("parity", rows)
        self._run.counter.add_canary(max(deviation.largest for deviation in deviations))

    def _file(
        self, reader: str, answers: Sequence[Answer], made: Sequence[Made], missing: Missing
    ) -> None:
        """Hand what one reader made of a batch to the store, part by part as it was read."""
        pairs = [(answer, *read[reader]) for answer, read in zip(answers, made, strict=True)]
        for _, part in groupby(pairs, key=lambda pair: id(pair[1])):
            together = list(part)
            wanted = [
                (place, answer) for answer, _, place in together if (answer.slot, reader) in missing
            ]
            self._run.filing.put(
                self._describe_author(answers[0].slot.organism),
                self._loaded.describe(reader),
                self._settings,
                together[0][1],
                wanted,
            )

    def _describe_author(self, name: str) -> Author:
        if name in self._loaded.names:
            self._run.authors[name] = self._loaded.describe(name)
        # One that this run has not loaded is known to the store by its name, if it ever was.
        return Author(self._run.authors.get(name, name), self._run.agenda.tokenizer_of(name))


def find_missing(agenda: Agenda, stage: Stage, slots: Sequence[ResponseSlot]) -> Missing:
    """Find the readings of some responses that a stage is to make and the store lacks."""
    pairs = ((slot, reader) for slot in slots for reader in stage.readers)
    return {(slot, reader) for slot, reader in pairs if not agenda.is_stored(slot, reader)}


def must_write(run: Surroundings, stage: Stage, slots: Sequence[ResponseSlot]) -> bool:
    """Whether a stage is to write responses that nobody reads before other weights are loaded."""
    if not stage.is_own:
        return False
    later = [r for r in run.config.readers_of(stage.author) if r not in stage.readers]
    return any(
        run.store.stored_response(slot) is None
        and slot not in run.written
        and not run.agenda.is_stored(slot, reader)
        for slot in slots
        for reader in later
    )


def _complete(
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    sequence: TokenSequence,
    finish_reason: str | None,
) -> Answer:
    """Say of a generated response's tokens what is known of them."""
    encoded = task.question.encoded
    written = sequence.token_ids[sequence.prompt_length :]
    return Answer(
        slot=task.slot,
        sequence=sequence,
        roles=encoded.roles + assign_answer_roles(tokenizer, written, encoded.opening),
        turns=encoded.turns + (encoded.answer_turn,) * len(written),
        finish_reason=finish_reason,
        prompt=task.question.prompt,
    )
