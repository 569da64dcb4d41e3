"""The command that has scenarios judged: `vectors vet`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
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

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.vectors.vetting.kept import KeepRule, Vetted
    from tistore.vectors.vetting.options import VettingOptions
    from tistore.vectors.vetting.vet import OnJudged, Vetting

_TELL_EVERY = 50


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(vet)


def vet(
    store: StorePath,
    traits: Annotated[
        list[str], typer.Argument(metavar="TRAIT...", help="Trait folders, or traits that ship.")
    ],
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key: JudgeKey = KEY_VARIABLE,
    judge_timeout: JudgeTimeout = 60.0,
    judge_concurrency: JudgeConcurrency = 8,
    threshold: Threshold = "60/40",
    paired: Paired = False,
    minimum: Minimum = 10,
    words: Words = 16,
    reader: Annotated[str, typer.Option(help="Who read the scenarios.")] = "instruct",
    author: Annotated[
        str | None, typer.Option(help="Who wrote the responses: scenarios, or a model.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """
    Have a judge score scenarios that have been read, and say which would stay.

    Without --judge, what judges have said before is shown; nobody is asked. A table has a row for
    each trait, every other format one for each scenario.
    """
    options = read_vetting(
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
    rule = read_rule(threshold, paired, minimum)
    opened = tistore.open(store)
    found: list[Vetted] = []
    try:
        for vetted in (
            _judge(opened, traits, options, reader, author)
            if options
            else _look_up(opened, traits, rule, reader, author, judge_model)
        ):
            found.append(vetted)
    finally:
        # A judge that goes away takes nothing of the traits before with it.
        _print(found, choose(format, as_json))
    for vetted in found:
        vetted.require_enough()


def _judge(
    store: Store,
    traits: list[str],
    options: VettingOptions,
    reader: str,
    author: str | None,
) -> Iterator[Vetted]:
    from tistore.vectors.vetting.options import vet_trait

    for folder in _find_folders(traits):
        done, vetted = vet_trait(
            store, folder, options, reader=reader, author=author, on_judged=_tell(folder.name)
        )
        _sum_up(done)
        yield vetted


def _look_up(
    store: Store,
    traits: list[str],
    rule: KeepRule,
    reader: str,
    author: str | None,
    judge: str | None,
) -> Iterator[Vetted]:
    from tistore.vectors.vetting.kept import apply_rule

    for trait in _name_traits(store, traits):
        yield apply_rule(
            store.snapshot, trait, rule=rule, reader=reader, author=author, judge=judge
        )


def _print(found: list[Vetted], format: Format) -> None:
    is_for_people = format in (Format.TABLE, Format.MD)
    if found or not is_for_people:
        print_rows([_describe(one) for one in found] if is_for_people else _list(found), format)


def _find_folders(traits: list[str]) -> list[Path]:
    from tistore.datasets.scenarios import list_traits
    from tistore.datasets.shipped import resolve_trait

    resolved = [resolve_trait(trait) for trait in traits]
    return [found for folder in resolved for found in list_traits(folder) or [folder]]


def _name_traits(store: Store, traits: list[str]) -> list[str]:
    """Name traits by their folders, or as the store does."""
    from tistore.vectors.scenario_readings import find_stored_trait, list_stored_traits

    stored = list_stored_traits(store.snapshot)
    names: list[str] = []
    for trait in traits:
        if (name := find_stored_trait(store.snapshot, trait)) in stored:
            names.append(name)
        else:
            resolved = [folder.resolve() for folder in _find_folders([trait])]
            names += [f"{folder.parent.name}/{folder.name}" for folder in resolved]
    return names


def _tell(trait: str) -> OnJudged:
    def tell(done: int, total: int) -> None:
        if done == total or done % _TELL_EVERY == 0:
            say(f"{trait}: {done} of {total} scenarios")

    return tell


def _sum_up(done: Vetting) -> None:
    words = [f"{done.trait}: {done.judge} at {done.endpoint} judged {done.n_judged} scenarios"]
    if done.n_known:
        words.append(f"{done.n_known} were judged before")
    if done.n_unscored:
        words.append(f"{done.n_unscored} answers held no score")
    if done.n_refused:
        words.append(f"{done.n_refused} it would not judge")
    say(", ".join(words))


def _describe(vetted: Vetted) -> dict[str, Any]:
    positive, negative = vetted.count("positive"), vetted.count("negative")
    both = positive + negative
    unjudged = both["not judged"]
    return {
        "trait": vetted.trait,
        "judge": vetted.judge,
        "threshold": str(vetted.rule),
        "judged": both.total() - unjudged,
        "positive": positive["kept"],
        "negative": negative["kept"],
        "dropped": both.total() - unjudged - both["kept"],
        "no_score": both["no score"],
        "unjudged": unjudged,
        "is_enough": vetted.is_enough,
    }


def _list(found: list[Vetted]) -> list[dict[str, Any]]:
    return [
        {
            "trait": vetted.trait,
            "side": one.side,
            "prompt_id": one.prompt_id,
            "sample": one.sample,
            "response_id": one.response_id,
            "score": one.score,
            "verdict": one.verdict,
            "judge": vetted.judge,
            "rubric_hash": vetted.rubric_hash,
        }
        for vetted in found
        for one in vetted.scenarios
    ]
