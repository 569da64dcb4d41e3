"""Small stores for the tests of this floor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from example_readings import HIDDEN, make_reading
from tistore.store.base import BaseStore


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    """An empty store."""
    return BaseStore.create(tmp_path / "s.tistore")


@pytest.fixture
def filled(store: BaseStore) -> BaseStore:
    """A store of three responses, each read by its organism and by the clean base."""
    with store.writer() as writer:
        for seed in range(3):
            for offset, reader in enumerate(("flattery", "instruct")):
                values = make_reading(100 * offset + seed)["activations"]
                writer.add(**make_reading(seed, reader=reader, activations=values))
    store.add_vector("tone/flattery", np.arange(1, HIDDEN + 1), layer=5)
    return store
