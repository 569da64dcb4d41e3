"""A capture run: each organism answers, each reader reads, the store keeps it."""

from __future__ import annotations

import uuid
from typing import Any

from tistore.capture.config import RunConfig
from tistore.capture.models.load import load_base
from tistore.capture.models.machine import check_device, measure_free
from tistore.capture.planning.conflicts import (
    refuse_changes,
    refuse_other_prompts,
    refuse_other_tokens,
)
from tistore.capture.planning.pairs import refuse_mixed_pairs
from tistore.capture.planning.plan import check_room, plan
from tistore.capture.planning.preflight import check_run
from tistore.capture.reading.memory import release_memory
from tistore.capture.running.agenda import Agenda
from tistore.capture.running.executor import Executor, Surroundings, find_missing, must_write
from tistore.capture.running.filing import Filing
from tistore.capture.running.journal import Journal, describe_tally
from tistore.capture.running.passes import Pass, list_passes
from tistore.capture.running.progress import Progress, SilentProgress
from tistore.capture.running.provenance import describe_run
from tistore.capture.running.report import RunCounter, RunReport
from tistore.capture.running.stop import StopError, StopSignals, explain_stop
from tistore.capture.texts.given import read_given
from tistore.store.base import BaseStore
from tistore.store.writer import Writer

BYTES_PER_MB = 1_000_000


def ingest(store: BaseStore, config: RunConfig, *, progress: Progress | None = None) -> RunReport:
    """
    Do what is left of a run, and commit it.

    What is stored already is skipped, so that a run that was stopped goes on where it was. Weights
    are loaded one after the other, each once, adapters switched in place. Own readings and replays
    of a response come from the same batch and the same code, so that they differ by nothing but
    the adapter. Rounding and writing happen on other threads, while the next batch runs.

    Args:
        store: Where readings go.
        config: The run's.
        progress: Who follows it; nobody when left out. The store's event log always does.

    Raises:
        NoRoomError: Disk or device memory does not suffice.
        PartialRunError: A signal, or the disk's reserve, stopped the run; what was read is
            committed.
        InterruptedRunError: The same, from the keyboard.
        ModelLoadError: A model or an adapter cannot be loaded.
        SiteNotFoundError: A model has no such layer, or a block of it no such component.
        NonFiniteError: A model produced NaN or infinity.
        ParityError: A row is not what the same response, read alone, gives.
        KeyConflictError: The store holds a model, prompt or response of the same name with other
            content.
        ConfigError: An organism's responses are to come from the store, which has none; or a
            reader differs from an author in what `capture.mixed` does not name.
        CaptureError: A prompt or a stored response does not fit a model; `check_run` lists why.
    """
    checked = check_run(config, fetch=True)
    refuse_mixed_pairs(config, checked)
    store.refresh()
    agenda = Agenda(store, config, checked, read_given(store, config))
    refuse_changes(store, config, agenda.selections)
    refuse_other_tokens(store, agenda.given.values())
    refuse_other_prompts(store, agenda)
    missing = sum(not store.holds(key) for key in agenda.keys)
    if not missing:
        return RunReport(skipped=len(agenda.keys))
    for weights in config.weights.values():
        check_device(weights.device)
    planned = plan(config, path=store.path, given=agenda.given, checked=checked)
    needed = planned.compressed_bytes * missing // len(agenda.keys)
    if not store.snapshot.heads:
        needed += planned.heads_bytes
    check_room(needed, measure_free(store.path), planned.reserve_bytes)
    watcher = progress or SilentProgress()
    try:
        for note in checked.notes:
            watcher.note(note)
        with StopSignals(says_so=progress is not None) as stop:
            return _Run(store, config, agenda, stop, watcher).execute()
    finally:
        watcher.close()


class _Run:
    """A run under way."""

    def __init__(
        self,
        store: BaseStore,
        config: RunConfig,
        agenda: Agenda,
        stop: StopSignals,
        progress: Progress,
    ) -> None:
        run_id = uuid.uuid4().hex
        journal = Journal(progress, store.events, run_id)
        counter = RunCounter(run_id, len(agenda.keys), journal)
        self._writer: Writer = store.writer()
        self._shared = Surroundings(
            store=store,
            config=config,
            agenda=agenda,
            filing=Filing(
                self._writer, config.capture.queue_mb * BYTES_PER_MB, run_id, counter.add_stored
            ),
            journal=journal,
            counter=counter,
            stop=stop,
        )

    def execute(self) -> RunReport:
        """Do what is to be done, and log how it went."""
        self._log("started")
        try:
            self._work()
        except StopError as request:
            self._log("stopped", reason=str(request))
            tally = self._shared.counter.tally
            raise explain_stop(request, tally.readings, tally.total) from None
        except Exception as error:
            self._log("failed", error=str(error))
            raise
        except BaseException:
            # A second Ctrl-C, be it while what was read is committed: nothing more is written.
            self._shared.filing.abandon()
            raise
        self._log("finished")
        return self._shared.counter.report

    def _work(self) -> None:
        """Do all passes; whatever ends them but a second Ctrl-C, what was read is committed."""
        try:
            self._announce()
            for one in list_passes(self._shared.config):
                self._do_pass(one)
        except Exception:
            self._end()
            raise
        self._end()

    def _log(self, event: str, **facts: Any) -> None:
        tally = self._shared.counter.tally
        self._shared.journal.log(event, **facts, **describe_tally(tally))

    def _announce(self) -> None:
        """Record the run and its prompt sets."""
        shared = self._shared
        run_id = shared.counter.report.run_id
        assert run_id is not None  # it was made with one
        shared.filing.put_rows("runs", [describe_run(run_id, shared.config)])
        sets = [selection.prompt_set.to_row() for selection in shared.agenda.selections]
        shared.filing.put_rows("prompt_sets", sets)
        if refused := shared.agenda.count_refused_system_prompts():
            shared.journal.note(
                f"the chat template takes no system prompt; {refused} prompts go without"
            )
            shared.counter.add(refused_system_prompts=refused)

    def _do_pass(self, one: Pass) -> None:
        shared = self._shared
        if not self._is_needed(one):
            return
        source = shared.config.weights[one.weights].path
        shared.journal.note(f"loading {one.weights} from {source}")
        loaded = load_base(shared.config, one.weights)
        shared.counter.add(loads=1)
        loaded.require(shared.agenda.settings_of(one.weights).sites)
        Executor(shared, loaded, one.weights).do(one)
        # Readers on other weights look for the responses in the store.
        shared.filing.commit()
        del loaded
        release_memory()

    def _is_needed(self, one: Pass) -> bool:
        """Whether anything of a pass is left to do; counts what was stored before if nothing is."""
        stored = 0
        for stage in one.stages:
            slots = self._shared.agenda.slots_of(stage.author)
            if find_missing(self._shared.agenda, stage, slots):
                return True
            if must_write(self._shared, stage, slots):
                return True
            stored += len(slots) * len(stage.readers)
        self._shared.counter.add(skipped=stored)
        return False

    def _end(self) -> None:
        """Commit what was read."""
        try:
            self._shared.filing.close()
        except Exception:
            self._writer.close()  # what came before the failure is whole
            raise
        # Not reached by Ctrl-C: another thread may still be at the writer then.
        self._writer.close()
