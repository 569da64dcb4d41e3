"""What of a difference goes with how surprising, how long and how marked up a text is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells
from tistore.audit.decompose import explain_lack
from tistore.audit.spans.prose import find_marks
from tistore.audit.statistics.known import known_or_none
from tistore.audit.statistics.regression import fit_clustered
from tistore.query.span_question import quote

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Scores = NDArray[np.float64]

NAMES = ("surprisal", "length", "markup")

_PLACE = ("organism", "prompt_set", "prompt_id", "sample")


@dataclass(frozen=True, slots=True, eq=False)
class Covariates:
    """
    What a text is like, beside the baseline's answer to the same prompt.

    Attributes:
        values: (row of the cells, covariate), the organism's text minus the baseline's; NaN where
            that is not known. In the order of `NAMES`: surprisal is the mean −log probability the
            baseline gives the audited tokens, in nats; length the logarithm to base 2 of their
            number; markup the share of the text's characters in headings, code, list markers and
            template tokens.
    """

    values: Scores


def read_covariates(store: Store, cells: Cells) -> Covariates:
    """
    Read what the texts of some cells are like; no activations are read.

    Args:
        store: Where the cells are from.
        cells: Whose rows.
    """
    import polars as pl

    authors = ", ".join(quote(name) for name in [*cells.organisms, cells.baseline])
    given = {"baseline": cells.baseline}
    where = f"reader = $baseline AND organism IN ({authors})"
    place = ", ".join(_PLACE)
    tokens = store.sql(
        f"SELECT {place}, avg(-logprob) AS surprisal, "
        "log2(count(DISTINCT position)) AS length "
        f"FROM tokens WHERE {where} AND is_response GROUP BY ALL",
        given,
    ).to_polars()
    texts = store.sql(
        f"SELECT DISTINCT {place}, text FROM responses WHERE {where}", given
    ).to_polars()
    markup = [_share_marks(text) for text in texts["text"].to_list()]
    known = tokens.join(
        texts.drop("text").with_columns(pl.Series("markup", markup, pl.Float64)),
        on=list(_PLACE),
        how="left",
    )
    own = _pick(known, cells.rows)
    base = _pick(known, cells.rows.with_columns(organism=pl.lit(cells.baseline)))
    return Covariates(own - base)


def hold_covariates(
    cells: Cells, covariates: Covariates, names: Sequence[str] = NAMES
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Say what is left of a difference where organism and baseline write alike.

    Each response's difference is fitted by the differences in covariates between its text and the
    baseline's answer to the same prompt. The intercept is what the fit expects of a text that is
    as surprising, as long and as marked up as the baseline's. Where no text comes near that, it
    lies outside of what was seen, and its interval is wide.

    Args:
        cells: Scores, of one organism or several.
        covariates: Of the same rows.
        names: Which of them to hold.

    Returns:
        A dict for each organism, trait, part ("model_part", "total") and term, and notes. Keys:
        `organism, trait, reference, baseline, part, term, estimate, error, low, high,
        n_responses, n_clusters, r2`. The terms: "as it is" (the mean over the same responses),
        "left" (the intercept), then each covariate (change of the part for one unit of it).
        Errors are robust to what prompts of a cluster share; intervals 95 %.

    Raises:
        QueryError: The baseline has not read an organism's texts or answered its prompts; or
            responses are too few.
    """
    columns = [NAMES.index(name) for name in names]
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for organism in cells.organisms:
        mask = (cells.rows["organism"] == organism).to_numpy()
        one = cells.take(mask).complete(("own", "replay", "base"))
        if not np.isfinite(one.own).any():
            raise explain_lack(cells.take(mask), organism)
        values = covariates.values[mask][:, columns]
        kept = []
        for name, column in zip(names, values.T, strict=True):
            known = np.unique(column[np.isfinite(column)])
            if len(known) > 1:
                kept.append(name)
                if known[0] > 0 or known[-1] < 0:
                    notes[
                        f"{organism}: {name} differs from the baseline's by {known[0]:.3g} to "
                        f"{known[-1]:.3g}, never by 0: what is left is extrapolated"
                    ] = None
            else:
                why = "differs from the baseline's nowhere" if len(known) else "is not known"
                notes[f"{organism}: {name} {why}: left out"] = None
        held = [list(names).index(name) for name in kept]
        rows += _fit_one(one, organism, values[:, held], kept, notes)
    return rows, list(notes)


def _fit_one(
    cells: Cells, organism: str, covariates: Scores, names: Sequence[str], notes: dict[str, None]
) -> Iterable[dict[str, Any]]:
    clusters = np.unique(cells.rows["cluster"].to_numpy().astype(str), return_inverse=True)[1]
    is_known = np.isfinite(covariates).all(axis=1)
    for place, vector in enumerate(cells.vectors):
        has_scores = np.isfinite(cells.own[:, place])
        use = has_scores & is_known
        if not has_scores.any():
            continue
        if lost := int((has_scores & ~is_known).sum()):
            notes[f"{organism}: {lost} responses lack a covariate, and are left out"] = None
        for part, scores in (("model_part", cells.model_part), ("total", cells.total)):
            none = np.empty((int(use.sum()), 0))
            plain = fit_clustered(scores[use, place], none, clusters[use])
            fit = fit_clustered(scores[use, place], covariates[use], clusters[use])
            terms = [("as it is", plain, 0), ("left", fit, 0)]
            terms += [(name, fit, at) for at, name in enumerate(names, start=1)]
            for term, found, at in terms:
                yield {
                    "organism": organism,
                    "trait": vector.trait,
                    "reference": vector.reference,
                    "baseline": cells.baseline,
                    "part": part,
                    "term": term,
                    "estimate": float(found.coefficients[at]),
                    "error": known_or_none(found.errors[at]),
                    "low": known_or_none(found.low[at]),
                    "high": known_or_none(found.high[at]),
                    "n_responses": found.n,
                    "n_clusters": found.n_clusters,
                    "r2": known_or_none(found.r2),
                }


def _share_marks(text: str | None) -> float | None:
    if not text:
        return None
    return sum(end - start for start, end in find_marks(text)) / len(text)


def _pick(known: polars.DataFrame, rows: polars.DataFrame) -> Scores:
    import polars as pl

    joined = rows.select(_PLACE).join(known, on=list(_PLACE), how="left", maintain_order="left")
    values = joined.select(NAMES).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.asarray(values, dtype=np.float64).reshape(len(rows), len(NAMES))
