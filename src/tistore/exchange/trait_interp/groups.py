"""Files of an experiment, brought together by the response they are of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tistore.datasets.trait_interp.files import ResidualFile, ResponseFile
from tistore.exchange.trait_interp.roster import Roster
from tistore.schemas.response import ResponseSlot

OLDEST_SET = "prompts"
"""Set of responses from the layout that named none: as its folder was called."""


@dataclass(slots=True)
class ResponseFiles:
    """
    Everything an experiment has of one response.

    Attributes:
        slot: Whose answer to what.
        captures: Raw files of it: the author's own first.
        guests: Raw files that may be of this response or of their own model's: the layout of
            December 2025 kept both below `models/`.
        document: Its JSON.
        copies: Further JSON, kept with replays.
    """

    slot: ResponseSlot
    captures: list[ResidualFile] = field(default_factory=list)
    guests: list[ResidualFile] = field(default_factory=list)
    document: ResponseFile | None = None
    copies: list[ResponseFile] = field(default_factory=list)


def group_files(
    files: Iterable[ResidualFile | ResponseFile], roster: Roster, root: Path
) -> list[ResponseFiles]:
    """
    Group raw files and responses by author, prompt set and prompt.

    Raises:
        ConfigError: A path names no model, and the experiment has no application model.
    """
    groups: dict[ResponseSlot, ResponseFiles] = {}
    for file in files:
        slot = find_slot(file, roster)
        group = groups.setdefault(slot, ResponseFiles(slot))
        if isinstance(file, ResidualFile):
            place = 0 if file.author is None else len(group.captures)
            group.captures.insert(place, file)
        elif file.author is None and group.document is None:
            group.document = file
        else:
            group.copies.append(file)
    for group in groups.values():
        if group.document is None and group.copies:
            group.document = group.copies.pop(0)
    return _invite_guests(groups, roster, root)


def find_slot(file: ResidualFile | ResponseFile, roster: Roster) -> ResponseSlot:
    """Name the response that a file is of."""
    author = file.author if file.author is not None else roster.name(file.variant)
    return ResponseSlot(author, file.prompt_set or OLDEST_SET, file.prompt_id)


def _invite_guests(
    groups: dict[ResponseSlot, ResponseFiles], roster: Roster, root: Path
) -> list[ResponseFiles]:
    """Move captures below `models/` to the application model's response of the same prompt."""
    for group in list(groups.values()):
        strangers = [
            file
            for file in group.captures
            if file.path.relative_to(root).parts[:2] == ("inference", "models")
        ]
        if not strangers:
            continue
        host_slot = ResponseSlot(roster.name(None), group.slot.prompt_set, group.slot.prompt_id)
        host = groups.get(host_slot)
        if host is not None and host is not group:
            group.captures = [file for file in group.captures if file not in strangers]
            host.guests += strangers
    return [group for group in groups.values() if group.captures or group.guests or group.document]
