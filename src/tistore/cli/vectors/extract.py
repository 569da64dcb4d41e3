"""The command that fits vectors from scenarios: `vectors extract`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows
from tistore.cli.vectors.judge_options import (
    KEY_VARIABLE,
    JudgeConcurrency,
    JudgeKey,
    JudgeModel,
    JudgeTimeout,
    JudgeUrl,
    Minimum,
    Paired,
    Threshold,
    Words,
    read_rule,
    read_vetting,
)
from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.schemas.vector import Vector


_SHOWN = (
    "reference", "component", "position", "n_positive", "n_negative", "separation", "g_low",
    "g_high", "auroc", "chosen",
)  # fmt: skip
"""What people are shown; files get all there is."""


class Manner(StrEnum):
    """How scenarios without a response go on."""

    AUTO = "auto"
    COMPLETION = "completion"
    CHAT = "chat"
    NONE = "none"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(extract)


def extract(
    store: StorePath,
    traits: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIT...", help="Trait folders, folders of them, or traits that ship."
        ),
    ],
    config: Annotated[Path, typer.Option(help="TOML of the run: its models, layers and rows.")],
    position: Annotated[
        list[str] | None,
        typer.Option(
            help="Tokens to average over; may be given several times.",
            show_default="response[:]",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="mean_diff, probe, gradient, lda, rfm, random; or probe-on-clean.")
    ] = "mean_diff,probe,lda",
    layers: Annotated[
        str | None, typer.Option(help="'all', '5-20', '30%-60%'.", show_default="the TOML's")
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(COMPONENTS)}; may be given several times.", show_default="residual"
        ),
    ] = None,
    generate: Annotated[
        Manner, typer.Option(help="How scenarios without a response go on.")
    ] = Manner.AUTO,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of those.", show_default="16, or what a position asks for"),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(help="Whose vectors: a base or an organism.", show_default="the clean base"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what methods and evaluation draw.")] = 0,
    refit: Annotated[bool, typer.Option("--refit", help="Fit what is up to date, too.")] = False,
    no_choose: Annotated[
        bool, typer.Option("--no-choose", help="Leave alone what bare trait names mean.")
    ] = False,
    no_vetting: Annotated[
        bool, typer.Option("--no-vetting", help="Fit on all, whatever a judge has said.")
    ] = False,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key: JudgeKey = KEY_VARIABLE,
    judge_timeout: JudgeTimeout = 60.0,
    judge_concurrency: JudgeConcurrency = 8,
    threshold: Threshold = "60/40",
    paired: Paired = False,
    minimum: Minimum = 10,
    words: Words = 16,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """
    Take traits from scenarios to vectors: continue, read, vet, fit, evaluate, choose.

    What is stored already is not done again.
    """
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.running.progress import show_progress
    from tistore.capture.scenarios.extraction import Extraction, extract_traits

    vetting = read_vetting(
        judge,
        judge_model,
        key_variable=judge_key,
        timeout_seconds=judge_timeout,
        concurrency=judge_concurrency,
        threshold=threshold,
        paired=paired,
        minimum=minimum,
        words=words,
    )
    wanted = Extraction(
        positions=tuple(position or ["response[:]"]),
        methods=tuple(name.strip() for name in methods.split(",")),
        layers=layers,
        components=tuple(component or ()),  # type: ignore[arg-type]  # checked by the record
        reader=reader,
        manner=generate.value,
        max_new_tokens=max_new_tokens,
        seed=seed,
        refit=refit,
        choose=not no_choose,
        vetting=None if no_vetting else vetting,
        rule=None if no_vetting else read_rule(threshold, paired, minimum),
    )
    opened = tistore.open(store)
    done = extract_traits(
        opened, read_config(config), _find_folders(traits), wanted, progress=show_progress()
    )
    rows = [_describe(opened, vector) for vector in done.vectors]
    chosen = choose(format, as_json)
    if chosen in (Format.TABLE, Format.MD):
        rows = [{name: row[name] for name in _SHOWN} for row in rows]
    print_rows(rows, chosen)
    done.raise_if_failed()


def _find_folders(traits: list[str]) -> list[Path]:
    from tistore.datasets.scenarios import list_traits
    from tistore.datasets.shipped import resolve_trait

    resolved = [resolve_trait(trait) for trait in traits]
    folders = [found for folder in resolved for found in list_traits(folder) or [folder]]
    return list({folder.resolve(): folder for folder in folders}.values())


def _describe(store: Store, vector: Vector) -> dict[str, Any]:
    from tistore.vectors.choosing.quality import find_quality

    quality = find_quality(store, vector)
    return {
        "reference": vector.reference,
        "component": vector.component,
        "position": vector.position,
        "model": vector.model,
        "n_positive": vector.n_positive,
        "n_negative": vector.n_negative,
        "separation": vector.separation,
        "g_low": quality.g_low,
        "g_high": quality.g_high,
        "auroc": quality.auroc,
        "chosen": vector.chosen is not None,
        "reason": vector.chosen,
        "fitted_on": vector.fitted_on,
    }
