"""Responses, scores and vectors as an experiment of trait-interp's, for its dashboard to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tistore.errors import AmbiguousVectorError, ConfigError, VectorMismatchError
from tistore.exchange.destination import Destination
from tistore.exchange.selection import Selected, Selection, select
from tistore.exchange.trait_interp_export.conversations import Conversations
from tistore.exchange.trait_interp_export.documents import (
    lay_out_projections,
    lay_out_response,
    lay_out_vectors,
)
from tistore.exchange.trait_interp_export.places import Places
from tistore.exchange.trait_interp_export.scores import (
    Scorer,
    StoredView,
    Stretch,
    divide,
    list_views,
)
from tistore.exchange.trait_interp_export.torch_vector import encode_torch_vector
from tistore.query.store import Store
from tistore.schemas.digest import digest
from tistore.schemas.model import Model
from tistore.schemas.vector import Vector

_CONFIG = "config.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """
    What an export wrote.

    Attributes:
        destination: The experiment's folder.
        responses: Files of responses there now.
        projections: Files of scores there now.
        vectors: Vectors there now.
        files_before: Files of all kinds that were there already.
        files: Files written.
        bytes: Their length together.
        notes: What was left out, and why.
    """

    destination: str
    responses: int
    projections: int
    vectors: int
    files_before: int
    files: int
    bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Directions:
    """
    Vectors that go out.

    Attributes:
        stored: Those written as tensors.
        scored: By trait, those of them that responses are scored on.
        notes: Traits that are not scored, and why.
    """

    stored: tuple[Vector, ...]
    scored: Mapping[str, tuple[Vector, ...]]
    notes: tuple[str, ...]


def export_trait_interp(
    store: Store,
    destination: str | Path,
    *,
    where: str | None = None,
    vectors: Sequence[str] = (),
    tell: Callable[[int], None] = lambda views: None,
) -> ExperimentReport:
    """
    Write an experiment: `config.json`, vectors, responses, and their scores on each trait.

    Scores are those of `project()`, float32 with every digit. A response beyond the first sample
    goes out as a prompt of its own, `{id}_sample{n}`: an experiment has one response a prompt.
    Activations stay. Stopped and called again, it goes on where it stopped.

    Args:
        store: Where all of it is.
        destination: The experiment's folder: free, or holding the same export, unfinished.
        where: SQL condition on the columns of `responses`; every reading when None.
        vectors: References of the vectors to write and to score. When empty, all are written,
            and each trait is scored on the vector its bare name means.
        tell: Called with the number of readings that are scored, each time some are.

    Raises:
        ConfigError: The destination is taken, or a name cannot be one of the experiment's.
        NotStoredError: Nothing is selected.
        UnknownVectorError: No vector answers to a reference.
        AmbiguousVectorError: Several do.
        VectorMismatchError: No selected reading holds the site of a vector that was named; or
            vectors of one trait, which share a file, differ in component or position.
        QueryError: As `store.sql` raises.
        NoRoomError: The disk is full; whole files stay.
    """
    selected = select(store, Selection.parse(where))
    views = list_views(selected)
    directions = _choose(store, vectors, views)
    if selected.n_second_readings:
        note = f"{selected.n_second_readings} second readings, of `tistore noise`, are left out"
        directions = replace(directions, notes=(*directions.notes, note))
    models = store.snapshot.models
    spoken = {name for v in views for name in (v.view.reader, v.view.slot.organism)}
    places = Places({name: models.get(name, Model(name)) for name in sorted(spoken)},
                    directions.stored)  # fmt: skip
    experiment = _Experiment(store, places, directions, views)
    content = _encode(
        places.describe() | {"tistore_export": _describe(store, selected, directions)}
    )
    return experiment.write(
        Destination.open(Path(destination).expanduser(), content, _CONFIG), tell
    )


def _choose(store: Store, references: Sequence[str], views: Sequence[StoredView]) -> _Directions:
    """Find the vectors that go out, and of each trait those to score on."""
    if not references:
        return _choose_all(store, views)
    stored: dict[str, Vector] = {}
    for reference in references:
        vector = store.vector(reference)
        if vector.expression is not None:
            raise ConfigError(
                f"{reference!r} is made of other vectors, and has no layer or method of its own",
                mend=f"name it first: tistore vectors add {store.path} made/NAME -e '{reference}'",
            )
        if not any(view.find(vector.site) for view in views):
            raise VectorMismatchError(
                f"no selected reading holds {vector.site}, where {vector.reference} was fitted"
            )
        stored[vector.key] = vector
    scored = _by_trait(stored.values())
    for trait, found in scored.items():
        if len({(vector.component, vector.position) for vector in found}) > 1:
            listed = ", ".join(f"{v.reference} ({v.component}, {v.position})" for v in found)
            raise VectorMismatchError(
                f"{trait}: {listed} share a file, which holds one component and one position",
                mend="export them one by one, each to its own folder",
            )
    return _Directions(tuple(stored.values()), scored, ())


def _choose_all(store: Store, views: Sequence[StoredView]) -> _Directions:
    stored = store.snapshot.vectors()
    scored: dict[str, tuple[Vector, ...]] = {}
    notes = []
    for trait in dict.fromkeys(vector.trait for vector in stored):
        try:
            vector = store.vector(trait)
        except AmbiguousVectorError:
            notes.append(f"{trait} is not scored: several vectors have the name; use --vector")
            continue
        if any(view.find(vector.site) for view in views):
            scored[trait] = (vector,)
        else:
            notes.append(f"{trait} is not scored: no selected reading holds {vector.site}")
    return _Directions(stored, scored, tuple(notes))


def _by_trait(vectors: Iterable[Vector]) -> dict[str, tuple[Vector, ...]]:
    ordered = sorted(vectors, key=lambda vector: vector.trait)
    return {trait: tuple(found) for trait, found in groupby(ordered, lambda v: v.trait)}


def _describe(store: Store, selected: Selected, directions: _Directions) -> dict[str, Any]:
    """Say what tells this export from others: in a folder that says the same, it goes on."""
    return {
        "version": _VERSION,
        "store": store.header.uuid,
        **asdict(selected.selection),
        "readings_digest": digest(list(selected.keys())),
        "vectors_digest": digest([vector.key for vector in directions.stored]),
        "scored_digest": digest([v.key for found in directions.scored.values() for v in found]),
    }


class _Experiment:
    """An experiment that is to be written, every path of it checked."""

    def __init__(
        self, store: Store, places: Places, directions: _Directions, views: Sequence[StoredView]
    ) -> None:
        self._store = store
        self._places = places
        self._directions = directions
        self._views = views
        self._n_before = 0
        self._responses = {
            places.response(named): view for view in views for named in (view.view.own, view.view)
        }
        self._fullest = _find_fullest(views)
        self._tensors = {places.vector(vector): vector for vector in directions.stored}
        # Every trait and every response once, rather than each of millions of pairs: what is
        # wrong with a path is wrong with one of the two.
        for view in views[:1]:
            for trait in directions.scored:
                places.projection(view.view, trait)
        for trait in list(directions.scored)[:1]:
            for view in views:
                places.projection(view.view, trait)

    def write(self, destination: Destination, tell: Callable[[int], None]) -> ExperimentReport:
        """Write what is not there yet."""
        self._write_vectors(destination)
        self._write_responses(destination)
        n_projections = self._write_projections(destination, tell)
        return ExperimentReport(
            destination=str(destination.folder),
            responses=len(self._responses),
            projections=n_projections,
            vectors=len(self._tensors),
            files_before=self._n_before,
            files=destination.n_files,
            bytes=destination.size_bytes,
            notes=self._directions.notes,
        )

    def _write_vectors(self, destination: Destination) -> None:
        by_folder = sorted(
            self._tensors.items(), key=lambda pair: (pair[0].rpartition("/")[0], pair[1].layer)
        )
        for folder, group in groupby(by_folder, lambda pair: pair[0].rpartition("/")[0]):
            found = list(group)
            for path, vector in found:
                if self._is_due(destination, path):
                    with destination.write(path) as file:
                        encode_torch_vector(file, vector.values, f"layer{vector.layer}")
            vectors = [vector for _, vector in found]
            model = self._places.hub_id(vectors[0].model or self._places.base)
            path = f"{folder}/metadata.json"
            if self._is_due(destination, path):
                _write_json(destination, path, lay_out_vectors(vectors, model))

    def _write_responses(self, destination: Destination) -> None:
        snapshot = self._store.snapshot
        asked = {
            (row["prompt_set"], row["prompt_id"]): row
            for row in snapshot.table("prompts").to_pylist()
        }
        started = {row["run_id"]: row["started_at"] for row in snapshot.table("runs").to_pylist()}
        conversations = Conversations(snapshot)
        for path, view in self._responses.items():
            if self._is_due(destination, path):
                stretch = self._fullest[view.response_id]
                row = stretch.segment.table("responses").slice(stretch.index, 1).to_pylist()[0]
                tokens = stretch.segment.table("tokens").slice(stretch.row_start, stretch.n_rows)
                slot = view.view.slot
                said = lay_out_response(
                    row,
                    tokens,
                    snapshot.models.get(slot.organism),
                    asked.get((slot.prompt_set, slot.prompt_id)),
                    started.get(row["run_id"]),
                    conversations.find(slot),
                )
                _write_json(destination, path, said)

    def _write_projections(self, destination: Destination, tell: Callable[[int], None]) -> int:
        scorer = Scorer(self._store)
        n_files = 0
        for batch in divide(self._views):
            due: list[tuple[StoredView, str, str]] = []
            for view in batch:
                for trait in self._traits_of(view):
                    path = self._places.projection(view.view, trait)
                    n_files += 1
                    if self._is_due(destination, path):
                        due.append((view, trait, path))
            traits = dict.fromkeys(trait for _, trait, _ in due)
            vectors = [vector for trait in traits for vector in self._directions.scored[trait]]
            scores = scorer.score(batch, vectors) if vectors else {}
            for view, trait, path in due:
                found = scores[view.response_id, view.view.reader][trait]
                said = lay_out_projections(view.view, view.prompt_length, view.n_ids, found)
                _write_json(destination, path, said)
            tell(len(batch))
        return n_files

    def _traits_of(self, view: StoredView) -> list[str]:
        """List the traits a view can be scored on."""
        return [
            trait
            for trait, vectors in self._directions.scored.items()
            if any(view.find(vector.site) for vector in vectors)
        ]

    def _is_due(self, destination: Destination, path: str) -> bool:
        if destination.holds(path):
            self._n_before += 1
            return False
        return True


def _find_fullest(views: Iterable[StoredView]) -> dict[str, Stretch]:
    """Find the reading of each response that has the most tokens: what it says of them counts."""
    fullest: dict[str, Stretch] = {}
    for view in views:
        held = fullest.setdefault(view.response_id, view.stretches[0])
        if held.n_rows < view.stretches[0].n_rows:
            fullest[view.response_id] = view.stretches[0]
    return fullest


def _write_json(destination: Destination, path: str, content: Mapping[str, Any]) -> None:
    with destination.write(path, durable=False) as file:
        file.write(_encode(content))


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
