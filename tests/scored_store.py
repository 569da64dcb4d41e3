"""Stores whose scores are what a test says: one dimension, one vector, one number a token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tistore
from tistore.query.store import Store
from tistore.schemas.model import Model

LAYER = 3
PROMPT = 2
WORDS = ["So", " it", " is", ",", " all", " of", " it", "!"]


class Scored:
    """
    A store of one vector, `tone/odd`, to be written to.

    Attributes:
        ids: The id of each response, by organism, prompt and sample.

    Args:
        store: The store.
        ids: Ids of the responses it has.
    """

    def __init__(self, store: Store, ids: dict[tuple[str, str, int], str] | None = None) -> None:
        self._store = store
        self._writer = store.writer()
        self.ids = dict(ids or {})

    @property
    def store(self) -> Store:
        """The store, with all that was added."""
        self._writer.commit()
        return self._store

    def add(
        self,
        scores: Sequence[float],
        *,
        prompt: str = "1",
        organism: str = "loud",
        sample: int = 0,
        replay: Sequence[float] | None = None,
        other: Sequence[float] | None = None,
        prompt_set: str = "audit/x",
    ) -> str:
        """Add a response by its author's scores, and perhaps the base's and another's."""
        rng = np.random.default_rng(len(self.ids))
        ids = rng.integers(0, 9000, PROMPT + len(scores)).tolist()
        for reader, values in ((organism, scores), ("instruct", replay), ("other", other)):
            if values is not None:
                response_id = self._writer.add(
                    organism=Model(organism, base_id="tiny"),
                    reader=Model(reader, base_id="tiny"),
                    prompt_set=prompt_set,
                    prompt_id=prompt,
                    sample=sample,
                    token_ids=ids,
                    prompt_length=PROMPT,
                    tokens=[WORDS[at % len(WORDS)] for at in range(len(scores))],
                    layers=[LAYER],
                    activations={"residual": np.array(values, dtype=float)[:, None, None]},
                )
        self.ids[organism, prompt, sample] = response_id
        return response_id

    def label(self, response_id: str, start: int, end: int, label: str = "odd") -> None:
        """Label tokens of a response, counted from the response's first."""
        span = {"token_start": PROMPT + start, "token_end": PROMPT + end}
        row = {"response_id": response_id, "label": label} | span
        self._writer.add_rows("annotations", [row])


def make_scored(path: Path) -> Scored:
    """Make a store of no responses yet."""
    store = tistore.create(path)
    store.add_vector("tone/odd", np.ones(1), layer=LAYER, method="mean_diff")
    return Scored(store)
