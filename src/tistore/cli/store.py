"""Commands about a store as a whole: `info`, `verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import tistore
from tistore.cli.options import AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say

if TYPE_CHECKING:
    from tistore.store.verifying.file_check import VerifyProgress

_QUIET_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(info)
    app.command()(verify)


def info(
    store: StorePath,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Count what a store holds."""
    print_record(asdict(tistore.open(store, at).info()), choose(format, as_json))


def verify(
    store: StorePath,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Files read at once; one for each core.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a pass that was interrupted has come to.")
    ] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Read every committed byte and compare it with the log."""
    from tistore.store.opened import locate
    from tistore.store.posix import PosixFiles
    from tistore.store.verifying.verify import verify_store

    # Not by opening it: a store whose log is damaged cannot be opened.
    root = locate(store)
    report = verify_store(
        root, PosixFiles(root), jobs=jobs, resume=resume, progress=_show_on_terminal
    )
    record, chosen = {"ok": report.ok, **asdict(report)}, choose(format, as_json)
    if chosen in (Format.TABLE, Format.MD):  # each is a line of the error below
        record["problems"] = len(report.problems)
    print_record(record, chosen)
    report.raise_if_damaged()
    say(f"every byte of {report.files} files in {report.commits} commits is as committed")
    if unnamed := len(report.uncommitted_segments):
        say(f"{unnamed} folders of segments are of no commit: tistore gc {store} tells of them")
    if resume:
        say(f"{report.skipped} of them were read by an earlier pass, and not touched since")


def _show_on_terminal(progress: VerifyProgress) -> None:
    """Keep one line of the terminal up to date; nothing where stderr is no terminal."""
    if sys.stderr.isatty() and progress.seconds >= _QUIET_SECONDS:
        end = "\n" if progress.done_bytes >= progress.total_bytes else ""
        print(f"\r\x1b[K{progress}", end=end, file=sys.stderr, flush=True)
