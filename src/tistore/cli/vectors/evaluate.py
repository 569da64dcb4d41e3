"""Commands that measure vectors: `vectors eval`, `vectors specificity`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say

if TYPE_CHECKING:
    from tistore.schemas.evaluation import VectorEvaluation

References = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VECTOR...",
        help="Vector references; a trait means its chosen vector.",
        show_default="every trait",
    ),
]
Folds = Annotated[int, typer.Option(min=2, help="Parts the scenarios are dealt into.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Permutations = Annotated[
    int, typer.Option(min=0, help="Fits with permuted labels, to compare with.")
]
Random = Annotated[int, typer.Option(min=0, help="Random directions to compare with.")]

_SHOWN = (
    "reference", "tested_on", "n_groups", "auroc", "balanced_accuracy", "g", "g_low", "g_high",
    "pairs_ordered", "permutation_p", "permutation_auroc_95", "random_p", "random_auroc_95",
    "beats_nulls", "reliability", "massive_energy",
)  # fmt: skip
"""What people are shown; files get all there is."""


class Figure(StrEnum):
    """What a matrix can show."""

    G = "g"
    AUROC = "auroc"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("eval")(evaluate)
    app.command()(specificity)


def evaluate(
    store: StorePath,
    vectors: References = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every vector of the traits, not only the chosen.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(metavar="TRAIT", help="Score the vectors as they are on its scenarios."),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(
            help="Whose readings of them; with --on.", show_default="the vector's own model"
        ),
    ] = None,
    permutations: Permutations = 200,
    random: Random = 200,
    folds: Folds = 5,
    seed: Seed = 0,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Measure vectors on scenarios they were not fitted on, against nulls."""
    from tistore.vectors.evaluation.evaluate import FULL
    from tistore.vectors.evaluation.stored import evaluate_vectors

    found = evaluate_vectors(
        tistore.open(store),
        vectors or None,
        every=every,
        on=on,
        reader=reader,
        folds=folds,
        seed=seed,
        effort=FULL.with_nulls(permutations, random),
        tell=lambda message: say(f"evaluating {message}"),
    )
    _print(found.evaluations, choose(format, as_json))
    for note in found.notes:
        say(note)


def specificity(
    store: StorePath,
    vectors: References = None,
    measure: Annotated[Figure, typer.Option(help="What the table shows.")] = Figure.G,
    folds: Folds = 5,
    seed: Seed = 0,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Score every trait's scenarios along every trait's vector: a row each, a column each."""
    from tistore.vectors.evaluation.specificity import lay_out_matrix, measure_specificity

    found = measure_specificity(
        tistore.open(store),
        vectors or None,
        folds=folds,
        seed=seed,
        tell=lambda message: say(f"scoring {message}"),
    )
    shape = choose(format, as_json)
    if shape in (Format.TABLE, Format.MD):
        print_rows(lay_out_matrix(found.evaluations, measure.value), shape)
    else:
        _print(found.evaluations, shape)
    for note in found.notes:
        say(note)


def _print(evaluations: tuple[VectorEvaluation, ...], format: Format) -> None:
    rows = [_describe(one) for one in evaluations]
    if format in (Format.TABLE, Format.MD):
        rows = [{name: row[name] for name in _SHOWN} for row in rows]
    print_rows(rows, format)


def _describe(one: VectorEvaluation) -> dict[str, Any]:
    row = {"reference": one.reference, **one.to_row()}
    return row | {"beats_nulls": one.evaluation.beats_nulls}
