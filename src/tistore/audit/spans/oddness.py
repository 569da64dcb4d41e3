"""Prompts at which an organism departs from the baseline as other organisms do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells, Part, read_cells
from tistore.audit.families import read_families
from tistore.audit.opponents import check_organisms
from tistore.errors import QueryError
from tistore.query.span_question import quote
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.query.store import Store

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

_LEAST_OTHERS = 2
"""Families of other organisms, below which an organism is compared with itself."""

_TRAITS_TOLD = 3


@dataclass(frozen=True, slots=True)
class OddPrompts:
    """
    Prompts, the oddest first.

    Attributes:
        rows: See `rank_odd_prompts`.
        n_cells: How many scores were looked at.
        notes: What a reader of them should know.
        vectors: References of the vectors they were looked at along.
    """

    rows: list[dict[str, Any]]
    n_cells: int
    notes: tuple[str, ...]
    vectors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Metric:
    """
    What is usual: how departures vary, and together.

    Attributes:
        whitening: ZCA-cor whitening, (trait, trait): whitened departures are uncorrelated, and
            each is as close to its own trait as can be.
        distances: Of the departures it was measured on, ascending, (departure,).
    """

    whitening: Values
    distances: Values


def find_odd_prompts(
    store: Store,
    traits: Sequence[str] | None = None,
    *,
    organism: str | None = None,
    baseline: str | None = None,
    where: str | None = None,
    any_pairing: bool = False,
    families: str | None = None,
    n: int = 20,
    per_organism: bool = False,
    with_answer: bool = False,
) -> OddPrompts:
    """
    Rank prompts by how odd an organism's traits are there, all together.

    Args:
        store: Where to look.
        traits: Vector references; every trait's chosen vector when None.
        organism: Whose prompts are listed; every organism's when None. It is compared with the
            others in any case.
        baseline: Whom all are compared with; `instruct` when None.
        where: SQL condition on `responses`.
        any_pairing: Keep organisms that differ from the baseline in precision, template or
            tokenizer.
        families: Which organisms are variants of one behaviour, and so no measure for each other;
            see `read_families`.
        n: How many at most; of each organism with `per_organism`.
        per_organism: The oddest of each organism, in place of the oddest of all.
        with_answer: Add the texts of the organism's response and the baseline's.

    Returns:
        Rows of `rank_odd_prompts`, and `prompt`, `text` and `answer`: what was asked; the
        organism's first response and the baseline's, None unless asked for.

    Raises:
        QueryError: As for `read_cells`; or there are too few prompts.
    """
    cells = read_cells(
        store, traits, baseline=baseline or BASE_READER, where=where, any_pairing=any_pairing
    )
    if families is not None:
        cells = cells.with_families(read_families(families, cells.organisms))
    if organism is not None:
        check_organisms([organism], cells.organisms)
    odd = rank_odd_prompts(cells, organism=organism, n=n, per_organism=per_organism)
    rows = _add_texts(store, odd.rows, with_answer)
    vectors = tuple(vector.reference for vector in cells.vectors)
    return OddPrompts(rows, odd.n_cells, odd.notes, vectors)


def rank_odd_prompts(
    cells: Cells, *, organism: str | None = None, n: int = 20, per_organism: bool = False
) -> OddPrompts:
    """
    Rank prompts by the Mahalanobis distance of an organism's trait differences.

    At each prompt, the organism's differences from the baseline are compared with the median of
    the other families' at the same prompt, so that what every organism does there, or what any
    training does, is not odd. How much such departures vary, and together, is measured on the
    other families, with a covariance shrunk as Ledoit and Wolf do. With fewer than two other
    families, an organism is compared with its own other prompts. Samples are averaged.

    Differences are S(o, y_o) − S(i, y_i); where the baseline has not answered, S(o, y_o) −
    S(i, y_o).

    Args:
        cells: Scores of all organisms.
        organism: Whose prompts are listed; every organism's when None.
        n: How many at most; of each organism with `per_organism`.
        per_organism: The oddest of each organism, in place of the oddest of all.

    Returns:
        Rows with `rank, organism, baseline, prompt_set, prompt_id, response_id, note, distance`
        (about the root of the number of traits where nothing is odd), `percentile` (of the
        departures it is measured by, how many in a hundred are nearer), `traits` (those that carry
        most of it: each one's whitened departure, and its share of the squared distance),
        `n_reference` (departures it is measured by).

    Raises:
        QueryError: There are too few prompts to know what is usual.

    Source:
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices,
        2004; shares by the corr-max transformation, Garthwaite and Koch, Evaluating the
        contributions of individual variables to a quadratic form, 2016.
    """
    part: Part = "total" if np.isfinite(cells.total).any() else "model"
    cells = cells.by_prompt(part)
    differences, notes = _take_differences(cells, part)
    known = np.asarray(np.isfinite(differences).all(axis=1))
    if n_unknown := int((~known).sum()):
        notes.append(f"{n_unknown} prompts lack a score of some trait: left out")
    cells, differences = cells.take(known), differences[known]
    if not len(differences):
        raise QueryError("no prompt has a difference along every trait", mend="name fewer traits")
    departures = _leave_medians(cells, differences)
    rows = []
    for name in [organism] if organism else cells.organisms:
        mask = (cells.rows["organism"] == name).to_numpy()
        rows += list(_measure(cells, differences, departures, mask, notes))
    rows.sort(key=lambda row: -row["distance"])
    groups = cells.organisms if per_organism else [None]
    ranked = [
        {"rank": rank, **row}
        for group in groups
        for rank, row in enumerate(
            [row for row in rows if group in (None, row["organism"])][:n], start=1
        )
    ]
    return OddPrompts(ranked, differences.size, (*cells.notes, *dict.fromkeys(notes)))


def _take_differences(cells: Cells, part: Part) -> tuple[Values, list[str]]:
    if part == "total":
        return cells.total, []
    return cells.model_part, [
        f"{cells.baseline} has answered no prompt itself: differences are on the organisms' texts"
    ]


def _leave_medians(cells: Cells, differences: Values) -> Values:
    """Take from each difference the median of the other families' at that prompt; NaN without."""
    departures = np.full_like(differences, np.nan)
    families = cells.rows["family"].to_numpy()
    keys = cells.rows.select("prompt_set", "prompt_id").rows()
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    for group in map(np.array, places.values()):
        for family in np.unique(families[group]):
            own, others = group[families[group] == family], group[families[group] != family]
            if len(np.unique(families[others])) >= _LEAST_OTHERS:
                departures[own] = differences[own] - np.median(differences[others], axis=0)
    return departures


def _measure(
    cells: Cells, differences: Values, departures: Values, mask: Mask, notes: list[str]
) -> Iterator[dict[str, Any]]:
    """Measure one organism's prompts."""
    names = cells.rows["organism"].to_list()
    families = cells.rows["family"].to_numpy()
    is_compared = np.isfinite(departures).all(axis=1)
    others = is_compared & (families != families[mask][0])
    compared = mask & is_compared
    if not compared.any() or others.sum() <= len(cells.vectors):
        # Nobody else to tell what is usual: its own other prompts do.
        compared, others = mask, mask
        departures = differences - np.median(differences[mask], axis=0)
        notes.append(
            f"{names[int(np.flatnonzero(mask)[0])]} has too few others to be compared with: its "
            "prompts are compared with each other"
        )
    metric = _fit(departures[others])
    for place in np.flatnonzero(compared).tolist():
        yield _describe(cells, place, metric.whitening @ departures[place], metric)


def _fit(departures: Values) -> _Metric:
    from sklearn.covariance import ledoit_wolf

    if len(departures) < 3:
        raise QueryError(
            f"{len(departures)} prompts do not tell what is usual",
            mend="capture more prompts, or more organisms",
        )
    scale = departures.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    covariance, _ = ledoit_wolf(departures / scale)
    roots, axes = np.linalg.eigh(covariance)
    kept = roots > 1e-9
    whitening = (axes[:, kept] / np.sqrt(roots[kept])) @ axes[:, kept].T / scale
    distances = np.linalg.norm(departures @ whitening.T, axis=1)
    return _Metric(whitening, np.sort(distances))


def _describe(cells: Cells, place: int, whitened: Values, metric: _Metric) -> dict[str, Any]:
    distance = float(np.linalg.norm(whitened))
    nearer = np.searchsorted(metric.distances, distance) / len(metric.distances)
    row = cells.rows.row(place, named=True)
    kept = {key: row[key] for key in ("prompt_set", "prompt_id", "response_id", "note")}
    return {
        "organism": row["organism"],
        "baseline": cells.baseline,
        **kept,
        "distance": distance,
        "percentile": 100 * float(nearer),
        "traits": _name_carriers(cells.traits, whitened),
        "n_reference": len(metric.distances),
    }


def _name_carriers(traits: Sequence[str], whitened: Values) -> str:
    """Name the traits that carry most of a distance, until they make up nine tenths of it."""
    shares = np.square(whitened) / max(float(np.sum(np.square(whitened))), 1e-300)
    told: list[str] = []
    reached = 0.0
    for place in np.argsort(-shares)[:_TRAITS_TOLD].tolist():
        if told and reached >= 0.9:
            break
        reached += float(shares[place])
        told.append(f"{traits[place]} {whitened[place]:+.1f} ({shares[place]:.0%})")
    return ", ".join(told)


def _add_texts(
    store: Store, rows: Sequence[dict[str, Any]], with_answer: bool
) -> list[dict[str, Any]]:
    sets = ", ".join(sorted({quote(row["prompt_set"]) for row in rows}))
    asked = {
        (prompt_set, prompt_id): text
        for prompt_set, prompt_id, text in store.sql(
            f"SELECT prompt_set, prompt_id, text FROM prompts WHERE prompt_set IN ({sets})"
        ).fetchall()
    }
    said: dict[tuple[Any, ...], str] = {}
    if with_answer:
        names = ", ".join(sorted({quote(row[key]) for row in rows for key in _AUTHORS}))
        said = {
            tuple(key): text
            for *key, text in store.sql(
                "SELECT organism, prompt_set, prompt_id, arg_min(text, sample) FROM responses "
                f"WHERE organism IN ({names}) AND prompt_set IN ({sets}) GROUP BY ALL"
            ).fetchall()
        }
    added = []
    for row in rows:
        place = (row["prompt_set"], row["prompt_id"])
        texts = (said.get((row[key], *place)) for key in _AUTHORS)
        named = dict(zip(("text", "answer"), texts, strict=True))
        added.append({**row, "prompt": asked.get(place), **named})
    return added


_AUTHORS = ("organism", "baseline")
