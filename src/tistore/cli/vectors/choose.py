"""The command that chooses what a bare trait name means: `vectors best`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.cli.vectors.filters import (
    ComponentFilter,
    MethodFilter,
    ModelFilter,
    PositionFilter,
    make_filters,
)
from tistore.errors import ConfigError

if TYPE_CHECKING:
    from tistore.schemas.choice import Choice


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(best)


def best(
    store: StorePath,
    traits: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TRAIT]...", help="Traits; all.", show_default=False),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="auto, steering, nested, separation or incumbent.")
    ] = "auto",
    pick: Annotated[
        list[str] | None,
        typer.Option(metavar="REFERENCE", help="Choose this vector; may be given again."),
    ] = None,
    coherence: Annotated[
        float, typer.Option(min=0, max=100, help="Least coherence of a steering run.")
    ] = 77.0,
    offset: Annotated[
        int, typer.Option(help="With --rule incumbent: layers on from the best.")
    ] = 0,
    folds: Annotated[int, typer.Option(min=2, help="With --rule nested: parts held out.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    component: ComponentFilter = None,
    position: PositionFilter = None,
    method: MethodFilter = None,
    model: ModelFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Record nothing.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Choose the vector that each bare trait name means, and record why."""
    from tistore.vectors.choosing import choose as choosing
    from tistore.vectors.choosing.pick import Settings

    opened = tistore.open(store)
    filters = make_filters(component, position, method, model)
    if pick and traits:
        raise ConfigError("--pick names vectors of their own traits", mend="leave the traits out")
    if pick:
        outcome = choosing.choose_named(opened, pick, filters=filters, dry_run=dry_run)
    else:
        settings = Settings(coherence=coherence, offset=offset, folds=folds, seed=seed)
        outcome = choosing.choose(
            opened, traits or None, rule=rule, filters=filters, settings=settings,
            keep_named=False, dry_run=dry_run,
        )  # fmt: skip
    rows = [_describe(choice, choice in outcome.new) for choice in outcome.choices]
    if rows:
        print_rows(rows, choose(format, as_json))
    if dry_run:
        say("nothing was recorded")
    outcome.raise_if_refused()


def _describe(choice: Choice, is_new: bool) -> dict[str, Any]:
    return {
        "trait": choice.trait,
        "model": choice.model,
        "vector": choice.reference,
        "component": choice.component,
        "position": choice.position,
        "rule": choice.rule,
        "is_new": is_new,
        "n_candidates": choice.n_candidates,
        "selected_by": choice.selected_by,
        "selection_score": choice.selection_score,
        "auroc": choice.auroc,
        "g": choice.g,
        "g_low": choice.g_low,
        "g_high": choice.g_high,
        "vector_hash": choice.vector_hash,
        "reason": choice.reason,
    }
