"""Raw files that become readings, and the JSON of responses beside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tistore.capture.running.progress import Progress, Tally
from tistore.datasets.trait_interp.files import ResponseFile
from tistore.datasets.trait_interp.responses import Response
from tistore.errors import NoRoomError, TistoreError
from tistore.exchange.token_strings import TokenStrings
from tistore.exchange.trait_interp.documents import ReadDocument, read_response_document
from tistore.exchange.trait_interp.loading import LoadedReading, load_reading
from tistore.exchange.trait_interp.past import stamp_file
from tistore.exchange.trait_interp.pipeline import read_ahead
from tistore.exchange.trait_interp.planned import PlannedReading
from tistore.exchange.trait_interp.prompts import describe_prompt
from tistore.exchange.trait_interp.raw_file import read_raw_file
from tistore.exchange.trait_interp.seen import Outcome, explain
from tistore.exchange.trait_interp.sink import Sink
from tistore.exchange.trait_interp.survey import Survey, enter
from tistore.schemas.generation import Generation
from tistore.schemas.response import ResponseSlot
from tistore.store.base import BaseStore


class ReadingImport:
    """
    Imports raw files and responses.

    Attributes:
        n_done: Raw files dealt with.
        n_imported: Readings that were new.
        value_bytes: Of float16 in them.

    Args:
        found: What there is.
        sink: Where it goes.
        store: The same store, to see what it holds; None in a dry run without one.
        known_prompts: Prompts that data sets have, by set and id.
        progress: Who follows.
        check: Called between files; raises where the import is to stop.
    """

    def __init__(
        self,
        found: Survey,
        sink: Sink,
        store: BaseStore | None,
        known_prompts: set[tuple[str, str]],
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        self._found = found
        self._sink = sink
        self._store = store
        self._known_prompts = known_prompts
        self._progress = progress
        self._check = check
        self._documents = set(found.known_documents)
        self._added: set[str] = set()
        self._n_tokens = 0
        self.n_done = 0
        self.n_imported = 0
        self.value_bytes = 0

    def foresee_readings(self) -> None:
        """Tell what would become of the raw files, without reading values."""
        seen: dict[str, PlannedReading] = {}
        for planned in self._found.readings:
            if (first := seen.setdefault(planned.key, planned)) is not planned:
                self._foresee_another(planned, first)
                continue
            notes = planned.notes
            if is_held := self._holds(planned):
                notes = (*notes, "refused by the import if the store's values are others")
            self._enter_reading(planned, is_held, notes)
            if planned.document is not None and self._is_next(planned.document.path):
                self._consume(_read_beside(planned, planned.document), planned.slot)

    def _foresee_another(self, planned: PlannedReading, first: PlannedReading) -> None:
        """Tell what becomes of a second file of one reading: present where it is a copy."""
        if stamp_file(planned.file.path).sha256 == stamp_file(first.file.path).sha256:
            self._enter_reading(planned, True, planned.notes)
            return
        other = self._found.name(first.file.path)
        self._refuse_reading(
            planned, f"{other} is the same reading: another is kept only if it is equal"
        )

    def import_readings(self) -> None:
        """Import the raw files, read side by side, in the order that fills segments best."""
        tokenizer = self._found.options.tokenizer
        speller = TokenStrings.load(tokenizer) if tokenizer and self._found.readings else None

        def load(planned: PlannedReading) -> LoadedReading | TistoreError:
            try:
                return load_reading(planned, speller)
            except TistoreError as error:
                return error

        loading = read_ahead(
            self._found.readings, load, measure=lambda planned: planned.value_bytes
        )
        with closing(loading):
            for planned, loaded in loading:
                self._check()
                if isinstance(loaded, TistoreError):
                    self._refuse_reading(planned, explain(loaded, planned.file.path))
                else:
                    self._import_reading(loaded)
                self.n_done += 1
                self._tell()

    def import_documents(self) -> None:
        """Import the JSON of responses that no raw file was imported with."""
        for file, slot in self._found.documents:
            self._check()
            if self._is_next(file.path):
                self._consume(self._read_alone(file, slot), slot)

    def _import_reading(self, loaded: LoadedReading) -> None:
        planned, document = loaded.planned, loaded.document
        name = self._found.name(planned.file.path)
        is_held = self._holds(planned) or planned.key in self._added
        try:
            self._sink.add_reading(loaded, self._found.roster)
        except NoRoomError:
            raise
        except TistoreError as error:
            changed = "; it has changed since it was imported" * self._found.past.knows(name)
            self._refuse_reading(planned, explain(error, planned.file.path) + changed)
            return
        self._added.add(planned.key)
        notes = loaded.notes
        if document is not None and document.reason:
            notes = (*notes, "its response JSON was refused")
        self._sink.add_source(
            name,
            loaded.stamp,
            "residual",
            variety=planned.placement.variety,
            reading_key=planned.key,
            row_convention=planned.placement.convention,
            source_dtype=planned.source_dtype,
            is_paired=planned.is_paired,
            note="; ".join(notes) or None,
        )
        slot = planned.slot
        if document is None:
            prompt = describe_prompt(slot.prompt_set, slot.prompt_id, None, loaded.prompt_text)
            if not self._knows_prompt(slot):
                self._sink.add_prompt(prompt)
        elif self._is_next(document.file.path):
            self._consume(document, slot)
        self._enter_reading(planned, is_held, notes)
        self._n_tokens += len(loaded.token_ids)

    def _enter_reading(
        self, planned: PlannedReading, is_held: bool, notes: tuple[str, ...]
    ) -> None:
        enter(
            self._found,
            planned.file.path,
            "residual",
            "present" if is_held else "imported",
            "; ".join(notes) or None,
            variety=planned.placement.variety,
            value_bytes=planned.value_bytes,
        )
        self.n_imported += not is_held
        self.value_bytes += 0 if is_held else planned.value_bytes

    def _refuse_reading(self, planned: PlannedReading, reason: str) -> None:
        path, document = planned.file.path, planned.document
        variety = planned.placement.variety
        enter(self._found, path, "residual", "refused", reason, variety=variety)
        captures = self._found.captures[planned.slot]
        captures.remove(path)
        if document is not None and not captures:
            self._found.documents.append((document, planned.slot))

    def _holds(self, planned: PlannedReading) -> bool:
        return self._store is not None and self._store.holds(planned.key)

    def _tell(self) -> None:
        total = len(self._found.readings)
        self._progress.update(Tally(self.n_done, total, 0, self._n_tokens, self.value_bytes))

    # The JSON of responses

    def _is_next(self, path: Path) -> bool:
        """Whether a document was not dealt with; from now on it was."""
        is_next = path not in self._documents
        self._documents.add(path)
        return is_next

    def _read_alone(self, file: ResponseFile, slot: ResponseSlot) -> ReadDocument:
        stored = self._store.stored_response(slot) if self._store else None
        if stored is None:
            return read_response_document(file, (), None)
        return read_response_document(file, tuple(stored.token_ids), stored.prompt_length)

    def _consume(self, document: ReadDocument, slot: ResponseSlot) -> None:
        """Take a response's JSON: its prompt and, where no activations are of it, its text."""
        path, response, stamp = document.file.path, document.response, document.stamp
        if response is None or stamp is None:
            enter(self._found, path, "response", "refused", document.reason)
            return
        note = None
        try:
            knows_prompt = self._knows_prompt(slot)
            if not knows_prompt:
                prompt = describe_prompt(slot.prompt_set, slot.prompt_id, response, None)
                note = self._sink.add_prompt(prompt)
            if not self._has_activations(slot):
                note = self._keep_generation(slot, response, knows_prompt)
            name = self._found.name(path)
            is_new = self._sink.add_source(
                name, stamp, "response", variety=response.form, note=note
            )
        except NoRoomError:
            raise
        except TistoreError as error:
            enter(self._found, path, "response", "refused", explain(error, path))
            return
        outcome: Outcome = "imported" if is_new else "present"
        enter(self._found, path, "response", outcome, note, variety=response.form)

    def _keep_generation(self, slot: ResponseSlot, response: Response, knows_prompt: bool) -> str:
        """Keep a response without activations where `ingest` can read it; gives a note."""
        ids, length = response.token_ids, response.prompt_length
        if ids and not (length and length < len(ids)):
            return "no activations of it, and its ids mark no answer: only its prompt is kept"
        if not ids and not knows_prompt and response.form != "oldest":
            # Its prompt has the chat template filled in, which tokenising would fill in again.
            return "no activations and no token ids of it: only its prompt is kept"
        generation = Generation(
            slot, response.response_text, ids or None, length if ids else None, tags=response.tags
        )
        self._sink.add("generations", generation.to_row())
        return "no activations of it: kept as a generation, for `ingest` to read"

    def _has_activations(self, slot: ResponseSlot) -> bool:
        if self._found.captures.get(slot):
            return True
        return self._store is not None and self._store.stored_response(slot) is not None

    def _knows_prompt(self, slot: ResponseSlot) -> bool:
        return (slot.prompt_set, slot.prompt_id) in self._known_prompts


def _read_beside(planned: PlannedReading, file: ResponseFile) -> ReadDocument:
    """Read the JSON beside a raw file, whose tokens it must have, without the file's values."""
    try:
        raw = read_raw_file(planned.file.path)
    except TistoreError as error:
        return ReadDocument(file, None, None, explain(error, file.path))
    return read_response_document(file, raw.token_ids, raw.prompt_length)
