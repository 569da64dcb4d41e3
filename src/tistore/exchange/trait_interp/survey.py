"""A look at an experiment: what every file is, and what it will be, before values are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import category

from tistore.datasets.trait_interp.experiment import Experiment, open_experiment
from tistore.datasets.trait_interp.files import (
    AnnotationFile,
    ConfigFile,
    Entry,
    LeftOut,
    MassiveFile,
    ProjectionFile,
    PromptSetFile,
    ResidualFile,
    ResponseFile,
    ScenarioFile,
    SteeringFile,
    VectorFile,
)
from tistore.exchange.trait_interp.groups import ResponseFiles, group_files
from tistore.exchange.trait_interp.options import ImportOptions
from tistore.exchange.trait_interp.pairing import Pairing, Refusal
from tistore.exchange.trait_interp.past import Past
from tistore.exchange.trait_interp.pipeline import read_ahead
from tistore.exchange.trait_interp.planned import PlannedReading
from tistore.exchange.trait_interp.prompts import find_data_sets, list_sets
from tistore.exchange.trait_interp.roster import Roster
from tistore.exchange.trait_interp.seen import Ledger, Outcome, SeenFile
from tistore.schemas.response import ResponseSlot
from tistore.store.base import BaseStore

KINDS: Mapping[type[Any], str] = {
    ResidualFile: "residual",
    ResponseFile: "response",
    ProjectionFile: "projection",
    VectorFile: "vector",
    ScenarioFile: "scenarios",
    SteeringFile: "steering",
    AnnotationFile: "annotations",
    MassiveFile: "massive",
    PromptSetFile: "prompts",
    ConfigFile: "config",
    LeftOut: "other",
}

_NOT_STORED = {
    ProjectionFile: "not stored: the store computes scores; --check compares these with its own",
    ScenarioFile: "not stored: answers without activations, to scenarios or under steering",
}
_CONFIG = "read: it names the experiment's models"
_COPY = "a copy of a response that is read elsewhere"


@dataclass(slots=True)
class Survey:
    """
    What an import has to do.

    Attributes:
        experiment: Where.
        options: How.
        roster: Its models.
        past: What earlier imports stored.
        ledger: What became of files so far.
        readings: New ones, those that share segments together.
        documents: New JSON of responses that no new reading goes with.
        known_documents: JSON that is stored already, which new readings may go with.
        captures: Raw files of each response that the store has or will have.
        vectors: Vector files, as the walk found them.
        prompt_sets: Names and files of the sets that responses answer.
        steering: Results.
        annotations: Labels.
        massive: Calibrations.
    """

    experiment: Experiment
    options: ImportOptions
    roster: Roster
    past: Past
    ledger: Ledger = field(default_factory=Ledger)
    readings: list[PlannedReading] = field(default_factory=list)
    documents: list[tuple[ResponseFile, ResponseSlot]] = field(default_factory=list)
    known_documents: set[Path] = field(default_factory=set)
    captures: dict[ResponseSlot, list[Path]] = field(default_factory=dict)
    vectors: list[VectorFile] = field(default_factory=list)
    prompt_sets: list[tuple[str, Path]] = field(default_factory=list)
    steering: list[SteeringFile] = field(default_factory=list)
    annotations: list[AnnotationFile] = field(default_factory=list)
    massive: list[MassiveFile] = field(default_factory=list)

    @property
    def value_bytes(self) -> int:
        """Bytes of float16 in the new readings."""
        return sum(reading.value_bytes for reading in self.readings)

    @property
    def file_bytes(self) -> int:
        """Bytes of the raw files that hold them."""
        return sum(reading.file.size for reading in self.readings)

    def name(self, path: Path) -> str:
        """Name a file by its path from the experiment."""
        return name_file(self.experiment.path, path)

    def find_capture(self, slot: ResponseSlot) -> Path | None:
        """Find a raw file of a response that the store has or will have."""
        return next(iter(self.captures.get(slot, ())), None)


def name_file(experiment: Path, path: Path) -> str:
    """Name a file by its path from the experiment, with "/"; one beside it begins with "../"."""
    if path.is_relative_to(experiment):
        return path.relative_to(experiment).as_posix()
    return Path(os.path.relpath(path, experiment)).as_posix()


def survey(store: BaseStore | None, path: Path, options: ImportOptions) -> Survey:
    """
    Look at every file of an experiment, and plan what becomes of it.

    Args:
        store: Where it is to go; None for a store that is not made yet.
        path: The experiment's folder.
        options: How to import.

    Raises:
        ConfigError: No experiment lies there, or its paths name no model and neither does it.
        DatasetError: Its `config.json` is malformed.
    """
    experiment = open_experiment(path)
    stored = store.snapshot.models if store else {}
    roster = Roster(experiment.config, options.quantization, stored)
    past = Past(store.snapshot if store else None, experiment.name, options.rehash)
    found = Survey(experiment, options, roster, past)
    files = [file for entry in experiment.walk() if (file := _sort(found, entry)) is not None]
    groups = group_files(files, roster, experiment.path)
    _find_prompt_sets(found, groups)
    pairing = Pairing(roster, options, store.stored_response if store else lambda slot: None)
    with closing(read_ahead(groups, lambda group: _judge(found, pairing, group))) as judged:
        for group, verdicts in judged:
            _enter(found, group, verdicts)
    found.readings.sort(key=lambda reading: reading.shape)
    return found


def _sort(found: Survey, entry: Entry) -> ResidualFile | ResponseFile | None:
    """Put a file where it will be dealt with; return those that are grouped by response."""
    match entry:
        case ResidualFile() | ResponseFile():
            return entry
        case VectorFile():
            found.vectors.append(entry)
        case SteeringFile():
            found.steering.append(entry)
        case AnnotationFile():
            found.annotations.append(entry)
        case MassiveFile():
            found.massive.append(entry)
        case PromptSetFile():
            found.prompt_sets.append((entry.prompt_set, entry.path))
        case LeftOut():
            enter(found, entry.path, "other", entry.verdict, entry.reason)
        case ConfigFile():
            enter(found, entry.path, "config", "companion", _CONFIG)
        case ProjectionFile() | ScenarioFile():
            enter(found, entry.path, KINDS[type(entry)], "skipped", _NOT_STORED[type(entry)])
    return None


def enter(
    found: Survey,
    path: Path,
    kind: str,
    outcome: Outcome,
    reason: str | None = None,
    *,
    variety: str | None = None,
    value_bytes: int = 0,
) -> None:
    """Take down what became of a file."""
    size = path.stat().st_size if path.is_file() else 0
    name = _make_printable(found.name(path))
    found.ledger.enter(SeenFile(name, kind, outcome, variety, size, value_bytes, reason))


def _make_printable(name: str) -> str:
    """Escape control characters and bytes that are no UTF-8, which no output could hold."""
    return "".join(ascii(c)[1:-1] if category(c) in ("Cc", "Cs") else c for c in name)


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """What becomes of the files of one response."""

    readings: tuple[PlannedReading | Refusal, ...]
    present: frozenset[Path]
    unpaired: frozenset[Path]
    notes: Mapping[Path, str | None]


def _judge(found: Survey, pairing: Pairing, group: ResponseFiles) -> _Verdicts:
    """Tell what is stored already; where anything is not, plan it beside the rest."""
    captures = [*group.captures, *group.guests]
    documents = [group.document] if group.document else []
    rows = {
        file.path: found.past.find(found.name(file.path), file.path)
        for file in (*captures, *documents)
    }
    present = frozenset(path for path, row in rows.items() if row is not None)
    unpaired = frozenset(path for path, row in rows.items() if row and row["is_paired"] is False)
    notes = {path: row["note"] for path, row in rows.items() if row is not None}
    if all(file.path in present for file in captures):
        return _Verdicts((), present, unpaired, notes)
    planned = pairing.plan(group)
    return _Verdicts(
        tuple(verdict for verdict in planned if verdict.file.path not in present),
        present,
        unpaired,
        notes,
    )


def _enter(found: Survey, group: ResponseFiles, verdicts: _Verdicts) -> None:
    for file in (*group.captures, *group.guests):
        if file.path in verdicts.present:
            enter(found, file.path, "residual", "present", verdicts.notes[file.path])
            if file.path not in verdicts.unpaired:
                found.captures.setdefault(group.slot, []).append(file.path)
    taken = False
    for verdict in verdicts.readings:
        if isinstance(verdict, Refusal):
            enter(found, verdict.file.path, "residual", "refused", verdict.reason)
        else:
            found.readings.append(verdict)
            found.captures.setdefault(verdict.slot, []).append(verdict.file.path)
            taken = taken or verdict.document is not None
    if group.document is not None and group.document.path in verdicts.present:
        found.known_documents.add(group.document.path)
        enter(found, group.document.path, "response", "present")
    elif group.document is not None and not taken:
        found.documents.append((group.document, group.slot))
    for copy in group.copies:
        enter(found, copy.path, "response", "companion", _COPY)


def _find_prompt_sets(found: Survey, groups: list[ResponseFiles]) -> None:
    folder = found.options.prompt_sets or find_data_sets(found.experiment.path)
    if folder is not None:
        wanted = {group.slot.prompt_set for group in groups}
        found.prompt_sets += list_sets(folder, wanted)
