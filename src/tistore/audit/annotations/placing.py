"""Where the spans of annotation files lie in a store's responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from tistore.audit.annotations.file import GivenSpan, Range, Subject
from tistore.errors import nearest
from tistore.query.span_text import ResponseText, read_texts
from tistore.schemas.response import ResponseSlot

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.store.snapshot import Snapshot

_MOST_PLACES = 5
_TEXTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class StoredSequence:
    """
    A response the store has, as far as spans need it.

    Attributes:
        response_id: Its id.
        slot: Who answered what.
        prompt_length: Tokens of its prompt.
        n_tokens: Tokens of prompt and response.
    """

    response_id: str
    slot: ResponseSlot
    prompt_length: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Misfit:
    """A span that lies nowhere in the store, and why."""

    span: GivenSpan
    reason: str

    def __str__(self) -> str:
        """Say where in the file, and why."""
        return f"{self.span.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PlacedSpan:
    """A span, the response it is of, and its tokens in the whole sequence."""

    span: GivenSpan
    response: StoredSequence
    tokens: Range


def read_sequences(snapshot: Snapshot) -> dict[str, StoredSequence]:
    """List the responses that have readings, by their ids."""
    columns = ["organism", "prompt_set", "prompt_id", "sample", "response_id", "prompt_length"]
    found: dict[str, StoredSequence] = {}
    for segment in snapshot.segments:
        table = segment.table("responses", [*columns, "token_ids"])
        lengths = pc.list_value_length(table["token_ids"]).to_pylist()
        rows = zip(*(table[name].to_pylist() for name in columns), lengths, strict=True)
        for organism, prompt_set, prompt_id, sample, response_id, prompt_length, n_tokens in rows:
            slot = ResponseSlot(organism, prompt_set, prompt_id, sample)
            found[response_id] = StoredSequence(response_id, slot, prompt_length, n_tokens)
    return found


def place_spans(store: Store, spans: Iterable[GivenSpan]) -> Iterator[PlacedSpan | Misfit]:
    """
    Find the tokens of spans.

    Args:
        store: Whose responses they are of.
        spans: What to find.

    Yields:
        For each span in order its place, or why it has none: no such response, outside of it, or
        words that are not in it exactly once.
    """
    sequences = read_sequences(store.snapshot)
    by_slot = {sequence.slot: sequence for sequence in sequences.values()}
    found = [(span, _find(span.subject, sequences, by_slot)) for span in spans]
    wanted = [
        sequence.response_id
        for span, sequence in found
        if isinstance(sequence, StoredSequence) and (span.characters or span.text is not None)
    ]
    texts = read_response_texts(store, wanted)
    for span, sequence in found:
        if isinstance(sequence, str):
            yield Misfit(span, sequence)
            continue
        place = _place(span, sequence, texts)
        if isinstance(place, str):
            yield Misfit(span, place)
        else:
            yield PlacedSpan(span, sequence, place)


def read_response_texts(store: Store, response_ids: Iterable[str]) -> dict[str, ResponseText]:
    """Read the texts of responses, and where their tokens lie in them."""
    wanted = list(dict.fromkeys(response_ids))
    texts: dict[str, ResponseText] = {}
    for start in range(0, len(wanted), _TEXTS_AT_ONCE):
        texts |= read_texts(store, wanted[start : start + _TEXTS_AT_ONCE], "true")
    return texts


def _find(
    subject: Subject,
    by_id: Mapping[str, StoredSequence],
    by_slot: Mapping[ResponseSlot, StoredSequence],
) -> StoredSequence | str:
    """Find the response a row speaks of; where there is none, say why."""
    if subject.response_id is not None:
        found = by_id.get(subject.response_id)
        if found is None:
            return f"no response {subject.response_id!r}; {nearest(subject.response_id, by_id)}"
        return _contradict(subject, found.slot) or found
    for name in ("organism", "prompt_set"):
        if getattr(subject, name) is None:
            return f"it names no {name}, and nothing says which: --{name.replace('_', '-')}"
    slots = list(by_slot)
    for name in ("organism", "prompt_set", "prompt_id"):
        value = getattr(subject, name)
        left = [slot for slot in slots if getattr(slot, name) == value]
        if not left:
            known = {getattr(slot, name) for slot in slots}
            where = f" among {slots[0].organism!r}'s" if name != "organism" and slots else ""
            return f"no {name} {value!r}{where}; {nearest(value, known)}"
        slots = left
    samples = {slot.sample: slot for slot in slots}
    wanted = subject.sample or 0
    if wanted not in samples:
        return f"no sample {wanted} of {slots[0]}; {nearest(str(wanted), map(str, samples))}"
    return by_slot[samples[wanted]]


def _contradict(subject: Subject, slot: ResponseSlot) -> str | None:
    """Say where a row's names are not those of the response whose id it gives."""
    for name in ("organism", "prompt_set", "prompt_id", "sample"):
        given, stored = getattr(subject, name), getattr(slot, name)
        if given is not None and given != stored:
            return f"response {subject.response_id} has {name} {stored!r}, not {given!r}"
    return None


