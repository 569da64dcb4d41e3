"""
What a store was told is committed, and whether it is still there: the check after every fault.

    findings = check(path, [Made("reading", 3), Made("vector", 3)])
    findings.raise_if_broken()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from durability.made import Made
from tistore.errors import TistoreError
from tistore.schemas.site import Site
from tistore.store.base import BaseStore
from tistore.store.segment import Segment

_CHECKS_OWN = 10**9
"""Seeds from here on are what `check` itself appends."""


@dataclass(frozen=True, slots=True)
class Findings:
    """
    What a check found.

    Attributes:
        lost: Acknowledged, and not there.
        partial: There in part: rows, layers or bytes are missing or do not agree.
        wrong: Other than it was written; twice; there again after its removal was acknowledged;
            or the store cannot be opened, or be written on.
        extra: There without having been acknowledged. Allowed: a commit's link may last, although
            its writer died before it could say so.
    """

    lost: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    extra: tuple[Made, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the store has kept its promises."""
        return not (self.lost or self.partial or self.wrong)

    def __add__(self, other: Findings) -> Findings:
        """Join what two checks found."""
        return Findings(
            self.lost + other.lost,
            self.partial + other.partial,
            self.wrong + other.wrong,
            self.extra + other.extra,
        )

    def raise_if_broken(self) -> None:
        """Fail a test, saying everything."""
        if not self.ok:
            raise AssertionError(f"lost {self.lost}, partial {self.partial}, wrong {self.wrong}")


def check(
    path: Path,
    acknowledged: Iterable[Made],
    *,
    gone: Iterable[Made] = (),
    go_on: bool = True,
) -> Findings:
    """
    Hold a store against what its writers were told.

    Opens it, hashes every byte, compares every visible reading and vector with what its seed
    makes (acknowledged or not, it must be whole), and commits something more.

    Args:
        path: The store. No other writer may be at work.
        acknowledged: What was committed.
        gone: What was removed, and acknowledged as removed.
        go_on: Whether to append once more.
    """
    try:
        store = BaseStore.open(path)
        findings = _compare(store, set(acknowledged), set(gone)) + _read_back(store)
        if go_on and findings.ok:
            findings += _append_once_more(path)
    except TistoreError as error:
        return Findings(wrong=(f"{type(error).__name__}: {error}",))
    return findings


def _compare(store: BaseStore, acknowledged: set[Made], gone: set[Made]) -> Findings:
    damaged = store.verify(strict=False).problems
    findings = Findings(partial=tuple(f"{file.path}: {file.problem}" for file in damaged))
    seen: Counter[Made] = Counter()
    for segment in store.snapshot.segments:
        for made, problems in read_segment(segment):
            seen[made] += 1
            findings += problems
    for vector in store.snapshot.vectors():
        made = Made("vector", int(vector.trait.split("/")[1]))
        seen[made] += 1
        if not np.array_equal(vector.values, made.direction()):
            findings += Findings(wrong=(f"{made}: other values",))
    wrong = [f"{made}: {times} times" for made, times in seen.items() if times > 1]
    wrong += [f"{made}: was removed, or not there before" for made in sorted(gone & set(seen))]
    n_keys = len(store.snapshot.keys.get("readings", {}))
    n_seen = sum(times for made, times in seen.items() if made.kind != "vector")
    if n_keys != n_seen:
        wrong.append(f"the log has {n_keys} keys of readings, the segments {n_seen} readings")
    extra = {made for made in set(seen) - acknowledged if made.seed < _CHECKS_OWN}
    return findings + Findings(
        lost=tuple(map(str, sorted(acknowledged - set(seen)))),
        wrong=tuple(wrong),
        extra=tuple(sorted(extra)),
    )


def _read_back(store: BaseStore) -> Findings:
    """Read the store as of the commit halfway that can be opened: what has been replaced since."""
    newest = store.snapshot
    halfway = max(newest.contents.oldest, newest.number // 2)
    live = {segment.uuid for segment in newest.segments}
    findings = Findings()
    for segment in BaseStore.open(store.path, at=halfway).snapshot.segments:
        if segment.uuid not in live:
            findings += sum((problems for _, problems in read_segment(segment)), Findings())
    return findings


def read_segment(segment: Segment) -> Iterator[tuple[Made, Findings]]:
    """Read every reading of a segment; gives each with what is the matter with it."""
    tokens = segment.table("tokens", ["reading", "token_id"])
    reading_of, token_ids = (column.to_numpy() for column in tokens.columns)
    for index, row in enumerate(segment.table("responses").to_pylist()):
        made = Made.of(row)
        wanted = made.arguments()
        rows = slice(row["row_start"], row["row_start"] + row["n_rows"])
        problems = Findings()
        if np.flatnonzero(reading_of == index).tolist() != list(range(rows.start, rows.stop)):
            problems += Findings(partial=(f"{made}: its tokens are not {rows}",))
        elif segment.layers != tuple(wanted["layers"]):
            problems += Findings(partial=(f"{made}: its layers are {segment.layers}",))
        elif row["token_ids"] != wanted["token_ids"]:
            problems += Findings(wrong=(f"{made}: other token ids",))
        elif token_ids[rows].tolist() != wanted["token_ids"][wanted["prompt_length"] :]:
            problems += Findings(wrong=(f"{made}: other ids in its tokens",))
        elif what := _compare_values(segment, wanted, rows, index):
            problems += Findings(wrong=(f"{made}: {what}",))
        yield made, problems


def _compare_values(
    segment: Segment, wanted: dict[str, Any], rows: slice, index: int
) -> str | None:
    """Compare activations to the bit, and what is derived from them with NumPy's own sums."""
    stored = wanted["activations"]["residual"].astype(np.float16)
    for place, layer in enumerate(segment.layers):
        site = Site("residual", layer)
        expected = stored[:, place]
        if not np.array_equal(segment.read(site, rows.start, rows.stop), expected):
            return f"other activations at layer {layer}"
        exact = expected.astype(np.float64)
        if not np.allclose(segment.norms(site)[rows], np.linalg.norm(exact, axis=1), rtol=1e-5):
            return f"other norms at layer {layer}"
        if not np.allclose(segment.means(site)[index], exact.mean(axis=0), rtol=1e-4, atol=1e-6):
            return f"another mean at layer {layer}"
    return None


def _append_once_more(path: Path) -> Findings:
    """Commit a reading, and find it with a handle of its own."""
    store = BaseStore.open(path)
    made = Made("reading", _CHECKS_OWN + store.snapshot.number)
    with store.writer() as writer:
        writer.add(**made.arguments())
    newest = BaseStore.open(path).snapshot.segments[-1]
    found = dict(read_segment(newest))
    return found.get(made, Findings(lost=(f"{made}, appended afterwards",)))
