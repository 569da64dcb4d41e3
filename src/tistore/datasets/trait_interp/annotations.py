"""Annotations: labels on stretches of responses, in the three forms they were written in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tistore.datasets.trait_interp.documents import Node, read_document
from tistore.datasets.trait_interp.responses import check_range, read_range

Form = Literal["spans", "ranges", "exploitations"]
Frame = Literal["sequence", "response"]
UNLABELLED = "unlabelled"
"""Label of spans that were marked without a category."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """
    A labelled stretch of a response: by tokens, or by text that is still to be found.

    Attributes:
        subject: Which response, as the file counts: the id of its prompt or, beside a list of
            responses, its index from 0.
        label: What was found.
        token_start: First token; None where the text says it.
        token_end: One past the last token.
        frame: What the tokens are counted in: the whole sequence, or the response.
        text: The stretch. Beside tokens it is for people only: it was joined from token strings
            that had gained spaces.
        note: Why, for people.
        is_borderline: Whether the annotator was unsure.
    """

    subject: str
    label: str
    token_start: int | None = None
    token_end: int | None = None
    frame: Frame | None = None
    text: str | None = None
    note: str | None = None
    is_borderline: bool = False

    def locate(self, prompt_length: int, n_tokens: int) -> tuple[int, int] | None:
        """
        Find the stretch in a whole sequence.

        Args:
            prompt_length: Tokens of the prompt.
            n_tokens: Tokens of prompt and response.

        Returns:
            First token and one past the last; None where the text has to be found first, or the
            sequence is too short to have these tokens.
        """
        if self.token_start is None or self.token_end is None:
            return None
        shift = prompt_length if self.frame == "response" else 0
        end = self.token_end + shift
        return (self.token_start + shift, end) if end <= n_tokens else None


@dataclass(frozen=True, slots=True)
class AnnotationDocument:
    """
    What an annotation file says.

    Attributes:
        form: Which of the three forms it has.
        annotations: In file order.
        subjects: Responses the file speaks of, those without a finding among them.
        source: Where the annotated responses lie, where the file says.
    """

    form: Form
    annotations: tuple[Annotation, ...]
    subjects: tuple[str, ...]
    source: str | None = None


def read_annotations(path: Path) -> AnnotationDocument:
    """
    Read an annotation file.

    Raises:
        DatasetError: The file is malformed, or has none of the three forms.
    """
    node = read_document(path)
    if entries := node.get("annotations"):
        found = list(entries.elements())
        subjects = tuple(entry.require("idx").identity() for entry in found)
        read = (span for entry in found for span in _read_spans(entry))
        return _make("spans", read, subjects, node)
    if entries := node.get("detailed_annotations"):
        by_id = dict(entries.entries())
        read = (hit for key, entry in by_id.items() for hit in _read_exploitations(key, entry))
        return _make("exploitations", read, tuple(by_id), node)
    by_id = {key: entry for key, entry in node.entries() if key != "metadata"}
    if not by_id or not all(
        isinstance(entry.value, dict) and "annotations" in entry.value for entry in by_id.values()
    ):
        node.fail(
            "no annotations of a known form here",
            "write {ID: {annotations: [{token_start, token_end, label}]}}, or leave the file out",
        )
    read = (stretch for key, entry in by_id.items() for stretch in _read_ranges(key, entry))
    return _make("ranges", read, tuple(by_id), node)


def _make(
    form: Form, annotations: Iterator[Annotation], subjects: tuple[str, ...], node: Node
) -> AnnotationDocument:
    seen: set[str] = set()
    for subject in subjects:
        Node(node.path, form, subject).identity()
        if subject in seen:
            node.fail(f"{subject!r} is annotated twice", "join the two entries")
        seen.add(subject)
    metadata = node.get("metadata")
    source = metadata.get_text("response_source") if metadata else None
    return AnnotationDocument(form, tuple(annotations), subjects, source)


def _read_spans(entry: Node) -> Iterator[Annotation]:
    """Read text spans; `borderline` lists more of them, or says that these are."""
    subject = entry.require("idx").identity()
    note, borderline = entry.get_text("note"), entry.get("borderline")
    is_list = borderline is not None and isinstance(borderline.value, list)
    all_unsure = borderline.boolean() if borderline and not is_list else False
    spans = entry.get("spans")
    for span in spans.elements() if spans else ():
        yield _read_span(subject, span, note, all_unsure)
    for span in borderline.elements() if borderline and is_list else ():
        yield _read_span(subject, span, note, True)


def _read_span(subject: str, node: Node, note: str | None, is_borderline: bool) -> Annotation:
    text = node.require("span").text()
    if not text.strip():
        node.fail("the span is empty")
    return Annotation(
        subject=subject,
        label=node.get_text("category") or UNLABELLED,
        text=text,
        note=node.get_text("note") or note,
        is_borderline=is_borderline,
    )


def _read_ranges(subject: str, entry: Node) -> Iterator[Annotation]:
    for node in entry.require("annotations").elements():
        start, end = read_range(node, None)
        yield Annotation(
            subject=subject,
            label=node.require("label").text(),
            token_start=start,
            token_end=end,
            frame="sequence",
            note=node.get_text("note"),
        )


def _read_exploitations(subject: str, entry: Node) -> Iterator[Annotation]:
    """Read exploited biases: tokens are counted from the response's start, the end left out."""
    found = entry.get("exploitations")
    for node in found.elements() if found else ():
        tokens = node.require("tokens")
        ends = tokens.integers()
        if len(ends) != 2:
            tokens.fail(f"a range has two ends, not {len(ends)}")
        check_range(tokens, ends[0], ends[1], None)
        yield Annotation(
            subject=subject,
            label=f"bias_{node.require('bias').identity()}",
            token_start=ends[0],
            token_end=ends[1],
            frame="response",
            text=node.get_text("text"),
            note=node.get_text("note"),
        )
