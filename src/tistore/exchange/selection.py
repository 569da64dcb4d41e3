"""Which readings, layers and components an export takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.capture.layers import split_spans
from tistore.errors import ConfigError, NotStoredError, nearest
from tistore.query.span_question import check_condition
from tistore.query.store import Store
from tistore.schemas.model import COPY_ENDINGS, SECOND_READING, is_copy
from tistore.schemas.site import COMPONENTS, Component, Site
from tistore.store.segment import Segment


@dataclass(frozen=True, slots=True)
class Selection:
    """
    What is asked for, as yet of no store.

    Attributes:
        where: SQL condition on the columns of `responses`; every reading when None.
        layers: As people write them: "20,26", "5-20"; every layer when None.
        component: The one component; every component when None.
    """

    where: str | None = None
    layers: str | None = None
    component: Component | None = None

    @property
    def names_second_readings(self) -> bool:
        """Whether the condition speaks of a model's second readings, or its other precisions."""
        return self.where is not None and any(ending in self.where for ending in COPY_ENDINGS)

    @classmethod
    def parse(
        cls, where: str | None = None, layers: str | None = None, component: str | None = None
    ) -> Self:
        """
        Check what a user wrote, as far as that needs no store.

        Raises:
            ConfigError: The layers are malformed, or there is no such component.
            SqlError: The condition is malformed or refused.
            QueryError: It is more than a condition.
        """
        if component is not None and component not in COMPONENTS:
            raise ConfigError(f"no component {component!r}; {nearest(component, COMPONENTS)}")
        for item in split_spans(layers) if layers is not None else ():
            if "%" in item:
                raise ConfigError(
                    f"{item!r} is a share of a model's layers, which a store does not know",
                    mend='write block numbers: "26", "20,26", "5-20"',
                )
        if where is not None:
            check_condition(where)
        return cls(where, layers, component)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """
    What is selected of one segment.

    Attributes:
        segment: The segment.
        places: Rows of its `responses` table, ascending, at least one.
        layers: Selected layers it holds, ascending, at least one.
        components: Selected components it holds, at least one.
    """

    segment: Segment
    places: NDArray[np.int64]
    layers: tuple[int, ...]
    components: tuple[Component, ...]

    @property
    def sites(self) -> list[Site]:
        """Each selected component at each selected layer."""
        return [Site(name, layer) for name in self.components for layer in self.layers]

    @property
    def n_rows(self) -> int:
        """Activation rows of the selected readings."""
        return int(self.segment.column("responses", "n_rows")[self.places].sum())

    @property
    def half_bytes(self) -> int:
        """Bytes of the selected values as float16."""
        return self.n_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of all sites as float16."""
        return sum(2 * self.segment.width(site.component) for site in self.sites)


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """
    What a store holds of a selection.

    Attributes:
        selection: What was asked for.
        parts: Segment by segment, in the order of the store.
        n_without_sites: Readings the condition picks that hold none of the layers, or not the
            component; they are no part of it.
        n_second_readings: Second readings the condition picks, but does not name; nor are they.
    """

    selection: Selection
    parts: tuple[Part, ...]
    n_without_sites: int
    n_second_readings: int = 0

    @property
    def n_readings(self) -> int:
        """Readings."""
        return sum(len(part.places) for part in self.parts)

    @property
    def half_bytes(self) -> int:
        """Bytes of all values as float16."""
        return sum(part.half_bytes for part in self.parts)

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that some reading has."""
        return tuple(sorted({layer for part in self.parts for layer in part.layers}))

    @property
    def components(self) -> tuple[Component, ...]:
        """Every component that some reading has."""
        held = {name for part in self.parts for name in part.components}
        return tuple(name for name in COMPONENTS if name in held)

    def require_one_component(self) -> Component:
        """
        Tell which component is selected.

        Raises:
            ConfigError: There are several.
        """
        if len(self.components) > 1:
            raise ConfigError(
                f"these readings hold {', '.join(self.components)}, and a file holds one of them",
                mend=f"choose one: --component {self.components[0]}",
            )
        return self.components[0]

    def keys(self) -> Iterator[str]:
        """Give the `reading_key` of every reading, in order."""
        for part in self.parts:
            keys = part.segment.table("responses", ["reading_key"])["reading_key"]
            yield from keys.take(part.places).to_pylist()


