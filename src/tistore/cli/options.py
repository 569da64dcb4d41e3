"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tistore.cli.output import Format
from tistore.errors import ConfigError

StorePath = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of the run.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How rows are printed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
RowCount = Annotated[int, typer.Option("-n", "--rows", min=1, help="Rows to print.")]
AnyPairing = Annotated[
    bool,
    typer.Option(
        "--any-pairing", help="Keep pairs that differ in precision, template or tokenizer."
    ),
]
AtCommit = Annotated[
    int | None, typer.Option("--at", help="Read the store as of this commit number.")
]

MultiplyAdds = Annotated[
    float | None,
    typer.Option("--max-multiply-adds", metavar="N", help="Let the lens take so many: 1e14."),
]


def check_multiply_adds(given: float) -> float:
    """
    Check a `--max-multiply-adds`.

    Raises:
        ConfigError: It is no number above 0.
    """
    if not given > 0:
        raise ConfigError(f"--max-multiply-adds {given} is no budget", mend="write a number: 1e14")
    return given


def choose(format: Format, as_json: bool) -> Format:
    """Resolve `--format` and its short form."""
    return Format.JSON if as_json else format
