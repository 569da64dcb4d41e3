"""Files that become rows: prompt sets, vectors, steering results, labels, calibrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tistore.datasets.trait_interp.documents import Node, read_document
from tistore.datasets.trait_interp.files import VectorFile
from tistore.datasets.trait_interp.vectors import VectorRecord, read_vector
from tistore.errors import KeyConflictError, NoRoomError, TistoreError
from tistore.exchange.trait_interp.annotation_rows import AnnotatedResponses
from tistore.exchange.trait_interp.directions import (
    VectorName,
    find_direction,
    find_loose,
    name_fitted_model,
    name_vector,
)
from tistore.exchange.trait_interp.found import Found
from tistore.exchange.trait_interp.massive_note import find_massive
from tistore.exchange.trait_interp.past import stamp_file
from tistore.exchange.trait_interp.prompts import lay_out_set, read_set
from tistore.exchange.trait_interp.seen import Outcome, explain
from tistore.exchange.trait_interp.sink import Sink
from tistore.exchange.trait_interp.steering_rows import find_steering
from tistore.exchange.trait_interp.survey import Survey, enter


class TableImport:
    """
    Imports files of rows; the same for a dry run, whose sink takes nothing.

    Args:
        found: What there is.
        sink: Where it goes.
        check: Called between files; raises where the import is to stop.
    """

    def __init__(self, found: Survey, sink: Sink, check: Callable[[], None]) -> None:
        self._found = found
        self._sink = sink
        self._check = check
        self._hashes: dict[tuple[str, VectorName], list[tuple[str | None, str]]] = {}
        self.known_prompts: set[tuple[str, str]] = set()

    def import_prompt_sets(self) -> None:
        """Import the data sets that responses answer; before the responses."""
        for name, path in self._found.prompt_sets:
            self._take(path, "prompts", partial(self._find_set, name, path))

    def import_vectors(self) -> None:
        """Import vectors; before the steering results, which name them."""
        path: Path | None = None
        metadata: Node | None | TistoreError = None
        for file in self._found.vectors:
            if file.metadata != path:
                path = file.metadata
                metadata = _read_metadata(path)
            self._take_vector(file, metadata)
        for manifest in self._found.options.vectors:
            for record in find_loose(manifest):
                model = self._name_loose_model(record)
                self._take(record.path, "vector", partial(find_direction, record, model))

    def import_rest(self) -> None:
        """Import what speaks of vectors and responses; after them."""
        found = self._found
        for steering in found.steering:
            self._check()
            find = partial(find_steering, steering, found.experiment.name, self._find_hash)
            self._take(steering.path, "steering", find)
        labels = AnnotatedResponses(found.roster.name, found.find_capture)
        for annotated in found.annotations:
            self._check()
            self._take(annotated.path, "annotations", partial(labels.find, annotated))
        for massive in found.massive:
            self._take(massive.path, "massive", partial(find_massive, massive.path))

    def _find_set(self, name: str, path: Path) -> Found:
        prompt_set = read_set(path, name)
        row = lay_out_set(prompt_set, self._found.name(path))
        prompts = [("prompts", prompt.to_row()) for prompt in prompt_set.prompts]
        self.known_prompts |= {(name, prompt.prompt_id) for prompt in prompt_set.prompts}
        return Found((("prompt_sets", row), *prompts))

    def _take_vector(self, file: VectorFile, metadata: Node | None | TistoreError) -> None:
        try:
            if isinstance(metadata, TistoreError):
                raise metadata
            record = read_vector(file, metadata)
        except TistoreError as error:
            enter(self._found, file.path, "vector", "refused", explain(error, file.path))
            return
        extraction = self._found.experiment.config.extraction
        model = name_fitted_model(record, self._found.roster, extraction)
        vector_hash = self._take(file.path, "vector", partial(find_direction, record, model))
        if vector_hash:
            named = (record.trait, name_vector(record))
            self._hashes.setdefault(named, []).append((record.variant, vector_hash))

    def _name_loose_model(self, record: VectorRecord) -> str | None:
        """Name the variant that is the vectors' model, or the model itself."""
        for variant in self._found.experiment.config.variants:
            if variant.model == record.model and variant.lora is None:
                return variant.name
        return record.model

    def _find_hash(self, trait: str, name: VectorName) -> str | None:
        """Find a vector; of several variants', the one that the experiment extracts from."""
        held = self._hashes.get((trait, name), [])
        extraction = self._found.experiment.config.extraction
        own = [vector_hash for variant, vector_hash in held if variant == extraction]
        return next(iter(own or [vector_hash for _, vector_hash in held]), None)

    def _take(self, path: Path, kind: str, find: Callable[[], Found]) -> str | None:
        """Import a file of rows, unless it was before; returns the hash of the vector in it."""
        name = self._found.name(path)
        past = self._found.past.find(name, path)
        if past is not None:
            enter(self._found, path, kind, "present", variety=past["variety"])
            if kind == "prompts":
                find()  # which prompts are known counts for the responses to them
            held: str | None = past["vector_hash"]
            return held
        try:
            stamp = stamp_file(path)
            found = find()
            for table, row in found.rows:
                if table != "prompts":
                    self._sink.is_new(table, row)
            n_before = self._sink.n_added
            kept = [self._add(table, row) for table, row in found.rows]
        except NoRoomError:
            raise
        except TistoreError as error:
            enter(self._found, path, kind, "refused", explain(error, path))
            return None
        note = "; ".join(told for told in (found.note, *kept) if told) or None
        is_new = self._sink.add_source(
            name,
            stamp,
            kind,
            variety=found.variety,
            vector_hash=found.vector_hash,
            source_dtype=found.source_dtype,
            note=note,
        )
        outcome: Outcome = "imported" if is_new or self._sink.n_added > n_before else "present"
        enter(self._found, path, kind, outcome, note, variety=found.variety)
        return found.vector_hash

    def _add(self, table: str, row: Mapping[str, Any]) -> str | None:
        """Add a row; a prompt that is known with another text stays as it is, which is told."""
        try:
            self._sink.add(table, row)
        except KeyConflictError:
            if table != "prompts":
                raise
            return f"another text of the prompt {row['prompt_id']} came first and was kept"
        return None


def _read_metadata(path: Path) -> Node | None | TistoreError:
    try:
        return read_document(path) if path.is_file() else None
    except TistoreError as error:
        return error
