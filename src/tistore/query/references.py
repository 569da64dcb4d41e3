"""Which vector a query means, and where it is to be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from tistore.errors import (
    AmbiguousVectorError,
    ConfigError,
    QueryError,
    UnknownVectorError,
    VectorMismatchError,
    nearest,
)
from tistore.query.expressions import Term, clean, combine, is_expression, read_expression
from tistore.query.massive import Found, MassiveDims
from tistore.schemas.digest import digest
from tistore.schemas.model import BASE_READER, is_copy
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector, VectorReference

CLEAN_SUFFIX = "-clean"
"""What the method of a vector ends in that is committed without its massive dimensions."""

_HASH_PREFIX = re.compile(r"[0-9a-f]{8,32}")


@dataclass(frozen=True, eq=False)
class Direction:
    """
    A vector and the site whose activations it is to be applied to.

    Two are equal when neither their scores nor their names differ.

    Attributes:
        vector: The vector.
        site: Usually the vector's own; another when the query names a layer it was not fitted at.
        parts: What a linear combination adds up: coefficients, and the directions at the same site
            whose unit vectors they multiply. Empty for any other vector.
        remark: What a reader of the scores should know of how the vector was made.
    """

    vector: Vector
    site: Site
    parts: tuple[tuple[float, Direction], ...] = ()
    remark: str | None = None

    @cached_property
    def key(self) -> str:
        """Name of its scores in the cache: the same direction at the same site, the same scores."""
        if self.site == self.vector.site:
            return self.vector.content_hash
        return _key_elsewhere(self.vector.content_hash, self.site)

    @property
    def note(self) -> str | None:
        """What to tell of its making, and when it is read at a layer it was not fitted at."""
        told = dict.fromkeys(part.remark for part in self._fitted if part.remark)
        moved = [part for part in self._fitted if part.vector.site != self.site]
        if moved:
            names = dict.fromkeys(part.vector.reference for part in moved)
            are = "is" if len(names) == 1 else "are"
            told[f"{' and '.join(names)} {are} applied to layer {self.site.layer}"] = None
        return "; ".join(told) or None

    @property
    def fitted_vectors(self) -> tuple[Vector, ...]:
        """The vectors that were fitted: itself, or what a combination adds up."""
        return tuple(part.vector for part in self._fitted)

    @property
    def _fitted(self) -> tuple[Direction, ...]:
        return tuple(part for _, part in self.parts) or (self,)

    def __str__(self) -> str:
        """Name the vector, and the layer where it is not its own."""
        return self._text

    @cached_property
    def _text(self) -> str:
        if all(part.vector.site == self.site for part in self._fitted):
            return self.vector.reference
        return f"{self.vector.reference} on layer {self.site.layer}"

    def __eq__(self, other: object) -> bool:
        """Compare names, sites and values; an expression is worked out anew each time."""
        if not isinstance(other, Direction):
            return NotImplemented
        return self.key == other.key and str(self) == str(other)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash((str(self), self.key))


@lru_cache(maxsize=4096)
def _key_elsewhere(content_hash: str, site: Site) -> str:
    return digest([content_hash, site.component, site.layer])


def resolve(
    text: str,
    layer: int | None,
    vectors: Sequence[Vector],
    massive: MassiveDims | None = None,
) -> Direction:
    """
    Find the one vector a reference means, or work out the one an expression makes of several.

    A trait's full name goes before the short name of another. With `layer`, a reference that
    names none takes the vector fitted there; where there is none, the selected vector is applied
    to that layer. Of several vectors of one trait the chosen one is taken (`tistore vectors best`),
    where several models have one that of the clean base; without a choice the one with the largest
    `separation`, if all have one. What was taken is told in the direction's note. Those of a base
    in another precision (`tistore vectors quantise`) are meant by their hash only, where there are
    others.

    A name that is in the store as it was written goes before its reading as an expression.

    Args:
        text: `trait`, `category/trait`, `trait@26`, `trait:probe@26`, or a vector's hash; or an
            expression of these, such as `refusal - 0.5*sycophancy@26` (a sum of unit vectors),
            `refusal without 443, 1802` (these dimensions set to 0) or `refusal without massive`
            (those that calibration has found); see `read_expression`.
        layer: Layer whose activations are wanted; the vector's own when None.
        vectors: Every vector of the store.
        massive: The store's massive dimensions, where an expression may name them.

    Raises:
        UnknownVectorError: None answers to a reference, or the expression is malformed.
        AmbiguousVectorError: Several do, and nothing tells which is meant.
        VectorMismatchError: The parts of an expression lie at different sites or differ in width,
            or have no such dimension.
        QueryError: The parts cancel each other; or massive dimensions have not been measured.
    """

    def is_name(stretch: str) -> bool:
        return bool(_match(stretch, vectors))

    if not is_expression(text):
        return _resolve_reference(text, layer, vectors)
    terms = read_expression(text, is_name)
    parts = [_resolve_term(term, layer, vectors, massive) for term in terms]
    if len(terms) == 1 and terms[0].coefficient == 1:
        return parts[0]
    _check_together(text, parts)
    vector = combine(terms, [part.vector for part in parts], parts[0].site)
    weights = (term.coefficient for term in terms)
    return Direction(vector, vector.site, tuple(zip(weights, parts, strict=True)))


def _resolve_reference(text: str, layer: int | None, vectors: Sequence[Vector]) -> Direction:
    candidates = _leave_copies(_prefer_fitted(text, _find(text, vectors)))
    if layer is not None and "@" not in text:
        candidates = [vector for vector in candidates if vector.layer == layer] or candidates
    vector, by = _select(text, candidates)
    site = vector.site if layer is None else Site(vector.component, layer)
    return Direction(vector, site, remark=f"{text} is {vector.reference} ({by})" if by else None)


def _resolve_term(
    term: Term, layer: int | None, vectors: Sequence[Vector], massive: MassiveDims | None
) -> Direction:
    found = _resolve_reference(term.reference, layer, vectors)
    dimensions, remark = term.dimensions, None
    if term.sets:
        if massive is None:
            raise QueryError(f"{', '.join(term.sets)} has no meaning here: no store is asked")
        named = massive.find(term.sets, found.vector, found.site)
        dimensions += tuple(dim for dim in named.dims if dim not in dimensions)
        remark = _remark(term, named, found.site)
    remark = "; ".join(told for told in (found.remark, remark) if told) or None
    if not dimensions:
        return replace(found, remark=remark)
    return Direction(clean(found.vector, term, dimensions), found.site, remark=remark)


def _remark(term: Term, named: Found, site: Site) -> str:
    """Tell what a set of dimensions was."""
    dims = ", ".join(map(str, named.dims)) if named.dims else "no dimension"
    return f"{', '.join(term.sets)} at {site} is {dims}, measured on {named.reader}"


def _check_together(text: str, parts: Sequence[Direction]) -> None:
    """Refuse to add up what is read at different sites, or is not equally wide."""
    first = parts[0]
    for part in parts[1:]:
        if part.site != first.site:
            at_one_layer = f"name a layer for all, as project({text!r}, {first.site.layer})"
            is_one_component = part.site.component == first.site.component
            raise VectorMismatchError(
                f"{text!r} adds up {first.vector.reference} at {first.site} "
                f"and {part.vector.reference} at {part.site}",
                mend=at_one_layer if is_one_component else "add up vectors of one component",
            )
        if part.vector.hidden != first.vector.hidden:
            raise VectorMismatchError(
                f"{text!r} adds up {first.vector.reference}, {first.vector.hidden} wide, "
                f"and {part.vector.reference}, {part.vector.hidden} wide",
                mend="add up vectors of one model",
            )


def _prefer_fitted(text: str, candidates: list[Vector]) -> list[Vector]:
    """Leave out cleaned copies of vectors, where their method was not asked for."""
    if ":" in text:
        return candidates
    fitted = [one for one in candidates if one.chosen or not one.method.endswith(CLEAN_SUFFIX)]
    return fitted or candidates


def _leave_copies(candidates: list[Vector]) -> list[Vector]:
    """Leave out vectors of a base in another precision, where they are not alone."""
    return [vector for vector in candidates if not is_copy(vector.model)] or candidates


def _find(text: str, vectors: Sequence[Vector]) -> list[Vector]:
    if found := _match(text, vectors):
        return found
    try:
        reference = VectorReference.parse(text)
    except ConfigError as error:
        raise UnknownVectorError(error.message, mend=error.mend) from error
    raise UnknownVectorError(
        f"no vector {text!r}; {_suggest(reference, vectors)}", mend=_hint_at_spaces(text, vectors)
    )


def _match(text: str, vectors: Sequence[Vector]) -> list[Vector]:
    """Every direction that answers to a reference; none where the text is no reference."""
    found = sorted(match_vectors(text, vectors), key=_standing)
    # Of equal directions under several names the one of highest standing stays.
    return list({vector.content_hash: vector for vector in found}.values())


def _standing(vector: Vector) -> tuple[bool, bool]:
    """Order of equal directions: a model's own goes before its copy's, then a chosen one."""
    return not is_copy(vector.model), vector.chosen is not None


def match_vectors(text: str, vectors: Sequence[Vector]) -> list[Vector]:
    """
    List every vector that answers to a reference, or to the start of a hash.

    Args:
        text: `trait`, `category/trait`, `trait@26`, `trait:probe@26`, or a vector's hash; what is
            none of these matches nothing.
        vectors: Every vector of the store.
    """
    try:
        reference = VectorReference.parse(text)
    except ConfigError:
        return []
    named = _by_name(tuple(vectors)).get(reference.trait, ())
    found = [vector for vector in named if reference.matches(vector)]
    exact = [vector for vector in found if vector.trait == reference.trait]
    if not found and _HASH_PREFIX.fullmatch(text.strip()):
        found = [vector for vector in vectors if vector.content_hash.startswith(text.strip())]
    return exact or found


@lru_cache(maxsize=8)
def _by_name(vectors: tuple[Vector, ...]) -> dict[str, list[Vector]]:
    """List the vectors that each name may mean: a trait's own, and what ends it after a slash."""
    found: dict[str, list[Vector]] = {}
    for vector in vectors:
        name = vector.trait
        while name:
            found.setdefault(name, []).append(vector)
            name = name.partition("/")[2]
    return found


