"""The command that looks at a run from outside: `status`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record
from tistore.errors import NotStoredError, PartialRunError

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.store.run_status import RunStatus


_ENDED = {"gone": "is gone without a word", "stopped": "was stopped"}


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(status)


def status(
    store: StorePath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, a line each time, until the run is over.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between two looks.")
    ] = 2.0,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Say how the newest run is doing, or how it ended."""
    opened = tistore.open(store)
    if not watch:
        print_record(asdict(_look(opened)), choose(format, as_json))
        return
    is_json = choose(format, as_json) in (Format.JSON, Format.JSONL)
    seen = None
    while True:
        found = _look(opened)
        if found != seen:
            print(json.dumps(asdict(found)) if is_json else _put(found), flush=True)
        if found.is_over:
            break
        seen = found
        time.sleep(every)
    if found.state != "finished":
        raise PartialRunError(
            f"the run {_ENDED.get(found.state, found.state)} after {found.readings} of "
            f"{found.total} readings",
            mend="`tistore ingest` with the same configuration goes on from there",
        )


def _look(store: Store) -> RunStatus:
    from tistore.store.run_status import describe_newest_run

    found = describe_newest_run(store)
    if found is None:
        raise NotStoredError(
            f"no run has been started on {store.path}",
            mend="start one with `tistore ingest`; what others wrote is in `tistore info`",
        )
    return found


def _put(found: RunStatus) -> str:
    """Put a status into one line."""
    parts = [found.heard_at[11:19], found.state, f"{found.readings}/{found.total} readings"]
    if found.tokens_per_second is not None:
        parts.append(f"{found.tokens_per_second:,.0f} tokens/s")
    if found.seconds_left is not None and not found.is_over:
        parts.append(f"about {timedelta(seconds=round(found.seconds_left))} left")
    if found.organism is not None and not found.is_over:
        parts.append(found.organism)
    return "  ".join(parts)
