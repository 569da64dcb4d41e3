"""Which organisms are alike by their traits, and which responses and clauses are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells, PartOrOwn
from tistore.audit.score_table import ScoreTable
from tistore.audit.statistics.grouping import (
    WEAK,
    Groups,
    Labels,
    Linkage,
    Points,
    fit_means,
    link,
    overlap,
    part,
    relabel,
)
from tistore.audit.statistics.known import known_or_none
from tistore.errors import QueryError
from tistore.query.span_question import of_responses, quote
from tistore.schemas.prompt import SCENARIO_SETS

if TYPE_CHECKING:
    from tistore.query.store import Store

Scores = NDArray[np.float64]

RESAMPLES = 100
SHORTEST_CLAUSE = 3
"""Tokens. The means of shorter ones are mostly noise, and would be groups of their own."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Clustering:
    """
    Rows in groups.

    Attributes:
        rows: Flat dicts of the same keys, group by group, from the middle of each outwards. Beside
            what names the row: `cluster` (1 is the largest), `size`, `distance` (to its centre),
            `silhouette`, `stability` (of the cluster), `nearest_cluster`, `nearest_distance`, and
            `profile`, the traits that set the cluster apart most, in standard deviations.
        silhouette: Mean over rows.
        agreement: Mean adjusted Rand index with the groups of resampled prompts.
        notes: What a reader of them should know.
    """

    rows: list[dict[str, Any]]
    silhouette: float
    agreement: float
    notes: tuple[str, ...]


