"""A direction in activation space, and how people refer to one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tistore.errors import ConfigError, InvalidRecordError
from tistore.schemas.digest import DIGEST_LENGTH, digest
from tistore.schemas.site import COMPONENTS, Component, Site

_REFERENCE = re.compile(r"(?P<trait>[^:@]+?)(:(?P<method>[^:@]+))?(@(?P<layer>\d+))?")


@dataclass(frozen=True, eq=False)
class Vector:
    """
    A fitted or imported direction.

    Attributes:
        trait: `category/name`, such as "behavioral/refusal".
        values: (hidden,) float32, in the site's activation units; not normalised.
        layer: Block it was fitted at.
        component: Component it was fitted at.
        method: How it was fitted, such as "mean_diff".
        position: Tokens it was fitted on, such as "response[:5]".
        model: Name of the model it was fitted on, where known.
        separation: Held-out standardised mean difference (Hedges' g) between its two sides,
            where measured; a bare trait name picks the vector with the largest.
        midpoint: Mean of the two training sides' scores, in score units, where known.
        bias: What the method adds to activation · values before it decides, where it has such a
            number; its own docstring says on which activations.
        n_positive: Rows it was fitted on that show the trait, where known.
        n_negative: Rows that do not.
        fitted_on: Hash of the rows it was fitted on, where known: the same rows, method and
            position need no other fit.
        chosen: Why a bare trait name means this vector, where it was chosen; not part of its row.
        expression: How it is made of stored vectors, as SQL can write it; None for a vector of
            its own. Not stored: a name it is committed under takes its place.
    """

    trait: str
    values: NDArray[np.float32]
    layer: int
    component: Component = "residual"
    method: str = "unknown"
    position: str = "unknown"
    model: str | None = None
    separation: float | None = None
    midpoint: float | None = None
    bias: float | None = None
    n_positive: int | None = None
    n_negative: int | None = None
    fitted_on: str | None = None
    chosen: str | None = None
    expression: str | None = None

    def __post_init__(self) -> None:
        """Check what every vector must satisfy."""
        values = np.ascontiguousarray(self.values, dtype=np.float32)
        if values.ndim != 1 or values.size == 0:
            raise InvalidRecordError(
                f"vector {self.trait}: values have shape {values.shape}, not (hidden,)"
            )
        if not np.isfinite(values).all():
            raise InvalidRecordError(f"vector {self.trait}: values hold NaN or infinity")
        if not values.any():
            raise InvalidRecordError(f"vector {self.trait}: all values are zero: no direction")
        if self.component not in COMPONENTS:
            raise InvalidRecordError(
                f"vector {self.trait}: no component {self.component!r}; "
                f"there are {', '.join(COMPONENTS)}"
            )
        if self.layer < 0:
            raise InvalidRecordError(f"vector {self.trait}: layer {self.layer} is negative")
        if not _REFERENCE.fullmatch(self.trait) or ":" in self.trait or "@" in self.trait:
            raise InvalidRecordError(
                f"{self.trait!r} cannot name a trait: it is empty, or holds : or @"
            )
        object.__setattr__(self, "values", values)

    @cached_property
    def site(self) -> Site:
        """Where the vector was fitted."""
        return Site(self.component, self.layer)

    @property
    def hidden(self) -> int:
        """Width."""
        return int(self.values.size)

    @cached_property
    def unit(self) -> NDArray[np.float32]:
        """The direction with length 1: (hidden,) float32."""
        wide = self.values.astype(np.float64)
        return np.asarray(wide / np.linalg.norm(wide), dtype=np.float32)

    @cached_property
    def content_hash(self) -> str:
        """Hash of values and site: what a score depends on."""
        header = f"{self.component}@{self.layer}:".encode()
        return hashlib.sha256(header + self.values.tobytes()).hexdigest()[:DIGEST_LENGTH]

    @property
    def key(self) -> str:
        """Hash of everything that names the vector, its values left out."""
        return digest(
            [self.trait, self.model, self.component, self.layer, self.method, self.position]
        )

    @property
    def reference(self) -> str:
        """The full name, or the expression, by which SQL can refer to it."""
        return self.expression or f"{self.trait}:{self.method}@{self.layer}"

    @property
    def exact_name(self) -> str:
        """The expression, or the hash, by which SQL finds this vector and no other."""
        return self.expression or self.content_hash

    def to_row(self) -> dict[str, Any]:
        """Lay the vector out as a row of the `vectors` table."""
        return {
            "vector_hash": self.content_hash,
            "trait": self.trait,
            "model": self.model,
            "component": self.component,
            "layer": self.layer,
            "method": self.method,
            "position": self.position,
            "hidden": self.hidden,
            "norm": float(np.linalg.norm(self.values.astype(np.float64))),
            "separation": self.separation,
            "midpoint": self.midpoint,
            "bias": self.bias,
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "fitted_on": self.fitted_on,
            "values": self.values,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read the vector back from a row of the `vectors` table."""
        return cls(
            trait=row["trait"],
            values=np.asarray(row["values"], dtype=np.float32),
            layer=row["layer"],
            component=row["component"],
            method=row["method"],
            position=row["position"],
            model=row["model"],
            separation=row["separation"],
            midpoint=row["midpoint"],
            # Rows from before these columns lack them.
            bias=row.get("bias"),
            n_positive=row.get("n_positive"),
            n_negative=row.get("n_negative"),
            fitted_on=row.get("fitted_on"),
        )


@dataclass(frozen=True, slots=True)
class VectorReference:
    """
    What a person wrote to name a vector: `trait`, `category/trait`, `trait@26`, `trait:probe@26`.

    Attributes:
        trait: With or without its category.
        method: None where any will do.
        layer: None where any will do.
    """

    trait: str
    method: str | None = None
    layer: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a reference.

        Raises:
            ConfigError: The text is not of the form `[category/]trait[:method][@layer]`.
        """
        match = _REFERENCE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"{text!r} is no vector reference",
                mend="write trait, category/trait, trait@26 or trait:probe@26",
            )
        layer = match["layer"]
        return cls(match["trait"].strip(), match["method"], int(layer) if layer else None)

    def matches(self, vector: Vector) -> bool:
        """Whether `vector` answers to this reference."""
        named = vector.trait == self.trait or vector.trait.endswith("/" + self.trait)
        return named and self.method in (None, vector.method) and self.layer in (None, vector.layer)

    def __str__(self) -> str:
        """Write the reference as it is parsed."""
        method = f":{self.method}" if self.method else ""
        layer = f"@{self.layer}" if self.layer is not None else ""
        return f"{self.trait}{method}{layer}"