def _hint_at_spaces(text: str, vectors: Sequence[Vector]) -> str | None:
    """Tell how an expression is written to who has left its spaces out."""
    spaced = re.sub(r"(?<=\S)([+-])(?=\S)", r" \1 ", text)
    try:
        terms = read_expression(spaced, lambda stretch: bool(_match(stretch, vectors)))
    except UnknownVectorError:
        return None
    is_meant = len(terms) > 1 and all(_match(term.reference, vectors) for term in terms)
    return f"a combination has spaces around + and -: {spaced!r}" if is_meant else None


def _suggest(reference: VectorReference, vectors: Sequence[Vector]) -> str:
    bare = VectorReference(reference.trait)
    if fitted := sorted({vector.reference for vector in vectors if bare.matches(vector)}):
        return f"{reference.trait} is there as {', '.join(fitted)}"
    names = {vector.trait for vector in vectors}
    if "/" not in reference.trait:
        names = {name.rpartition("/")[2] for name in names}
    return nearest(reference.trait, names)


def list_vectors(vectors: Sequence[Vector]) -> str:
    """Name vectors so that each can be told from the others, and referred to."""
    names = [vector.reference for vector in vectors]
    has_models = len({vector.model for vector in vectors}) > 1
    return ", ".join(
        sorted(
            name
            if names.count(name) == 1
            else f"{vector.content_hash[:8]} ({name}, {_place(vector, has_models)})"
            for name, vector in zip(names, vectors, strict=True)
        )
    )


