"""The noise floor: `noise`."""

from __future__ import annotations

from typing import Annotated

import typer

import tistore
from tistore.cli.options import ConfigPath, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(noise)


def noise(
    store: StorePath,
    config: ConfigPath,
    responses: Annotated[int, typer.Option(min=1, help="Responses to read again.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the sample and its batches.")] = 0,
    trait: Annotated[
        list[str] | None,
        typer.Option(help="Vector reference; may be repeated.", show_default="all traits"),
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Read a sample of stored readings again, in other batches, and print what that changes."""
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.proof.noise import read_again
    from tistore.capture.running.progress import show_progress
    from tistore.query.noise import noise_floor

    run = read_config(config)
    opened = tistore.open(store)
    report = read_again(opened, run, responses=responses, seed=seed, progress=show_progress())
    say(
        f"{report.responses} responses, {report.readings} readings read again, "
        f"{report.skipped} read again before"
    )
    loadable = (name for name in run.known_names if run.weights_of(name) is not None)
    floor = noise_floor(opened, {name: run.base_of(name) for name in loadable}, trait)
    print_rows(floor.rows, choose(format, as_json))
    for note in floor.notes:
        say(note)
    report.raise_if_exceeded()
