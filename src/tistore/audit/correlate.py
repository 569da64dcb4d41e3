"""Which traits rise and fall together, over tokens, over responses, over organisms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells, PartOrOwn
from tistore.audit.effects.intervals import RESAMPLES, accelerate, draw_counts
from tistore.audit.score_table import ScoreTable
from tistore.audit.statistics.clusters import sum_clusters
from tistore.audit.statistics.known import average_known
from tistore.errors import QueryError
from tistore.query.span_question import of_responses, quote
from tistore.schemas.prompt import SCENARIO_SETS

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.schemas.vector import Vector

Scores = NDArray[np.float64]
Level = Literal["token", "response", "organism"]

MOST_LAG = 10

_PAIRS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Correlations:
    """
    How traits go together at one level.

    Attributes:
        rows: A flat dict for each two traits, and lag: `level, trait, other, lag, r, low, high,
            n`. `lag` is 0 but between tokens, where `other` is read that many tokens later; `n`
            counts pairs of tokens, responses or organisms. Intervals are there for responses only.
        effective_traits: As how many uncorrelated traits they count.
        notes: What a reader of them should know.
    """

    rows: list[dict[str, Any]]
    effective_traits: float
    notes: tuple[str, ...]


def correlate_responses(
    cells: Cells, which: PartOrOwn = "own", *, resamples: int = RESAMPLES, seed: int = 0
) -> Correlations:
    """
    Correlate traits over responses, samples averaged, each organism about its own mean.

    Args:
        cells: Scores.
        which: Scores to go by. "own" scores go together by what is asked as much as by who
            answers; "total" takes the baseline's answer to the same prompt off.
        resamples: Of clusters of prompts, all organisms' answers together.
        seed: Of the resamples.

    Raises:
        QueryError: There are fewer than two traits, or three responses.
    """
    prompts = cells.by_prompt(which)
    values = prompts.of_part(which)
    names = prompts.rows["organism"].to_numpy().astype(str)
    for name in prompts.organisms:
        is_own = names == name
        with np.errstate(invalid="ignore"):
            values = np.where(is_own[:, None], values - average_known(values[is_own]), values)
    values, rows, notes = _keep_whole(values, cells.traits, "responses")
    labels = prompts.rows["cluster"].to_numpy().astype(str)[rows]
    matrix = _correlate(values)
    index = np.unique(labels, return_inverse=True)[1]
    ends = _bootstrap(values, index, resamples, seed)
    found = [
        _row("response", cells.vectors, pair, 0, matrix[pair], len(values), ends[:, place])
        for place, pair in enumerate(combinations(range(values.shape[1]), 2))
    ]
    return _conclude(found, matrix, notes)


def correlate_organisms(cells: Cells, which: PartOrOwn = "own") -> Correlations:
    """
    Correlate traits over organisms' means.

    Organisms are few, and variants of one behaviour no independent ones: there are no intervals.

    Args:
        cells: Scores of three organisms at least.
        which: Scores to go by.

    Raises:
        QueryError: There are fewer than two traits, or three organisms.
    """
    laid_out = ScoreTable(cells).lay_out(cells.of_part(which))
    means = average_known(laid_out, axis=1)
    values, _, notes = _keep_whole(means, cells.traits, "organisms")
    matrix = _correlate(values)
    rows = [
        _row("organism", cells.vectors, pair, 0, matrix[pair], len(values))
        for pair in combinations(range(values.shape[1]), 2)
    ]
    return _conclude(rows, matrix, notes)


def correlate_tokens(
    store: Store,
    cells: Cells,
    which: PartOrOwn = "own",
    *,
    lags: int = MOST_LAG,
    where: str | None = None,
    any_pairing: bool = False,
) -> Correlations:
    """
    Correlate traits over the tokens of each response, also some tokens apart.

    Scores are taken from their response's mean, so that nothing between responses counts, and
    pairs of tokens of all responses are pooled. Neighbouring tokens are no independent evidence:
    there are neither intervals nor tests.

    Args:
        store: Where the cells are from.
        cells: Whose organisms and traits.
        which: "own" scores, or "model": these minus the baseline's of the same tokens.
        lags: The most tokens apart, either way.
        where: SQL condition on the responses they are of.
        any_pairing: Keep organisms that differ from the baseline in more than their weights.

    Raises:
        QueryError: `which` is neither, there are fewer than two traits, or no tokens.
    """
    if which not in ("own", "model"):
        raise QueryError(
            f"tokens of two texts are no pairs: they have no {which!r} part",
            mend="take the part own or model",
        )
    if len(cells.vectors) < 2:
        raise _few(len(cells.vectors))
    width = len(cells.vectors)
    sums = np.zeros((lags + 1, 3, width, width))
    n = np.zeros(lags + 1, dtype=np.int64)
    lost = 0
    more = of_responses(where)
    for trajectory in _read_tokens(store, cells, which, more, any_pairing):
        is_whole = np.asarray(np.isfinite(trajectory).all(axis=1))
        lost += int((~is_whole).sum())
        if not is_whole.any():
            continue
        centred = trajectory - trajectory[is_whole].mean(axis=0)
        for lag in range(min(lags + 1, len(centred))):
            both = is_whole[: len(centred) - lag] & is_whole[lag:]
            first, then = centred[: len(centred) - lag][both], centred[lag:][both]
            sums[lag, 0] += first.T @ then
            sums[lag, 1] += (first**2).sum(axis=0)[:, None]
            sums[lag, 2] += (then**2).sum(axis=0)[None]
            n[lag] += len(first)
    if not n[0]:
        raise QueryError("no token has scores along all of these traits", mend="name fewer traits")
    with np.errstate(divide="ignore", invalid="ignore"):
        r = sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])
    rows = [
        _row(
            "token", cells.vectors, (a, b), lag,
            r[lag, a, b] if lag >= 0 else r[-lag, b, a], int(n[abs(lag)]),
        )
        for a, b in combinations(range(width), 2)
        for lag in range(-lags, lags + 1)
    ]  # fmt: skip
    notes = [f"{lost} tokens lack a score: left out"] if lost else []
    return _conclude(rows, r[0], notes)


def count_effective(matrix: Scores) -> float:
    """
    Count as how many uncorrelated traits correlated ones go: (Σ λ)² / Σ λ².

    Args:
        matrix: Correlations, (trait, trait); traits that never vary (NaN) are left out.

    Source:
        Participation ratio; Gao et al. (2017), doi:10.1101/214262.
    """
    known = np.isfinite(np.diag(matrix))
    matrix = matrix[np.ix_(known, known)]
    # λ are the eigenvalues of a symmetric matrix: their sum is its trace, of their squares its
    # squared norm.
    return float(np.trace(matrix) ** 2 / (matrix**2).sum()) if len(matrix) else float("nan")


def _read_tokens(
    store: Store, cells: Cells, which: PartOrOwn, more: str, any_pairing: bool
) -> Iterable[Scores]:
    """Read the scores of each response's audited tokens, in order: (token, trait)."""
    import polars as pl

    names = {f"v{at}": one.exact_name for at, one in enumerate(cells.vectors)}
    scores = ", ".join(f"project($v{at}) AS s{at}" for at in range(len(names)))
    once = ", ".join(f"any_value(s{at}) AS s{at}" for at in range(len(names)))
    source = "tokens WHERE" if which == "own" else "token_diffs WHERE baseline = $baseline AND"
    # Naming the column lets pairs in that differ in more than their weights.
    marked = ", pairing" if which == "model" and any_pairing else ""
    for organism in cells.organisms:
        frame = store.sql(
            # A reader may have read a response several times, at other layers each time.
            f"SELECT response_id, position, {once} FROM (SELECT response_id, position, "
            f"{scores}{marked} FROM {source} reader = organism "
            f"AND organism = $organism AND is_response "
            f"AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)}){more}) "
            "GROUP BY response_id, position ORDER BY ALL",
            names
            | {"organism": organism}
            | ({"baseline": cells.baseline} if which == "model" else {}),
        ).to_polars()
        for (_,), one in frame.group_by(["response_id"], maintain_order=True):
            yield _spread_out(
                one["position"].to_numpy(),
                one.select([f"s{at}" for at in range(len(names))]).cast(pl.Float64).to_numpy(),
            )


