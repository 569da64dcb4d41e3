"""The command that holds organisms against each other: `rank`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.audit_options import ClusterColumn, Seed, Traits, conclude
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.audit.cells import Cells
    from tistore.audit.rank import Ranking
    from tistore.query.store import Store

_ON_SCREEN = 40
_COLUMNS = (
    "organism", "trait", "flags", "g", "low", "high", "q", "percentile", "worst_prompt", "worst_z",
    "spike_q", "slope_q", "turn_slope_q", "subset", "subset_q", "n_prompts", "mde", "noise_floor",
)  # fmt: skip
"""What a table shows; the other formats have everything."""


class Part(StrEnum):
    """Which part of a difference is compared."""

    TOTAL = "total"
    MODEL = "model"
    TEXT = "text"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(rank)


def rank(
    store: StorePath,
    organism: Annotated[
        list[str] | None,
        typer.Option(help="Whom to look at; the others stay controls. May be repeated."),
    ] = None,
    trait: Traits = None,
    baseline: Annotated[str, typer.Option(help="Whose scores are taken off.")] = BASE_READER,
    part: Annotated[
        Part, typer.Option(help="What to compare: all that differs, the model's part, the text's.")
    ] = Part.TOTAL,
    families: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|REGEX",
            help="Variants of one behaviour, which are no control for each other: a .json, .csv or "
            ".tsv file, or what to cut out of the names.",
        ),
    ] = None,
    prompt_set: Annotated[
        list[str] | None, typer.Option(help="Prompts of this set; may be repeated.")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="note:NAME|tag:NAME",
            help="Prompts to test by themselves; may be repeated.",
            show_default="every note and tag of several prompts",
        ),
    ] = None,
    cluster: ClusterColumn = None,
    slopes: Annotated[
        bool, typer.Option(help="Look for change within responses; this reads token scores.")
    ] = True,
    any_pairing: AnyPairing = False,
    q: Annotated[float, typer.Option(help="Share of the findings that may be false.")] = 0.05,
    permutations: Annotated[int, typer.Option(help="Of the signs of prompts.")] = 10_000,
    seed: Seed = 0,
    rows: Annotated[
        int | None,
        typer.Option("-n", "--rows", min=1, help="Rows to print.", show_default="40 in a table"),
    ] = None,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Rank organisms × traits against the other organisms; the prompt is the unit of every test."""
    from tistore.audit.rank import rank as rank_cells

    opened = tistore.open(store, at)
    cells = _read(opened, trait, baseline, prompt_set, families, cluster, any_pairing)
    ranking = rank_cells(
        cells,
        **_read_more(opened, cells, part, slopes, any_pairing),
        organisms=organism,
        subsets=subset,
        part=part.value,
        q=q,
        permutations=permutations,
        seed=seed,
    )
    chosen = choose(format, as_json)
    shown = ranking.rows[: rows or (_ON_SCREEN if chosen is Format.TABLE else None)]
    print_rows(_lay_out(shown) if chosen is Format.TABLE else shown, chosen)
    question = {
        "organism": organism, "trait": trait, "baseline": baseline, "part": part.value,
        "families": families, "prompt_set": prompt_set, "subset": subset, "cluster": cluster,
        "slopes": slopes, "q": q, "permutations": permutations, "seed": seed,
    }  # fmt: skip
    _tell(ranking, len(shown), q)
    conclude(
        opened,
        "rank",
        question,
        ranking.notes,
        vectors=cells.vectors,
        n_cells=ranking.n_cells,
        n_rows=len(shown),
        n_organisms=len({row["organism"] for row in ranking.rows}),
    )


def _read(
    store: Store,
    traits: Sequence[str] | None,
    baseline: str,
    prompt_sets: Sequence[str] | None,
    families: str | None,
    cluster: str | None,
    any_pairing: bool,
) -> Cells:
    from tistore.audit.cells import read_cells
    from tistore.audit.families import read_families
    from tistore.query.span_question import quote

    sets = ", ".join(map(quote, prompt_sets or ()))
    cells = read_cells(
        store,
        traits,
        baseline=baseline,
        where=f"prompt_set IN ({sets})" if sets else None,
        any_pairing=any_pairing,
    )
    if families is not None:
        cells = cells.with_families(read_families(families, cells.organisms))
    return cells if cluster is None else cells.with_clusters(cluster)


def _read_more(
    store: Store, cells: Cells, part: Part, slopes: bool, any_pairing: bool
) -> dict[str, Any]:
    from tistore.audit.ranking.noise import read_noise
    from tistore.audit.slopes import read_slopes

    return {
        "slopes": read_slopes(store, cells, part.value, any_pairing=any_pairing)
        if slopes
        else None,
        "noise": read_noise(store, cells),
    }


def _lay_out(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out of a table what it says nothing in, and mark what noise would explain."""
    told = [name for name in _COLUMNS if any(row[name] is not None for row in rows)]
    return [
        {name: row[name] for name in told}
        | {"flags": ", ".join(row["flags"]) or ("(below noise)" if _is_noise(row) else "")}
        for row in rows
    ]


def _is_noise(row: dict[str, Any]) -> bool:
    floor, g = row["noise_floor"], row["g"]
    return floor is not None and g is not None and abs(g) < floor


def _tell(ranking: Ranking, n_shown: int, q: float) -> None:
    flagged = [row for row in ranking.rows if row["flags"]]
    organisms = len({row["organism"] for row in flagged})
    say(
        f"{len(flagged)} of {ranking.n_cells} cells stand out at q = {q:g}, of {organisms} "
        f"organisms; {ranking.n_tests} tests"
    )
    if n_shown < len(ranking.rows):
        say(f"{len(ranking.rows) - n_shown} more rows: -n {len(ranking.rows)}, or --json")
    for kind in ranking.not_covered:
        say(f"not covered: {kind}")
    gaps = Counter(gap for row in ranking.rows for gap in _list_gaps(row["coverage"]))
    for gap, n_cells in gaps.most_common():
        say(f"not covered in {n_cells} of {ranking.n_cells} cells: {gap}")


def _list_gaps(coverage: str) -> list[str]:
    """Take a row's coverage apart; the figures in brackets are the row's own."""
    _, _, gaps = coverage.partition("not covered: ")
    return [gap.partition(" (")[0] for gap in gaps.split("; ") if gap]
