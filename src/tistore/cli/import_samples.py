"""Commands that bring in activations: `tistore import safetensors`, `import npy`, …."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import DatasetError, StoreNotFoundError

if TYPE_CHECKING:
    from tistore.exchange.samples.importing import SampleImport
    from tistore.exchange.samples.places import Supplied

_TELL_SECONDS = 5.0


class RowConvention(StrEnum):
    """What row t of the activations is."""

    AT_TOKEN = "at-token"
    PREDICTING = "predicting"


Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="A file, or a folder of them.")]
Organism = Annotated[str | None, typer.Option(help="Author of the responses.")]
Reader = Annotated[
    str | None,
    typer.Option(help="Model whose activations these are.", show_default="the organism"),
]
PromptSet = Annotated[str | None, typer.Option(help="Set of the prompts.")]
Layers = Annotated[str | None, typer.Option(help='Blocks of the layer axis: "20,26", "5-20".')]
ComponentName = Annotated[
    str | None, typer.Option("--component", help="What was captured.", show_default="residual")
]
PromptLength = Annotated[
    int | None, typer.Option(min=0, help="How many of the token ids are the prompt's.")
]
FirstPosition = Annotated[
    int | None, typer.Option(min=0, help="Token of row 0, where the last tokens have no row.")
]
Convention = Annotated[
    RowConvention,
    typer.Option("--row-convention", help="Row t is the state at token t, or predicts it."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")]


@dataclass(frozen=True, slots=True)
class _Format:
    """A format: its name, what it is, and which function reads it."""

    name: str
    help: str
    module: str
    function: str

    def read(self, source: Path) -> Any:
        # NumPy and pyarrow are loaded when something is imported, not for every --help.
        module = import_module(f"tistore.datasets.foreign.{self.module}")
        return getattr(module, self.function)(source)


_FORMATS = (
    _Format(
        "safetensors",
        "Import one .safetensors a sample: hidden_states and token_ids.",
        "safetensors_samples",
        "read_safetensors_samples",
    ),
    _Format(
        "npy",
        "Import one .npy or .npz a sample, with what lies beside it.",
        "numpy_samples",
        "read_numpy_samples",
    ),
    _Format(
        "memmap",
        "Import flat files of rows that a JSON describes, or an ActivationCache.",
        "memmap_shards",
        "read_memmap_shards",
    ),
    _Format(
        "hf-dataset",
        "Import a Hugging Face data set of activations: Arrow or Parquet.",
        "arrow_dataset",
        "read_arrow_dataset",
    ),
)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for each in _FORMATS:
        app.command(name=each.name, help=f"{each.help} Options say what the files do not.")(
            _make_command(each)
        )


def _make_command(each: _Format) -> Callable[..., None]:
    def command(
        store: StorePath,
        source: Source,
        organism: Organism = None,
        reader: Reader = None,
        prompt_set: PromptSet = None,
        layers: Layers = None,
        component: ComponentName = None,
        prompt_length: PromptLength = None,
        first_position: FirstPosition = None,
        row_convention: Convention = RowConvention.AT_TOKEN,
        dry_run: DryRun = False,
        format: FormatOption = Format.TABLE,
        as_json: JsonOption = False,
    ) -> None:
        from tistore.datasets.foreign.identity import SampleIdentity
        from tistore.exchange.samples.places import Supplied, parse_layers

        identity = SampleIdentity(
            organism=organism,
            reader=reader,
            prompt_set=prompt_set,
            layers=parse_layers(layers) if layers is not None else None,
            component=component,
            prompt_length=prompt_length,
            first_position=first_position,
        )
        supplied = Supplied(identity, row_convention.value)
        report = _import(each, store, source, supplied, dry_run)
        print_rows([seen.to_row() for seen in report.outcomes], choose(format, as_json))
        _sum_up(report, source, dry_run)

    return command


def _import(
    each: _Format, store: str, source: Path, supplied: Supplied, is_dry_run: bool
) -> SampleImport:
    from tistore.exchange.samples.importing import import_samples

    try:
        opened = tistore.open(store)
    except StoreNotFoundError:
        # A source of which nothing can be imported leaves no store behind.
        report = import_samples(
            None, each.read(source), supplied, source_format=each.name, is_dry_run=True
        )
        if is_dry_run or not report.count("imported"):
            return report
        opened = tistore.create(store)
        say(f"made a store at {store}")
    return import_samples(
        opened,
        each.read(source),
        supplied,
        source_format=each.name,
        is_dry_run=is_dry_run,
        tell=_make_teller(),
    )


def _make_teller() -> Callable[[SampleImport], None]:
    """Tell how far an import is, every few seconds."""
    told_at = time.monotonic()

    def tell(report: SampleImport) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _TELL_SECONDS:
            say(f"{len(report.outcomes)} samples seen")
            told_at = time.monotonic()

    return tell


def _sum_up(report: SampleImport, source: Path, is_dry_run: bool) -> None:
    would = "would be " if is_dry_run else ""
    say(
        f"{would}imported {report.count('imported')} ({report.imported_bytes / 1e6:.1f} MB), "
        f"present {report.count('present')}, refused {report.count('refused')}"
    )
    if report.count("refused") == len(report.outcomes):
        raise DatasetError(f"nothing of {source} can be imported; the reasons are above")
