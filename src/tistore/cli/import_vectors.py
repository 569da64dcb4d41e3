"""`tistore import vectors`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import DatasetError
from tistore.schemas.site import COMPONENTS


class FirstRow(StrEnum):
    """What layer 0 of a file is."""

    EMBEDDING = "embedding"
    BLOCK_0 = "block-0"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="vectors")(import_files)


def import_files(
    store: StorePath,
    source: Annotated[
        Path,
        typer.Argument(
            help="A .pt, .safetensors, .npy or GGUF file, or a folder of them.", show_default=False
        ),
    ],
    trait: Annotated[
        str | None,
        typer.Option(help="category/name; {name} in it is what the file calls each vector."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Block of a vector that names none; or take only it.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="How they were fitted.")] = None,
    component: Annotated[str | None, typer.Option(help=", ".join(COMPONENTS))] = None,
    position: Annotated[str | None, typer.Option(help="Tokens they were fitted on.")] = None,
    model: Annotated[str | None, typer.Option(help="Model they were fitted on.")] = None,
    first_row: Annotated[
        FirstRow | None,
        typer.Option(help="What layer 0 of the file is: hidden_states[0], or block 0's output."),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Blocks of the model: tells what layer 0 is.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Import vectors of other tools: stacks, dicts of layers, control vectors."""
    from tistore.datasets.foreign.vectors import Numbering
    from tistore.exchange.vectors import Told, import_vectors

    report = import_vectors(
        tistore.open(store),
        source,
        Told(trait, layer, method, component, position, model),
        Numbering(first_row.value if first_row else None, blocks),
        is_dry_run=dry_run,
    )
    print_rows([seen.to_row() for seen in report.outcomes], choose(format, as_json))
    would = "would be " if dry_run else ""
    say(
        f"{would}imported {report.count('imported')}, present {report.count('present')}, "
        f"refused {report.count('refused')}"
    )
    if report.count("refused") == len(report.outcomes):
        raise DatasetError(f"nothing of {source} can be imported; the reasons are above")
