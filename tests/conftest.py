"""What holds for every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tistore.store.layout import cache_folder

# How long an example takes depends on what else the machine is doing: nothing here is timed.
settings.register_profile("tistore", deadline=None)
settings.load_profile("tistore")


def pytest_collection_finish() -> None:
    """
    Have the garbage collector pass over what imported modules hold: they stay to the end.

    With torch and transformers that is half a million objects, and a run gives memory back after
    every model: looking through them each time took half of some tests.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it look through them once more, as libraries that count their own objects expect."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's cache alone, but for the weights of the demo: they are slow to train."""
    weights = cache_folder() / "tiny"
    weights.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("cache")
    (folder / "tiny").symlink_to(weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TISTORE_CACHE_DIR", str(folder))
        yield
