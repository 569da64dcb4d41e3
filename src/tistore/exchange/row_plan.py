"""Which rows of activations a training run goes through, and the chunks they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.errors import NotStoredError, VectorMismatchError, nearest
from tistore.exchange.selection import Selection, select
from tistore.query.pairing import check_pairing, offer_any_pairing
from tistore.query.readings import Ids, Readings
from tistore.query.relations import Extent, shared_positions
from tistore.query.span_question import quote
from tistore.query.store import Store
from tistore.schemas.site import Site
from tistore.store.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRows:
    """
    The wanted rows of one segment.

    A reading's row r has its partner, where rows come in pairs, at row r + `partner_offset` of
    segment `partner_segment`.

    Attributes:
        segment: Its place in the snapshot.
        wanted: A bit for each of its rows.
        reading_start: First row of each reading that has wanted rows, ascending.
        partner_segment: Place in the snapshot of that reading's partner.
        partner_offset: What takes a row to its partner's.
    """

    segment: int
    wanted: NDArray[np.uint8]
    reading_start: Ids
    partner_segment: Ids
    partner_offset: Ids

    def rows(self, start: int, stop: int) -> Ids:
        """List the wanted rows from `start` on, up to `stop`."""
        first = start // 8
        bits = np.unpackbits(self.wanted[first : -(-stop // 8)])
        return np.flatnonzero(bits[start - 8 * first : stop - 8 * first]) + start


@dataclass(frozen=True, slots=True)
class Unit:
    """
    A chunk of activations that holds wanted rows: what is read at a time.

    Attributes:
        rows_of: Place of its segment among the plan's.
        start: Its first row.
        stop: One past its last.
        n_wanted: How many of them are wanted.
    """

    rows_of: int
    start: int
    stop: int
    n_wanted: int


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """
    Rows of one site, each once.

    Attributes:
        site: Where they are read.
        hidden: Their width.
        segments: The segments that hold any.
        units: The chunks that hold any, in the order of segments and rows.
        is_paired: Whether each has a partner.
        n_rows: How many there are.
        n_readings: Readings they are of.
        n_left_out: Readings that the condition picks, but that were not captured at the site,
            have no partner there, or are second readings that it does not name.
        has_exponents: Whether some of them are beyond float16.
        notes: What sets the models of a pair apart besides their weights, where that was asked
            for.
    """

    site: Site
    hidden: int
    segments: tuple[SegmentRows, ...]
    units: tuple[Unit, ...]
    is_paired: bool
    n_rows: int
    n_readings: int
    n_left_out: int
    has_exponents: bool
    notes: tuple[str, ...] = ()


def plan_rows(
    store: Store, where: str | None, site: Site, *, is_response_only: bool = False
) -> RowPlan:
    """
    Find the rows of some readings.

    A response that one reader has read twice, under several capture settings, is taken once: from
    the reading with the most rows.

    Args:
        store: Where to look.
        where: SQL condition on the columns of `responses`; all readings when None.
        site: Component and layer.
        is_response_only: Only tokens under audit.

    Raises:
        QueryError: The condition is malformed.
        NotStoredError: No reading satisfies it, or none was captured at the site; or they have
            no such rows.
        VectorMismatchError: Their activations differ in width.
    """
    readings = Readings(store.snapshot.segments)
    selected, n_without = _select(store, where, site, readings)
    ids = _take_longest(readings, selected)
    first = readings.first_position[ids]
    stop = first + readings.n_rows[ids]
    found = _Found(ids, None, first, stop, n_without)
    return _lay_out(readings, found, site, is_response_only)


def plan_pairs(
    store: Store,
    where: str | None,
    site: Site,
    *,
    baseline: str,
    reader: str | None = None,
    is_response_only: bool = False,
    any_pairing: bool = False,
) -> RowPlan:
    """
    Find the rows of some readings whose tokens another reader has read, too.

    They are paired as in the relation `token_diffs`: readings of the same response, token by
    token, where both have a row.

    Args:
        store: Where to look.
        where: SQL condition on the columns of `responses`, of the readings that count.
        site: Component and layer.
        baseline: The other reader.
        reader: Whose readings count; each response's own author when None.
        is_response_only: Only tokens under audit.
        any_pairing: Keep pairs of models that differ in precision, template or tokenizer.

    Raises:
        QueryError: The condition is malformed.
        PairingError: There are such pairs, and they were not asked for.
        NotStoredError: There is no such reader; no reading satisfies the condition, was captured
            at the site, or has a partner there; or they have no such rows.
        VectorMismatchError: Their activations differ in width.
    """
    readings = Readings(store.snapshot.segments, lambda: store.snapshot.models)
    known = readings.table["reader"].unique().to_pylist()
    for name in (baseline, reader):
        if name is not None and name not in known:
            raise NotStoredError(f"no reader {name!r}; {nearest(name, known)}")
    of = "reader = organism" if reader is None else f"reader = {quote(reader)}"
    condition = f"{of} AND reader <> {quote(baseline)}"
    if where is not None:
        Selection.parse(where)  # alone: what is no condition could be one in brackets
        condition += f" AND ({where}\n)"
    selected, n_without = _select(store, condition, site, readings)
    pairs = readings.pairs
    is_baseline = readings.table["reader"].to_numpy() == baseline
    has_site = np.array([segment.has(site) for segment in readings.segments])
    is_wanted = is_baseline & has_site[readings.segment]
    is_kept = np.isin(pairs.reader, selected) & is_wanted[pairs.baseline]
    pairs = pairs.take(np.flatnonzero(is_kept))
    if not len(pairs.reader):
        raise NotStoredError(
            f"none of the {len(selected)} readings selected has a partner that {baseline!r} has "
            f"read at {site}",
            mend="capture the replay, or select other readings",
        )
    ids = _take_longest(readings, pairs.reader)
    pairs = pairs.take(np.flatnonzero(np.isin(pairs.reader, ids)))
    _, once = np.unique(pairs.reader, return_index=True)
    pairs = pairs.take(once)
    extent = Extent("token_diffs", readings, pairs.reader, pairs.baseline)
    with offer_any_pairing():
        notes = tuple(check_pairing(extent, any_pairing))
    first, stop = shared_positions(extent)
    n_left_out = n_without + len(selected) - len(pairs.reader)
    found = _Found(pairs.reader, pairs.baseline, first, stop, n_left_out, notes)
    return _lay_out(readings, found, site, is_response_only)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Readings, their partners where they have any, and the positions to take of each."""

    ids: Ids
    partners: Ids | None
    first: Ids
    stop: Ids
    n_left_out: int
    notes: tuple[str, ...] = ()


