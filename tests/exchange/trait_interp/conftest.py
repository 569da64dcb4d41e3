"""The oracle tree, imported once."""

from __future__ import annotations

import pytest

import tistore
from tistore.exchange.trait_interp.options import ImportOptions
from tistore.exchange.trait_interp.run import import_experiment
from tistore.exchange.trait_interp.seen import ImportReport
from tistore.query.store import Store
from trait_interp_tree import Tree

EXPERIMENTS = ("november", "december", "february")

Imported = dict[str, tuple[Store, ImportReport]]


@pytest.fixture(scope="session")
def imported(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Each experiment in a store of its own, with the report; not to be written to."""
    folder = tmp_path_factory.mktemp("imported")
    options = ImportOptions(
        quantization="4bit", keep_mismatched=True, vectors=(tree.root / "loose",)
    )
    found = {}
    for name in EXPERIMENTS:
        store = tistore.create(folder / name)
        chosen = options if name == "february" else ImportOptions()
        report = import_experiment(store, tree.experiment(name), chosen)
        found[name] = (tistore.open(folder / name), report)
    return found
