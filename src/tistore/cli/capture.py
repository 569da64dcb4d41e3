"""Commands that run models: `plan`, `ingest`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tistore
from tistore.cli.options import ConfigPath, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say
from tistore.errors import StoreExistsError, StoreNotFoundError


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(plan)
    app.command()(ingest)


def plan(
    config: ConfigPath,
    path: Annotated[
        Path | None, typer.Option("--store", help="Where the store would lie; here if left out.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Load the base and time a moment of it.")
    ] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """
    Check a run, and work out what it would take; nothing is loaded, unless to be timed.

    Exit code 5 says that there is too little disk or memory.
    """
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.planning.plan import check_plan
    from tistore.capture.planning.plan import plan as plan_run
    from tistore.capture.planning.plan_report import describe_plan, show_plan
    from tistore.capture.planning.preflight import check_run
    from tistore.capture.planning.timing import find_timing, probe_run

    run = read_config(config)
    checked = check_run(run)
    planned = plan_run(run, path=path, checked=checked)
    for note in planned.notes:
        say(f"note: {note}")
    timing = find_timing(path, run, planned)
    if probe and planned.is_possible:
        timing = probe_run(run, checked.weights[run.base.name], planned, path or Path())
    chosen = choose(format, as_json)
    is_for_people = chosen in (Format.TABLE, Format.MD)
    print_record((show_plan if is_for_people else describe_plan)(planned, timing), chosen)
    check_plan(planned)


def ingest(
    store: StorePath,
    config: ConfigPath,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Generate, read and store what is left of a run; the store is made if there is none."""
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.models.machine import check_device
    from tistore.capture.planning.plan import check_room
    from tistore.capture.planning.plan import plan as plan_run
    from tistore.capture.reading.memory import keep_freed_memory
    from tistore.capture.run import ingest as ingest_run
    from tistore.capture.running.progress import show_progress

    keep_freed_memory()
    run = read_config(config)
    try:
        opened = tistore.open(store)
    except StoreNotFoundError:
        # A run that cannot work, or would not fit, leaves no store behind.
        planned = plan_run(run, path=Path(store))
        for weights in run.weights.values():
            check_device(weights.device)
        check_room(planned.stored_bytes, planned.free_bytes, planned.reserve_bytes)
        try:
            opened = tistore.create(store)
            say(f"made a store at {store}")
        except StoreExistsError:
            opened = tistore.open(store)  # another run has made it meanwhile
    report = ingest_run(opened, run, progress=show_progress())
    if not report.readings:
        say(f"nothing was left to do: {report.skipped} readings are stored")
    print_record(asdict(report), choose(format, as_json))
