"""
Annotation files: labelled spans of responses, one a row.

A row says which response (`response_id`; or `organism`, `prompt_set`, `prompt_id` and `sample`),
which span of it, and its `label`; `note` and `source` may be there. The span is `token_start` and
`token_end`, counted in the whole sequence with the end left out, as everywhere in a store; or
`char_start` and `char_end` in the response's text; or `text`, which has to be in the response once.
Beside tokens or characters, `text` is what is expected there.

Rows are a JSON list (or an object with the list under `annotations`), JSON lines, or CSV. The three
annotation schemas of trait-interp are read, too; see `datasets.trait_interp.annotations`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from tistore.datasets.trait_interp.annotations import Annotation, read_annotations
from tistore.datasets.trait_interp.documents import (
    Node,
    decode_text,
    read_content,
    read_document,
    read_lines,
)
from tistore.errors import DatasetError, nearest

FileFormat = Literal["json", "jsonl", "csv"]
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

COLUMNS = (
    "response_id", "organism", "prompt_set", "prompt_id", "sample",
    "token_start", "token_end", "char_start", "char_end", "text", "label", "note", "source",
)  # fmt: skip
"""Every column a row may have."""

_SUFFIXES: dict[str, FileFormat] = {
    ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv",
}  # fmt: skip
_INTEGERS = {"sample", "token_start", "token_end", "char_start", "char_end"}
_MISSPELT = 0.8
"""A column this close to a known one is taken for a slip, not for somebody's own."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Subject:
    """
    The response a row speaks of, as far as the row says; None where it does not.

    Attributes:
        response_id: The response's own id.
        organism: Author.
        prompt_set: Set of the prompt.
        prompt_id: The prompt.
        sample: Which generation.
    """

    response_id: str | None = None
    organism: str | None = None
    prompt_set: str | None = None
    prompt_id: str | None = None
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class GivenSpan:
    """
    A labelled span as a file gives it.

    Attributes:
        place: Where in the file it stands, for errors.
        subject: Which response.
        label: What was found.
        tokens: First token and one past the last; None where they are not given.
        is_counted_in_response: Whether tokens are counted from the response's first, and not in
            the whole sequence.
        characters: The same of the characters of the response's text.
        text: The words; None where they are not given, or are for people only.
        note: Why, for people.
        source: Who found it.
        names_source: Whether the file says who, be it that nobody is known.
    """

    place: str
    subject: Subject
    label: str
    tokens: Range | None = None
    is_counted_in_response: bool = False
    characters: Range | None = None
    text: str | None = None
    note: str | None = None
    source: str | None = None
    names_source: bool = False


@dataclass(frozen=True, slots=True)
class GivenSpans:
    """
    What a file says.

    Attributes:
        spans: In file order.
        unread: Columns that mean nothing here, and how many rows have each.
    """

    spans: tuple[GivenSpan, ...]
    unread: dict[str, int]


def read_spans(path: Path, format: FileFormat | None = None) -> GivenSpans:
    """
    Read an annotation file.

    Args:
        path: The file.
        format: How it is written; by its name when None.

    Raises:
        DatasetError: It is missing, malformed or empty; file, place and column are named.
    """
    format = format or guess_format(path)
    if format == "csv":
        return _gather(path, _read_csv(path))
    if format == "jsonl":
        return _gather(path, read_lines(path))
    document = read_document(path)
    if isinstance(document.value, list):
        return _gather(path, document.elements())
    rows = document.get("annotations")
    if rows is not None and all("label" in node.fields() for node in rows.elements()):
        return _gather(path, rows.elements())
    read = read_annotations(path)
    return GivenSpans(tuple(_adopt(path, one) for one in read.annotations), {})


