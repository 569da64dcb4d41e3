"""Shared by the tests of import and export."""

from __future__ import annotations

import pytest

from trait_interp_tree import Tree, build_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A trait-interp tree with known contents; not to be written to."""
    return build_tree(tmp_path_factory.mktemp("trait_interp"))