def _spread_out(position: NDArray[np.int64], scores: Scores) -> Scores:
    """Leave room for positions that are not there, so that a lag is a number of tokens."""
    spread = np.full((int(position[-1] - position[0]) + 1, scores.shape[1]), np.nan)
    spread[position - position[0]] = scores
    return spread


def _bootstrap(values: Scores, index: NDArray[np.int64], resamples: int, seed: int) -> Scores:
    """Tell between which bounds each pair's r lies: (2, pair), BCa, over clusters drawn again."""
    n_clusters = int(index.max()) + 1
    first, second = np.array(list(combinations(range(values.shape[1]), 2))).T
    deviation = values.std(axis=0)
    # Squares of large numbers would lose the small differences between them.
    values = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    counts = draw_counts(n_clusters, resamples, seed)
    left_out = 1 - np.eye(n_clusters)
    n = np.bincount(index, minlength=n_clusters).astype(np.float64)[:, None]
    sums = {"a": values, "aa": values**2}
    singles = {name: sum_clusters(one, index, n_clusters) for name, one in sums.items()}
    blocks = []
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        a, b = first[start : start + _PAIRS_AT_ONCE], second[start : start + _PAIRS_AT_ONCE]
        products = sum_clusters(values[:, a] * values[:, b], index, n_clusters)

        def measure(weights: Scores, a: Any = a, b: Any = b, products: Scores = products) -> Scores:
            total = weights @ n
            mean, square = weights @ singles["a"] / total, weights @ singles["aa"] / total
            deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
            with np.errstate(divide="ignore", invalid="ignore"):
                together = weights @ products / total - mean[:, a] * mean[:, b]
                return np.asarray(together / (deviation[:, a] * deviation[:, b]))

        whole = measure(np.ones((1, n_clusters)))[0]
        blocks.append(accelerate(whole, measure(counts), measure(left_out)))
    return np.concatenate(blocks, axis=1) if n_clusters > 1 else np.full((2, len(first)), np.nan)


