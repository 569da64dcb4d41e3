"""Vectors made of others: how people write them, and what they are worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from tistore.errors import QueryError, UnknownVectorError, VectorMismatchError
from tistore.query.massive import SET_NAMES, is_set_name
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector, VectorReference

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_OPERATOR = re.compile(r"(?:(?<=\s)|^)[+-](?=\s|$)")
_COEFFICIENT = re.compile(rf"({_NUMBER})\s*\*\s*")
_FORGOTTEN_STAR = re.compile(rf"({_NUMBER})\s+(\S.*)")
_WITHOUT = re.compile(r"(?:(?P<reference>.*\S)\s+)?without(?:\s+(?P<dimensions>.*))?", re.DOTALL)
_FORM = (
    "write 'refusal - 0.5*sycophancy', with spaces around + and -, or 'refusal without 443, 7', "
    "or 'refusal without massive'"
)

# Below this share of its parts' lengths, a sum's direction is mostly their float32 rounding.
_CANCELLED = 1e-4
# Within these a coefficient leaves a sum of unit vectors all of float32's precision.
_SMALLEST, _LARGEST = 1e-6, 1e6


@dataclass(frozen=True, slots=True)
class Term:
    """
    One reference of an expression, as it was written.

    Attributes:
        coefficient: What its unit vector is multiplied by; never 0.
        reference: The reference alone.
        dimensions: Dimensions set to 0 before the vector is made a unit vector.
        sets: Names of sets of dimensions that are set to 0 too, such as "massive": what they are
            is measured; see `MassiveDims`.
    """

    coefficient: float
    reference: str
    dimensions: tuple[int, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def trait(self) -> str:
        """A name for the vector it means that a trait may have: no method, no layer."""
        return VectorReference.parse(self.reference).trait + write_without(
            (*self.dimensions, *self.sets)
        )


def is_expression(text: str) -> bool:
    """Whether a text that names no vector may be meant as an expression."""
    return bool(
        _OPERATOR.search(text)
        or _COEFFICIENT.match(text.strip())
        or re.search(r"(?:\s|^)without(?:\s|$)", text)
    )


def read_expression(text: str, is_name: Callable[[str], bool]) -> tuple[Term, ...]:
    """
    Take an expression apart: terms joined by + and -, with spaces around.

    A term is `refusal`, `0.5*refusal`, `refusal without 443, 1802` or `refusal without massive`,
    its reference in any form.
    Wherever a stretch of the text is the name of a vector as it stands, it is read as that name:
    the longest such stretch, from the left.

    Args:
        text: What was written.
        is_name: Whether a stretch of it is the name of a vector as it stands.

    Raises:
        UnknownVectorError: It is malformed; says where.
    """
    marks = list(_OPERATOR.finditer(text))
    starts = [0, *(mark.end() for mark in marks)]
    stops = [*(mark.start() for mark in marks), len(text)]
    terms: list[Term] = []
    first = 0
    while first < len(starts):
        longer = (at for at in range(len(stops) - 1, first, -1))
        last = next((at for at in longer if is_name(text[starts[first] : stops[at]])), first)
        term = _read_term(text, starts[first], stops[last], is_name)
        is_taken_away = first > 0 and marks[first - 1].group() == "-"
        terms.append(replace(term, coefficient=-term.coefficient) if is_taken_away else term)
        first = last + 1
    return tuple(terms)


def _read_term(text: str, start: int, stop: int, is_name: Callable[[str], bool]) -> Term:
    written = text[start:stop].strip()
    if not written:
        _refuse(text, start, "a vector is missing")
    if is_name(written):
        return Term(1.0, written)
    start += len(text[start:stop]) - len(text[start:stop].lstrip())
    coefficient, reference = 1.0, written
    if match := _COEFFICIENT.match(written):
        coefficient, reference = float(match[1]), written[match.end() :]
        if not _SMALLEST <= abs(coefficient) <= _LARGEST:
            bounds = f"from {_SMALLEST:g} to {_LARGEST:g} in size"
            _refuse(text, start, f"{match[1]} is no coefficient: these are {bounds}")
        if not reference:
            _refuse(text, start, f"a vector is missing after {written}")
    elif match := _FORGOTTEN_STAR.fullmatch(written):
        _refuse(text, start, f"{written!r} lacks the * of {match[1]}*{match[2]}")
    if not is_name(reference) and (match := _WITHOUT.fullmatch(reference)):
        if match["reference"] is None:
            _refuse(text, start, "a vector is missing before 'without'")
        dimensions, sets = _read_dimensions(text, start, match["dimensions"] or "")
        return Term(coefficient, match["reference"], dimensions, sets)
    return Term(coefficient, reference)


def _read_dimensions(
    text: str, start: int, written: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Read what comes after 'without': numbers of dimensions, and names of sets of them."""
    dimensions: list[int] = []
    sets: list[str] = []
    for item in written.split(","):
        word = item.strip()
        if is_set_name(word):
            sets.append(word)
            continue
        if not (word.isascii() and word.isdigit()):
            there = f"nor one of {', '.join(SET_NAMES)}"
            what = f"{word!r} is no dimension, {there}" if word else "a dimension is missing"
            _refuse(text, start, f"after 'without' come dimensions, and {what}")
        if int(word) in dimensions:
            _refuse(text, start, f"dimension {word} is named twice after 'without'")
        dimensions.append(int(word))
    return tuple(dimensions), tuple(dict.fromkeys(sets))