def cluster_organisms(
    cells: Cells,
    which: PartOrOwn = "total",
    *,
    n_groups: int | None = None,
    linkage: Linkage = "ward",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Clustering:
    """
    Group organisms by their mean effects on all traits.

    An effect is the mean over prompts, in standard deviations of single prompts about it, so that
    chance moves each trait equally far. What all organisms share moves them together, and forms no
    group. Prompts are drawn again to see which groups come back.

    Args:
        cells: Scores of three organisms at least.
        which: Scores to go by.
        n_groups: How many; told by silhouettes when None.
        linkage: What the distance of two groups is.
        resamples: Of the prompts.
        seed: Of the resamples.

    Returns:
        Rows have `organism, family, n_prompts` first, and `nearest_organism` with
        `organism_distance` last.

    Raises:
        QueryError: There are too few organisms, or no trait was read for all of them.
    """
    table = ScoreTable(cells)
    values = table.lay_out(cells.of_part(which))
    is_read = np.asarray(np.isfinite(values).any(axis=1))
    kept, notes = _keep_traits(is_read, cells.traits, "organisms")
    values = values[:, :, kept]
    deviation = _spread(values)
    points = np.nanmean(values, axis=1) / deviation
    groups = link(points, n_groups, linkage)
    again = (
        relabel(drawn / deviation, len(groups.centres), linkage)
        for drawn in _draw_means(values, table.clusters, resamples, seed)
    )
    stability, agreement = overlap(groups.labels, again)
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(between, np.inf)
    named = [
        {
            "organism": name,
            "family": table.family_of(name),
            "n_prompts": int(np.isfinite(values[at]).any(axis=1).sum()),
        }
        for at, name in enumerate(table.organisms)
    ]
    closest = [
        {
            "nearest_organism": table.organisms[int(row.argmin())],
            "organism_distance": float(row.min()),
        }
        for row in between
    ]
    traits = [cells.traits[place] for place in kept]
    rows = _write_rows(named, groups, stability, points, traits, closest)
    return _conclude(rows, groups, agreement, notes)


def cluster_responses(
    cells: Cells,
    which: PartOrOwn = "total",
    *,
    n_groups: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Clustering:
    """
    Group responses by their profiles of traits, samples of a prompt averaged.

    Args:
        cells: Scores.
        which: Scores to go by; each trait is standardised over all rows.
        n_groups: How many; told by silhouettes when None.
        resamples: Of the prompts.
        seed: Of the first centres and the resamples.

    Returns:
        Rows have `organism, prompt_set, prompt_id, note` first.

    Raises:
        QueryError: There are too few responses that all traits were read for.
    """
    prompts = cells.by_prompt(which)
    values = prompts.of_part(which)
    named = prompts.rows.select("organism", "prompt_set", "prompt_id", "note").to_dicts()
    labels = prompts.rows["cluster"].to_numpy().astype(str)
    return _group_rows(named, values, labels, cells.traits, n_groups, resamples, seed)


def cluster_clauses(
    store: Store,
    cells: Cells,
    which: PartOrOwn = "model",
    *,
    where: str | None = None,
    any_pairing: bool = False,
    n_groups: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Clustering:
    """
    Group clauses of at least three tokens by their profiles of traits; this reads token scores.

    Args:
        store: Where the cells are from.
        cells: Whose organisms, traits and baseline; prompts of one cluster are drawn together.
        which: "own" scores, or "model": these minus the baseline's of the same tokens.
        where: SQL condition on the responses they are of.
        any_pairing: Keep organisms that differ from the baseline in more than their weights.
        n_groups: How many; told by silhouettes when None.
        resamples: Of the prompts.
        seed: Of the first centres and the resamples.

    Returns:
        Rows have `organism, prompt_set, prompt_id, sample, response_id, clause, token_start,
        token_end, text` first.

    Raises:
        QueryError: `which` is neither, or there are too few clauses.
    """
    import polars as pl

    if which not in ("own", "model"):
        raise QueryError(
            f"clauses of two texts are no pairs: they have no {which!r} part",
            mend="take the part own or model",
        )
    columns = (
        "organism, prompt_set, prompt_id, sample, response_id, clause, token_start, token_end, text"
    )
    names = {f"v{at}": vector.exact_name for at, vector in enumerate(cells.vectors)}
    scores = ", ".join(f"project($v{at}) AS s{at}" for at in range(len(names)))
    once = ", ".join(f"any_value(s{at}) AS s{at}" for at in range(len(names)))
    source = "clauses WHERE" if which == "own" else "clause_diffs WHERE baseline = $baseline AND"
    # Naming the column lets pairs in that differ in more than their weights.
    marked = ", pairing" if which == "model" and any_pairing else ""
    result = store.sql(
        # A reader may have read a response several times, at other layers each time.
        f"SELECT {columns}, {once} FROM (SELECT {columns}, {scores}{marked} FROM {source} "
        "reader = organism "
        f"AND organism IN ({', '.join(map(quote, cells.organisms))}) "
        f"AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)}) "
        f"AND n_tokens >= {SHORTEST_CLAUSE}{of_responses(where)}) GROUP BY {columns} ORDER BY ALL",
        names | ({"baseline": cells.baseline} if which == "model" else {}),
    )
    frame = result.to_polars()
    values = frame.select([f"s{at}" for at in range(len(names))]).cast(pl.Float64).to_numpy()
    clusters = dict(
        zip(cells.rows.select("prompt_set", "prompt_id").rows(), cells.rows["cluster"], strict=True)
    )
    keys = frame.select("prompt_set", "prompt_id").rows()
    labels = np.array([clusters.get(key, f"{key[0]}#{key[1]}") for key in keys])
    named = frame.select(columns.split(", ")).to_dicts()
    return _group_rows(named, values, labels, cells.traits, n_groups, resamples, seed)


def _group_rows(
    named: list[dict[str, Any]],
    values: Scores,
    labels: NDArray[np.str_],
    traits: Sequence[str],
    n_groups: int | None,
    resamples: int,
    seed: int,
) -> Clustering:
    is_read = np.asarray(np.isfinite(values).any(axis=0))
    kept, notes = _keep_traits(is_read[None], traits, "rows")
    values = values[:, kept]
    is_whole = np.asarray(np.isfinite(values).all(axis=1))
    if lost := int((~is_whole).sum()):
        notes.append(f"{lost} of {len(values)} rows lack a score: left out")
    values, labels = values[is_whole], labels[is_whole]
    named = [row for row, whole in zip(named, is_whole, strict=True) if whole]
    if len(values) < 3:
        raise QueryError(f"{len(values)} rows make no groups", mend="look at more prompts")
    points = (values - values.mean(axis=0)) / _or_one(values.std(axis=0))
    groups = part(points, n_groups, seed)
    index = np.unique(labels, return_inverse=True)[1]
    again = _fit_again(points, index, len(groups.centres), resamples, seed)
    stability, agreement = overlap(groups.labels, again)
    rows = _write_rows(named, groups, stability, points, [traits[place] for place in kept])
    return _conclude(rows, groups, agreement, notes)


def _fit_again(
    points: Points, index: Labels, n_groups: int, resamples: int, seed: int
) -> Iterator[Labels]:
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(index == one) for one in range(int(index.max()) + 1)]
    for at in range(resamples):
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[one] for one in drawn])
        if len(np.unique(rows)) >= n_groups:
            yield fit_means(points[rows], points, n_groups, seed + at, starts=1)


