"""From what a model made of a batch to readings in a store, while the next batch runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from tistore.capture.reading.prefill import BatchUnderway, Prefill
from tistore.capture.running.rounding import round_reading
from tistore.capture.running.write_queue import Store, WriteQueue
from tistore.capture.texts.answer import Answer, spell_answer
from tistore.capture.texts.decode import decode_tokens
from tistore.schemas.model import Model
from tistore.schemas.response import CaptureSettings
from tistore.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Author:
    """
    Who wrote a batch's responses.

    Attributes:
        model: As it was loaded; its name alone where it was not.
        tokenizer: Spells its tokens.
    """

    model: Model | str
    tokenizer: PreTrainedTokenizerBase


class Filing:
    """
    Rounds, spells and writes readings on other threads than the model's.

    Args:
        writer: Used by one of these threads alone, until `close`.
        limit_bytes: Of states that may wait; `put` waits for room.
        run_id: Of the run.
        stored: Called, on the writing thread, for each reading the writer has taken: with its
            tokens and its bytes.
    """

    def __init__(
        self, writer: Writer, limit_bytes: int, run_id: str, stored: Callable[[int, int], None]
    ) -> None:
        self._writer = writer
        self._run_id = run_id
        self._stored = stored
        # The storing thread holds it most of the time; the model's thread hardly ever wants it.
        self._writing = threading.Lock()
        self._queue = WriteQueue(limit_bytes, idle=self._commit_if_due)

    @property
    def waiting_bytes(self) -> int:
        """States that wait to be written, here or for a commit."""
        return self._queue.waiting_bytes + self._writer.pending_bytes

    def put(
        self,
        author: Author,
        reader: Model,
        settings: CaptureSettings,
        batch: BatchUnderway,
        answers: Sequence[tuple[int, Answer]],
    ) -> None:
        """
        Hand over what one reader made of a batch; waits while too much waits already.

        Args:
            author: Of the responses.
            reader: Who read them.
            settings: Layers, components and rows.
            batch: What it made of them.
            answers: Those to be stored, with their places in the batch.

        Raises:
            TistoreError: What an earlier batch failed with.
        """
        n_pieces = min(len(answers), self._queue.threads)
        for piece in range(n_pieces):
            some = answers[
                len(answers) * piece // n_pieces : len(answers) * (piece + 1) // n_pieces
            ]
            prepare = partial(self._prepare, author, reader, settings, batch, some)
            self._queue.put(prepare, batch.size_bytes // n_pieces)

    def flush(self) -> None:
        """Wait until all that was put is with the writer."""
        self._queue.flush()

    def put_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand over rows of a table of the log."""

        def store() -> None:
            with self._writing:
                self._writer.add_rows(table, rows)

        self._queue.put(lambda: store, 0)

    @contextmanager
    def borrow_writer(self) -> Iterator[Writer]:
        """Lend the writer while the block runs; nothing else is written meanwhile."""
        with self._writing:
            yield self._writer

    def commit(self) -> None:
        """Wait until all that was put is committed."""
        self._queue.flush()
        with self._writing:
            self._writer.commit()

    def close(self) -> None:
        """Hand everything that waits to the writer; the writer is then the caller's again."""
        self._queue.close()

    def abandon(self) -> None:
        """Leave what waits; nothing of it is acknowledged."""
        self._queue.abandon()

    def _commit_if_due(self) -> None:
        with self._writing:
            self._writer.commit_if_due()

    def _prepare(
        self,
        author: Author,
        reader: Model,
        settings: CaptureSettings,
        batch: BatchUnderway,
        answers: Sequence[tuple[int, Answer]],
    ) -> Store:
        prepared = [
            self._lay_out(author, reader, settings, batch.prefills[place], answer)
            for place, answer in answers
        ]

        def store() -> None:
            for reading in prepared:
                with self._writing:
                    self._writer.add(**reading)
                halves = reading["activations"].values()
                self._stored(len(reading["token_ids"]), sum(half.values.nbytes for half in halves))

        return store

    def _lay_out(
        self,
        author: Author,
        reader: Model,
        settings: CaptureSettings,
        reading: Prefill,
        answer: Answer,
    ) -> dict[str, Any]:
        """List what the writer is to add, rounded."""
        slot, sequence = answer.slot, answer.sequence
        decoded = spell_answer(author.tokenizer, answer)
        prompt_ids = sequence.token_ids[: sequence.prompt_length]
        return {
            "organism": author.model,
            "reader": reader,
            "prompt_set": slot.prompt_set,
            "prompt_id": slot.prompt_id,
            "sample": slot.sample,
            "token_ids": sequence.token_ids,
            "prompt_length": sequence.prompt_length,
            "layers": settings.layers,
            "activations": round_reading(reading, settings, f"{slot}, read by {reader.name}"),
            "text": decoded.text,
            "tokens": decode_tokens(author.tokenizer, prompt_ids).tokens + decoded.tokens,
            "logprobs": reading.logprobs,
            "offsets": decoded.offsets,
            "roles": answer.roles,
            "turns": answer.turns,
            "is_response": answer.is_response,
            "finish_reason": answer.finish_reason,
            "prompt": answer.prompt,
            "run_id": self._run_id,
        }
