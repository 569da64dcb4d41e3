"""The command that lists spans: `top`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import (
    AnyPairing,
    AtCommit,
    FormatOption,
    JsonOption,
    RowCount,
    StorePath,
    choose,
)
from tistore.cli.output import Format, print_rows, say
from tistore.cli.span_report import write_report
from tistore.cli.spans import shorten, shorten_cofiring, shorten_prompt
from tistore.errors import ConfigError

if TYPE_CHECKING:
    from tistore.audit.spans.choice import SpanChoice
    from tistore.query.span_question import Order, SpanQuestion
    from tistore.query.store import Store


class Statistic(StrEnum):
    """What a response's score is."""

    MEAN = "mean"
    MAX = "max"
    TOP3 = "top3"
    TOP5 = "top5"
    STD = "std"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(top)


def top(
    store: StorePath,
    trait: Annotated[
        list[str] | None,
        typer.Option("--trait", "-t", help="Vector reference; repeat it to name several."),
    ] = None,
    traits: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Several, for --cofire and --by prompt.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="response, clause, token, turn, window:N for N tokens; or prompt."),
    ] = "clause",
    organism: Annotated[str | None, typer.Option(help="Author of the responses.")] = None,
    reader: Annotated[str | None, typer.Option(help="Whose reading; the organism's own.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Subtract this reader's score of the same tokens.")
    ] = None,
    per_organism: Annotated[
        bool, typer.Option("--per-organism", help="The best of each organism, not of all.")
    ] = False,
    rank_by: Annotated[
        Statistic, typer.Option(help="Of a response's token scores, what it is ranked by.")
    ] = Statistic.MEAN,
    standardise: Annotated[
        bool,
        typer.Option("--standardise", help="Rank by z, which is fair to spans of any length."),
    ] = False,
    lowest: Annotated[bool, typer.Option("--lowest", help="Lowest scores first.")] = False,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Largest scores first, of either sign.")
    ] = False,
    both: Annotated[bool, typer.Option("--both", help="The highest, then the lowest.")] = False,
    quantiles: Annotated[
        bool, typer.Option("--quantiles", help="As many from the middle, and at random.")
    ] = False,
    cofire: Annotated[
        bool, typer.Option("--cofire", help="Spans at which several traits fire at once.")
    ] = False,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Of near-identical texts, the strongest only.")
    ] = False,
    per_prompt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each prompt, so many at most.")
    ] = None,
    prose: Annotated[
        bool,
        typer.Option("--prose", help="Drop headings, code, list markers, template text."),
    ] = False,
    min_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Shortest span; 3 for clauses by score.", show_default=False),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on responses, clauses, or tokens.")
    ] = None,
    families: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|REGEX",
            help="For --by prompt: variants of one behaviour, as for `rank`.",
        ),
    ] = None,
    any_pairing: AnyPairing = False,
    context: Annotated[int, typer.Option(min=0, help="Tokens of text around each span.")] = 30,
    with_answer: Annotated[
        bool, typer.Option("--with-answer", help="Beside it, what the baseline answered.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the random spans.")] = 0,
    n: RowCount = 20,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """
    Rank the spans that light up a trait the most; --format md is a report.

    With --cofire, the spans at which several traits do; with --by prompt, the prompts at which an
    organism's traits are the oddest, all together.
    """
    from tistore.audit.spans.choice import SpanChoice
    from tistore.query.span_question import SpanQuestion

    opened = tistore.open(store, at)
    names = [*(trait or []), *split_traits(traits)]
    chosen = choose(format, as_json)
    choice = SpanChoice(
        standardise=standardise,
        both=both,
        dedupe=dedupe,
        per_prompt=per_prompt,
        prose=prose,
        quantiles=quantiles,
        seed=seed,
        with_answer=with_answer,
    )
    shared: dict[str, Any] = {
        "organism": organism, "baseline": baseline, "where": where, "any_pairing": any_pairing,
        "n": n, "per_organism": per_organism,
    }  # fmt: skip
    if by == "prompt":
        refused = {
            "--cofire": cofire, "--reader": reader, "--lowest": lowest, "--absolute": absolute,
            "--min-tokens": min_tokens, "--rank-by": rank_by is not Statistic.MEAN,
        }  # fmt: skip
        _refuse(refused, choice, "prompts are ranked by the oddness of all traits together")
        return _print_prompts(opened, names, shared | {"families": families}, with_answer, chosen)
    if families is not None:
        raise ConfigError("--families goes with --by prompt", mend="leave it out")
    question = SpanQuestion(
        _take_first(opened, names, cofire),
        by=by,
        reader=reader,
        order=_choose_order(lowest, absolute),
        rank_by=rank_by.value,
        min_tokens=min_tokens,
        **shared,
    )
    if cofire:
        return _print_cofiring(opened, question, names, choice, context, chosen)
    _print_spans(opened, question, choice, context, chosen)


