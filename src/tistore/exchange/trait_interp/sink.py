"""Where an import's rows go: into a writer or, in a dry run, nowhere."""

from __future__ import annotations

import json
import platform
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from tistore.datasets.trait_interp.experiment import Experiment
from tistore.errors import KeyConflictError
from tistore.exchange.trait_interp.loading import LoadedReading
from tistore.exchange.trait_interp.options import ImportOptions
from tistore.exchange.trait_interp.past import SOURCE_FORMAT, FileStamp
from tistore.exchange.trait_interp.roster import Roster
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import TABLE_KEYS
from tistore.store.base import BaseStore
from tistore.store.keys import row_content, row_key
from tistore.store.writer import Writer
from tistore.version import __version__

Row = Mapping[str, Any]


class Sink:
    """
    Takes readings and rows, and tells what is there already.

    The run's own row is written with the first row of anything else: an import that finds nothing
    new commits nothing.

    Attributes:
        run_id: Of the run's row, whether it is written or not.
        has_begun: Whether it is.
        n_added: Rows that were new, those of `runs` and `sources` left out.

    Args:
        store: The store; None for one that is not made yet, in a dry run.
        writer: Takes what is new; None in a dry run.
        experiment: What is imported.
        options: How.
    """

    def __init__(
        self,
        store: BaseStore | None,
        writer: Writer | None,
        experiment: Experiment,
        options: ImportOptions,
    ) -> None:
        self._store = store
        self._writer = writer
        self._experiment = experiment
        self._options = options
        self._added: dict[str, dict[str, str]] = defaultdict(dict)
        self.run_id = uuid.uuid4().hex
        self.has_begun = False
        self.n_added = 0

    def is_new(self, table: str, row: Row) -> bool:
        """
        Tell whether a row is neither stored nor added.

        Raises:
            KeyConflictError: Its key is there with other content.
        """
        if table not in TABLE_KEYS:
            return True
        key = row_key(table, row)
        stored = self._store.snapshot.keys.get(table, {}) if self._store else {}
        held = stored.get(key) or self._added[table].get(key)
        if held not in (None, row_content(table, row)):
            named = ", ".join(str(row.get(column)) for column in TABLE_KEYS[table])
            raise KeyConflictError(
                f"{table}: {named} is in the store with other content",
                mend="import into another store: what is stored never changes",
            )
        return held is None

    def add(self, table: str, row: Row) -> bool:
        """
        Add a row, unless it is there; tell whether it was new.

        Raises:
            KeyConflictError: Its key is there with other content.
            InvalidRecordError: It is no row of the table.
        """
        if not self.is_new(table, row):
            return False
        if self._writer is not None:
            self._writer.add_rows(table, [row])
            self._begin()
        self.n_added += 1
        if table in TABLE_KEYS:
            self._added[table][row_key(table, row)] = row_content(table, row)
        return True

    def add_prompt(self, prompt: Prompt | None) -> str | None:
        """Add a prompt; where another one has its id, that one stays, and the answer says so."""
        if prompt is None:
            return None
        try:
            self.add("prompts", prompt.to_row())
        except KeyConflictError:
            named = f"{prompt.prompt_set}#{prompt.prompt_id}"
            return f"another text or label of the prompt {named} came first and was kept"
        return None

    def add_source(self, name: str, stamp: FileStamp, kind: str, **columns: Any) -> bool:
        """
        Record a file that was imported; after what was read of it, never before.

        Returns:
            Whether it was not recorded before, by this or another experiment's import.
        """
        row = {
            "source_format": SOURCE_FORMAT,
            "path": name,
            "sha256": stamp.sha256,
            "size_bytes": stamp.size_bytes,
            "modified_ns": stamp.modified_ns,
            "kind": kind,
            "run_id": self.run_id,
            **columns,
        }
        key = row_key("sources", row)
        stored = self._store.snapshot.keys.get("sources", {}) if self._store else {}
        if key in stored or key in self._added["sources"]:
            return False
        self._added["sources"][key] = ""
        if self._writer is not None:
            self._writer.add_rows("sources", [row])
            self._begin()
        return True

    def add_reading(self, loaded: LoadedReading, roster: Roster) -> None:
        """
        Hand a reading to the writer.

        Raises:
            InvalidRecordError: It breaks a rule of the store.
            NonFiniteError: It holds NaN or infinity.
            KeyConflictError: The store has other tokens or values for it.
        """
        if self._writer is None:
            return
        planned, speech = loaded.planned, loaded.speech
        slot: ResponseSlot = planned.slot
        self._writer.add(
            organism=roster.describe(slot.organism),
            reader=roster.describe(planned.reader),
            prompt_set=slot.prompt_set,
            prompt_id=slot.prompt_id,
            sample=slot.sample,
            token_ids=loaded.token_ids,
            prompt_length=loaded.prompt_length,
            layers=planned.layers,
            activations={str(name): values for name, values in loaded.values.items()},
            first_position=planned.placement.first_position,
            text=speech.text,
            tokens=speech.tokens,
            offsets=speech.offsets,
            roles=speech.roles,
            turns=speech.turns,
            is_response=speech.is_response,
            run_id=self.run_id,
        )
        self._begin()

    def _begin(self) -> None:
        """
        Write the run's row, once: after the first thing of it, so that a refused one leaves none.

        Both are in one commit: nothing was waiting, and one reading alone does not fill a segment.
        """
        if self.has_begun or self._writer is None:
            return
        self.has_begun = True
        options = {name: _plain(value) for name, value in asdict(self._options).items()}
        config = {
            "format": SOURCE_FORMAT,
            "experiment": self._experiment.name,
            "path": str(self._experiment.path),
            "options": options,
        }
        row = {
            "run_id": self.run_id,
            "kind": "import",
            "config": json.dumps(config, sort_keys=True),
            "versions": json.dumps({"tistore": __version__, "python": platform.python_version()}),
            "started_at": datetime.now(UTC),
        }
        self._writer.add_rows("runs", [row])


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool) else str(value)
