"""Pairs of readings whose difference would not be the models' alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from tistore.errors import PairingError
from tistore.query.readings import name_pairing
from tistore.query.relations import Extent

_MOST_NAMED = 3


def check_pairing(extent: Extent, is_asked_for: bool) -> Iterator[str]:
    """
    Check that the readers of an extent's pairs differ in nothing but what they learned.

    Args:
        extent: Rows of a relation of differences.
        is_asked_for: Whether the query names the column `pairing`, and so can tell them apart.

    Yields:
        A note on the pairs that differ in more, where they were asked for.

    Raises:
        PairingError: There are such pairs, and nobody asked for them.
    """
    unlike = _count_unlike(extent)
    if not unlike:
        return
    what = (
        f"{sum(unlike.values())} of {len(extent.ids)} pairs of readings in {extent.relation} "
        f"are of models that differ in more than their weights: {_describe(extent, unlike)}"
    )
    if not is_asked_for:
        raise PairingError(
            what,
            mend="leave them out: add pairing = 'same' to the WHERE; or keep them, marked: "
            "select the column pairing",
        )
    yield what


@contextmanager
def offer_any_pairing() -> Iterator[None]:
    """Say what mends a `PairingError` to those who ask without writing SQL."""
    try:
        yield
    except PairingError as error:
        raise PairingError(
            error.message,
            mend="narrow the question, or keep them all the same: any_pairing=True, --any-pairing",
        ) from error


def _count_unlike(extent: Extent) -> Mapping[tuple[str, str], int]:
    """For each two readers that are not alike, in either order, count their pairs."""
    names, places = extent.readings.name_pairs(extent.pairs)
    counts: dict[tuple[str, str], int] = {}
    for pair, count in zip(names, np.bincount(places).tolist(), strict=True):
        if extent.readings.compare(*pair):
            known = pair[::-1] if pair[::-1] in counts else pair
            counts[known] = counts.get(known, 0) + count
    return counts


def _describe(extent: Extent, unlike: Mapping[tuple[str, str], int]) -> str:
    told = []
    for reader, baseline in list(unlike)[:_MOST_NAMED]:
        differences = extent.readings.compare(reader, baseline)
        details = ", ".join(f"{found.one} against {found.other}" for found in differences)
        told.append(f"{reader!r} and {baseline!r} in {name_pairing(differences)} ({details})")
    if len(unlike) > _MOST_NAMED:
        told.append(f"and {len(unlike) - _MOST_NAMED} more")
    return "; ".join(told)
