"""The text of spans, and the text around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tistore.query.store import Store

Characters = tuple[int, int]
"""A half-open range of characters."""


@dataclass(frozen=True, slots=True)
class ResponseText:
    """
    A response and the characters of its tokens.

    Attributes:
        text: The response; as its tokens spell it where they have no offsets.
        prompt_length: Position of its first token.
        offsets: Characters of each token of the response, by position.
        strings: The strings of all captured tokens, those of the prompt included, by position.
        audited: Positions of its tokens under audit, ascending.
    """

    text: str
    prompt_length: int
    offsets: Mapping[int, Characters]
    strings: Mapping[int, str]
    audited: Sequence[int]

    def find(self, start: int, end: int) -> Characters | None:
        """Find the characters of tokens start to end - 1; None if not all are the response's."""
        if start not in self.offsets or end - 1 not in self.offsets:
            return None
        first = self.offsets[start][0]
        return first, max(first, self.offsets[end - 1][1])

    def spell(self, start: int, end: int) -> str:
        """Spell tokens start to end - 1."""
        if (characters := self.find(start, end)) is not None:
            return self.text[slice(*characters)]
        return "".join(self.strings.get(position, "") for position in range(start, end))

    def surround(
        self, start: int, end: int, n_tokens: int, characters: Characters | None = None
    ) -> tuple[str, str]:
        """
        Give the response's text before and after tokens start to end - 1.

        It begins and ends where the span does: a character that several tokens share, or white
        space that a clause leaves out, is there exactly once.

        Args:
            start: First token of the span.
            end: One past its last.
            n_tokens: Tokens of context on each side, as far as the response goes.
            characters: Characters of the span, where they are fewer than its tokens'.
        """
        characters = characters or self.find(start, end)
        if characters is None or n_tokens < 1:
            return "", ""
        first = self.offsets[max(start - n_tokens, self.prompt_length)][0]
        last = self.offsets[min(end - 1 + n_tokens, max(self.offsets))][1]
        return self.text[first : characters[0]], self.text[characters[1] : last]


def read_texts(store: Store, response_ids: Iterable[str], reading: str) -> dict[str, ResponseText]:
    """
    Read the texts of some responses, and where their tokens lie in them.

    Args:
        store: Where they are.
        response_ids: Which.
        reading: SQL condition that leaves one reader of each.
    """
    marks = {f"r{place}": known for place, known in enumerate(dict.fromkeys(response_ids))}
    chosen = f"response_id IN ({', '.join(f'${mark}' for mark in marks)}) AND {reading}"
    texts = {
        response_id: (text, prompt_length)
        for response_id, text, prompt_length in store.sql(
            f"SELECT response_id, text, prompt_length FROM responses WHERE {chosen}", marks
        ).fetchall()
    }
    columns = ("position", "token", "char_start", "char_end", "is_response")
    lists = ", ".join(f"list({column} ORDER BY position)" for column in columns)
    tokens = store.sql(
        f"SELECT response_id, {lists} FROM tokens WHERE {chosen} GROUP BY response_id", marks
    ).fetchall()
    return {
        response_id: _lay_out(*texts[response_id], *columns) for response_id, *columns in tokens
    }


def _lay_out(
    text: str | None,
    prompt_length: int,
    positions: Sequence[int],
    tokens: Sequence[str | None],
    starts: Sequence[int | None],
    ends: Sequence[int | None],
    is_response: Sequence[bool],
) -> ResponseText:
    strings = {at: token or "" for at, token in zip(positions, tokens, strict=True)}
    offsets = {
        at: (start, end)
        for at, start, end in zip(positions, starts, ends, strict=True)
        if start is not None and end is not None
    }
    if text is None or not offsets:
        own = sorted(at for at in strings if at >= prompt_length)
        text, offsets = _join([strings[at] for at in own], prompt_length)
    audited = dict.fromkeys(at for at, told in zip(positions, is_response, strict=True) if told)
    return ResponseText(text, prompt_length, offsets, strings, list(audited))


def _join(strings: Sequence[str], first: int) -> tuple[str, dict[int, Characters]]:
    offsets = {}
    length = 0
    for position, string in enumerate(strings, start=first):
        offsets[position] = (length, length + len(string))
        length += len(string)
    return "".join(strings), offsets
