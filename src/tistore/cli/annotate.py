"""Commands about labelled spans: `annotate import`, `export`, `ls`, `average`, `detect`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import AnyPairing, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, print_rows, say
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.audit.annotations import file as spans_file

app = typer.Typer(
    help="Labelled spans: in, out, and what scores do around them.", no_args_is_help=True
)


class FileFormat(StrEnum):
    """How a file of spans is written."""

    AUTO = "auto"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class Rule(StrEnum):
    """When a response counts as detected."""

    THRESHOLD = "threshold"
    HALF = "half"


FileFormatOption = Annotated[
    FileFormat, typer.Option("--format", help="How the file is written; auto goes by its name.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", "-l", help="Only this label; all.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Only by this source; all.")]
Organisms = Annotated[
    list[str] | None, typer.Option("--organism", help="Only responses by this author; all.")
]
Label = Annotated[str, typer.Option("--label", "-l", help="Label of the spans.")]
Traits = Annotated[list[str], typer.Option("--trait", "-t", help="Vector reference.")]
Baseline = Annotated[str, typer.Option(help="Whose replay to take the difference from.")]
Where = Annotated[
    str | None, typer.Option(help="SQL condition on responses: which were looked through.")
]


@app.command("import")
def import_(
    store: StorePath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON, JSONL or CSV of spans.")],
    format: FileFormatOption = FileFormat.AUTO,
    source: Annotated[
        str | None, typer.Option(help="Who labelled rows that name nobody; the file's name.")
    ] = None,
    organism: Annotated[
        str | None, typer.Option(help="Author of the responses of rows that name none.")
    ] = None,
    prompt_set: Annotated[
        str | None, typer.Option(help="Prompt set of rows that name none.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Sample of rows that name none; 0.")
    ] = None,
    skip_misfits: Annotated[
        bool, typer.Option("--skip-misfits", help="Leave out spans that fit no stored token.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring labelled spans of stored responses in; the same file again adds nothing."""
    from tistore.audit.annotations.importing import import_annotations

    report = import_annotations(
        tistore.open(store),
        file,
        format=_choose(format),
        source=source,
        organism=organism,
        prompt_set=prompt_set,
        sample=sample,
        skip_misfits=skip_misfits,
    )
    for key, count in report.unread_keys.items():
        say(f"{count} rows have a column {key!r}, which was not read")
    for misfit in report.left_out:
        say(f"left out: {misfit}")
    print_record(asdict(report), choose(Format.TABLE, as_json))


@app.command()
def export(
    store: StorePath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to; nothing may be there.")
    ],
    format: FileFormatOption = FileFormat.AUTO,
    label: Labels = None,
    source: Sources = None,
    organism: Organisms = None,
) -> None:
    """Write labelled spans, with their words, to a file that `annotate import` reads."""
    from tistore.audit.annotations.export import list_annotations, write_annotations

    rows = list_annotations(
        tistore.open(store), labels=label or (), sources=source or (), organisms=organism or ()
    )
    write_annotations(rows, output, _choose(format))
    say(f"{len(rows)} spans written to {output}")


@app.command()
def ls(
    store: StorePath,
    label: Labels = None,
    source: Sources = None,
    organism: Organisms = None,
    spans: Annotated[bool, typer.Option("--spans", help="Every span, with its words.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Count labelled spans by label and source, or list them."""
    from tistore.audit.annotations.export import list_annotations, summarise_annotations

    rows = list_annotations(
        tistore.open(store), labels=label or (), sources=source or (), organisms=organism or ()
    )
    print_rows(rows if spans else summarise_annotations(rows), choose(format, as_json))


@app.command()
def average(
    store: StorePath,
    trait: Traits,
    label: Label,
    before: Annotated[int, typer.Option(min=0, help="Tokens before the first labelled one.")] = 20,
    after: Annotated[int, typer.Option(min=1, help="Tokens from the first labelled one on.")] = 20,
    equal_support: Annotated[
        bool, typer.Option("--equal-support", help="Only spans that have a score at every offset.")
    ] = False,
    organism: Organisms = None,
    baseline: Baseline = BASE_READER,
    where: Where = None,
    any_pairing: AnyPairing = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Average scores around the first token of labelled spans, prompt by prompt."""
    from tistore.audit.annotations.average import average_at_onset
    from tistore.audit.annotations.tracks import LabelQuestion
    from tistore.audit.log import log_analysis

    opened = tistore.open(store)
    question = LabelQuestion(
        label, tuple(trait), _given(organism), None, baseline, where, any_pairing
    )
    found = average_at_onset(
        opened, question, before=before, after=after, equal_support=equal_support
    )
    print_rows(found.rows, choose(format, as_json))
    asked = asdict(question) | {"before": before, "after": after, "equal_support": equal_support}
    not_logged = log_analysis(
        opened,
        "annotate average",
        asked,
        n_cells=found.n_cells,
        n_rows=len(found.rows),
        vectors=found.vectors,
        n_organisms=found.n_organisms,
        n_traits=len(trait),
    )
    _tell((*found.notes, *not_logged))


@app.command()
def detect(
    store: StorePath,
    trait: Traits,
    label: Label,
    rule: Annotated[
        Rule, typer.Option(help="Mean so far above a threshold, or above half of the final one.")
    ] = Rule.THRESHOLD,
    difference: Annotated[
        bool, typer.Option("--difference", help="Look at the author's score minus the baseline's.")
    ] = False,
    false_alarms: Annotated[
        float, typer.Option(help="Share of the controls that may exceed the threshold.")
    ] = 0.05,
    warm_up: Annotated[int, typer.Option(min=1, help="Tokens before nothing is detected.")] = 5,
    controls: Annotated[
        list[str] | None,
        typer.Option(help="Authors of the responses to compare with; the labelled ones'."),
    ] = None,
    responses: Annotated[
        bool, typer.Option("--responses", help="A row for each labelled response.")
    ] = False,
    organism: Organisms = None,
    baseline: Baseline = BASE_READER,
    where: Where = None,
    any_pairing: AnyPairing = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Tell how early scores give labelled spans away, beside responses without the label."""
    from tistore.audit.annotations.detection import DetectionRule, detect_early
    from tistore.audit.annotations.tracks import LabelQuestion
    from tistore.audit.log import log_analysis

    opened = tistore.open(store)
    question = LabelQuestion(
        label, tuple(trait), _given(organism), _given(controls), baseline, where, any_pairing
    )
    chosen = DetectionRule(rule.value, difference, false_alarms, warm_up)
    found = detect_early(opened, question, chosen)
    rows = found.responses if responses else found.rows
    print_rows(rows, choose(format, as_json))
    not_logged = log_analysis(
        opened,
        "annotate detect",
        asdict(question) | {**asdict(chosen), "name": None, "rule": chosen.name},
        n_cells=found.n_cells,
        n_rows=len(rows),
        vectors=found.vectors,
        n_organisms=found.n_organisms,
        n_traits=len(trait),
    )
    _tell((*found.notes, *not_logged))


def _choose(format: FileFormat) -> spans_file.FileFormat | None:
    known: dict[FileFormat, spans_file.FileFormat] = {
        FileFormat.JSON: "json", FileFormat.JSONL: "jsonl", FileFormat.CSV: "csv",
    }  # fmt: skip
    return known.get(format)


def _given(names: list[str] | None) -> tuple[str, ...] | None:
    return tuple(names) if names else None


def _tell(notes: Iterable[Any]) -> None:
    for note in notes:
        say(f"note: {note}")
