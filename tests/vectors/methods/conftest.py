"""Methods are tested on one thread: rows are so few that more of them only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Keep NumPy, scikit-learn and torch, which xrfm runs on, to one thread."""
    with threadpool_limits(1):
        if find_spec("torch") is None:
            yield
            return
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)
