"""Bringing labelled spans into a store: all of a file, or nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tistore.audit.annotations.file import FileFormat, Subject, read_spans
from tistore.audit.annotations.placing import Misfit, PlacedSpan, place_spans, with_defaults
from tistore.errors import DatasetError

if TYPE_CHECKING:
    from tistore.query.store import Store

_MOST_TOLD = 5


@dataclass(frozen=True, slots=True)
class AnnotationsReport:
    """
    What an import did.

    Attributes:
        source: The file.
        seen: Spans in it.
        imported: Those that were new.
        present: Those that were in the store, or in the file before.
        left_out: Spans that fit no stored token, and why; only where that was asked for.
        unread_keys: Columns that mean nothing here, and how many rows have each.
    """

    source: str
    seen: int
    imported: int
    present: int
    left_out: tuple[str, ...] = ()
    unread_keys: dict[str, int] = field(default_factory=dict)


def import_annotations(
    store: Store,
    path: Path,
    *,
    format: FileFormat | None = None,
    source: str | None = None,
    organism: str | None = None,
    prompt_set: str | None = None,
    sample: int | None = None,
    skip_misfits: bool = False,
) -> AnnotationsReport:
    """
    Import a file of labelled spans.

    The whole file is checked against the stored responses before anything is written; the same
    file again adds nothing.

    Args:
        store: Where to; the responses must have been read there.
        path: See `tistore.audit.annotations.file`.
        format: How it is written; by its name when None.
        source: Who labelled the spans that name nobody; the file's name when None.
        organism: Author of the responses of rows that name none.
        prompt_set: Prompt set of rows that name none.
        sample: Sample of rows that name none; 0 when None.
        skip_misfits: Leave out spans that fit no stored token, in place of refusing the file.

    Raises:
        DatasetError: The file is malformed, or a span of it is of no stored response, lies outside
            of it, or its words are not there exactly once.
    """
    store.refresh()
    given = read_spans(path, format)
    defaults = Subject(organism=organism, prompt_set=prompt_set, sample=sample)
    spans = [with_defaults(span, defaults, source or path.name) for span in given.spans]
    placed: list[PlacedSpan] = []
    misfits: list[Misfit] = []
    for found in place_spans(store, spans):
        if isinstance(found, Misfit):
            misfits.append(found)
        else:
            placed.append(found)
    if misfits and not (skip_misfits and placed):
        _refuse(misfits, len(spans))
    rows = [_lay_out(one) for one in placed]
    new = _list_new(store, rows)
    if new:
        store.add_rows("annotations", new)
    return AnnotationsReport(
        source=str(path),
        seen=len(spans),
        imported=len(new),
        present=len(rows) - len(new),
        left_out=tuple(map(str, misfits)),
        unread_keys=given.unread,
    )


def _refuse(misfits: Sequence[Misfit], n_spans: int) -> None:
    told = "\n  ".join(map(str, misfits[:_MOST_TOLD]))
    more = len(misfits) - _MOST_TOLD
    rest = f"\n  and {more} more" if more > 0 else ""
    raise DatasetError(
        f"{len(misfits)} of {n_spans} spans fit no stored response:\n  {told}{rest}",
        mend="mend the file, or leave such spans out: --skip-misfits",
    )


def _lay_out(placed: PlacedSpan) -> dict[str, Any]:
    return {
        "response_id": placed.response.response_id,
        "token_start": placed.tokens[0],
        "token_end": placed.tokens[1],
        "label": placed.span.label,
        "note": placed.span.note,
        "source": placed.span.source,
    }


def _list_new(store: Store, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the rows the store has not, each once."""
    known = {tuple(row.values()) for row in store.snapshot.table("annotations").to_pylist()}
    kept = {tuple(row.values()): row for row in rows}
    return [row for key, row in kept.items() if key not in known]
