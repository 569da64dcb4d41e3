"""The command that looks at everything around a run: `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tistore.cli.options import FormatOption, JsonOption, choose
from tistore.cli.output import Format, print_rows
from tistore.errors import StoreError


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(doctor)


def doctor(
    store: Annotated[
        str | None, typer.Argument(metavar="[STORE]", help="Folder of a store to look at, too.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine, the installation and, when one is named, a store."""
    from tistore.capture.environment import check_environment
    from tistore.store.opened import locate
    from tistore.store.verifying.health import check_store

    checks = check_environment() + (check_store(locate(store)) if store is not None else [])
    print_rows([asdict(check) for check in checks], choose(format, as_json))
    problems = [check.check for check in checks if check.state == "problem"]
    if problems:
        raise StoreError(f"{len(problems)} problems: {', '.join(problems)}")