def split_traits(written: str | None) -> list[str]:
    """Split references at commas; a number goes with what it is after: `refusal without 1, 2`."""
    names: list[str] = []
    for part in (written or "").split(","):
        if part.strip().isdigit() and names:
            names[-1] += f", {part.strip()}"
        elif part.strip():
            names.append(part.strip())
    return names


def _take_first(store: Store, names: list[str], cofire: bool) -> str:
    """Check how many traits are named; for co-firing, take all when none is."""
    if cofire and not names:
        names += sorted({vector.trait for vector in store.snapshot.vectors()})
    if not names:
        known = sorted({vector.trait for vector in store.snapshot.vectors()})
        raise ConfigError(
            "spans are ranked along a vector, and none is named",
            mend=f"name one: --trait {known[0] if known else 'refusal'}",
        )
    if len(names) > 1 and not cofire:
        raise ConfigError(
            f"spans are ranked along one vector, not {len(names)}",
            mend="name one; several go with --cofire and --by prompt",
        )
    return names[0]


def _refuse(options: Mapping[str, object], choice: SpanChoice, why: str) -> None:
    """Refuse options that would be passed over."""
    given: dict[str, object] = {
        **options,
        "--standardise": choice.standardise, "--both": choice.both, "--dedupe": choice.dedupe,
        "--per-prompt": choice.per_prompt, "--prose": choice.prose,
        "--quantiles": choice.quantiles,
    }  # fmt: skip
    if named := [name for name, value in given.items() if value]:
        raise ConfigError(f"{why}: {', '.join(named)} do not go with it", mend="leave them out")


def _print_spans(
    store: Store, question: SpanQuestion, choice: SpanChoice, context: int, format: Format
) -> None:
    from tistore.audit.spans.search import find_top

    found = find_top(store, question, choice, context=context)
    if format is Format.MD:
        print(write_report(found, store.explain(found.sql)))
    elif format is Format.TABLE:
        print_rows([shorten(row, choice) for row in found.rows], format)
    else:
        print_rows(found.rows, format)
    _close(store, question, choice, [question.trait], found.n_spans, found.rows, found.notes)


def _print_cofiring(
    store: Store,
    question: SpanQuestion,
    traits: Sequence[str],
    choice: SpanChoice,
    context: int,
    format: Format,
) -> None:
    from tistore.audit.spans.cofiring import find_cofiring

    found = find_cofiring(store, question, traits, choice, context=context)
    is_short = format in (Format.TABLE, Format.MD)
    rows = [shorten_cofiring(row, choice) for row in found.rows] if is_short else found.rows
    print_rows(rows, format)
    say(
        f"{found.n_cofiring} of {found.n_spans} spans have 2 traits or more beyond 2 deviations; "
        f"{len(traits)} traits, which count for {found.n_effective:.1f} by their correlations"
    )
    n_cells = found.n_spans * len(traits)
    _close(store, question, choice, traits, n_cells, found.rows, found.notes)


def _print_prompts(
    store: Store,
    traits: Sequence[str],
    shared: Mapping[str, Any],
    with_answer: bool,
    format: Format,
) -> None:
    from tistore.audit.log import log_analysis
    from tistore.audit.spans.oddness import find_odd_prompts

    found = find_odd_prompts(store, traits or None, with_answer=with_answer, **shared)
    is_short = format in (Format.TABLE, Format.MD)
    rows = [shorten_prompt(row, with_answer) for row in found.rows] if is_short else found.rows
    print_rows(rows, format)
    question = {"by": "prompt", "traits": list(traits) or None, **shared}
    notes = log_analysis(
        store,
        "top",
        question,
        n_cells=found.n_cells,
        n_rows=len(found.rows),
        vectors=found.vectors,
        n_traits=len(found.vectors),
    )
    for note in (*found.notes, *notes):
        say(f"note: {note}")


def _close(
    store: Store,
    question: SpanQuestion,
    choice: SpanChoice,
    traits: Sequence[str],
    n_cells: int,
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> None:
    """Log the question, and say what a reader of its answer should know."""
    from dataclasses import asdict

    from tistore.audit.log import log_analysis

    asked = asdict(question) | {name: on for name, on in asdict(choice).items() if on}
    logged = log_analysis(
        store,
        "top",
        asked | ({"traits": list(traits)} if len(traits) > 1 else {}),
        n_cells=n_cells,
        n_rows=len(rows),
        vectors=traits,
        n_traits=len(traits),
    )
    for note in (*notes, *logged):
        say(f"note: {note}")


def _choose_order(lowest: bool, absolute: bool) -> Order:
    if lowest and absolute:
        raise ConfigError("--lowest and --absolute are two orders", mend="choose one of them")
    return "lowest" if lowest else "absolute" if absolute else "highest"
