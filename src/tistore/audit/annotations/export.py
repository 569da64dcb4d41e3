"""Taking labelled spans out of a store, with the words they are on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tistore.audit.annotations.file import FileFormat, guess_format
from tistore.audit.annotations.placing import read_response_texts, read_sequences
from tistore.errors import DatasetError, QueryError, nearest

if TYPE_CHECKING:
    from tistore.query.store import Store

EXPORTED = (
    "response_id", "organism", "prompt_set", "prompt_id", "sample", "token_start", "token_end",
    "text", "label", "note", "source",
)  # fmt: skip


def list_annotations(
    store: Store,
    *,
    labels: Sequence[str] = (),
    sources: Sequence[str] = (),
    organisms: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """
    List labelled spans, in order of organism, prompt set, prompt, sample and place.

    Args:
        store: Where to look.
        labels: Only these; all when empty.
        sources: Only of these.
        organisms: Only of responses by these authors.

    Returns:
        A dict for each span with the keys of `EXPORTED`. Who answered what, and the words, are None
        where the response is not in the store.

    Raises:
        QueryError: The store has no such label, source or organism.
    """
    sequences = read_sequences(store.snapshot)
    rows = []
    for row in store.snapshot.table("annotations").to_pylist():
        found = sequences.get(row["response_id"])
        slot = found.slot if found else None
        of_slot = {
            name: getattr(slot, name, None)
            for name in ("organism", "prompt_set", "prompt_id", "sample")
        }
        rows.append(row | of_slot)
    for name, wanted in (("label", labels), ("source", sources), ("organism", organisms)):
        rows = _keep(rows, name, wanted)
    texts = read_response_texts(store, (row["response_id"] for row in rows))
    for row in rows:
        text = texts.get(row["response_id"])
        row["text"] = text.spell(row["token_start"], row["token_end"]) if text else None
    return [{name: row[name] for name in EXPORTED} for row in sorted(rows, key=_order)]


def summarise_annotations(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Count spans, responses, prompts and tokens for each label and source."""
    groups: dict[tuple[str, str | None], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["source"]), []).append(row)
    return [
        {
            "label": label,
            "source": source,
            "n_spans": len(group),
            "n_responses": len({row["response_id"] for row in group}),
            "n_prompts": len({(row["prompt_set"], row["prompt_id"]) for row in group}),
            "n_tokens": sum(row["token_end"] - row["token_start"] for row in group),
            "organisms": sorted({row["organism"] for row in group if row["organism"]}),
        }
        for (label, source), group in sorted(
            groups.items(), key=lambda entry: (entry[0][0], entry[0][1] or "")
        )
    ]


def write_annotations(
    rows: Sequence[Mapping[str, Any]], path: Path, format: FileFormat | None = None
) -> None:
    """
    Write listed spans to a file that `import_annotations` reads back exactly.

    Args:
        rows: See `list_annotations`.
        path: Where to; nothing may be there.
        format: How; by the file's name when None.

    Raises:
        DatasetError: Something is there, or it cannot be written.
    """
    written = _WRITERS[format or guess_format(path)](rows)
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(written)
    except FileExistsError as error:
        raise DatasetError(
            f"{path} is there already", mend="remove it, or choose another name"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error.strerror}") from error


def _keep(rows: list[dict[str, Any]], name: str, wanted: Sequence[str]) -> list[dict[str, Any]]:
    known = {row[name] for row in rows if row[name] is not None}
    for value in wanted:
        if value not in known:
            raise QueryError(f"no annotation has {name} {value!r}; {nearest(value, known)}")
    return [row for row in rows if row[name] in wanted] if wanted else rows


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    prompt = row["prompt_id"] or ""
    return (
        row["organism"] or "", row["prompt_set"] or "", len(prompt), prompt, row["sample"] or 0,
        row["response_id"], row["token_start"], row["token_end"], row["label"],
    )  # fmt: skip


def _write_json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([dict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def _write_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


def _write_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, EXPORTED)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_WRITERS: dict[FileFormat, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    "json": _write_json,
    "jsonl": _write_lines,
    "csv": _write_csv,
}