def _draw_means(values: Scores, clusters: Labels, resamples: int, seed: int) -> Iterator[Points]:
    """Average over prompts drawn again, clusters together: (organism, trait), time and again."""
    rng = np.random.default_rng(seed)
    n_clusters = int(clusters.max()) + 1
    shape = (n_clusters, values.shape[0], values.shape[2])
    totals, n = np.zeros(shape), np.zeros(shape)
    by_prompt = values.transpose(1, 0, 2)
    np.add.at(totals, clusters, np.nan_to_num(by_prompt))
    np.add.at(n, clusters, np.isfinite(by_prompt).astype(np.float64))
    whole = totals.sum(axis=0) / n.sum(axis=0)
    for _ in range(resamples):
        counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters)).astype(float)
        total, count = np.tensordot(counts, totals, 1), np.tensordot(counts, n, 1)
        # Nothing drawn for an organism tells nothing: it stays where it is.
        yield np.divide(total, count, out=whole.copy(), where=count > 0)


def _spread(values: Scores) -> NDArray[np.float64]:
    """Pool the deviations of prompts about their organism's mean: (trait,)."""
    centred = values - np.nanmean(values, axis=1, keepdims=True)
    freedom = (np.isfinite(values).sum(axis=1) - 1).sum(axis=0)
    return _or_one(np.sqrt(np.nansum(centred**2, axis=(0, 1)) / np.maximum(freedom, 1)))


def _or_one(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(deviation > 0, deviation, 1.0)


def _keep_traits(
    is_read: NDArray[np.bool_], traits: Sequence[str], whom: str
) -> tuple[list[int], list[str]]:
    """Find the traits that were read for all, and name the others."""
    kept = np.flatnonzero(is_read.all(axis=0)).tolist()
    if not kept:
        raise QueryError(
            f"no trait was read for all {whom}",
            mend="name traits, or leave out the organisms that lack their layers or replays",
        )
    lost = [trait for at, trait in enumerate(traits) if at not in kept]
    return kept, [f"not read for all {whom}, left out: {', '.join(lost)}"] if lost else []


def _write_rows(
    named: Sequence[Mapping[str, Any]],
    groups: Groups,
    stability: NDArray[np.float64],
    points: Points,
    traits: Sequence[str],
    closing: Sequence[Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    sizes = groups.sizes
    profiles = [_name_profile(centre - points.mean(axis=0), traits) for centre in groups.centres]
    order = np.lexsort((groups.distance, groups.labels))
    return [
        {
            **named[at],
            "cluster": int(groups.labels[at]) + 1,
            "size": int(sizes[groups.labels[at]]),
            "distance": float(groups.distance[at]),
            "silhouette": float(groups.silhouette[at]),
            "stability": known_or_none(stability[groups.labels[at]]),
            "nearest_cluster": int(groups.nearest[at]) + 1,
            "nearest_distance": float(groups.nearest_distance[at]),
            "profile": profiles[groups.labels[at]],
            **(closing[at] if closing else {}),
        }
        for at in order.tolist()
    ]


def _name_profile(centre: NDArray[np.float64], traits: Sequence[str]) -> str:
    """Name the traits a centre lies furthest out on."""
    order = np.argsort(-np.abs(centre), kind="stable")[:_NAMED]
    return ", ".join(f"{traits[at]} {centre[at]:+.2g}" for at in order)


def _conclude(
    rows: list[dict[str, Any]], groups: Groups, agreement: float, notes: list[str]
) -> Clustering:
    silhouette = float(groups.silhouette.mean())
    n_groups = len(groups.centres)
    told = (
        f"{n_groups} clusters, mean silhouette {silhouette:.2f}; prompts drawn again give groups "
        f"that agree with these by {agreement:.2f} (adjusted Rand index)"
    )
    weak = "no clear groups: a mean silhouette up to 0.25 speaks of none"
    notes = [told, *([weak] if silhouette <= WEAK else []), *notes]
    return Clustering(rows, silhouette, agreement, tuple(notes))
