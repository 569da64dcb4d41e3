"""What the fault laboratory puts into stores: everything follows from a kind and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from example_readings import HIDDEN, LAYERS, make_reading

KINDS = ("reading", "replay", "wide", "long", "vector")


@dataclass(frozen=True, slots=True, order=True)
class Made:
    """
    Something a test puts into a store: what it holds follows from kind and seed alone.

    A `replay` is another reader's of the reading of that seed; `wide` readings have other layers
    and another width, so they need a segment of their own; `long` ones take several chunks, which
    threads encode; a `vector` is a direction.
    """

    kind: str
    seed: int

    def __str__(self) -> str:
        """Name it as a line of a ledger does."""
        return f"{self.kind}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Made:
        """Read the name back."""
        kind, seed = text.split(":")
        return cls(kind, int(seed))

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Made:
        """Tell what a row of `responses` must have been made from."""
        kind = {"audit/wide": "wide", "audit/long": "long"}.get(row["prompt_set"], "reading")
        return cls("replay" if row["reader"] == "instruct" else kind, int(row["prompt_id"]))

    def arguments(self) -> dict[str, Any]:
        """Lay a reading out as the arguments of `writer.add`."""
        if self.kind == "reading":
            return make_reading(self.seed)
        rng = np.random.default_rng([self.seed, KINDS.index(self.kind)])
        if self.kind == "replay":
            values = rng.standard_normal((5, len(LAYERS), HIDDEN))
            return make_reading(self.seed, reader="instruct", activations={"residual": values})
        if self.kind == "wide":
            return make_reading(
                self.seed,
                prompt_set="audit/wide",
                layers=(1, 4, 7),
                activations={"residual": rng.standard_normal((5, 3, 3 * HIDDEN))},
            )
        n_tokens = 300
        return make_reading(
            self.seed,
            prompt_set="audit/long",
            token_ids=rng.integers(0, 1000, n_tokens).tolist(),
            tokens=None,
            activations={"residual": rng.standard_normal((n_tokens - 2, 2, 512))},
        )

    def direction(self) -> NDArray[np.float32]:
        """Values of a vector."""
        rng = np.random.default_rng(self.seed)
        return rng.standard_normal(HIDDEN).astype(np.float32)

    @property
    def trait(self) -> str:
        """Name of a vector."""
        return f"made/{self.seed}"
