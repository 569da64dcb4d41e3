"""The command that takes away what a store no longer needs: `gc`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say

if TYPE_CHECKING:
    from tistore.store.collecting.collect import GcReport
    from tistore.store.collecting.garbage import Find


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(gc)


def gc(
    store: StorePath,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only listed.")] = False,
    keep_days: Annotated[
        float, typer.Option(metavar="DAYS", help="Keep what was the newest within so many days.")
    ] = 7.0,
    keep_commits: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the newest N commits readable, too.")
    ] = None,
    trash_days: Annotated[
        float, typer.Option(metavar="DAYS", help="Delete what was in the trash for so long.")
    ] = 7.0,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Take away what dead writers left and what was replaced; to the trash first."""
    report = tistore.open(store).gc(
        dry_run=not yes, keep_days=keep_days, keep_commits=keep_commits, trash_days=trash_days
    )
    chosen = choose(format, as_json)
    if chosen in (Format.TABLE, Format.MD):
        rows = _sum_up_alike(report.finds)
    else:
        rows = [_to_row(find) for find in report.finds]
    if rows or chosen is not Format.TABLE:
        print_rows(rows, chosen)
    if report.gives_up_before is not None:
        verb = "would be" if report.dry_run else "were"
        say(f"commits before {report.gives_up_before} {verb} given up: --at cannot open them")
    say(_sum_up(report, trash_days))


def _to_row(find: Find) -> dict[str, Any]:
    return {
        "path": find.path,
        "kind": find.kind,
        "action": find.action,
        "files": find.files,
        "bytes": find.size_bytes,
        "why": find.why,
        "until": find.until,
    }


def _sum_up_alike(finds: Sequence[Find]) -> list[dict[str, Any]]:
    """Put what is done for one reason into one line."""
    alike: dict[tuple[str | None, ...], list[Find]] = {}
    for find in finds:
        alike.setdefault((find.kind, find.action, find.why, find.until), []).append(find)
    return [
        {
            "what": kind,
            "action": action,
            "files": sum(find.files for find in of_kind),
            "MB": round(sum(find.size_bytes for find in of_kind) / 1e6, 2),
            "why": why,
            "until": until and until[:19],  # all are UTC
            "where": of_kind[0].path + (f" and {len(of_kind) - 1} more" if of_kind[1:] else ""),
        }
        for (kind, action, why, until), of_kind in alike.items()
    ]


def _sum_up(report: GcReport, trash_days: float) -> str:
    if report.is_clean:
        left = report.size_bytes("leave") / 1e6
        return "nothing to take away" + (f"; {left:.1f} MB are left for now" if left else "")
    moved = report.size_bytes("move to trash") / 1e6
    deleted = report.size_bytes("delete") / 1e6
    if report.dry_run:
        return (
            f"nothing was touched; with --yes, {moved:.1f} MB go to the trash, "
            f"and {deleted:.1f} MB are deleted"
        )
    if not trash_days:
        return f"{moved + deleted:.1f} MB deleted"
    return (
        f"{moved:.1f} MB moved to the trash, to be deleted in {trash_days:g} days; "
        f"{deleted:.1f} MB deleted"
    )
