"""The command that says what was done to a store, and what has been asked of it: `log`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.store.history import LogEntry


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(log)


def log(
    store: StorePath,
    analyses: Annotated[
        bool, typer.Option("--analyses", help="What has been asked, in place of the commits.")
    ] = False,
    command: Annotated[
        list[str] | None, typer.Option("--command", help="Only analyses by this command.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("-n", "--last", min=1, help="Only the newest; all.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the commits of a store, or the analyses that were made of it; the newest last."""
    opened = tistore.open(store)
    if analyses or command:
        _log_analyses(opened, command, last, choose(format, as_json))
    else:
        _log_commits(opened, last, choose(format, as_json))


def _log_commits(store: Store, last: int | None, format: Format) -> None:
    entries = store.log()
    shown = entries[-last:] if last else entries
    if format in (Format.TABLE, Format.MD):
        print_rows([_write_out(entry) for entry in shown], format)
    else:
        print_rows([_to_row(entry) for entry in shown], format)
    if oldest := next((entry.number for entry in entries if entry.can_be_opened), 0):
        say(f"commits {oldest} to {entries[-1].number} can be opened, with --at")


def _to_row(entry: LogEntry) -> dict[str, Any]:
    """Lay a commit out flat."""
    return {
        "number": entry.number,
        "created_at": entry.created_at,
        "operation": entry.operation,
        "writer": entry.writer,
        "segments": entry.segments,
        "readings": entry.readings,
        "tokens": entry.tokens,
        "vectors": entry.vectors,
        "rows": _list_counts(entry.rows),
        "removed": _list_counts(entry.removed),
        "segments_replaced": entry.segments_replaced,
        "table_files_replaced": entry.table_files_replaced,
        "bytes": entry.size_bytes,
        "oldest": entry.oldest,
        "can_be_opened": entry.can_be_opened,
    }


def _write_out(entry: LogEntry) -> dict[str, Any]:
    """Write a commit for people."""
    done = [f"+ {_list_counts(entry.rows)}"] if entry.rows else []
    done += [f"- {_list_counts(entry.removed)}"] if entry.removed else []
    if entry.segments_replaced:
        done.append(f"in place of {entry.segments_replaced} segments")
    if entry.table_files_replaced:
        done.append(f"in place of {entry.table_files_replaced} files of tables")
    done += [f"gives up commits before {entry.oldest}"] if entry.oldest else []
    return {
        "commit": entry.number,
        "at": entry.created_at[:19],
        "operation": entry.operation,
        "writer": entry.writer[:8],
        "segments": entry.segments,
        "readings": entry.readings,
        "tokens": entry.tokens,
        "MB": round(entry.size_bytes / 1e6, 1),
        "what": "; ".join(done),
        "can be opened": "yes" if entry.can_be_opened else "no",
    }


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _log_analyses(
    store: Store, command: list[str] | None, last: int | None, format: Format
) -> None:
    from tistore.audit.log import read_analyses

    analyses = read_analyses(store)
    found = [one.to_row() for one in analyses if not command or one.command in command]
    shown = found[-last:] if last else found
    is_for_people = format in (Format.TABLE, Format.MD)
    print_rows(list(map(_shorten, shown)) if is_for_people else shown, format)
    if analyses:
        n_cells = analyses[-1].total_cells
        say(f"{len(analyses)} analyses have inspected {n_cells:,} cells so far")


def _shorten(row: dict[str, Any]) -> dict[str, Any]:
    """Pick what a table has room for."""
    names = ("at", "command", "question", "snapshot", "n_cells", "total_cells", "n_rows")
    return {name: row[name] for name in names} | {"at": row["at"][:19]}
