"""A store of contrast scenarios that nobody's model has read, with what went into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import tistore
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HIDDEN = 12
LAYERS = (2, 5)
RESPONSE = 3
BASE = Model("instruct", base_id="tiny/base", family="llama")


@dataclass
class WrittenScenarios:
    """
    What was written.

    Attributes:
        store: The store.
        rows: (n_pairs, hidden) float64 mean of the response's states, by trait, side and layer.
    """

    store: Store
    rows: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)

    def add_mean_difference(self, trait: str, layer: int, **changes: object) -> np.ndarray:
        """Add the trait's vector at a layer; return its values."""
        positive, negative = (self.rows[trait, side, layer] for side in ("positive", "negative"))
        values = positive.mean(axis=0) - negative.mean(axis=0)
        known = {"method": "mean_diff", "position": "response[:]", "model": "instruct"}
        self.store.add_vector(trait, values, layer=layer, **known | changes)
        return values


def write_scenario_store(
    path: Path, traits: Sequence[str], *, n_pairs: int = 20, shift: float = 2.0, seed: int = 0
) -> WrittenScenarios:
    """Write `n_pairs` a trait; trait i moves dimension i by `shift`, at the last layer only."""
    rng = np.random.default_rng(seed)
    written = WrittenScenarios(tistore.create(path))
    with written.store.writer() as writer:
        for place, trait in enumerate(traits):
            for side in ("positive", "negative"):
                states = rng.standard_normal((n_pairs, RESPONSE, len(LAYERS), HIDDEN))
                if side == "positive":
                    states[:, :, -1, place] += shift
                states = np.round(states * 64) / 64  # exact in float16
                for at, layer in enumerate(LAYERS):
                    written.rows[trait, side, layer] = states[:, :, at].mean(axis=1)
                for number, values in enumerate(states, start=1):
                    prompt_set = f"scenarios/{trait}/{side}"
                    writer.add(
                        organism="scenarios",
                        reader=BASE,
                        prompt_set=prompt_set,
                        prompt_id=str(number),
                        token_ids=rng.integers(0, 900, 2 + RESPONSE).tolist(),
                        prompt_length=2,
                        layers=LAYERS,
                        activations={"residual": values},
                        prompt=Prompt(prompt_set, str(number), f"{trait} {side} {number}"),
                    )
    return written
