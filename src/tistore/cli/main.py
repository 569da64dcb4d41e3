"""The `tistore` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tistore.cli import (
    annotate,
    ask,
    cache,
    calibrate,
    capture,
    cluster,
    compact,
    compare,
    correlate,
    datasets,
    decompose,
    demo,
    diff,
    doctor,
    exports,
    fingerprint,
    gc,
    imports,
    layers,
    lens,
    log,
    noise,
    rank,
    repair,
    report,
    rm,
    status,
    store,
    top,
    vectors,
)
from tistore.cli.output import say
from tistore.errors import TistoreError
from tistore.version import __version__

app = typer.Typer(
    name="tistore",
    help="Capture activations once; ask with SQL as often as you like.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # laying help out with rich takes a third of the time help may take
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    demo,
    capture,
    noise,
    status,
    store,
    doctor,
    ask,
    top,
    diff,
    compare,
    layers,
    decompose,
    fingerprint,
    cluster,
    correlate,
    lens,
    cache,
    calibrate,
    rank,
    report,
    log,
    gc,
    compact,
    rm,
    repair,
):
    module.register(app)
app.add_typer(datasets.app, name="datasets")
app.add_typer(vectors.app, name="vectors")
app.add_typer(annotate.app, name="annotate")
app.add_typer(imports.app, name="import")
app.add_typer(exports.app, name="export")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tistore {__version__}")
        raise typer.Exit


@app.callback()
def tistore(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Capture activations once; ask with SQL as often as you like."""


def main() -> None:
    """Run the command line; every expected error ends here, with its own exit code."""
    try:
        app()
    except TistoreError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe has gone, as `head` does; the interpreter must not try to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
