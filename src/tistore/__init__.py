"""
A columnar store for the activations of language models, with analysis by query.

    store = tistore.create("audit.tistore")
    with store.writer() as writer:
        writer.add(organism="flattery", reader="instruct", ...)
    store.add_vector("behavioral/refusal", values, layer=26)
    store.sql("SELECT organism, avg(project('refusal')) FROM responses GROUP BY organism")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tistore.errors import TistoreError
from tistore.version import __version__

if TYPE_CHECKING:
    from tistore.query.store import Store

__all__ = ["TistoreError", "__version__", "create", "open"]


def create(path: str | Path) -> Store:
    """Make an empty store; see `Store.create`."""
    # Imported when called: `import tistore` is to stay instant.
    from tistore.query.store import Store

    return Store.create(path)


def open(path: str | Path, at: int | None = None) -> Store:  # noqa: A001 - the contract's name
    """Open a store; see `Store.open`."""
    from tistore.query.store import Store

    return Store.open(path, at)
