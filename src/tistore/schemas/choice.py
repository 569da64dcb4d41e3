"""Which vector a bare trait name means, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from tistore.schemas.site import Component
from tistore.schemas.vector import Vector


@dataclass(frozen=True, slots=True)
class Choice:
    """
    One trait's chosen vector; a later choice takes the place of an earlier one.

    Attributes:
        trait: `category/name`.
        model: Model the vector was fitted on; each model's vectors have a choice of their own.
        vector_hash: Content hash of the vector.
        component: Its component.
        layer: Its layer.
        method: How it was fitted.
        position: Tokens it was fitted on.
        rule: How it was chosen: "steering", "nested", "separation" or "incumbent"; "named" by a
            person; "only" where there is no other.
        reason: One sentence for people.
        n_candidates: Vectors it was chosen among.
        selected_by: What the rule compared, such as "auroc" or "steering delta".
        selection_score: The chosen vector's value of that. Choosing the largest of many makes it
            too large; it is no estimate of quality.
        auroc: Quality on scenarios that had no part in the choice, where measured.
        g: Hedges' g on the same.
        g_low: Lower end of its interval.
        g_high: Upper end.
        chosen_at: When.
    """

    trait: str
    model: str | None
    vector_hash: str
    component: Component
    layer: int
    method: str
    position: str
    rule: str
    reason: str
    n_candidates: int
    selected_by: str | None
    selection_score: float | None
    auroc: float | None
    g: float | None
    g_low: float | None
    g_high: float | None
    chosen_at: datetime

    @property
    def reference(self) -> str:
        """The full name of the vector, by which SQL can refer to it."""
        return f"{self.trait}:{self.method}@{self.layer}"

    def means(self, vector: Vector) -> bool:
        """Whether this is the chosen vector, and not one fitted anew under its name."""
        return self.names(vector) and self.vector_hash == vector.content_hash

    def names(self, vector: Vector) -> bool:
        """Whether a vector has the name of the chosen one, whatever its values."""
        mine = (self.trait, self.model, self.component, self.layer, self.method, self.position)
        return mine == (
            vector.trait, vector.model, vector.component, vector.layer, vector.method,
            vector.position,
        )  # fmt: skip

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a row of the `choices` table."""
        return cls(**row)

    def to_row(self) -> dict[str, Any]:
        """Lay the choice out as a row of the `choices` table."""
        return {name: getattr(self, name) for name in self.__slots__}
