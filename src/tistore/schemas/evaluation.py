"""How well a direction separates scenarios it was not fitted on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Self

from tistore.schemas.site import Component
from tistore.schemas.vector import Vector

GATE = 0.05
"""Share of its nulls that may do as well as a direction which is said to beat them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """
    Figures of one evaluation, all of them of rows that had no part in the fit that scores them.

    Ends named low and high are those of a 95 % interval. A figure that was not asked for, or that
    its rows do not determine, is None.

    Attributes:
        folds: Parts the scenarios were dealt into; each is scored along a direction fitted on the
            others. 0 where a vector was scored as it is.
        seed: Of folds, resamples and nulls.
        n_positive: Rows that show the trait.
        n_negative: Rows that do not.
        n_groups: Situations the rows tell of; no fold parts the rows of one.
        is_paired: Whether every situation is told from both sides.
        auroc: Chance that a row that shows the trait scores above one of the same fold that does
            not, ties counting half.
        auroc_low: Lower end.
        auroc_high: Upper end.
        balanced_accuracy: Mean over the sides of the share on the right side of the midpoint.
        balanced_accuracy_low: Lower end.
        balanced_accuracy_high: Upper end.
        g: Hedges' g; negative where rows that show the trait score lower.
        g_low: Lower end.
        g_high: Upper end.
        polarity: 1 where rows that show the trait score higher on average, -1 where lower.
        pairs_ordered: Share of the situations told from both sides whose positive scores higher.
        positive_mean: Mean score of the rows that show the trait, less the training midpoint, in
            the site's activation units.
        positive_std: Their standard deviation.
        negative_mean: Mean score of the rows that do not.
        negative_std: Their standard deviation.
        n_resamples: Bootstrap resamples the intervals rest on.
        n_permutations: Times the labels were permuted and the direction fitted anew.
        permutation_p: (1 + those with no smaller AUROC) / (1 + n_permutations).
        permutation_auroc_95: 95th percentile of their AUROC.
        n_random: Random directions that scored the same rows.
        random_p: As `permutation_p`, for these.
        random_auroc_95: 95th percentile of their AUROC.
        n_splits: Times the situations were halved and both halves fitted.
        split_half_cosine: Mean cosine of the two halves' directions.
        reliability: What that says of directions fitted on all (Spearman and Brown).
        massive_energy: Share of the vector's squared length that lies on massive dimensions.
    """

    folds: int
    seed: int
    n_positive: int
    n_negative: int
    n_groups: int
    is_paired: bool
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_low: float | None = None
    balanced_accuracy_high: float | None = None
    g: float | None = None
    g_low: float | None = None
    g_high: float | None = None
    polarity: int | None = None
    pairs_ordered: float | None = None
    positive_mean: float | None = None
    positive_std: float | None = None
    negative_mean: float | None = None
    negative_std: float | None = None
    n_resamples: int = 0
    n_permutations: int = 0
    permutation_p: float | None = None
    permutation_auroc_95: float | None = None
    n_random: int = 0
    random_p: float | None = None
    random_auroc_95: float | None = None
    n_splits: int = 0
    split_half_cosine: float | None = None
    reliability: float | None = None
    massive_energy: float | None = None

    @property
    def beats_nulls(self) -> bool | None:
        """Whether at most one in twenty of each kind of null does as well; None without nulls."""
        measured = [p for p in (self.permutation_p, self.random_p) if p is not None]
        return all(p <= GATE for p in measured) if measured else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorEvaluation:
    """
    An evaluation, and the vector it is of.

    Attributes:
        trait: `category/name` of the vector.
        model: Model it was fitted on.
        component: Its component.
        layer: Its layer.
        method: How it was fitted.
        position: Tokens it was fitted on.
        vector_hash: Content hash of it.
        fitted_on: Hash of the rows that it was, or its folds were, fitted on, where known.
        tested_on: Trait whose scenarios were scored.
        evaluation: The figures.
        evaluated_at: When.
    """

    trait: str
    model: str | None
    component: Component
    layer: int
    method: str
    position: str
    vector_hash: str
    fitted_on: str | None
    tested_on: str
    evaluation: Evaluation
    evaluated_at: datetime

    @classmethod
    def of(
        cls,
        vector: Vector,
        evaluation: Evaluation,
        *,
        tested_on: str,
        fitted_on: str | None,
        evaluated_at: datetime,
    ) -> Self:
        """Put an evaluation to the vector it is of."""
        return cls(
            trait=vector.trait,
            model=vector.model,
            component=vector.component,
            layer=vector.layer,
            method=vector.method,
            position=vector.position,
            vector_hash=vector.content_hash,
            fitted_on=fitted_on,
            tested_on=tested_on,
            evaluation=evaluation,
            evaluated_at=evaluated_at,
        )

    @property
    def reference(self) -> str:
        """The full name by which SQL can refer to the vector."""
        return f"{self.trait}:{self.method}@{self.layer}"

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a row of the `evaluations` table."""
        figures = {field.name for field in fields(Evaluation)}
        identity = {name: value for name, value in row.items() if name not in figures}
        evaluation = Evaluation(**{name: row[name] for name in figures})
        return cls(evaluation=evaluation, **identity)

    def to_row(self) -> dict[str, Any]:
        """Lay the evaluation out as a row of the `evaluations` table."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        return row | asdict(row.pop("evaluation"))
