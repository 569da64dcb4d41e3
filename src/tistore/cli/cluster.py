"""The command that groups what is alike: `cluster`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.audit_options import (
    ClusterColumn,
    Part,
    Resamples,
    Seed,
    Traits,
    Where,
    conclude,
)
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import ConfigError
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.audit.cells import PartOrOwn

_ON_SCREEN = 5
"""Responses or clauses of each cluster that a table shows."""


class By(StrEnum):
    """What is grouped."""

    ORGANISM = "organism"
    RESPONSE = "response"
    CLAUSE = "clause"


class Linkage(StrEnum):
    """What the distance of two groups of organisms is."""

    WARD = "ward"
    AVERAGE = "average"
    COMPLETE = "complete"
    SINGLE = "single"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(cluster)


def cluster(
    store: StorePath,
    organism: Annotated[
        list[str] | None, typer.Option(help="Whom to look at.", show_default="every organism")
    ] = None,
    trait: Traits = None,
    by: Annotated[By, typer.Option(help="What is grouped.")] = By.ORGANISM,
    part: Annotated[
        Part | None,
        typer.Option(
            help="The scores as they are, or a part of the difference.",
            show_default="total; of clauses, model",
        ),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option("-k", "--clusters", min=2, help="How many.", show_default="as they part best"),
    ] = None,
    linkage: Annotated[
        Linkage | None, typer.Option(help="Of organisms.", show_default="ward")
    ] = None,
    baseline: Annotated[str, typer.Option(help="What differences are from.")] = BASE_READER,
    where: Where = None,
    prompt_cluster: ClusterColumn = None,
    any_pairing: AnyPairing = False,
    resamples: Resamples = 100,
    seed: Seed = 0,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--rows", min=1, help="Rows of each cluster, from its middle.",
            show_default="all; 5 in a table of responses or clauses",
        ),
    ] = None,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Group organisms by their effects on all traits, responses and clauses by profiles."""
    from tistore.audit import cluster as clustering
    from tistore.audit.cells import read_cells

    if linkage is not None and by is not By.ORGANISM:
        raise ConfigError(f"--linkage says nothing of a {by.value}", mend="leave it out")
    opened = tistore.open(store, at)
    cells = read_cells(
        opened, trait, organisms=organism, baseline=baseline, where=where, any_pairing=any_pairing
    )
    cells = cells.with_clusters(prompt_cluster) if prompt_cluster else cells
    which: PartOrOwn = (part or (Part.MODEL if by is By.CLAUSE else Part.TOTAL)).value
    if by is By.ORGANISM:
        found = clustering.cluster_organisms(
            cells,
            which,
            n_groups=clusters,
            linkage=(linkage or Linkage.WARD).value,
            resamples=resamples,
            seed=seed,
        )
    elif by is By.RESPONSE:
        found = clustering.cluster_responses(
            cells, which, n_groups=clusters, resamples=resamples, seed=seed
        )
    else:
        found = clustering.cluster_clauses(
            opened,
            cells,
            which,
            where=where,
            any_pairing=any_pairing,
            n_groups=clusters,
            resamples=resamples,
            seed=seed,
        )
    chosen = choose(format, as_json)
    is_table = chosen is Format.TABLE
    shown = _keep_middle(found.rows, n or (_ON_SCREEN if is_table and by is not By.ORGANISM else n))
    print_rows(list(map(_shorten, shown)) if is_table else shown, chosen)
    if len(shown) < len(found.rows):
        say(f"{len(shown)} of {len(found.rows)} rows are shown: -n shows more")
    question = {
        "organism": organism, "trait": trait, "by": by.value, "part": which, "clusters": clusters,
        "linkage": linkage and linkage.value, "baseline": baseline, "where": where,
        "prompt_cluster": prompt_cluster, "any_pairing": any_pairing, "seed": seed,
    }  # fmt: skip
    conclude(
        opened,
        "cluster",
        question,
        [*cells.notes, *found.notes],
        vectors=cells.vectors,
        n_cells=len(found.rows) * len(cells.vectors),
        n_rows=len(shown),
        n_organisms=len(cells.organisms),
    )


def _keep_middle(rows: Sequence[dict[str, Any]], n: int | None) -> list[dict[str, Any]]:
    """Keep the first n rows of each cluster: those nearest to its centre."""
    kept: list[dict[str, Any]] = []
    seen: dict[int, int] = {}
    for row in rows:
        seen[row["cluster"]] = seen.get(row["cluster"], 0) + 1
        if n is None or seen[row["cluster"]] <= n:
            kept.append(row)
    return kept


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {"cluster": row["cluster"], "size": row["size"]}
    named |= {"organism": row["organism"]}
    if "prompt_id" in row:
        named |= {"prompt": f"{row['prompt_set']}#{row['prompt_id']}"}
    if "text" in row:
        named |= {"text": row["text"]}
    figures = ("distance", "silhouette", "stability", "nearest_cluster", "nearest_organism")
    return named | {
        **{name: row[name] for name in figures if name in row},
        "profile": row["profile"],
    }
