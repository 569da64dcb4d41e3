"""How far organisms lie from a baseline along each trait: by the model, and by its texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tistore.errors import QueryError, nearest
from tistore.query.massive import MassiveDims
from tistore.query.pairing import offer_any_pairing
from tistore.query.references import resolve
from tistore.query.span_question import quote
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.query.store import Store

_TEMPLATE = """\
WITH own AS (
  SELECT organism, prompt_set, prompt_id, sample, project($trait) AS score
  FROM responses WHERE reader = organism AND NOT starts_with(prompt_set, 'scenarios/')
), shift AS (
  SELECT organism, prompt_set, prompt_id, sample, {of_pair}project($trait) AS score
  FROM response_diffs WHERE reader = organism AND baseline = $baseline{conditions}
), by_prompt AS (
  SELECT o.organism, o.prompt_set, o.prompt_id,
    avg(o.score) AS organism_score, avg(b.score) AS baseline_score,
    CASE WHEN count(s.score) = count(*) THEN avg(s.score) END AS model_shift{of_prompt}
  FROM own AS o
  JOIN own AS b ON b.prompt_set = o.prompt_set AND b.prompt_id = o.prompt_id
    AND b.sample = o.sample
  LEFT JOIN shift AS s ON s.organism = o.organism AND s.prompt_set = o.prompt_set
    AND s.prompt_id = o.prompt_id AND s.sample = o.sample
  WHERE o.organism <> $baseline AND b.organism = $baseline
    AND o.score IS NOT NULL AND b.score IS NOT NULL
  GROUP BY ALL
), summary AS (
  SELECT organism, count(*) AS n_prompts, count(model_shift) AS n_replayed,
    avg(organism_score - baseline_score) AS total_mean_difference,
    avg(model_shift) AS model_mean_difference,
    avg(organism_score - baseline_score - model_shift) AS text_mean_difference,
    sqrt((var_samp(organism_score) + var_samp(baseline_score)) / 2) AS deviation{of_organism}
  FROM by_prompt GROUP BY organism
)
SELECT organism, n_prompts, n_replayed,
  total_mean_difference / nullif(deviation, 0) AS total,
  model_mean_difference / nullif(deviation, 0) AS model_part,
  text_mean_difference / nullif(deviation, 0) AS text_part,
  total_mean_difference, model_mean_difference{shown}
FROM summary ORDER BY organism
"""

_UNMARKED = {"of_pair": "", "of_prompt": "", "of_organism": "", "shown": ""}
_MARKED = {
    "of_pair": "pairing, ",
    "of_prompt": ", any_value(s.pairing) AS pairing",  # two readers are paired in one way
    "of_organism": ", any_value(pairing) AS pairing",
    "shown": ", pairing",
}

EFFECTS_SQL = _TEMPLATE.format(**_UNMARKED, conditions="")
"""
One trait's effects. `own` is each text as its author reads it; `shift` is the author's reading of
its own text minus the baseline's reading of that same text.
"""


@dataclass(frozen=True, slots=True)
class FoundEffects:
    """
    How far organisms lie from a baseline.

    Attributes:
        rows: A dict for each organism and trait; see `effects`.
        notes: What a reader of them should know.
    """

    rows: list[dict[str, Any]]
    notes: tuple[str, ...]


def effects(
    store: Store,
    traits: Sequence[str] | None = None,
    baseline: str = BASE_READER,
    organisms: Sequence[str] | None = None,
    any_pairing: bool = False,
) -> list[dict[str, Any]]:
    """
    Compare every organism with a baseline, trait by trait, paired by prompt.

    An organism's own texts read by itself, minus the baseline's answers to the same prompts read
    by the baseline, is the total. What remains when the organism's text is held fixed and only the
    reader changes is the model's part; the rest is the text's. Samples of a prompt are averaged
    first: the prompt is the unit.

    Args:
        store: Where to look.
        traits: Vector references; every trait of the store when None.
        baseline: Organism to compare with.
        organisms: Organisms to compare; every one when None.
        any_pairing: Keep pairs of readings that differ in precision, template or tokenizer.

    Returns:
        A dict for each organism and trait: `organism, trait, reference, baseline, n_prompts,
        n_replayed, total, model_part, text_part, total_mean_difference, model_mean_difference`.
        The parts are in standard deviations: a mean difference over the root mean of the two
        sides' variances over prompts (d_av); None where that is 0, or fewer than two prompts
        are shared. `n_replayed` counts the prompts both parts rest on, all of whose samples were
        replayed; where these are not all prompts, the parts do not add up to the total. With
        `any_pairing`, `pairing` says how the two readers of the model's part differ.

    Raises:
        QueryError: There is no such baseline or organism, no vector, or no prompt that two
            have answered.
        PairingError: Readings would be compared that differ in more than their models' weights.

    Source:
        Cumming (2012), Understanding the New Statistics, ch. 11; Lakens (2013),
        doi:10.3389/fpsyg.2013.00863.
    """
    return find_effects(store, traits, baseline, organisms, any_pairing).rows


def find_effects(
    store: Store,
    traits: Sequence[str] | None = None,
    baseline: str = BASE_READER,
    organisms: Sequence[str] | None = None,
    any_pairing: bool = False,
) -> FoundEffects:
    """
    Compare organisms with a baseline, as `effects` does, and say what to know about the answer.

    Raises:
        QueryError: As `effects` does.
    """
    _check_names(store, baseline, organisms)
    vectors = store.snapshot.vectors()
    if traits is None:
        traits = sorted({vector.trait for vector in vectors})
    if not traits:
        raise QueryError("there are no vectors to compare by", mend="add one: store.add_vector(…)")
    sql = _write_sql(organisms, any_pairing)
    found: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for trait in traits:
        vector = resolve(trait, None, vectors, MassiveDims(store.snapshot)).vector
        names = {"trait": vector.trait, "reference": vector.reference, "baseline": baseline}
        with offer_any_pairing():
            result = store.sql(sql, {"trait": trait, "baseline": baseline})
        notes |= dict.fromkeys(result.notes)
        found += [
            {"organism": row.pop("organism"), **names, **row}
            for row in result.rows()
            if organisms is None or row["organism"] in organisms
        ]
    if not found:
        raise QueryError(
            f"no organism has answered a prompt that {baseline!r} has answered",
            mend="capture both on the same prompt set",
        )
    return FoundEffects(found, tuple(notes))


def _write_sql(organisms: Sequence[str] | None, any_pairing: bool) -> str:
    """Write the SQL so that pairs of organisms nobody asked about cannot be in the way."""
    chosen = f" AND organism IN ({', '.join(map(quote, organisms))})" if organisms else ""
    return _TEMPLATE.format(**(_MARKED if any_pairing else _UNMARKED), conditions=chosen)


def _check_names(store: Store, baseline: str, organisms: Sequence[str] | None) -> None:
    authors = {row[0] for row in store.sql("SELECT DISTINCT organism FROM responses").fetchall()}
    if baseline not in authors:
        raise QueryError(f"no baseline {baseline!r}; {nearest(baseline, authors)}")
    for name in organisms or []:
        if name not in authors:
            raise QueryError(f"no organism {name!r}; {nearest(name, authors)}")
        if name == baseline:
            raise QueryError(
                f"{name!r} is the baseline itself", mend="compare another organism with it"
            )
