"""The import of an experiment: what a survey found goes into the store, file by file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tistore.capture.running.progress import Progress, SilentProgress
from tistore.capture.running.stop import StopRequestedError, StopSignals, explain_stop
from tistore.errors import KeyConflictError
from tistore.exchange.trait_interp.options import ImportOptions
from tistore.exchange.trait_interp.pairing import BY_OPTION
from tistore.exchange.trait_interp.reading_import import ReadingImport
from tistore.exchange.trait_interp.seen import ImportReport
from tistore.exchange.trait_interp.sink import Sink
from tistore.exchange.trait_interp.survey import Survey, survey
from tistore.exchange.trait_interp.table_import import TableImport
from tistore.store.base import BaseStore
from tistore.store.writer import Writer

FLUSH_BYTES = 192 * 2**20
VALUE_BYTES_PER_SECOND = 120e6
"""What two cores manage, for estimates."""


def import_experiment(
    store: BaseStore | None,
    path: Path,
    options: ImportOptions | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """
    Import an experiment of trait-interp's; what is stored already is passed over.

    Nothing is executed that lies in a file. A file that cannot be imported is refused, with the
    reason, and costs nothing else. Stopped or killed, the same import goes on where it was.

    Args:
        store: Where to; None in a dry run into a store that is not made yet.
        path: The experiment's folder.
        options: How to import.
        dry_run: Whether to look only: everything is read but the values of activations.
        progress: Who follows it; nobody when left out.

    Raises:
        ConfigError: No experiment lies there, or an option makes no sense.
        DatasetError: Its `config.json` is malformed.
        NoRoomError: The disk is full.
        PartialRunError: A signal stopped the import; what was read is committed.
        InterruptedRunError: The same, from the keyboard.
    """
    options = options or ImportOptions()
    options.validate()
    watcher = progress or SilentProgress()
    started = time.monotonic()
    if store is not None:
        store.refresh()
    try:
        watcher.note(f"looking at {path}")
        found = survey(store, path, options)
        _tell_of_other_precision(found, watcher)
        _tell_of_absent_components(found, watcher)
        watcher.note(
            f"{len(found.readings)} readings to import: {found.value_bytes / 1e6:,.1f} MB of "
            f"values in {found.file_bytes / 1e6:,.1f} MB of files"
        )
        if store is None or dry_run:
            run = _Run(found, store, None, watcher, lambda: None)
            run.execute()
            return run.report(found.value_bytes / VALUE_BYTES_PER_SECOND)
        return _write(store, found, watcher, started)
    finally:
        watcher.close()


def _tell_of_other_precision(found: Survey, watcher: Progress) -> None:
    """Tell which stored models keep the precision they came with: `--quantization` changes none."""
    if found.options.quantization is None:
        return
    for variant in found.experiment.config.variants:
        try:
            found.roster.describe(variant.name)
        except KeyConflictError as error:
            watcher.note(f"{error.message}: what is stored stays as it is")


def _tell_of_absent_components(found: Survey, watcher: Progress) -> None:
    """Tell that files count as present of which an earlier `--component` left something out."""
    partial = sum(BY_OPTION in (file.reason or "") for file in found.ledger.files)
    if partial and found.options.components is None:
        watcher.note(
            f"{partial} files are present without the components that an earlier --component left "
            "out: they come in with an import into another store"
        )


def _write(store: BaseStore, found: Survey, watcher: Progress, started: float) -> ImportReport:
    with StopSignals() as stop:
        writer = store.writer(flush_bytes=FLUSH_BYTES)
        run = _Run(found, store, writer, watcher, stop.check)
        try:
            run.execute()
        except StopRequestedError as request:
            writer.close()
            raise explain_stop(request, run.readings.n_done, run.n_readings) from None
        except Exception:
            writer.close()
            raise
        # A second Ctrl-C comes past all of these: nothing more is written then.
        writer.close()
        return run.report(time.monotonic() - started)


class _Run:
    """An import under way; a dry run, where there is no writer."""

    def __init__(
        self,
        found: Survey,
        store: BaseStore | None,
        writer: Writer | None,
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        self._ledger = found.ledger
        self._is_dry = writer is None
        self._sink = Sink(store, writer, found.experiment, found.options)
        self._tables = TableImport(found, self._sink, check)
        known = self._tables.known_prompts
        self.readings = ReadingImport(found, self._sink, store, known, progress, check)
        self.n_readings = len(found.readings)

    def execute(self) -> None:
        """Deal with every file that the survey left to be dealt with."""
        self._tables.import_prompt_sets()
        self._tables.import_vectors()
        if self._is_dry:
            self.readings.foresee_readings()
        else:
            self.readings.import_readings()
        self.readings.import_documents()
        self._tables.import_rest()

    def report(self, seconds: float) -> ImportReport:
        """Sum up."""
        return ImportReport(
            files=tuple(self._ledger.files),
            counts=dict(self._ledger.counts),
            is_dry=self._is_dry,
            run_id=self._sink.run_id if self._sink.has_begun else None,
            readings=self.readings.n_imported,
            value_bytes=self.readings.value_bytes,
            seconds=seconds,
        )
