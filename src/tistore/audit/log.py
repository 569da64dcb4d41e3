"""What has been asked of a store, and how many numbers were looked at to find an answer."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tistore.errors import StoreError
from tistore.version import __version__

if TYPE_CHECKING:
    from tistore.store.base import BaseStore
    from tistore.store.events import Event

NO_LOG = "TISTORE_NO_LOG"
"""Environment variable; unless it is empty, analyses are not logged."""

_EVENT = "analysis"


@dataclass(frozen=True, slots=True)
class Analysis:
    """
    One question that was put to a store.

    Attributes:
        at: When it was answered, ISO 8601, UTC.
        command: Command that asked, such as "rank".
        question: Its arguments as JSON, those left at None left out.
        snapshot: Commit it was answered at.
        vectors: References of the vectors looked along.
        n_organisms: Organisms looked at; None where nobody said.
        n_traits: Traits looked at.
        n_cells: Numbers looked at to choose what to show: for `rank` organisms times traits, for
            `top` every span that was ranked.
        total_cells: Cells of this analysis and all before it.
        n_rows: Rows that were shown.
        version: Version of tistore.
        host: Machine it was asked on.
        analysis_id: Its own id.
    """

    at: str
    command: str
    question: str
    snapshot: int
    vectors: tuple[str, ...]
    n_organisms: int | None
    n_traits: int | None
    n_cells: int
    total_cells: int
    n_rows: int
    version: str
    host: str
    analysis_id: str

    def to_row(self) -> dict[str, Any]:
        """Lay it out as a flat row."""
        return asdict(self) | {"vectors": list(self.vectors)}


def log_analysis(
    store: BaseStore,
    command: str,
    question: Mapping[str, Any],
    *,
    n_cells: int,
    n_rows: int,
    vectors: Sequence[str] = (),
    n_organisms: int | None = None,
    n_traits: int | None = None,
) -> tuple[str, ...]:
    """
    Log that a question has been answered; called once a command, when its answer is there.

    A line is appended to the store's `analyses.jsonl`, outside of the commits: the store's data
    and its snapshot stay what they are. Nothing is written where the store is read-only or open at
    a commit, or where `TISTORE_NO_LOG` is set.

    Args:
        store: What was asked.
        command: Name of the command: "top", "rank", "annotate average".
        question: Its arguments; what is None is left out.
        n_cells: Numbers looked at to choose what to show, shown or not.
        n_rows: Rows of the answer.
        vectors: References of the vectors looked along.
        n_organisms: Organisms looked at.
        n_traits: Traits looked at.

    Returns:
        Notes for whoever asked: why this analysis is not in the log; nothing when it is.
    """
    if reason := _why_not(store):
        return (f"this analysis is not logged: {reason}",)
    given = {name: value for name, value in question.items() if value is not None}
    try:
        store.analyses.append(
            _EVENT,
            run_id=None,
            analysis_id=uuid.uuid4().hex,
            command=command,
            question=json.loads(json.dumps(given, default=_plain)),
            snapshot=store.snapshot.number,
            vectors=list(vectors),
            n_organisms=n_organisms,
            n_traits=n_traits,
            n_cells=int(n_cells),
            n_rows=int(n_rows),
            tistore=__version__,
        )
    except StoreError as error:
        # The answer is worth more than its place in the log.
        return (f"this analysis is not logged: {error.message}",)
    return ()


def read_analyses(store: BaseStore) -> list[Analysis]:
    """
    Read what has been asked of a store, oldest first; nothing where nobody has asked.

    Raises:
        StoreError: The log cannot be read, or somebody has changed it.
    """
    found: list[Analysis] = []
    for event in store.analyses.read():
        if event["event"] == _EVENT:
            found.append(_read(store, event, found[-1].total_cells if found else 0))
    return found


def _read(store: BaseStore, event: Event, n_before: int) -> Analysis:
    try:
        return Analysis(
            at=event["time"],
            command=event["command"],
            question=json.dumps(event["question"], ensure_ascii=False),
            snapshot=event["snapshot"],
            vectors=tuple(event["vectors"]),
            n_organisms=event["n_organisms"],
            n_traits=event["n_traits"],
            n_cells=event["n_cells"],
            total_cells=n_before + event["n_cells"],
            n_rows=event["n_rows"],
            version=event["tistore"],
            host=event["host"],
            analysis_id=event["analysis_id"],
        )
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{store.analyses.path}: the analysis of {event['time']} is not whole: {error}",
            mend="mend that line, or remove it; no data is in it",
        ) from error


def _why_not(store: BaseStore) -> str | None:
    if os.environ.get(NO_LOG):
        return f"{NO_LOG} is set"
    if store.is_pinned:
        return f"the store is open at commit {store.snapshot.number}"
    return None if store.is_writable else "the store is read-only"


def _plain(value: Any) -> Any:
    """Put what JSON does not know into what it does: NumPy's numbers and lists, paths."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
