"""What the files of an experiment became: readings and vectors of the store, by their paths."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc

from tistore.datasets.trait_interp.experiment import Experiment
from tistore.datasets.trait_interp.files import Entry, ProjectionFile, ResidualFile
from tistore.datasets.trait_interp.layout import Place, classify
from tistore.errors import NotStoredError, nearest
from tistore.exchange.trait_interp.past import SOURCE_FORMAT
from tistore.exchange.trait_interp_check.recomputed import StoredStates
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot

_COLUMNS = [
    "reading_key", "organism", "reader", "prompt_set", "prompt_id", "prompt_length", "row_start",
    "n_rows", "first_position",
]  # fmt: skip

_SITES_AT_ONCE = 4

Row = Mapping[str, Any]
_Name = tuple[str | None, ...]


class ImportedReading:
    """
    A reading that came from a raw file. The sites it was asked for last are kept.

    Args:
        segment: Where it lies.
        row: Its row of `responses`, with `n_ids` in place of its ids.
        source: Its file's row of `sources`.
    """

    def __init__(self, segment: Segment, row: Row, source: Row) -> None:
        self._segment = segment
        self._states: dict[Site, StoredStates] = {}
        self.row = row
        self.source = source

    @property
    def is_predicting(self) -> bool:
        """Whether a response's row t, in the file, was the state before token t."""
        return bool(self.source["row_convention"] == "predicting")

    @property
    def lost_first_row(self) -> bool:
        """Whether the response's first row, which no store keeps, was not the prompt's last."""
        return self.is_predicting and "first row" in (self.source["note"] or "")

    def states(self, site: Site) -> StoredStates | None:
        """Find the states at a site; None where they are not stored."""
        if not self._segment.has(site):
            return None
        states = self._states.pop(site, None)
        if states is None:
            row = self.row
            states = StoredStates(self._segment, site, row["row_start"], row["n_rows"])
        self._states[site] = states
        if len(self._states) > _SITES_AT_ONCE:
            del self._states[next(iter(self._states))]
        return states


class ImportedFiles:
    """
    Finds what was imported of an experiment.

    Args:
        snapshot: The store's state.
        experiment: The experiment.

    Raises:
        NotStoredError: Nothing of an experiment of this name was imported.
    """

    def __init__(self, snapshot: Snapshot, experiment: Experiment) -> None:
        runs = _find_runs(snapshot, experiment)
        rows = _find_rows(snapshot)
        self._readings: dict[_Name, tuple[Segment, Row, Row]] = {}
        self._extraction = experiment.config.extraction
        self._own_hashes: set[str] = set()
        for source in snapshot.table("sources").to_pylist():
            if source["source_format"] != SOURCE_FORMAT or source["run_id"] not in runs:
                continue
            if source["vector_hash"] is not None:
                self._own_hashes.add(source["vector_hash"])
            elif source["reading_key"] in rows:
                file = _classify(experiment, source["path"])
                segment, row = rows[source["reading_key"]]
                if isinstance(file, ResidualFile):
                    self._readings[name_reading(file)] = (segment, row, source)
        self._vectors: dict[tuple[str, Site], list[Vector]] = defaultdict(list)
        for vector in snapshot.vectors():
            self._vectors[_last_step(vector.trait), vector.site].append(vector)

    def find_reading(self, file: ProjectionFile) -> ImportedReading | None:
        """Find the reading whose scores a file holds; nothing of it is kept from before."""
        found = self._readings.get(name_reading(file))
        return ImportedReading(*found) if found else None

    def find_vectors(
        self, trait: str, method: str | None, site: Site, position: str | None
    ) -> list[Vector]:
        """
        Find the vectors that answer to what a file says.

        Args:
            trait: `category/name`, or a bare name.
            method: None where the file does not say.
            site: Where it was fitted.
            position: None where the file does not say.

        Returns:
            Where several do, those of this experiment, and of them those of its extraction model.
        """
        fitting = [
            vector
            for vector in self._vectors.get((_last_step(trait), site), [])
            if vector.trait in (trait, _last_step(trait)) or "/" not in trait
            if method in (None, vector.method) and position in (None, vector.position)
        ]
        own = [vector for vector in fitting if vector.content_hash in self._own_hashes]
        by_default = [vector for vector in own if vector.model in (None, self._extraction)]
        return by_default or own or fitting


def name_reading(file: ResidualFile | ProjectionFile) -> _Name:
    """Name what a raw file holds, and the projections of it, by their paths."""
    return file.variant, file.author, file.prompt_set, file.prompt_id


def _find_runs(snapshot: Snapshot, experiment: Experiment) -> set[str]:
    """Find the runs that imported an experiment of this name."""
    names: dict[str, str] = {}
    for row in snapshot.table("runs").to_pylist():
        config = json.loads(row["config"]) if row["kind"] == "import" else None
        if isinstance(config, dict) and isinstance(config.get("experiment"), str):
            names[row["run_id"]] = config["experiment"]
    runs = {run_id for run_id, name in names.items() if name == experiment.name}
    if not runs:
        raise NotStoredError(
            f"no experiment {experiment.name!r} was imported into this store; "
            f"{nearest(experiment.name, names.values())}",
            mend=f"tistore import trait-interp STORE {experiment.path}",
        )
    return runs


def _find_rows(snapshot: Snapshot) -> dict[str, tuple[Segment, Row]]:
    """Find the row of every reading; of its token ids, only how many they are."""
    found: dict[str, tuple[Segment, Row]] = {}
    for segment in snapshot.segments:
        n_ids = pc.list_value_length(segment.table("responses", ["token_ids"])["token_ids"])
        table = segment.table("responses", _COLUMNS).append_column("n_ids", n_ids)
        found |= {row["reading_key"]: (segment, row) for row in table.to_pylist()}
    return found


def _classify(experiment: Experiment, path: str) -> Entry:
    """Tell what a file was, whether or not it is still there."""
    parts = PurePosixPath(path).parts
    place = Place(experiment.path.joinpath(*parts), parts, 0, experiment.config)
    return classify(place)


def _last_step(trait: str) -> str:
    return trait.rpartition("/")[2]
