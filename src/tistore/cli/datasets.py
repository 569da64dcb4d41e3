"""Commands about prompt sets and traits, before any store: `tistore datasets …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tistore.cli.options import FormatOption, JsonOption, RowCount, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from tistore.datasets.inventory import Dataset

app = typer.Typer(help="List, show and check prompt sets and traits.", no_args_is_help=True)

SHOWN_ROWS = 20


@app.command()
def ls(
    path: Annotated[
        str | None,
        typer.Argument(help="A folder, or a name that ships.", show_default="all that ships"),
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the traits and prompt sets that come with tistore, or that lie below a folder."""
    from tistore.datasets.inventory import count_dataset, find_datasets, list_shipped

    rows, unreadable = [], []
    for dataset in list_shipped() if path is None else find_datasets(path):
        try:
            rows.append(count_dataset(dataset))
        except DatasetError as error:
            unreadable.append(error.message)
    print_rows(rows, choose(format, as_json))
    for message in unreadable:
        say(f"left out: {message}")
    if unreadable:
        raise DatasetError(
            f"{len(unreadable)} data sets cannot be read", mend="`tistore datasets check` says why"
        )


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that ships, or a path.")],
    rows: RowCount = SHOWN_ROWS,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a prompt set's prompts, or a trait's pairs side by side."""
    from tistore.datasets.inventory import find_datasets

    found = find_datasets(name)
    if len(found) > 1:
        raise ConfigError(
            f"{name} holds {len(found)} data sets",
            mend=f"name one of them: {', '.join(one.name for one in found[:12])}",
        )
    entries = _list_pairs(found[0]) if found[0].kind == "trait" else _list_prompts(found[0])
    print_rows(entries[:rows], choose(format, as_json))
    if rows < len(entries):
        say(f"{rows} of {len(entries)}; -n {len(entries)} shows all")


@app.command()
def check(
    names: Annotated[
        list[str],
        typer.Argument(metavar="PATH|NAME...", help="Files, folders, or names that ship."),
    ],
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Read all of some data sets, and list what is wrong; exit 1 if anything surely is."""
    from tistore.datasets.check import check_dataset
    from tistore.datasets.inventory import find_datasets

    found = {one.path.resolve(): one for name in names for one in find_datasets(name)}
    problems = [problem for one in found.values() for problem in check_dataset(one)]
    print_rows([asdict(problem) for problem in problems], choose(format, as_json))
    errors = sum(problem.level == "error" for problem in problems)
    say(f"{len(found)} data sets: {errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise DatasetError(f"{errors} errors in what was checked", mend="mend what is listed above")


def _list_pairs(dataset: Dataset) -> list[dict[str, Any]]:
    from itertools import zip_longest

    from tistore.datasets.scenarios import read_trait

    trait = read_trait(dataset.path)
    say(f"{dataset.name}: {trait.definition or 'without a definition'}")
    pairs = zip_longest(trait.positive, trait.negative)
    return [
        {
            "pair": number,
            "positive": positive and positive.text,
            "negative": negative and negative.text,
        }
        for number, (positive, negative) in enumerate(pairs, start=1)
    ]


def _list_prompts(dataset: Dataset) -> list[dict[str, Any]]:
    from collections import Counter

    from tistore.datasets.prompt_sets import read_prompt_set

    read = read_prompt_set(dataset.path, dataset.name)
    say(f"{read.name}: {read.description or 'without a description'}")
    notes = Counter(prompt.note for prompt in read.prompts if prompt.note)
    if notes:
        say("notes: " + ", ".join(f"{note} {count}" for note, count in notes.items()))
    return [
        {
            "prompt_id": prompt.prompt_id,
            "note": prompt.note,
            "tags": list(prompt.tags),
            "turns": len(prompt.conversation),
            "text": prompt.text,
            "system_prompt": prompt.system_prompt,
        }
        for prompt in read.prompts
    ]
