"""What a store holds, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tistore.schemas.site import Component
from tistore.store.header import Header
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """
    Counts of one snapshot.

    Attributes:
        readings: Responses times their readers.
        generations: Imported responses, to be read by a run.
        tokens: Captured token rows, over all readings.
        segments_without_activations: Those that hold scores in their place.
        hidden: Widths of the stream; of readings without it, of the first component they have.
        widths: Widths of each component.
        raw_bytes: What the activations take as plain float16.
        stored_bytes: What every committed file takes.
        organisms: Authors of responses, with the number of their own responses.
        readers: Readers, with the number of their readings.
        prompt_sets: Prompt sets, with the number of readings over them.
    """

    path: str
    store_uuid: str
    format_version: int
    commit: int
    segments: int
    segments_without_activations: int
    responses: int
    readings: int
    generations: int
    tokens: int
    layers: tuple[int, ...]
    components: tuple[str, ...]
    hidden: tuple[int, ...]
    widths: dict[str, tuple[int, ...]]
    files: int
    raw_bytes: int
    stored_bytes: int
    organisms: dict[str, int]
    readers: dict[str, int]
    prompt_sets: dict[str, int]
    vectors: tuple[str, ...]


def describe(path: str, header: Header, snapshot: Snapshot) -> StoreInfo:
    """Count what a snapshot holds."""
    authors: dict[str, str] = {}
    readers: Counter[str] = Counter()
    prompt_sets: Counter[str] = Counter()
    for segment in snapshot.segments:
        table = segment.table("responses", ["response_id", "organism", "reader", "prompt_set"])
        authors.update(
            zip(table["response_id"].to_pylist(), table["organism"].to_pylist(), strict=True)
        )
        readers.update(table["reader"].to_pylist())
        prompt_sets.update(table["prompt_set"].to_pylist())
    segments = snapshot.segments
    widths = list_widths(segments)
    return StoreInfo(
        path=path,
        store_uuid=header.uuid,
        format_version=header.format_version,
        commit=snapshot.number,
        segments=len(segments),
        segments_without_activations=sum(
            not any(map(segment.has_activations, segment.components)) for segment in segments
        ),
        responses=len(authors),
        readings=sum(segment.n_readings for segment in segments),
        generations=snapshot.table("generations").num_rows,
        tokens=sum(segment.n_rows for segment in segments),
        layers=tuple(sorted({layer for segment in segments for layer in segment.layers})),
        components=tuple(widths),
        hidden=tuple(sorted({segment.width(_main_component(segment)) for segment in segments})),
        widths=widths,
        files=len(snapshot.files),
        raw_bytes=sum(
            segment.n_rows * segment.width(component) * len(segment.layers) * 2
            for segment in segments
            for component in segment.components
            if segment.has_activations(component)
        ),
        stored_bytes=sum(record.size_bytes for record in snapshot.files),
        organisms=dict(sorted(Counter(authors.values()).items())),
        readers=dict(sorted(readers.items())),
        prompt_sets=dict(sorted(prompt_sets.items())),
        vectors=tuple(vector.reference for vector in snapshot.vectors()),
    )


def _main_component(segment: Segment) -> Component:
    return "residual" if "residual" in segment.components else segment.components[0]


def list_widths(segments: Iterable[Segment]) -> dict[str, tuple[int, ...]]:
    """For each component that was captured, by name, how wide it is, in ascending order."""
    found: dict[str, set[int]] = {}
    for segment in segments:
        for component in segment.components:
            found.setdefault(component, set()).add(segment.width(component))
    return {component: tuple(sorted(found[component])) for component in sorted(found)}
