"""Vectors among which one is to be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, fields, replace

from tistore.errors import AmbiguousVectorError, UnknownVectorError, nearest
from tistore.query.references import CLEAN_SUFFIX
from tistore.schemas.model import is_copy
from tistore.schemas.prompt import SCENARIO_SETS
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot
from tistore.vectors.methods.on_clean import ON_CLEAN

CONTROL = "random"
"""Method of directions that stand for chance: they are compared with, never preferred."""


@dataclass(frozen=True, slots=True)
class Filters:
    """
    Which vectors are considered; None takes any.

    Attributes:
        component: Where they were fitted.
        position: Tokens they were fitted on.
        method: How they were fitted.
        model: Model they were fitted on.
    """

    component: str | None = None
    position: str | None = None
    method: str | None = None
    model: str | None = None

    def pick(self, vectors: Sequence[Vector], of: str) -> tuple[Vector, ...]:
        """
        Take the vectors that pass.

        Args:
            vectors: At least one.
            of: What they are vectors of, for the message.

        Raises:
            UnknownVectorError: None passes; the message says which filter left none.
        """
        left = tuple(vectors)
        for name, wanted in self._walk():
            passed = tuple(vector for vector in left if getattr(vector, name) == wanted)
            if not passed:
                known = {str(getattr(vector, name)) for vector in left}
                raise UnknownVectorError(
                    f"no vector of {of} has the {name} {wanted!r}; {nearest(wanted, known)}"
                )
            left = passed
        return left

    def _walk(self) -> Iterator[tuple[str, str]]:
        for field in fields(self):
            if (wanted := getattr(self, field.name)) is not None:
                yield field.name, wanted


ANY = Filters()
"""Takes every vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """
    A trait's vectors that were fitted on one model.

    Attributes:
        trait: `category/name`.
        model: The model, where known.
        vectors: At least one, in an order that depends on their names only.
    """

    trait: str
    model: str | None
    vectors: tuple[Vector, ...]

    @property
    def fitted(self) -> tuple[Vector, ...]:
        """Those fitted to tell the sides apart: no controls, no cleaned copies of others."""
        kept = tuple(vector for vector in self.vectors if is_fitted(vector))
        return kept or self.vectors

    def at(self, sites: Set[Site]) -> Candidates:
        """Keep those at some sites; all where none is there."""
        kept = tuple(vector for vector in self.vectors if vector.site in sites)
        return replace(self, vectors=kept or self.vectors)

    def __str__(self) -> str:
        """Name them."""
        return f"{self.trait} on {self.model}" if self.model else self.trait


def is_fitted(vector: Vector) -> bool:
    """Whether a vector is neither a control nor a cleaned copy of another."""
    is_copy = vector.method.endswith(CLEAN_SUFFIX) and not vector.method.endswith(ON_CLEAN)
    return vector.method != CONTROL and not is_copy


def find_candidates(
    vectors: Sequence[Vector], traits: Sequence[str] | None = None, filters: Filters = ANY
) -> list[Candidates]:
    """
    Group vectors by trait and model.

    Args:
        vectors: Every vector of the store.
        traits: Traits, with or without their category; all when None.
        filters: Which of their vectors are considered.

    Returns:
        At least one group; ordered by trait and model.

    Raises:
        UnknownVectorError: There is no such trait, or the filters leave none of its vectors.
        AmbiguousVectorError: A name without category is that of several traits.
    """
    if not vectors:
        raise UnknownVectorError(
            "there are no vectors in this store",
            mend="fit some: tistore vectors extract STORE TRAIT --config RUN.toml",
        )
    if filters.model is None:
        # A model in another precision is there to be compared with; its names mean its base's.
        vectors = [vector for vector in vectors if not is_copy(vector.model)] or vectors
    if traits is None:
        passed = filters.pick(vectors, "any trait")
    else:
        names = dict.fromkeys(find_trait(name, vectors) for name in traits)
        passed = tuple(
            vector
            for name in names
            for vector in filters.pick([one for one in vectors if one.trait == name], name)
        )
    groups: dict[tuple[str, str | None], list[Vector]] = {}
    for vector in sorted(passed, key=order):
        groups.setdefault((vector.trait, vector.model), []).append(vector)
    return [Candidates(*key, tuple(group)) for key, group in groups.items()]


def list_audited_sites(snapshot: Snapshot) -> Set[Site]:
    """List where answers have been read, scenarios aside: what a vector can be asked of."""
    return {
        Site(component, layer)
        for segment in snapshot.segments
        if _holds_answers(segment)
        for component in segment.components
        for layer in segment.layers
    }


def _holds_answers(segment: Segment) -> bool:
    sets = segment.table("responses", ["prompt_set"])["prompt_set"].unique().to_pylist()
    return not all(name.startswith(SCENARIO_SETS) for name in sets)


def find_trait(name: str, vectors: Sequence[Vector]) -> str:
    """
    Find a trait that has vectors, by its name with or without category.

    Raises:
        UnknownVectorError: There is none.
        AmbiguousVectorError: There are several.
    """
    known = sorted({vector.trait for vector in vectors})
    if name in known:
        return name
    found = [trait for trait in known if trait.endswith("/" + name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousVectorError(
            f"{name!r} could be any of {', '.join(found)}", mend="write one of these instead"
        )
    if "/" not in name:
        known = [trait.rpartition("/")[2] for trait in known]
    raise UnknownVectorError(f"no vectors of a trait {name!r}; {nearest(name, known)}")


def order(vector: Vector) -> tuple[str, str, str, int, str, str, str]:
    """Place of a vector where nothing else decides: what it is called, then what it is."""
    return (
        vector.trait, vector.model or "", vector.component, vector.layer, vector.method,
        vector.position, vector.content_hash,
    )  # fmt: skip
