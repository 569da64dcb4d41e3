"""Parts of segments that become one segment elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tistore.exchange.selection import Part
from tistore.store.writer import FLUSH_BYTES


def group_parts(parts: Iterable[Part], group_bytes: int = FLUSH_BYTES) -> Iterator[list[Part]]:
    """
    Put parts together that follow on each other, so that a few readings of each make no crumbs.

    Only parts of the same sites, as wide at each and stored with the same exponents fit each other:
    rescaling could lose the last bits of the smallest values.

    Args:
        parts: In the order of the store.
        group_bytes: Float16 bytes of a group from which on the next part begins another.
    """
    waiting: list[Part] = []
    for part in parts:
        size_bytes = sum(one.half_bytes for one in waiting)
        if waiting and (_shape(part) != _shape(waiting[0]) or size_bytes >= group_bytes):
            yield waiting
            waiting = []
        waiting.append(part)
    if waiting:
        yield waiting


def _shape(part: Part) -> tuple[object, ...]:
    segment = part.segment
    exponents = [
        segment.exponent(site) for site in part.sites if segment.has_activations(site.component)
    ]
    widths = [segment.width(component) for component in part.components]
    return widths, part.layers, part.components, exponents