def _refuse(text: str, start: int, what: str) -> NoReturn:
    raise UnknownVectorError(
        f"{text!r} is no vector expression: at character {start + 1}, {what}", mend=_FORM
    )


def clean(vector: Vector, term: Term, dimensions: Sequence[int]) -> Vector:
    """
    Set dimensions of a vector to 0.

    Scores divide by what length is left. trait-interp cleans after it projects, and divides by the
    uncleaned length: its scores are smaller by ‖cleaned‖/‖vector‖, their order the same.

    Args:
        vector: What the term's reference means.
        term: How it was written.
        dimensions: Which dimensions, one at least: those of the term and of its sets.

    Returns:
        The cleaned vector, at the same site; its midpoint is unknown, since the stored one holds
        what the dimensions added.

    Raises:
        VectorMismatchError: The vector is not so wide.
        QueryError: Nothing is left.
    """
    if outside := [at for at in dimensions if at >= vector.hidden]:
        raise VectorMismatchError(
            f"{vector.reference} has dimensions 0 to {vector.hidden - 1}, "
            f"and no {', '.join(map(str, outside))}"
        )
    values = vector.values.copy()
    values[list(dimensions)] = 0
    if not values.any():
        raise QueryError(f"nothing is left of {vector.reference}{write_without(dimensions)}")
    return replace(
        vector,
        trait=term.trait,
        values=values,
        method="cleaned",
        separation=None,
        midpoint=None,
        expression=vector.reference + write_without(dimensions),
    )


def combine(terms: Sequence[Term], vectors: Sequence[Vector], site: Site) -> Vector:
    """
    Add up the unit vectors of terms, each times its coefficient.

    Args:
        terms: How they were written.
        vectors: What each term means, cleaned already, all of one width.
        site: Where all of them are read.

    Returns:
        The sum, at `site`, not normalised. Its midpoint is the same sum of theirs over its length,
        when each has one and was fitted at `site`; model and position are what they share.

    Raises:
        QueryError: They cancel each other.
    """
    weights = [term.coefficient for term in terms]
    wide = [vector.values.astype(np.float64) for vector in vectors]
    total = np.sum(
        [w * values / np.linalg.norm(values) for w, values in zip(weights, wide, strict=True)],
        axis=0,
    )
    norm = float(np.linalg.norm(total))
    expression = _write_sum(weights, [vector.reference for vector in vectors])
    if norm <= _CANCELLED * sum(map(abs, weights)):
        raise QueryError(f"nothing is left of {expression}: the vectors cancel each other")
    return Vector(
        trait=_write_sum(weights, [term.trait for term in terms]),
        values=np.asarray(total, dtype=np.float32),
        layer=site.layer,
        component=site.component,
        method="combination",
        position=_common([vector.position for vector in vectors]) or "unknown",
        model=_common([vector.model for vector in vectors]),
        midpoint=_combine_midpoints(weights, vectors, site, norm),
        expression=expression,
    )


def _combine_midpoints(
    weights: Sequence[float], vectors: Sequence[Vector], site: Site, norm: float
) -> float | None:
    midpoints = [vector.midpoint for vector in vectors if vector.site == site]
    known = [midpoint for midpoint in midpoints if midpoint is not None]
    if len(known) < len(vectors):
        return None
    return sum(weight * value for weight, value in zip(weights, known, strict=True)) / norm


def _common(names: Sequence[str | None]) -> str | None:
    return names[0] if len(set(names)) == 1 else None


def _write_sum(weights: Sequence[float], names: Sequence[str]) -> str:
    written = _write_product(weights[0], names[0])
    for weight, name in zip(weights[1:], names[1:], strict=True):
        sign = "-" if weight < 0 else "+"
        written += f" {sign} {_write_product(abs(weight), name)}"
    return written


def _write_product(weight: float, name: str) -> str:
    return name if weight == 1 else f"{repr(weight).removesuffix('.0')}*{name}"


def write_without(dimensions: Sequence[int | str]) -> str:
    """Write what is taken out of a vector, as an expression has it after the reference."""
    return f" without {', '.join(map(str, dimensions))}" if dimensions else ""
