"""`tistore import trait-interp`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import DatasetError, StoreNotFoundError
from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from tistore.exchange.trait_interp.seen import ImportReport
    from tistore.query.store import Store
    from tistore.store.base import BaseStore

SHOWN_REFUSALS = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="trait-interp")(trait_interp)


def trait_interp(
    store: StorePath,
    experiment: Annotated[
        Path, typer.Argument(help="Folder of one experiment.", show_default=False)
    ],
    quantization: Annotated[
        str | None, typer.Option(help="How its models were loaded (8bit, 4bit): no file says it.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Tokenizer to spell tokens with; the files' own if left out."),
    ] = None,
    component: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(COMPONENTS)}; all if left out.")
    ] = None,
    keep_mismatched: Annotated[
        bool, typer.Option(help="Keep replays of other tokens than the response's, unpaired.")
    ] = False,
    prompt_sets: Annotated[
        Path | None,
        typer.Option(help="Folder of prompt sets; datasets/inference nearby if left out."),
    ] = None,
    vectors: Annotated[
        list[Path] | None, typer.Option(help="Manifest of loose vectors, or its folder.")
    ] = None,
    rehash: Annotated[
        bool, typer.Option(help="Read files again that look as they did when imported.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Then compare its projections with the store's.")
    ] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Import an experiment of trait-interp; the store is made if there is none."""
    from tistore.capture.running.progress import show_progress
    from tistore.exchange.trait_interp.options import ImportOptions
    from tistore.exchange.trait_interp.run import import_experiment

    options = ImportOptions(
        quantization=quantization,
        tokenizer=tokenizer,
        keep_mismatched=keep_mismatched,
        rehash=rehash,
        prompt_sets=prompt_sets,
        vectors=tuple(vectors or ()),
        components=tuple(component) if component else None,
    )
    options.validate()
    opened = _open(store, experiment, is_dry=dry_run)
    report = import_experiment(
        opened, experiment, options, dry_run=dry_run, progress=show_progress()
    )
    chosen = choose(format, as_json)
    if check and not dry_run and opened is not None:
        _tell(report)
        _check(tistore.open(store), experiment, chosen)
    else:
        is_summary = chosen is Format.TABLE
        rows: list[Any] = report.to_rows() if is_summary else [asdict(f) for f in report.files]
        print_rows(rows, chosen)
        _tell(report)
    if report.refused and not report.count("imported") and not report.count("present"):
        raise DatasetError(f"nothing of {experiment} can be imported; the reasons are above")


def _open(store: str, experiment: Path, *, is_dry: bool) -> BaseStore | None:
    """Open the store; make it, where there is an experiment to go into it."""
    # Not `tistore.open`: questions are not asked, and what answers them takes a second to load.
    from tistore.datasets.trait_interp.experiment import open_experiment
    from tistore.store.base import BaseStore

    try:
        return BaseStore.open(store)
    except StoreNotFoundError:
        open_experiment(experiment)
        if is_dry:
            return None
        made = BaseStore.create(store)
        say(f"made a store at {store}")
        return made


def _tell(report: ImportReport) -> None:
    """Say how it went: volumes, time, and why files were refused."""
    for file in report.refused[:SHOWN_REFUSALS]:
        say(f"refused {file.path}: {file.reason}")
    if len(report.refused) > SHOWN_REFUSALS:
        say(f"and {len(report.refused) - SHOWN_REFUSALS} more; --json lists them all")
    if report.n_unlisted:
        say(f"{report.n_unlisted} files that were left out are counted, but not listed")
    size = f"{report.value_bytes / 1e6:,.1f} MB"
    counts = ", ".join(f"{report.count(of)} {of}" for of in ("imported", "present", "refused"))
    if report.is_dry:
        say(
            f"would be: {counts}; {report.readings} readings of {size} as float16, about "
            f"{report.seconds:,.0f} s; values are not looked at: NaN is found by the import"
        )
    else:
        say(f"{counts}; {report.readings} readings of {size} in {report.seconds:,.1f} s")


def _check(store: Store, experiment: Path, format: Format) -> None:
    from tistore.exchange.trait_interp_check.check import check_projections, summarise_checks

    rows = check_projections(store, experiment)
    is_summary = format is Format.TABLE
    print_rows(summarise_checks(rows) if is_summary else [row.to_row() for row in rows], format)
    differing = [row for row in rows if row.verdict == "differs"]
    for row in differing[:SHOWN_REFUSALS]:
        say(f"{row.path}: {row.reason}")
    if len(differing) > SHOWN_REFUSALS:
        say(f"and {len(differing) - SHOWN_REFUSALS} more; --json lists them all")
    verdicts = Counter(row.verdict for row in rows)
    say(
        f"of {len(rows)} projection files, {verdicts['agreed']} agree with the store, "
        f"{verdicts['differs']} differ, {verdicts['unchecked']} could not be checked"
    )
    left = sum(row.n_projections - row.n_checked for row in rows if row.verdict != "unchecked")
    if left:
        say(f"{left} projections in these files were not compared; --json tells why")
    if verdicts["differs"]:
        raise DatasetError(
            f"{verdicts['differs']} projection files differ from what the store computes",
            mend="the reasons are above, file by file",
        )