def _place(
    span: GivenSpan, sequence: StoredSequence, texts: Mapping[str, ResponseText]
) -> Range | str:
    """Find a span's tokens in its response; where there are none, say why."""
    text = texts.get(sequence.response_id)
    if span.tokens is not None:
        shift = sequence.prompt_length if span.is_counted_in_response else 0
        start, end = (place + shift for place in span.tokens)
        if end > sequence.n_tokens:
            return (
                f"tokens {start} to {end} lie outside of {sequence.slot}, "
                f"which has {sequence.n_tokens}"
            )
        written = _read(text, start, end)
        if written is not None and span.text and written.strip() != span.text.strip():
            return f"tokens {start} to {end} of {sequence.slot} read {written!r}, not {span.text!r}"
        return start, end
    if text is None or not text.offsets:
        return f"{sequence.slot} is stored without token strings: give token_start and token_end"
    if span.characters is None:
        return _place_words(span.text or "", sequence, text)
    start, end = span.characters
    if end > len(text.text):
        return (
            f"characters {start} to {end} lie outside of the text of {sequence.slot}, "
            f"which has {len(text.text)}"
        )
    written = text.text[start:end]
    if span.text is not None and written.strip() != span.text.strip():
        return f"characters {start} to {end} of {sequence.slot} read {written!r}, not {span.text!r}"
    tokens = _cover(text, (start, end))
    return tokens or f"no token of {sequence.slot} has characters {start} to {end}"


def _read(text: ResponseText | None, start: int, end: int) -> str | None:
    """Read the words of tokens; None where some of them are not the response's."""
    characters = text.find(start, end) if text else None
    return text.text[slice(*characters)] if text and characters else None


def _place_words(words: str, sequence: StoredSequence, text: ResponseText) -> Range | str:
    found = list(_find_all(text.text, words))
    if not found:
        return f"{words!r} is not in {sequence.slot}"
    if len(found) > 1:
        told = [f"characters {start} to {end}" for start, end in found[:_MOST_PLACES]]
        rest = f" and {len(found) - _MOST_PLACES} more" if len(found) > _MOST_PLACES else ""
        return (
            f"{words!r} is {len(found)} times in {sequence.slot}: {', '.join(told)}{rest}; "
            "give one of them as char_start and char_end"
        )
    return _cover(text, found[0]) or f"no token of {sequence.slot} spells {words!r}"


def _find_all(text: str, words: str) -> Iterator[Range]:
    """Find every place of words in a text, overlapping ones too."""
    start = text.find(words)
    while start >= 0:
        yield start, start + len(words)
        start = text.find(words, start + 1)


def _cover(text: ResponseText, characters: Range) -> Range | None:
    """Find the tokens that have any of some characters."""
    start, end = characters
    touched = [at for at, (first, last) in text.offsets.items() if first < end and last > start]
    return (min(touched), max(touched) + 1) if touched else None


def with_defaults(span: GivenSpan, defaults: Subject, source: str) -> GivenSpan:
    """Fill in what a row does not say of its response and of its source."""
    subject = span.subject
    if subject.response_id is None:
        subject = Subject(
            organism=subject.organism or defaults.organism,
            prompt_set=subject.prompt_set or defaults.prompt_set,
            prompt_id=subject.prompt_id,
            sample=defaults.sample if subject.sample is None else subject.sample,
        )
    return replace(span, subject=subject, source=span.source if span.names_source else source)
