"""One method on one contrast: the vector, and how well the method does on held-out scenarios."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tistore.query.massive import MassiveDims
from tistore.schemas.evaluation import VectorEvaluation
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import FOLDS
from tistore.vectors.evaluation.evaluate import evaluate
from tistore.vectors.evaluation.stored import record, with_massive_energy
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.on_clean import ON_CLEAN
from tistore.vectors.methods.registry import find_method
from tistore.vectors.methods.rotation_invariant import ROTATION_INVARIANT, in_span
from tistore.vectors.scenario_rows import ScenarioRows


@dataclass(frozen=True, slots=True, eq=False)
class FittedVector:
    """
    A vector, and what is known of its quality.

    Attributes:
        vector: With its midpoint; and its separation, where it was evaluated.
        evaluation: None where a side has fewer scenarios than there are folds, or nobody asked.
    """

    vector: Vector
    evaluation: VectorEvaluation | None


class SiteFits:
    """
    The fits of several methods at one site.

    Args:
        rows: What the contrast is of.
        site: Where.
        contrast: Its rows.
        seed: Of whatever is drawn.
        massive: Knows the massive dimensions, which some methods leave out.
    """

    def __init__(
        self, rows: ScenarioRows, site: Site, contrast: Contrast, seed: int, massive: MassiveDims
    ) -> None:
        self._rows = rows
        self._site = site
        self._contrast = contrast
        self._seed = seed
        self._massive = massive

    def fit(self, name: str, *, evaluated: bool = True) -> FittedVector:
        """
        Fit a vector by the method of a name, and evaluate the method.

        Args:
            name: Of the method.
            evaluated: Whether to evaluate it.

        Raises:
            ConfigError: There is no such method.
            QueryError: It leaves out massive dimensions, which have not been measured here.
            FitError: The rows give no direction by this method.
            NonFiniteError: The rows hold NaN or infinity.
        """
        method = find_method(name, self._find_massive(name))
        vector = self._build(name, method(self._contrast, self._seed))
        if not evaluated or min(self._rows.n_positive, self._rows.n_negative) < FOLDS:
            return FittedVector(vector, None)
        contrast = self._turned if method in ROTATION_INVARIANT else self._contrast
        evaluation = evaluate(contrast, method, seed=self._seed)
        vector = replace(vector, separation=evaluation.g)
        figures = with_massive_energy(evaluation, vector, self._massive)
        return FittedVector(vector, record(vector, self._rows, figures, is_refitted=True))

    @cached_property
    def _turned(self) -> Contrast:
        return in_span(self._contrast)

    def _build(self, name: str, fit: Fit) -> Vector:
        contrast, values = self._contrast, np.asarray(fit.values, dtype=np.float32)
        unit = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64))
        sides = (contrast.positive, contrast.negative)
        return Vector(
            trait=self._rows.trait,
            values=values,
            layer=self._site.layer,
            component=self._site.component,
            method=name,
            position=str(self._rows.position),
            model=self._rows.reader,
            midpoint=float(np.mean([side.mean(axis=0, dtype=np.float64) @ unit for side in sides])),
            bias=fit.bias,
            n_positive=len(contrast.positive),
            n_negative=len(contrast.negative),
            fitted_on=self._rows.fitted_on,
        )

    def _find_massive(self, name: str) -> tuple[int, ...] | None:
        """Find the massive dimensions of the site, for methods that leave them out."""
        if not name.endswith(ON_CLEAN):
            return None
        stand_in = Vector(
            trait=self._rows.trait,
            values=np.ones(self._contrast.width, dtype=np.float32),
            layer=self._site.layer,
            component=self._site.component,
            method=name,
            model=self._rows.reader,
        )
        return self._massive.find(["massive"], stand_in, self._site).dims
