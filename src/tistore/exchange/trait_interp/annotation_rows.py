"""Annotations: labels on token ranges of responses the store has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tistore.datasets.clauses import align_tokens
from tistore.datasets.trait_interp.annotations import Annotation, read_annotations
from tistore.datasets.trait_interp.files import AnnotationFile
from tistore.errors import DatasetError
from tistore.exchange.trait_interp.found import Found
from tistore.exchange.trait_interp.raw_file import RawFile, read_raw_file
from tistore.schemas.response import ResponseSlot, identify_response

FindCapture = Callable[[ResponseSlot], Path | None]
"""Finds a raw file of a response; None where the store has none of it."""

NameModel = Callable[[str | None], str]
"""Names the model of a variant."""


class AnnotatedResponses:
    """
    Finds the responses that annotations speak of.

    Args:
        name_model: Names the model of a variant.
        find_capture: Finds a raw file of a response.
    """

    def __init__(self, name_model: NameModel, find_capture: FindCapture) -> None:
        self._name_model = name_model
        self._find_capture = find_capture

    def find(self, file: AnnotationFile) -> Found:
        """
        Read an annotation file; labels that fit no row are told in the note.

        Raises:
            DatasetError: The file is malformed, nobody says whose responses it labels, or no
                label of it can be stored.
        """
        document = read_annotations(file.path)
        organism, prompt_set = self._find_responses(file, document.source)
        rows: list[tuple[str, dict[str, Any]]] = []
        left_out: list[str] = []
        for subject, labels in _by_subject(document.annotations):
            slot = ResponseSlot(organism, prompt_set, file.prompt_id or subject)
            path = self._find_capture(slot)
            if path is None:
                left_out.append(f"{subject}: the store has no activations of {slot}")
                continue
            raw = read_raw_file(path)
            response_id = identify_response(slot, raw.token_ids, raw.prompt_length)
            for annotation in labels:
                place = _locate(annotation, raw)
                if isinstance(place, str):
                    left_out.append(f"{subject}: {place}")
                else:
                    rows.append(("annotations", _lay_out(annotation, response_id, place, file)))
        if not rows and left_out:
            raise DatasetError(
                f"{file.path}: no label of it fits a row: {'; '.join(left_out[:3])}",
                mend="leave it out, or import the responses first",
            )
        note = f"{len(left_out)} left out: " + "; ".join(left_out) if left_out else None
        return Found(tuple(rows), variety=document.form, note=note)

    def _find_responses(self, file: AnnotationFile, source: str | None) -> tuple[str, str]:
        """Tell author and set: by the place of the file, else by what it names as its source."""
        if file.prompt_set is not None:
            return self._name_model(file.variant), file.prompt_set
        steps = PurePosixPath(source or "").parts
        if "inference" in steps and "responses" in steps:
            first, second = steps.index("inference"), steps.index("responses")
            between, below = steps[first + 1 : second], steps[second + 1 :]
            if len(between) <= 1 and below:
                variant = between[0] if between else None
                return self._name_model(variant), "/".join(below)
        raise DatasetError(
            f"{file.path}: it labels no responses that have activations here",
            mend="leave it out: labels belong to tokens of stored responses",
        )


def _by_subject(annotations: tuple[Annotation, ...]) -> Iterator[tuple[str, list[Annotation]]]:
    grouped: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation.subject, []).append(annotation)
    yield from grouped.items()


def _locate(annotation: Annotation, raw: RawFile) -> tuple[int, int] | str:
    """Find the tokens of a label; where there are none, say why."""
    n_tokens = len(raw.token_ids)
    if annotation.token_start is not None:
        found = annotation.locate(raw.prompt_length, n_tokens)
        return found or f"tokens {annotation.token_start} to {annotation.token_end} of {n_tokens}"
    text, span = raw.response.text or "", annotation.text or ""
    n_found = text.count(span)
    if n_found != 1:
        return f"{span!r} occurs {n_found} times in the response"
    offsets = align_tokens(text, raw.response.tokens or ())
    if offsets is None:
        return "its token strings do not spell the response"
    start = text.index(span)
    stop = start + len(span)
    touched = [place for place, (a, b) in enumerate(offsets) if a < stop and b > start]
    return raw.prompt_length + touched[0], raw.prompt_length + touched[-1] + 1


def _lay_out(
    annotation: Annotation, response_id: str, place: tuple[int, int], file: AnnotationFile
) -> dict[str, Any]:
    unsure = "borderline" if annotation.is_borderline else None
    note = "; ".join(part for part in (unsure, annotation.note) if part)
    return {
        "response_id": response_id,
        "token_start": place[0],
        "token_end": place[1],
        "label": annotation.label,
        "note": note or None,
        "source": file.path.name,
    }