def _place(vector: Vector, has_models: bool) -> str:
    """Tell what a name does not: the position; component and model where they tell something."""
    component = [] if vector.component == "residual" else [vector.component]
    model = [f"of {vector.model or 'an unknown model'}"] if has_models else []
    return ", ".join([*component, str(vector.position), *model])


def _select(text: str, candidates: list[Vector]) -> tuple[Vector, str | None]:
    """Take the vector that is meant; where there were several, with what told."""
    if len(candidates) == 1:
        return candidates[0], None
    of_one_trait = len({vector.trait for vector in candidates}) == 1
    if of_one_trait and (chosen := [vector for vector in candidates if vector.chosen]):
        of_base = [vector for vector in chosen if vector.model == BASE_READER]
        # Each model's vectors have a choice of their own: that of the clean base goes first.
        candidates = of_base if len(of_base) == 1 else chosen
        if len(candidates) == 1:
            return candidates[0], "chosen"
    elif (
        of_one_trait
        and all(vector.separation is not None for vector in candidates)
        and not is_copy(candidates[0].model)
    ):
        best = max(candidates, key=lambda vector: vector.separation or 0.0)
        return best, "largest separation"
    mend = "write one of these instead"
    raise AmbiguousVectorError(
        f"{text!r} could be any of {len(candidates)} vectors: {list_vectors(candidates)}",
        mend=f"{mend}; or have one chosen: tistore vectors best" if of_one_trait else mend,
    )
