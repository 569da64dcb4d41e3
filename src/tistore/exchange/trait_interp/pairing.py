"""Planning the readings of one response: whose tokens they are, and which of them all have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tistore.datasets.trait_interp.files import ResidualFile, ResponseFile
from tistore.datasets.trait_interp.responses import read_response
from tistore.errors import DatasetError, TistoreError
from tistore.exchange.trait_interp.components import explain_absence, map_components
from tistore.exchange.trait_interp.groups import ResponseFiles
from tistore.exchange.trait_interp.options import ImportOptions
from tistore.exchange.trait_interp.planned import PlannedReading
from tistore.exchange.trait_interp.raw_file import RawFile, read_raw_file
from tistore.exchange.trait_interp.roster import Roster
from tistore.exchange.trait_interp.row_placing import Placement, place_rows
from tistore.exchange.trait_interp.seen import explain
from tistore.schemas.response import ResponseSlot
from tistore.store.snapshot import StoredResponse

BY_OPTION = "left out by --component"
"""Begins the note on components that were not asked for."""

FindStored = Callable[[ResponseSlot], StoredResponse | None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that cannot be imported, and why."""

    file: ResidualFile
    reason: str


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The response's ids as some file has them."""

    token_ids: tuple[int, ...]
    prompt_length: int
    source: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    file: ResidualFile
    raw: RawFile
    placement: Placement


