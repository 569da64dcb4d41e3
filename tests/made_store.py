"""A store of three organisms and their base whose states are known, for tests of audits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tistore
from tistore.query.store import Store

AUTHORS = ("instruct", "loud", "shy", "wild", "mild")
LAYERS = (1, 3)
HIDDEN = 3
PROMPTS = 5
PROMPT_LENGTH = 2


@dataclass
class MadeStore:
    """
    The store, and what is in it.

    Attributes:
        states: By (author, reader, prompt): [token, layer, hidden] of the response's tokens.
    """

    store: Store
    states: dict[tuple[str, str, str], np.ndarray]

    def means(self, author: str, reader: str, layer: int) -> np.ndarray:
        """Response means of each prompt: (prompt, hidden)."""
        at = LAYERS.index(layer)
        return np.stack(
            [self.states[author, reader, str(one)][:, at].mean(0) for one in range(PROMPTS)]
        )


def make_store(path: Path, *, swapped: bool = False) -> MadeStore:
    """Write it; with `swapped`, every organism has read the base's answers."""
    rng = np.random.default_rng(3)
    store = tistore.create(path)
    states: dict[tuple[str, str, str], np.ndarray] = {}
    with store.writer() as writer:
        for place, author in enumerate(AUTHORS):
            others = list(AUTHORS[1:]) if author == "instruct" and swapped else []
            for number in range(PROMPTS):
                length = 8 + 3 * number + place
                ids = rng.integers(0, 90, PROMPT_LENGTH + length).tolist()
                for reader in dict.fromkeys((author, "instruct", *others)):
                    found = rng.integers(-40, 40, (length, len(LAYERS), HIDDEN)) / 8
                    found[1:, :, 1] += found[:-1, :, 0]  # the second axis follows the first
                    found[..., 0] += 2.0 * place * (reader == author)
                    states[author, reader, str(number)] = found
                    writer.add(
                        organism=author,
                        reader=reader,
                        prompt_set="audit/one",
                        prompt_id=str(number),
                        token_ids=ids,
                        prompt_length=PROMPT_LENGTH,
                        tokens=[f" t{one}" if one % 4 else "." for one in range(length)],
                        logprobs=(-rng.uniform(0, 3, length)).tolist(),
                        layers=LAYERS,
                        activations={"residual": found},
                    )
    for at, trait in enumerate(("tone/first", "tone/second")):
        store.add_vector(trait, np.eye(HIDDEN)[at], layer=3, method="mean_diff")
    return MadeStore(store, states)
