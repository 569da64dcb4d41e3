"""Massive dimensions as they were measured: the figures of a layer, and of a dimension there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from tistore.schemas.site import Component, Site

MASSIVE_VALUE = 100.0
"""A massive activation is larger than this in size …"""

MASSIVE_RATIO = 1000.0
"""… and at least so many times the median size in its hidden state (arXiv:2402.17762, §2)."""

N_TOP = 5
"""Dimensions that are counted as a layer's top, by the size of their mean."""

PERSISTENT_LAYERS = 3
"""Layers at which a dimension must be among the top for its being so not to be chance."""


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """
    What was measured at a layer, and on what.

    Sizes are absolute values, in the site's activation units. "Audited tokens" are the response's,
    or all of a reading that has none under audit.

    Attributes:
        calibration_id: The calibration this is part of: one reader, one component, its layers.
        reader: Model whose activations these are.
        component: Component.
        layer: Block number.
        hidden: Width.
        prompt_sets: Sets of the readings, ascending.
        condition: SQL condition that chose among them; None for none.
        snapshot: Commit as of which the store was measured.
        n_readings: Readings.
        n_tokens: Their captured tokens, over which massive activations are sought.
        n_audited: The audited ones among them, over which means run.
        layer_norm: Mean length of the states.
        mean_alignment: Mean cosine of a state with the mean state.
        consecutive_cosine: Cosine of the mean state with that of the next captured layer; None at
            the last one.
        prompt_ratio: Over the tokens of a prompt, each dimension has a largest size; this is the
            largest of them over their median, averaged over readings. Readings without a captured
            prompt count with all their tokens; None where every median is 0.
        pct_prompts_massive: Percentage of readings for which it is above 100.
    """

    calibration_id: str
    reader: str
    component: Component
    layer: int
    hidden: int
    prompt_sets: tuple[str, ...]
    condition: str | None
    snapshot: int
    n_readings: int
    n_tokens: int
    n_audited: int
    layer_norm: float
    mean_alignment: float
    consecutive_cosine: float | None
    prompt_ratio: float | None
    pct_prompts_massive: float

    @property
    def site(self) -> Site:
        """Where it was measured."""
        return Site(self.component, self.layer)

    def to_row(self) -> dict[str, Any]:
        """Lay it out as a row of `calibration_layers`."""
        return {**asdict(self), "prompt_sets": list(self.prompt_sets)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read it back."""
        values = {field.name: row[field.name] for field in fields(cls)}
        return cls(**(values | {"prompt_sets": tuple(row["prompt_sets"])}))


@dataclass(frozen=True, slots=True)
class DimensionCalibration:
    """
    What was measured of one dimension at a layer.

    There is one for each layer, and each dimension that is massive or among the top at any layer.

    Attributes:
        calibration_id: The calibration this is part of.
        reader: Model whose activations these are.
        component: Component.
        layer: Block number.
        dim: Dimension, from 0.
        n_massive: Tokens at which it is massive: larger than 100, and than 1000 times the median
            size in the token's hidden state.
        n_massive_first: How many of these are the first of their sequence.
        n_massive_delimiter: How many of the rest are punctuation or line breaks.
        massive_mean: Mean of its massive values; None where there are none.
        massive_cv: Their standard deviation over the size of that mean: near 0 where it is the
            same whatever the input.
        largest: Its value of the largest size, over all captured tokens.
        ratio: The size of that value over the median size in that token's hidden state; None where
            the median is 0.
        response_id: The response that token is in.
        position: The token's position there.
        token: The token, where its text is stored.
        mean: Mean over the audited tokens.
        magnitude: The size of that mean over the mean size of all dimensions' means.
        top_rank: Its rank by magnitude, from 1; None beyond 5.
        mean_ratio: Mean size over the median of all dimensions' mean sizes.
        cv: Standard deviation of the size over its mean; None where the mean is 0.
        p5_ratio: 5th percentile of the size over that same median.
        pct_above_10x: Percentage of audited tokens where the size is above 10 times that median.
        n_layers_massive: Layers of the calibration at which it is massive for some token.
        n_layers_top: Layers of the calibration at which it is among the top 5.
    """

    calibration_id: str
    reader: str
    component: Component
    layer: int
    dim: int
    n_massive: int
    n_massive_first: int
    n_massive_delimiter: int
    massive_mean: float | None
    massive_cv: float | None
    largest: float
    ratio: float | None
    response_id: str
    position: int
    token: str | None
    mean: float
    magnitude: float
    top_rank: int | None
    mean_ratio: float | None
    cv: float | None
    p5_ratio: float | None
    pct_above_10x: float
    n_layers_massive: int
    n_layers_top: int

    def to_row(self) -> dict[str, Any]:
        """Lay it out as a row of `calibrations`."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read it back."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    One reader's massive dimensions at one component, and how they were found.

    Attributes:
        layers: One a layer, ascending.
        dimensions: One for each layer, and each dimension that is massive or among the top at any.
        is_new: Whether it was measured now; else the store had it.
    """

    layers: tuple[LayerCalibration, ...]
    dimensions: tuple[DimensionCalibration, ...]
    is_new: bool

    @property
    def reader(self) -> str:
        """Whose activations were measured."""
        return self.layers[0].reader

    @property
    def persistent(self) -> dict[int, int]:
        """Dimensions among the top at `PERSISTENT_LAYERS` or more, and at how many layers."""
        counts = {one.dim: one.n_layers_top for one in self.dimensions}
        return {dim: n for dim, n in counts.items() if n >= PERSISTENT_LAYERS}

    @property
    def massive(self) -> dict[int, int]:
        """Dimensions that are massive for some token, and at how many layers."""
        counts = {one.dim: one.n_layers_massive for one in self.dimensions}
        return {dim: n for dim, n in counts.items() if n}

    def rows(self) -> list[dict[str, Any]]:
        """List the layers: their figures, and the dimensions of either definition."""
        return [self._describe(layer) for layer in self.layers]

    def _describe(self, layer: LayerCalibration) -> dict[str, Any]:
        here = [one for one in self.dimensions if one.layer == layer.layer]
        massive = sorted((one for one in here if one.n_massive), key=lambda one: -abs(one.largest))
        ranked = {one.top_rank: one.dim for one in here if one.top_rank is not None}
        largest = max(here, key=lambda one: abs(one.largest), default=None)
        return {
            **layer.to_row(),
            "massive_dims": [one.dim for one in massive],
            "n_massive": sum(one.n_massive for one in massive),
            "top_dims": [ranked[rank] for rank in sorted(ranked)],
            "largest": largest and largest.largest,
            "ratio": largest and largest.ratio,
            "is_new": self.is_new,
        }