class Pairing:
    """
    Plans what a response's files become.

    Args:
        roster: The experiment's models.
        options: How to import.
        find_stored: Looks up a response the store has.
    """

    def __init__(self, roster: Roster, options: ImportOptions, find_stored: FindStored) -> None:
        self._roster = roster
        self._options = options
        self._find_stored = find_stored

    def plan(self, group: ResponseFiles) -> list[PlannedReading | Refusal]:
        """Plan every raw file of a response; those of one that disagree are refused or unpaired."""
        opened = [self._open(file) for file in (*group.captures, *group.guests)]
        planned: list[PlannedReading | Refusal] = [x for x in opened if isinstance(x, Refusal)]
        candidates = [x for x in opened if isinstance(x, _Candidate)]
        truth = self._find_truth(group, candidates)
        paired: list[PlannedReading] = []
        for candidate in candidates:
            difference = _compare(candidate.raw, truth) if truth else None
            if difference is None:
                verdict = self._plan_paired(group, candidate, truth)
            else:
                verdict = self._plan_stranger(group, candidate, difference)
            if isinstance(verdict, PlannedReading) and verdict.slot == group.slot:
                paired.append(verdict)
            else:
                planned.append(verdict)
        stop = min((reading.placement.stop for reading in paired), default=0)
        return planned + [replace(reading, audited_stop=stop) for reading in paired]

    def _open(self, file: ResidualFile) -> _Candidate | Refusal:
        try:
            raw = read_raw_file(file.path)
            placement = place_rows(raw, is_replay=file.author is not None)
        except TistoreError as error:
            return Refusal(file, explain(error, file.path))
        return _Candidate(file, raw, placement)

    def _find_truth(self, group: ResponseFiles, candidates: list[_Candidate]) -> _Tokens | None:
        """Take the tokens from the author's own file, else its JSON, else the store."""
        for candidate in candidates:
            if candidate.file.author is None and candidate.file not in group.guests:
                raw = candidate.raw
                return _Tokens(raw.token_ids, raw.prompt_length, candidate.file.path.name)
        if group.document and (tokens := _read_tokens(group.document)):
            return tokens
        stored = self._find_stored(group.slot)
        if stored is None:
            return None
        return _Tokens(tuple(stored.token_ids), stored.prompt_length, "the store's response")

    def _plan_paired(
        self, group: ResponseFiles, candidate: _Candidate, truth: _Tokens | None
    ) -> PlannedReading | Refusal:
        file = candidate.file
        is_own = file.author is None and file not in group.guests
        notes = () if is_own or truth else ("no other file has the response's tokens to compare",)
        if file in group.guests and truth is None:
            return self._plan_stranger(group, candidate, "")
        is_paired = None if is_own or truth is None else True
        return self._describe(candidate, group.slot, group.document, is_paired, notes)

    def _plan_stranger(
        self, group: ResponseFiles, candidate: _Candidate, difference: str
    ) -> PlannedReading | Refusal:
        """Plan a file that reads other tokens than the response's."""
        file = candidate.file
        if file in group.guests:
            slot = replace(group.slot, organism=self._roster.name(file.variant))
            return self._describe(candidate, slot, None, None, ())
        if file.author is None or not self._options.keep_mismatched:
            return Refusal(file, difference)
        slot = replace(group.slot, prompt_set=file.set_name)
        return self._describe(candidate, slot, None, False, (f"kept unpaired: {difference}",))

    def _describe(
        self,
        candidate: _Candidate,
        slot: ResponseSlot,
        document: ResponseFile | None,
        is_paired: bool | None,
        notes: tuple[str, ...],
    ) -> PlannedReading | Refusal:
        raw, placement = candidate.raw, candidate.placement
        known = map_components(raw.components)
        wanted = self._options.components
        components = {
            ours: theirs for ours, theirs in known.items() if wanted is None or ours in wanted
        }
        absent = [explain_absence(name) for name in raw.components if name not in known.values()]
        if not components:
            held = "; ".join(absent) or ", ".join(known)
            return Refusal(candidate.file, f"no component to import: {held}")
        if placement.n_rows == 0:
            return Refusal(candidate.file, "it holds no rows")
        try:
            self._roster.describe(slot.organism)
            reader = self._roster.describe(candidate.file.variant)
        except TistoreError as error:
            return Refusal(candidate.file, explain(error, candidate.file.path))
        if raw.prompt.has_attention or raw.response.has_attention:
            absent.append("attention patterns, which are not imported")
        left_out = [f"left out: {reason}" for reason in absent]
        if filtered := [theirs for ours, theirs in known.items() if ours not in components]:
            left_out.append(f"{BY_OPTION}: {', '.join(filtered)}")
        if candidate.file.author is None and "_replay_" in candidate.file.set_name:
            named = candidate.file.set_name.rpartition("_replay_")[2]
            notes = (*notes, f"taken for its own response: config.json declares no model {named!r}")
        return PlannedReading(
            file=candidate.file,
            slot=slot,
            reader=candidate.file.variant,
            reader_name=reader.name,
            placement=placement,
            layers=raw.layers,
            components=components,
            widths={ours: raw.widths[theirs] for ours, theirs in components.items()},
            source_dtype=raw.dtype,
            audited_stop=placement.stop,
            is_paired=is_paired,
            document=document,
            notes=(*placement.notes, *notes, *left_out),
        )


def _read_tokens(file: ResponseFile) -> _Tokens | None:
    try:
        response = read_response(file.path)
    except DatasetError:
        return None  # refused by name when it is dealt with itself
    if not response.token_ids or response.prompt_length is None:
        return None
    return _Tokens(response.token_ids, response.prompt_length, file.path.name)


def _compare(raw: RawFile, truth: _Tokens) -> str | None:
    """Say how tokens differ from those of the response; None where they do not."""
    if raw.token_ids == truth.token_ids and raw.prompt_length == truth.prompt_length:
        return None
    if raw.token_ids == truth.token_ids:
        what = f"its prompt has {raw.prompt_length} tokens, not {truth.prompt_length}"
    elif len(raw.token_ids) != len(truth.token_ids):
        what = f"it has {len(raw.token_ids)} tokens, not {len(truth.token_ids)}"
    else:
        pairs = list(zip(raw.token_ids, truth.token_ids, strict=True))
        wrong = [place for place, (ours, theirs) in enumerate(pairs) if ours != theirs]
        what = f"{len(wrong)} of {len(pairs)} token ids differ, first at position {wrong[0]}"
    return (
        f"its tokens are not those of {truth.source}, whose response it reads: {what} "
        "(import it unpaired with --keep-mismatched, or capture it again)"
    )
