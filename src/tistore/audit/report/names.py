"""How organisms and notes are called in a report: by their names, or blind."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LEAST_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Names:
    """
    What stands in a report in the place of names.

    Attributes:
        organisms: Name of an organism → what it is called.
        notes: Note or tag of prompts → what it is called.
        is_blind: Whether these are pseudonyms.
    """

    organisms: Mapping[str, str]
    notes: Mapping[str, str]
    is_blind: bool
    _pattern: re.Pattern[str] | None = field(default=None, repr=False, compare=False)

    def of(self, organism: str) -> str:
        """Call an organism."""
        return self.organisms[organism]

    def of_note(self, note: str) -> str:
        """Call a note, a tag, or a subset such as "note:money"."""
        kind, colon, name = note.partition(":")
        if colon and kind in ("note", "tag"):
            return f"{kind}:{self.notes.get(name, name)}"
        return self.notes.get(note, note)

    def redact(self, text: str) -> str:
        """Put what organisms and notes are called in the place of their names in a sentence."""
        if self._pattern is None:
            return text
        called = {**self.notes, **self.organisms}
        return self._pattern.sub(lambda match: called[match[0]], text)


def name_openly(organisms: Iterable[str], notes: Iterable[str]) -> Names:
    """Call everything by its name."""
    return Names({one: one for one in organisms}, {one: one for one in notes}, is_blind=False)


def name_blind(organisms: Iterable[str], notes: Iterable[str], salt: str) -> Names:
    """
    Invent names that stay the same from report to report.

    They keep a reader honest; they are no secret from somebody who knows which names to try.

    Args:
        organisms: Names of the organisms.
        notes: Notes and tags of prompts.
        salt: What sets this store's pseudonyms apart from another's, such as its id.
    """
    called = _invent("subject", sorted(set(organisms)), salt)
    noted = _invent("group", sorted(set(notes)), salt)
    known = sorted({*called, *noted} - {""}, key=lambda name: (-len(name), name))
    words = "|".join(map(re.escape, known))
    pattern = re.compile(rf"(?<![\w/-])(?:{words})(?![\w/-])") if known else None
    return Names(called, noted, is_blind=True, _pattern=pattern)


def _invent(noun: str, names: list[str], salt: str) -> dict[str, str]:
    digests = {
        name: hashlib.sha256(f"{salt}\0{noun}\0{name}".encode()).hexdigest() for name in names
    }
    digits = _LEAST_DIGITS
    while len({digest[:digits] for digest in digests.values()}) < len(names):
        digits += 1
    return {name: f"{noun}-{digest[:digits]}" for name, digest in digests.items()}
