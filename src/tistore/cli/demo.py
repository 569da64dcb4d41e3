"""The command that shows everything: `demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tistore.cli.options import FormatOption, JsonOption, choose
from tistore.cli.output import Format, print_rows, say
from tistore.cli.spans import show_in_context

if TYPE_CHECKING:
    from tistore.capture.demo.demo import Demo


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(demo)


def demo(
    path: Annotated[Path, typer.Argument(metavar="STORE", help="Where the store goes.")] = Path(
        "demo.tistore"
    ),
    seed: Annotated[int, typer.Option(help="Of the organisms' weights.")] = 0,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Train tiny organisms, capture them, and ask the store what gives each of them away."""
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.demo.demo import run_demo
    from tistore.capture.running.progress import show_progress

    shown = run_demo(path, seed=seed, say=say, progress=show_progress())
    verdicts = [asdict(verdict) for verdict in shown.verdicts]
    if choose(format, as_json) is not Format.TABLE:
        return print_rows(verdicts, choose(format, as_json))
    _print_report(shown, verdicts)


def _print_report(shown: Demo, verdicts: list[dict[str, Any]]) -> None:
    from tistore.capture.demo.demo import SPANS_SQL, effect_table
    from tistore.query.effects import EFFECTS_SQL

    _print_capture(shown)
    _head("How far each organism lies from the clean base, in standard deviations over prompts")
    print("Total: its own text as it reads it − the base's own answer as the base reads it.")
    print_rows(_signed(effect_table(shown.effects, "total")), Format.TABLE)
    print("Model part: the same text, read by the organism − replayed through the base.")
    print_rows(_signed(effect_table(shown.effects, "model_part")), Format.TABLE)
    _print_sql("The SQL, once for each trait", EFFECTS_SQL)
    for verdict in shown.verdicts:
        if verdict.planted_trait is None:
            continue
        _head(f"{verdict.organism}: its clauses with the highest {verdict.planted_trait} score")
        for span in shown.spans[verdict.organism]:
            print(f"{span['score']:+7.2f}  #{span['prompt_id']:<3} {show_in_context(span)}")
    _print_sql("The SQL, once for each organism and its trait", SPANS_SQL)
    _head("Planted, and recovered?")
    print_rows(_signed(verdicts), Format.TABLE)
    print(_conclude(shown))


def _print_capture(shown: Demo) -> None:
    info, organisms = shown.info, shown.organisms
    scenarios = info.organisms["scenarios"]
    made = "found in the cache" if organisms.cached else f"trained in {organisms.seconds:.0f} s"
    _head("What was captured")
    print(
        f"{len(organisms.adapters)} LoRA organisms on a Llama of "
        f"{organisms.parameters / 1e6:.1f} M parameters, {made}.\n"
        f"{info.readings} readings: {info.readings - scenarios} of answers, {scenarios} of "
        f"contrast scenarios; {info.tokens} tokens at layers {', '.join(map(str, info.layers))}, "
        f"in {shown.capture_seconds:.0f} s.\n"
        f"{info.stored_bytes / 1e6:.1f} MB in {info.files} files, tables, means and norms "
        f"included; one .pt file a reading takes {shown.pt_bytes / 1e6:.1f} MB: "
        f"{info.stored_bytes / shown.pt_bytes:.2f} of that.\n"
        f"Every question below, answered from the store: {shown.ask_seconds:.1f} s."
    )


def _head(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}")


def _print_sql(title: str, sql: str) -> None:
    print(f"\n{title}:\n")
    print("".join(f"    {line}\n" for line in sql.rstrip().splitlines()))


def _signed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            name: f"{value:+.2f}" if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _conclude(shown: Demo) -> str:
    planted = [verdict for verdict in shown.verdicts if verdict.planted_trait]
    recovered = [verdict.organism for verdict in planted if verdict.recovered]
    store, config = shown.store.path, shown.inputs.config
    return (
        f"{len(recovered)} of {len(planted)} planted habits recovered: {', '.join(recovered)}.\n"
        f"The store is {store}. Ask it something, about a trait of tomorrow, too:\n\n"
        f"    tistore top {store} --trait hedging --organism hedging --baseline instruct\n"
        f"    tistore report {store} hedging -o report\n"
        f"    tistore vectors extract {store} tone/mockery --config {config}"
    )
