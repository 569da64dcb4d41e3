"""What another process may do between the writing of a rewrite's files and its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tistore.store.base import BaseStore


@contextmanager
def before_the_commit(
    store: BaseStore, happening: Callable[[], object], *, times: int = 1
) -> Iterator[None]:
    """Let something happen before each of the first commits that a store's committers try."""
    left = [happening] * times
    make = store.committer

    def make_disturbed() -> Any:
        committer = make()
        append = committer.append

        def append_late(*arguments: Any) -> Any:
            if left:
                left.pop()()
            return append(*arguments)

        committer.append = append_late  # type: ignore[method-assign]
        return committer

    with mock.patch.object(store, "committer", make_disturbed):
        yield
