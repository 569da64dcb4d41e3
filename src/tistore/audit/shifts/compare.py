"""How far an organism departs from a baseline along vectors, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tistore.audit.cells import PARTS, Part, check_parts
from tistore.audit.effects.definitions import Definition, find_definition, mean_difference
from tistore.audit.effects.intervals import FEW_CLUSTERS, RESAMPLES, bootstrap_pairs, tell_few
from tistore.audit.effects.moments import measure_moments
from tistore.audit.effects.studentized import bootstrap_means
from tistore.audit.opponents import check_opponents
from tistore.audit.prompt_clusters import ClusterBy, check_cluster
from tistore.audit.shifts.random_directions import DIRECTIONS, share_as_large
from tistore.audit.shifts.response_means import Answers, Means, ResponseMeans
from tistore.audit.statistics.known import known_or_none
from tistore.errors import NotStoredError, QueryError, VectorMismatchError
from tistore.query.massive import MassiveDims
from tistore.query.references import Direction, resolve
from tistore.query.span_question import and_condition
from tistore.schemas.model import BASE_READER
from tistore.schemas.site import Site

if TYPE_CHECKING:
    from tistore.query.store import Store

Layers = Sequence[int] | Literal["all"] | None
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """
    What is computed.

    Attributes:
        parts: "total" compares the organism reading its own texts with the baseline reading its
            own answers; "model" the two reading the very same tokens, the organism's; "text" the
            baseline's readings of the two texts.
        definition: Of the effect sizes: "tistore" or "trait-interp".
        cluster: What prompts share that are no independent evidence; see `label_clusters`.
        resamples: Of the intervals.
        directions: Random ones.
        seed: Of both.
    """

    parts: Sequence[Part] = ("total", "model")
    definition: str = "tistore"
    cluster: ClusterBy = "prompt"
    resamples: int = RESAMPLES
    directions: int = DIRECTIONS
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not there."""
        find_definition(self.definition)
        check_cluster(self.cluster)
        check_parts(self.parts)


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    How far an organism lies from a baseline.

    Attributes:
        rows: A dict for each trait, layer and part; see `compare`.
        notes: What a reader of them should know.
    """

    rows: list[Row]
    notes: tuple[str, ...]


def compare(
    store: Store,
    organism: str,
    baseline: str = BASE_READER,
    traits: Sequence[str] | None = None,
    *,
    layers: Layers = None,
    where: str | None = None,
    any_pairing: bool = False,
    options: CompareOptions | None = None,
) -> Comparison:
    """
    Compare an organism with a baseline along vectors, layer by layer, from stored response means.

    The prompt is the unit: samples of one are averaged first. At a layer for which a trait has a
    vector that one is used, else the trait's own vector as it is.

    Args:
        store: Where to look.
        organism: Who departs.
        baseline: From whom.
        traits: Vector references; every trait's when None.
        layers: Which; all that were captured when "all"; each vector's own when None.
        where: SQL condition on `responses`.
        any_pairing: Compare models that differ in precision, template or tokenizer, too.
        options: What is computed.

    Returns:
        Rows with `organism, baseline, trait, vector, component, layer, part, definition`;
        `n_prompts` and `n_clusters`; `organism_mean, organism_deviation, baseline_mean,
        baseline_deviation` of the two sides over prompts (n - 1), in score units;
        `mean_difference`, `paired` and `unpaired`, signed effects by the definition, each with the
        ends `_low` and `_high` of its 95 % interval; `cosine` of the mean difference of the
        activations and the vector, and `cosine_random_95`, below which its size stays for 95 % of
        uniform directions; `paired_random` and `unpaired_random`, the shares of random directions
        whose effect is as large; `is_largest`, whether the unpaired effect is the largest in size
        of the trait's layers, part by part.

    Raises:
        QueryError: There is no such organism, baseline or vector, or nothing to compare.
        PairingError: The two differ in more than their weights.
        NotStoredError: A layer was not captured.
        VectorMismatchError: A vector and the readings do not belong together.
    """
    chosen = options or CompareOptions()
    notes = dict.fromkeys(check_opponents(store, organism, baseline, any_pairing))
    answers = Answers(store, organism, baseline, where, chosen.cluster)
    rows: list[Row] = []
    for site, directions in _find_directions(store, traits, layers, answers):
        notes |= dict.fromkeys(one.remark for one in directions if one.remark)
        notes |= dict.fromkeys(_check_fit(store, organism, directions, where))
        means = answers.read(site)
        for part in chosen.parts:
            found = _compare_part(means, part, directions, chosen)
            if not found:
                notes[_tell_missing(part, site, organism, baseline)] = None
            rows += found
    if not rows:
        raise QueryError("there is nothing to compare: " + "; ".join(notes))
    if any(row["n_clusters"] < FEW_CLUSTERS for row in rows):
        notes[tell_few()] = None
    _mark_largest(rows)
    order = {trait: at for at, trait in enumerate(dict.fromkeys(row["trait"] for row in rows))}
    rows.sort(key=lambda row: (order[row["trait"]], PARTS.index(row["part"]), row["layer"]))
    names = {"organism": organism, "baseline": baseline}
    return Comparison([names | row for row in rows], tuple(notes))


def _find_directions(
    store: Store, traits: Sequence[str] | None, layers: Layers, answers: Answers
) -> Iterator[tuple[Site, list[Direction]]]:
    """Find which vectors are read at which site."""
    known = store.snapshot.vectors()
    names = traits if traits is not None else sorted({vector.trait for vector in known})
    if not names:
        raise QueryError("there are no vectors to compare by", mend="add one: store.add_vector(…)")
    captured = answers.layers()
    wanted = captured if layers == "all" else layers
    for layer in wanted or ():
        if layer not in captured:
            raise NotStoredError(
                f"layer {layer} was not captured of these responses; "
                f"there are {', '.join(map(str, captured))}"
            )
    massive = MassiveDims(store.snapshot)
    by_site: dict[Site, list[Direction]] = {}
    for name in names:
        for at in [None] if wanted is None else wanted:
            direction = resolve(name, at, known, massive)
            at_site = by_site.setdefault(direction.site, [])
            # The same vector may have been asked for by several names.
            if all(direction.vector is not other.vector for other in at_site):
                at_site.append(direction)
    yield from by_site.items()


def _check_fit(
    store: Store, organism: str, directions: Sequence[Direction], where: str | None
) -> tuple[str, ...]:
    """Have vectors checked against what they are put to, as SQL does; gives its notes."""
    layer = directions[0].site.layer
    scores = ", ".join(f"project($v{at}, {layer}) AS s{at}" for at in range(len(directions)))
    names = {f"v{at}": direction.vector.exact_name for at, direction in enumerate(directions)}
    condition = and_condition(where)
    sql = f"SELECT {scores} FROM responses WHERE organism = $organism AND reader = $organism"
    return store.explain(sql + condition, names | {"organism": organism}).notes


def _tell_missing(part: Part, site: Site, organism: str, baseline: str) -> str:
    lacking = {
        "total": f"no prompt was answered and read by {organism!r} and by {baseline!r} both",
        "model": f"no response of {organism!r} was read by itself and by {baseline!r}",
        "text": f"{baseline!r} has not read both its own answers and those of {organism!r}",
    }
    return f"no {part} part at {site}: {lacking[part]}"


def _compare_part(
    means: ResponseMeans, part: Part, directions: Sequence[Direction], options: CompareOptions
) -> list[Row]:
    first, second, clusters = means.part(part)
    if not len(first):
        return []
    for direction in directions:
        if direction.vector.hidden != first.shape[1]:
            raise VectorMismatchError(
                f"{direction.vector.reference} is {direction.vector.hidden} wide, and the readings "
                f"at {means.site} {first.shape[1]}"
            )
    values = np.stack([direction.vector.values.astype(np.float64) for direction in directions])
    units = values / np.linalg.norm(values, axis=1, keepdims=True)
    figures = _measure(first, second, units, clusters, find_definition(options.definition), options)
    figures |= _measure_angle(first, second, units)
    n_clusters = len(np.unique(clusters))
    return [
        {
            "trait": direction.vector.trait,
            "vector": direction.vector.reference,
            "component": means.site.component,
            "layer": means.site.layer,
            "part": part,
            "definition": options.definition,
            "n_prompts": len(first),
            "n_clusters": n_clusters,
            **{name: known_or_none(column[at]) for name, column in figures.items()},
        }
        for at, direction in enumerate(directions)
    ]


def _measure(
    first: Means,
    second: Means,
    units: Means,
    clusters: np.ndarray[Any, np.dtype[np.int64]],
    definition: Definition,
    options: CompareOptions,
) -> dict[str, Means]:
    """Compute the figures of each vector: (vector,) each, in the order of the columns."""
    one, other = first @ units.T, second @ units.T
    figures = {}
    for name, scores in (("organism", one), ("baseline", other)):
        figures[f"{name}_mean"] = scores.mean(axis=0)
        spread = scores.std(axis=0, ddof=1) if len(scores) > 1 else np.full(len(units), np.nan)
        figures[f"{name}_deviation"] = spread
    effects = {"paired": definition.paired, "unpaired": definition.unpaired}
    moments = measure_moments(one, other)
    drawing = {"resamples": options.resamples, "seed": options.seed}
    ends = {"mean_difference": bootstrap_means(one - other, clusters, **drawing)}
    ends |= bootstrap_pairs(one, other, effects, clusters, **drawing)
    for name, measure in ({"mean_difference": mean_difference} | effects).items():
        figures[name] = measure(moments)
        figures[f"{name}_low"], figures[f"{name}_high"] = ends[name]
    shares = share_as_large(
        first,
        second,
        effects,
        {name: figures[name] for name in effects},
        directions=options.directions,
        seed=options.seed,
    )
    return figures | {f"{name}_random": share for name, share in shares.items()}


def _measure_angle(first: Means, second: Means, units: Means) -> dict[str, Means]:
    """Take the cosine of each vector with the mean difference, and what is usual."""
    from scipy.stats import beta

    shift = (first - second).mean(axis=0)
    length = np.linalg.norm(shift)
    cosines = units @ shift / length if length > 0 else np.full(len(units), np.nan)
    # The square of a uniform direction's cosine has this distribution.
    limit = np.sqrt(beta.ppf(0.95, 0.5, (units.shape[1] - 1) / 2)) if units.shape[1] > 1 else 1.0
    return {"cosine": cosines, "cosine_random_95": np.full(len(units), limit)}


def _mark_largest(rows: Sequence[Row]) -> None:
    """Mark the layer of each trait and part whose unpaired effect is the largest in size."""
    largest: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["unpaired"] is not None:
            key = (row["trait"], row["part"])
            largest[key] = max(largest.get(key, 0.0), abs(row["unpaired"]))
    for row in rows:
        size = row["unpaired"]
        row["is_largest"] = size is not None and abs(size) == largest[row["trait"], row["part"]]
