"""Commands that run models: `plan`, `ingest`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import ConfigPath, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say
from tistore.errors import StoreNotFoundError

if TYPE_CHECKING:
    from tistore.capture.plan import Plan


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(plan)
    app.command()(ingest)


def plan(
    config: ConfigPath,
    path: Annotated[
        Path | None, typer.Option("--store", help="Where the store would lie; here if left out.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Work out what a run would take, without loading weights or touching a store."""
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.plan import check_room
    from tistore.capture.plan import plan as plan_run

    planned = plan_run(read_config(config), path=path)
    print_record(_describe(planned), choose(format, as_json))
    check_room(planned.compressed_bytes, planned.free_bytes)


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
    from tistore.capture.plan import check_room
    from tistore.capture.plan import plan as plan_run
    from tistore.capture.progress import show_progress
    from tistore.capture.run import ingest as ingest_run

    run = read_config(config)
    try:
        opened = tistore.open(store)
    except StoreNotFoundError:
        # A run that cannot work, or would not fit, leaves no store behind.
        planned = plan_run(run, path=Path(store))
        check_room(planned.compressed_bytes, planned.free_bytes)
        opened = tistore.create(store)
        say(f"made a store at {store}")
    report = ingest_run(opened, run, progress=show_progress())
    if not report.readings:
        say(f"nothing was left to do: {report.skipped} readings are stored")
    print_record(asdict(report), choose(format, as_json))


def _describe(planned: Plan) -> dict[str, Any]:
    return {
        "organisms": [organism.name for organism in planned.organisms],
        "layers": list(planned.layers),
        "hidden": planned.hidden,
        "dtype": planned.dtype,
        "responses": planned.responses,
        "readings": planned.readings,
        "generated_tokens": planned.generated_tokens,
        "rows": planned.rows,
        "raw_bytes": planned.size_bytes,
        "stored_bytes": planned.compressed_bytes,
        "files": planned.files,
        "free_bytes": planned.free_bytes,
    }