def _correlate(values: Scores) -> Scores:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.corrcoef(values, rowvar=False))


def _keep_whole(
    values: Scores, traits: Sequence[str], whom: str
) -> tuple[Scores, NDArray[np.int64], list[str]]:
    """Keep rows that have all traits; a trait that no row has is an error."""
    if len(traits) < 2:
        raise _few(len(traits))
    is_read = np.asarray(np.isfinite(values).any(axis=0))
    unread = [trait for trait, known in zip(traits, is_read, strict=True) if not known]
    if unread:
        raise QueryError(
            f"nothing was read for {', '.join(unread)}",
            mend="name the other traits, or take another part",
        )
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(rows) < 3:
        raise QueryError(f"{len(rows)} {whom} have no correlation", mend="three are needed")
    lost = len(values) - len(rows)
    notes = [f"{lost} of {len(values)} {whom} lack a score: left out"] if lost else []
    return values[rows], rows, notes


def _few(n_traits: int) -> QueryError:
    return QueryError(f"{n_traits} trait goes with no other", mend="name two or more")


def _row(
    level: Level,
    vectors: Sequence[Vector],
    pair: tuple[int, int],
    lag: int,
    r: float,
    n: int,
    ends: Sequence[float] | Scores = (np.nan, np.nan),
) -> dict[str, Any]:
    low, high = (float(end) if np.isfinite(end) else None for end in ends)
    return {
        "level": level,
        "trait": vectors[pair[0]].trait,
        "other": vectors[pair[1]].trait,
        "lag": lag,
        "r": float(r) if np.isfinite(r) else None,
        "low": low,
        "high": high,
        "n": n,
    }


def _conclude(rows: list[dict[str, Any]], matrix: Scores, notes: list[str]) -> Correlations:
    effective = count_effective(matrix)
    told = f"{len(matrix)} traits count as {effective:.2g} uncorrelated ones"
    if not np.isfinite(effective):
        told = f"{len(matrix)} traits never vary: there is nothing to correlate"
    return Correlations(rows, effective, (told, *notes))