def select(store: Store, selection: Selection, *, with_second_readings: bool = False) -> Selected:
    """
    Find what a store holds of a selection.

    Args:
        store: Where to look.
        selection: What is asked for.
        with_second_readings: Take a model's second readings of the same tokens, which
            `tistore noise` and `tistore vectors quantise` make, like any others. Otherwise the
            condition must name them: what is made of a model's readings would have some of them
            twice.

    Raises:
        NotStoredError: The store has no such layer or component; or nothing is selected.
        QueryError: As `store.sql` raises.
    """
    segments = store.snapshot.segments
    layers = _resolve_layers(selection.layers, segments)
    components = _resolve_components(selection.component, segments)
    picked = _pick(store, selection.where)
    parts: list[Part] = []
    n_without_sites = n_second = 0
    takes_all = with_second_readings or selection.names_second_readings
    for segment in segments:
        found = _find_places(segment, picked)
        places = found if takes_all else _leave_second(segment, found)
        n_second += len(found) - len(places)
        held_layers = tuple(layer for layer in segment.layers if layer in layers)
        held_components = tuple(name for name in segment.components if name in components)
        if not len(places):
            continue
        if held_layers and held_components:
            parts.append(Part(segment, places, held_layers, held_components))
        else:
            n_without_sites += len(places)
    if not parts:
        _refuse_empty(selection, segments, n_without_sites, n_second)
    return Selected(selection, tuple(parts), n_without_sites, n_second)


def _pick(store: Store, where: str | None) -> set[str] | None:
    """Ask which readings a condition picks; None for all of them."""
    return None if where is None else set(store.find_readings(where))


def _find_places(segment: Segment, picked: set[str] | None) -> NDArray[np.int64]:
    if picked is None:
        return np.arange(segment.n_readings)
    keys = segment.table("responses", ["reading_key"])["reading_key"].to_pylist()
    return np.array([at for at, key in enumerate(keys) if key in picked], dtype=np.int64)


def _leave_second(segment: Segment, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out readings that are second readings of tokens their model has read before."""
    readers = segment.table("responses", ["reader"])["reader"].take(pa.array(places))
    is_second = np.array([is_copy(reader) for reader in readers.to_pylist()], dtype=np.bool_)
    kept: NDArray[np.int64] = places[~is_second]
    return kept


def _resolve_layers(text: str | None, segments: Sequence[Segment]) -> set[int]:
    """Find the stored layers a text names; a number must be stored, a span may have gaps."""
    stored = {layer for segment in segments for layer in segment.layers}
    if text is None:
        return stored
    found: set[int] = set()
    for item in split_spans(text):
        named = stored if item == "all" else stored & set(_spell_out(item))
        if not named and segments:
            there = ", ".join(map(str, sorted(stored)))
            raise NotStoredError(f"no layer {item} in this store; it has {there}")
        found |= named
    return found


def _spell_out(item: str) -> range:
    ends, _, step = item.partition(":")
    first, _, last = ends.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def _resolve_components(name: Component | None, segments: Sequence[Segment]) -> set[Component]:
    stored = {component for segment in segments for component in segment.components}
    if name is None:
        return stored
    if name not in stored and segments:
        raise NotStoredError(f"no {name} in this store; {nearest(name, stored)}")
    return {name}


def _refuse_empty(
    selection: Selection, segments: Sequence[Segment], n_without_sites: int, n_second: int
) -> None:
    if not segments:
        raise NotStoredError("this store holds no readings", mend="fill it first")
    if n_without_sites:
        raise NotStoredError(
            f"{n_without_sites} readings satisfy the condition, but none of them has "
            f"{selection.component or 'a component'} at layer {selection.layers or 'any'}",
            mend="`tistore info` lists what the store holds",
        )
    if n_second:
        raise NotStoredError(
            f"the {n_second} readings selected are second readings, of tokens their models have "
            "read before, and are taken by name only",
            mend=f"name them: reader = 'NAME{SECOND_READING}'",
        )
    raise NotStoredError(
        f"no reading satisfies {selection.where!r}", mend="try the condition in `tistore sql`"
    )
