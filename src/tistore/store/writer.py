"""The writer: takes readings and rows, and commits them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from tistore.datasets.clauses import Offset
from tistore.errors import (
    InvalidRecordError,
    KeyConflictError,
    NoMemoryError,
    NoRoomError,
    nearest,
)
from tistore.schemas.head import Head, VocabularyBlock
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import LOG_TABLES
from tistore.schemas.vector import Vector
from tistore.store.batch import Batch, Row
from tistore.store.committing import Committer, is_disjoint
from tistore.store.files import Files
from tistore.store.reading import validate_reading
from tistore.store.snapshot import Snapshot
from tistore.store.tables import build_table
from tistore.store.unembedding import stream_unembedding

_BY_OTHER_MEANS = {
    "heads": ("a row of heads comes with its unembedding", "use writer.add_head"),
    "removals": ("a row of removals comes with what it removes", "use writer.remove_vectors"),
}
"""Tables whose rows stand for more than themselves: why they cannot be added, and what can."""

FLUSH_BYTES = 256 * 1024 * 1024
FLUSH_SECONDS = 60.0
SPARE_BYTES = 64 * 1024 * 1024
"""Room left free on top of a commit's own needs, so that a log entry can always be written."""


class Writer:
    """
    Collects readings and commits them: on size, on time, on `commit()`, and on leaving its block.

    A reading is acknowledged when the commit that holds it returns; until then it is in memory
    only. Leaving the block commits what was added even when the block raised: every reading in
    it is whole.

    Attributes:
        committed_readings: Readings this writer has committed.

    Args:
        files: The store's files.
        header_hash: SHA-256 of the store's header.
        read_snapshot: Reads the store's newest state.
        flush_bytes: Commit when this many bytes of float16 are waiting.
        flush_seconds: Commit when the first waiting reading is this old.
    """

    def __init__(
        self,
        files: Files,
        header_hash: str,
        read_snapshot: Callable[[], Snapshot],
        flush_bytes: int = FLUSH_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._files = files
        self._committer = Committer(files, header_hash, read_snapshot)
        self._batch = Batch(read_snapshot())
        # What is found committed will not be written again: it has to be there after a power cut.
        self._committer.confirm(self._batch.known)
        self._flush_bytes = flush_bytes
        self._flush_seconds = flush_seconds
        self._waiting_since: float | None = None
        self._is_open = True
        self.committed_readings = 0

    @property
    def pending_readings(self) -> int:
        """Readings that wait for a commit."""
        return self._batch.n_readings

    @property
    def pending_bytes(self) -> int:
        """Bytes of float16 that wait for a commit."""
        return self._batch.size_bytes

    def add(
        self,
        *,
        organism: str | Model,
        reader: str | Model,
        prompt_set: str,
        prompt_id: str,
        sample: int = 0,
        token_ids: Sequence[int],
        prompt_length: int,
        layers: Sequence[int],
        activations: Mapping[str, Any],
        text: str | None = None,
        tokens: Sequence[str] | None = None,
        logprobs: Sequence[float | None] | None = None,
        offsets: Sequence[Offset] | None = None,
        roles: Sequence[str] | None = None,
        turns: Sequence[int] | None = None,
        is_response: Sequence[bool] | None = None,
        finish_reason: str | None = None,
        first_position: int | None = None,
        prompt: Prompt | None = None,
        run_id: str | None = None,
    ) -> str:
        """
        Add one reading: a response as seen by one reader.

        The reading is checked whole before anything of it is kept. The same reading again is a
        no-op.

        Args:
            organism: Author of the response, by name or as a record with a fingerprint.
            reader: Model whose activations these are; the organism itself for its own reading.
            prompt_set: Set of the prompt; may contain "/".
            prompt_id: Prompt's id in the set.
            sample: Which of several generations for the prompt.
            token_ids: Ids of prompt and response, in order.
            prompt_length: How many of them are the prompt's.
            layers: Ascending block numbers, from 0; the layer axis of the activations.
            activations: For each component, [rows, layer, width] of floating point numbers,
                NumPy or torch. Rows are those of all tokens, or of the response's only; row t is
                the state at token t. Copied before this returns. A `HalfArray`, which threads may
                have rounded beforehand, is taken as it is.
            text: The response; spelled from `tokens` when left out.
            tokens: Token strings, for all tokens or the response's. Clauses need them.
            logprobs: Natural-log probability of each token, for all or the response's; None
                where unknown.
            offsets: For each response token, its characters in `text`. Found from `tokens` when
                left out.
            roles: Role of each token ("system", "user", "assistant", …), for all tokens.
            turns: Turn of each token, from 0, for all tokens.
            is_response: Which tokens are under audit, for all tokens; those after the prompt
                that have a row when left out. Means run over them.
            finish_reason: Why generation ended, such as "stop" or "length".
            first_position: Position of row 0: 0, or `prompt_length`. Only needed where the last
                tokens have no row, as a generation's own states lack the last one's. Such tokens
                are in no relation, and not under audit.
            prompt: The prompt's content; the same prompt with other content is refused.
            run_id: Run the reading belongs to.

        Returns:
            The response's id.

        Raises:
            InvalidRecordError: Something about the reading is not as it must be.
            NonFiniteError: The activations hold NaN or infinity.
            KeyConflictError: The slot holds another response, the key another reading, or a name
                another model or prompt.
        """
        self._require_open()
        author = self._resolve(organism)
        # The reader's name alone may be that of the organism whose record is given.
        eyes = author if reader == author.name else self._resolve(reader)
        author = eyes if organism == eyes.name else author
        reading = validate_reading(
            slot=ResponseSlot(author.name, prompt_set, prompt_id, sample),
            organism=author,
            reader=eyes,
            token_ids=token_ids,
            prompt_length=prompt_length,
            layers=layers,
            activations=activations,
            text=text,
            tokens=tokens,
            logprobs=logprobs,
            offsets=offsets,
            roles=roles,
            turns=turns,
            is_response=is_response,
            finish_reason=finish_reason,
            first_position=first_position,
            run_id=run_id,
        )
        if prompt and (prompt.prompt_set, prompt.prompt_id) != (prompt_set, prompt_id):
            raise InvalidRecordError(
                f"{reading}: the prompt given is {prompt.prompt_set}#{prompt.prompt_id}"
            )
        batch = self._batch
        new_models = batch.pick_new("models", [author.to_row(), eyes.to_row()])
        new_prompts = batch.pick_new("prompts", [prompt.to_row()] if prompt else [])
        for table, rows in (("models", new_models), ("prompts", new_prompts)):
            if rows:
                build_table(LOG_TABLES[table], list(rows.values()), table)
        if batch.add_reading(reading):
            self._waiting_since = self._waiting_since or time.monotonic()
        batch.put_rows("models", new_models)
        batch.put_rows("prompts", new_prompts)
        self.commit_if_due()
        return reading.response_id

    def add_rows(self, table: str, rows: Sequence[Row]) -> None:
        """
        Add rows to a table of the log: models, prompts, vectors, annotations, …

        Rows of keyed tables are unique: the same row again is a no-op.

        Raises:
            InvalidRecordError: There is no such table or column, or a required value is missing.
            KeyConflictError: The key is there with other content.
        """
        self._require_open()
        if table not in LOG_TABLES:
            raise InvalidRecordError(f"no table {table!r}; {nearest(table, LOG_TABLES)}")
        if table in _BY_OTHER_MEANS:
            why, mend = _BY_OTHER_MEANS[table]
            raise InvalidRecordError(why, mend=mend)
        build_table(LOG_TABLES[table], rows, table)
        self._batch.put_rows(table, self._batch.pick_new(table, rows))

    def remove_vectors(self, vectors: Sequence[Vector], reason: str | None = None) -> None:
        """
        Remove vectors with the next commit: a tombstone in the log, no byte is overwritten.

        What is added afterwards may have their names. Stores opened at an earlier commit still
        have them.

        Args:
            vectors: Vectors of the store.
            reason: For people.

        Raises:
            NotStoredError: One of them is not in the store; none is removed then.
        """
        self._require_open()
        self._batch.remove_vectors(vectors, reason)

    def add_head(
        self,
        head: Head,
        blocks: Callable[[], Iterable[VocabularyBlock]],
        *,
        weight_bytes: int = 4,
    ) -> None:
        """
        Commit a head with its unembedding, once; what waits is committed before it.

        The same head again is a no-op, and `blocks` is not called. It may be called more than
        once, when another writer commits at the same time.

        Args:
            head: The head.
            blocks: Gives the unembedding's rows in order, `head.block_rows` at a time; they are
                written as they come and never together in memory.
            weight_bytes: Bytes of a weight in the model, to tell how much room is needed.

        Raises:
            InvalidRecordError: Rows are missing, of another width, or not finite.
            NoRoomError: The disk is too full for it.
        """
        self._require_open()
        new = self._batch.pick_new("heads", [head.to_row()])
        build_table(LOG_TABLES["heads"], list(new.values()), "heads")
        if not new:
            return
        self.commit()
        self._batch.put_rows("heads", new)
        self._batch.streamed = stream_unembedding(head, blocks, weight_bytes)
        try:
            self.commit()
        finally:
            # Its rows can be had only now: what comes later may have another adapter switched on.
            self._batch.drop_rows("heads")
            self._batch.streamed = None

    @property
    def reader_heads(self) -> Mapping[str, str]:
        """The head of each reader, committed or waiting."""
        return self._batch.reader_heads

    def commit(self) -> int:
        """
        Commit everything that waits, durably.

        Returns:
            The number of the commit now last; of the newest known one when nothing waited.

        Raises:
            NoRoomError: The disk or the memory is full; what waits is kept, and can be committed
                again.
            DeviceError: The disk failed. What it failed for is not acknowledged.
            KeyConflictError: Another writer has committed one of the keys with other content;
                all the rest is committed, and what contradicts it is dropped.
        """
        self._require_open()
        conflicts: list[KeyConflictError] = []
        while not self._batch.is_empty:
            self._check_room()
            snapshot, is_committed = self._try_commit()
            if is_committed:
                self.committed_readings += self._batch.n_readings
                self._batch.clear(snapshot)
                break
            # Another writer has committed some of the same: what is still new is written again.
            conflicts += self._batch.drop_committed(snapshot)
        # What others have just committed may be among what was left out.
        self._committer.confirm(self._batch.known)
        self._waiting_since = None
        if conflicts:
            raise conflicts[0]
        return self._batch.known.number

    def commit_if_due(self) -> None:
        """Commit if enough waits, or has waited long enough, as `add` does."""
        waited = time.monotonic() - self._waiting_since if self._waiting_since else 0.0
        if self.pending_bytes >= self._flush_bytes or waited >= self._flush_seconds:
            self.commit()

    def close(self) -> None:
        """Commit what waits and refuse further additions."""
        if self._is_open:
            self.commit()
            self._is_open = False
            self._committer.close()

    def __enter__(self) -> Self:
        """Start a block that ends with a commit."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what was added, whether or not the block raised."""
        try:
            self.close()
        finally:
            self._committer.close()

    def _resolve(self, model: str | Model) -> Model:
        known = self._batch.models
        if isinstance(model, Model):
            return model.as_known(known.get(model.name))
        if not isinstance(model, str) or not model:
            raise InvalidRecordError(f"a model is named by a string, not {model!r}")
        return known.get(model) or Model(model)

    def _try_commit(self) -> tuple[Snapshot, bool]:
        """Write what waits, a segment a shape, and name it in the log; see `Committer.append`."""
        folders = [self._committer.new_segment() for _ in range(self._batch.count_folders())]
        is_committed = False
        try:
            additions = self._batch.write(self._files, folders)
            known = self._batch.known
            newest, is_committed = self._committer.append(
                known, additions, lambda newer: is_disjoint(additions, known, newer)
            )
        except MemoryError as error:
            raise NoMemoryError(
                f"memory ran out while {self.pending_bytes / 1e6:.0f} MB were being committed",
                mend="free some memory and commit again, or run the same command again; "
                "everything committed is intact",
            ) from error
        finally:
            if not is_committed:
                self._committer.abandon(folders)
        return newest, is_committed

    def _check_room(self) -> None:
        free = self._files.free_bytes()
        # float16 compresses, so its raw size also covers tables, norms and means.
        need = self.pending_bytes + SPARE_BYTES
        if self._batch.streamed is not None:
            need += self._batch.streamed.size_bytes
        if free is not None and free < need:
            raise NoRoomError(
                f"this commit needs {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free",
                mend="free some space, then commit again, or give the same command again; "
                "everything committed is intact",
            )

    def _require_open(self) -> None:
        if not self._is_open:
            raise InvalidRecordError("this writer is closed", mend="open another: store.writer()")