def guess_format(path: Path) -> FileFormat:
    """
    Tell a file's format by its name.

    Raises:
        DatasetError: The name does not say.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise DatasetError(
            f"{path} is named neither {' nor '.join(_SUFFIXES)}",
            mend=f"say how it is written: --format {'|'.join(FILE_FORMATS)}",
        )
    return _SUFFIXES[path.suffix.lower()]


def _gather(path: Path, nodes: Iterator[Node]) -> GivenSpans:
    unread: Counter[str] = Counter()
    spans = []
    for node in nodes:
        spans.append(_read_row(node))
        unread.update(key for key in node.fields() if key not in COLUMNS)
    if not spans:
        raise DatasetError(f"{path} holds no annotations", mend="add at least one row to it")
    return GivenSpans(tuple(spans), dict(sorted(unread.items())))


def _read_csv(path: Path) -> Iterator[Node]:
    text = decode_text(path, read_content(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        for row in reader:
            if not row:
                continue
            node = Node(path, f"line {reader.line_num}", None)
            if len(row) != len(names):
                node.fail(f"{len(row)} values for {len(names)} columns")
            fields = {name: _value(name, value) for name, value in zip(names, row, strict=True)}
            yield Node(path, node.place, fields)
    except csv.Error as error:
        raise DatasetError(f"{path} at line {reader.line_num}: {error}") from error


def _value(name: str, written: str) -> Any:
    """Take what stands in a cell; nothing for an empty one."""
    is_integer = name in _INTEGERS and written.strip().removeprefix("-").isdecimal()
    return int(written) if is_integer else written or None


def _read_row(node: Node) -> GivenSpan:
    for key in node.fields():
        if key not in COLUMNS and get_close_matches(key, COLUMNS, n=1, cutoff=_MISSPELT):
            node.fail(f"no column {key!r}; {nearest(key, COLUMNS)}", mend="rename it there")
    label = node.require("label").text()
    if not label.strip():
        node.fail("the label is empty", mend="say what was found")
    tokens, characters = _read_range(node, "token"), _read_range(node, "char")
    text = node.get_text("text")
    if tokens is None and characters is None and text is None:
        node.fail(
            "no span here",
            mend="give token_start and token_end, or char_start and char_end, or the span's text",
        )
    if tokens is not None and characters is not None:
        node.fail("tokens and characters both say where the span is", mend="keep one of the two")
    return GivenSpan(
        place=f"{node.path} at {node.place}",
        subject=_read_subject(node),
        label=label,
        tokens=tokens,
        characters=characters,
        text=text,
        note=node.get_text("note"),
        source=node.get_text("source"),
        names_source="source" in node.fields(),
    )


def _read_subject(node: Node) -> Subject:
    prompt_id = node.get("prompt_id")
    subject = Subject(
        response_id=node.get_text("response_id"),
        organism=node.get_text("organism"),
        prompt_set=node.get_text("prompt_set"),
        prompt_id=None if prompt_id is None else _read_id(prompt_id),
        sample=node.get_integer("sample"),
    )
    if subject.response_id is None and subject.prompt_id is None:
        node.fail(
            "it does not say which response",
            mend="give response_id; or organism, prompt_set, prompt_id and sample",
        )
    return subject


def _read_id(node: Node) -> str:
    return str(node.integer()) if isinstance(node.value, int) else node.text()


def _read_range(node: Node, noun: str) -> Range | None:
    start, end = node.get_integer(f"{noun}_start"), node.get_integer(f"{noun}_end")
    if start is None and end is None:
        return None
    if start is None or end is None:
        node.fail(f"{noun}_start and {noun}_end belong together", mend="give both, or neither")
    if start >= end:
        node.fail(
            f"{noun}s {start} to {end} are none: the end is one past the last {noun}",
            mend=f"mend {noun}_start or {noun}_end",
        )
    return start, end


def _adopt(path: Path, one: Annotation) -> GivenSpan:
    """Take over a span of trait-interp's; its text beside tokens had gained spaces."""
    has_tokens = one.token_start is not None and one.token_end is not None
    unsure = "borderline" if one.is_borderline else None
    return GivenSpan(
        place=f"{path}: {one.subject}",
        subject=Subject(prompt_id=one.subject),
        label=one.label,
        tokens=(one.token_start, one.token_end) if has_tokens else None,  # type: ignore[arg-type]
        is_counted_in_response=one.frame == "response",
        text=None if has_tokens else one.text,
        note="; ".join(part for part in (unsure, one.note) if part) or None,
    )