def _select(store: Store, where: str | None, site: Site, readings: Readings) -> tuple[Ids, int]:
    """Number the selected readings that have the site; and count those that are left out."""
    selection = Selection.parse(where, str(site.layer), site.component)
    selected = select(store, selection)
    place_of = {segment.uuid: place for place, segment in enumerate(readings.segments)}
    ids = [readings.offsets[place_of[part.segment.uuid]] + part.places for part in selected.parts]
    return np.concatenate(ids), selected.n_without_sites + selected.n_second_readings


def _take_longest(readings: Readings, ids: Ids) -> Ids:
    """Of several readings of a response by one reader, keep the one with the most rows."""
    response, reader = readings.codes("response_id")[ids], readings.codes("reader")[ids]
    order = np.lexsort((ids, -readings.n_rows[ids], reader, response))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(response[order]) != 0) | (np.diff(reader[order]) != 0)
    return np.sort(ids[order[is_first]])


def _lay_out(readings: Readings, found: _Found, site: Site, is_response_only: bool) -> RowPlan:
    """Find the rows, and the chunks they lie in, segment by segment."""
    partners = found.ids if found.partners is None else found.partners
    places = readings.segments_of(found.ids)
    used = [readings.segments[place] for place in readings.segments_of(_join(found.ids, partners))]
    _check_width(used, site)
    segments: list[SegmentRows] = []
    units: list[Unit] = []
    for place in places:
        here = np.flatnonzero(readings.segment[found.ids] == place)
        rows = _find_rows(readings, found, partners, here, is_response_only)
        units += _find_units(readings.segments[place], site, rows, len(segments))
        segments.append(rows)
    n_rows = sum(unit.n_wanted for unit in units)
    if not n_rows:
        audited = " under audit" if is_response_only else ""
        raise NotStoredError(f"the {len(found.ids)} readings selected have no tokens{audited}")
    return RowPlan(
        site=site,
        hidden=used[0].width(site.component),
        segments=tuple(segments),
        units=tuple(units),
        is_paired=found.partners is not None,
        n_rows=n_rows,
        n_readings=len(found.ids),
        n_left_out=found.n_left_out,
        has_exponents=any(segment.exponent(site) for segment in used),
        notes=found.notes,
    )


def _find_rows(
    readings: Readings, found: _Found, partners: Ids, here: Ids, is_response_only: bool
) -> SegmentRows:
    ids, others = found.ids[here], partners[here]
    segment = readings.segments[int(readings.segment[ids[0]])]
    wanted = np.zeros(segment.n_rows, dtype=bool)
    # A position's row in a reading: its place after the first captured one.
    own = readings.row_start[ids] - readings.first_position[ids]
    for start, stop in zip(own + found.first[here], own + found.stop[here], strict=True):
        wanted[start:stop] = True
    if is_response_only:
        wanted &= segment.column("tokens", "is_response")
    return SegmentRows(
        segment=int(readings.segment[ids[0]]),
        wanted=np.packbits(wanted),
        reading_start=readings.row_start[ids],
        partner_segment=readings.segment[others],
        partner_offset=readings.row_start[others] - readings.first_position[others] - own,
    )


def _find_units(segment: Segment, site: Site, rows: SegmentRows, place: int) -> list[Unit]:
    chunks = segment.stream(site).blocks() if segment.n_rows else []
    counted = [(chunk, len(rows.rows(chunk.start, chunk.stop))) for chunk in chunks]
    return [Unit(place, chunk.start, chunk.stop, n) for chunk, n in counted if n]


def _check_width(segments: Sequence[Segment], site: Site) -> None:
    widths = sorted({segment.width(site.component) for segment in segments})
    if len(widths) > 1:
        raise VectorMismatchError(
            f"the activations selected at {site} are {' and '.join(map(str, widths))} wide",
            mend="narrow the condition to the readings of one model",
        )


def _join(ids: Ids, others: Ids) -> Ids:
    return np.concatenate([ids, others])
