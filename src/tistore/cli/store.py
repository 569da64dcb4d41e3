"""Commands about a store as a whole: `info`, `verify`."""

from __future__ import annotations

from dataclasses import asdict

import typer

import tistore
from tistore.cli.options import AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say
from tistore.errors import IntegrityError


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
    store: StorePath, format: FormatOption = Format.TABLE, as_json: JsonOption = False
) -> None:
    """Read every committed byte and compare it with the log."""
    report = tistore.open(store).verify(strict=False)
    print_record({"ok": report.ok, **asdict(report)}, choose(format, as_json))
    if not report.ok:
        damaged = len(report.problems)
        raise IntegrityError(
            f"{damaged} of {report.files} committed files are damaged",
            mend="restore the files named above from a copy; every other file is intact",
        )
    say(f"every byte of {report.files} files in {report.commits} commits is as committed")
