"""Means over tokens: the same to the last bit, however readings are laid out in segments."""

from __future__ import annotations

from unittest import mock

import numpy as np

import tistore
from example_readings import make_reading
from tistore.query.store import Store
from tistore.schemas.site import Site
from tistore.vectors.token_means import Stretch, read_means

HIDDEN, N_TOKENS = 33, 300


def average(store: Store) -> dict[str, np.ndarray]:
    """The means of all tokens but the first few of each reading, by the prompt's id."""
    found = {}
    for segment in store.snapshot.segments:
        table = segment.table("responses", ["prompt_id", "row_start"]).to_pylist()
        stretches = [
            Stretch(segment, place, np.arange(3, N_TOKENS) + row["row_start"], False)
            for place, row in enumerate(table)
        ]
        means = read_means(stretches, Site("residual", 5))
        found |= {row["prompt_id"]: mean for row, mean in zip(table, means, strict=True)}
    return found


def write_readings(store: Store, states: np.ndarray) -> None:
    """Write readings with a commit each."""
    for number, values in enumerate(states):
        with store.writer() as writer, mock.patch("os.fsync"):
            writer.add(
                **make_reading(
                    number,
                    token_ids=[1, 2, *range(N_TOKENS)],
                    tokens=["a"] * N_TOKENS,
                    activations={"residual": values},
                )
            )


def test_means_are_exact_and_the_same_after_compacting(tmp_path):
    states = np.random.default_rng(4).standard_normal((5, N_TOKENS, 2, HIDDEN)).astype(np.float16)
    store = tistore.create(tmp_path / "s.tistore")
    write_readings(store, states)
    before = average(store)

    store.compact()

    assert len(store.snapshot.segments) == 1
    after = average(store)
    for number, values in enumerate(states):
        exact = values[3:, 1].astype(np.float64).sum(axis=0) / (N_TOKENS - 3)
        np.testing.assert_array_equal(before[str(number)], exact.astype(np.float32))
        np.testing.assert_array_equal(after[str(number)], before[str(number)])
