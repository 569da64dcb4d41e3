"""Clauses: stretches of a response, found on characters and mapped to tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

# A mark ends a clause when white space follows, so that 3.14, 1,000, 10:30 and URLs stay whole.
# Em dashes, line breaks and full-width marks need no space after them.
_BOUNDARY = re.compile(
    r"""[,.;:!?…]+["')\]}»”’*_`]*(?=\s|$)"""
    r"""|\s[–-]+(?=\s)|—+|\s*\n\s*"""
    r"""|[。！？，、；：]+["')\]}»”’」』]*"""
)
_LIST_NUMBER = re.compile(r"\s*\(?\d{1,3}[.:)]*")

_INCUMBENT_MARKS = frozenset(",.;—\n!?:")

Offset = tuple[int, int]
"""A half-open range of characters."""


@dataclass(frozen=True, slots=True)
class Clause:
    """
    One clause of a text and the tokens that spell it.

    Attributes:
        token_start: First token, counted in the offsets given.
        token_end: One past the last token.
        char_start: First character, white space at the edges left out.
        char_end: One past the last character.
        text: The characters between.
    """

    token_start: int
    token_end: int
    char_start: int
    char_end: int
    text: str


def find_boundaries(text: str) -> list[int]:
    """
    Find where clauses end: ascending character positions, the text's end included.

    A number that opens a list item ("1.") ends no clause.
    """
    ends: list[int] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        if "\n" not in match[0] and _LIST_NUMBER.fullmatch(text[start : match.end()]):
            continue
        if text[start : match.start()].strip():
            start = match.end()
            ends.append(start)
    if text[start:].strip() or not ends:
        ends.append(len(text))
    else:
        ends[-1] = len(text)
    return ends


def split_clauses(text: str, offsets: Sequence[Offset]) -> list[Clause]:
    """
    Split a response into clauses, each with the tokens that spell it.

    A token belongs to the clause its first visible character lies in; a token of white space
    alone goes with the clause before it. Tokens of no width, such as an end-of-sequence mark,
    belong to none. Every other token belongs to exactly one clause.

    Args:
        text: The response.
        offsets: For each token, its characters in `text`, in order.

    Returns:
        Clauses in order; none for a text that is empty or white space.
    """
    if not text.strip():
        return []
    ends = find_boundaries(text)
    groups: list[list[int]] = []
    of_group: list[int] = []
    clause = 0
    for token, (start, end) in enumerate(offsets):
        if start == end:
            continue
        piece = text[start:end]
        visible = start + len(piece) - len(piece.lstrip())
        if visible < end:
            while visible >= ends[clause]:
                clause += 1
        if groups and of_group[-1] == clause:
            groups[-1].append(token)
        else:
            groups.append([token])
            of_group.append(clause)
    return [
        _cover(text, offsets, group)
        for group in groups
        if text[offsets[group[0]][0] : offsets[group[-1]][1]].strip()
    ]


def split_clauses_incumbent(tokens: Sequence[str]) -> list[Clause]:
    """
    Split a response as trait-interp's `per_token_diff` does, for figures that compare with its.

    A clause ends after any token that holds one of `, . ; — ! ? :` or a line break, inside numbers
    and addresses too, and after the last token; a clause of white space alone is left out. A
    capture stores the clauses of `split_clauses`; these follow from the stored token strings.

    Args:
        tokens: The response's, special tokens left out.

    Returns:
        Clauses in order; characters are counted in the tokens' own spelling.

    Source:
        trait-interp, analysis/model_diff/per_token_diff.py.
    """
    ends = [index + 1 for index, token in enumerate(tokens) if _INCUMBENT_MARKS & set(token)]
    bounds = list(dict.fromkeys([0, *ends, len(tokens)]))
    text = "".join(tokens)
    stops = list(accumulate(map(len, tokens)))
    offsets = list(zip([0, *stops], stops, strict=False))
    return [
        _cover(text, offsets, list(range(start, end)))
        for start, end in pairwise(bounds)
        if "".join(tokens[start:end]).strip()
    ]


def _cover(text: str, offsets: Sequence[Offset], tokens: list[int]) -> Clause:
    start, end = offsets[tokens[0]][0], offsets[tokens[-1]][1]
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    return Clause(tokens[0], tokens[-1] + 1, start, end, text[start:end])


def align_tokens(text: str, tokens: Sequence[str]) -> list[Offset] | None:
    """
    Find each token's characters by spelling the text with the token strings.

    A token that is not the next stretch of the text, such as an end-of-sequence mark that the
    text leaves out, gets no width.

    Returns:
        One offset a token; None when the tokens do not spell the text.
    """
    offsets: list[Offset] = []
    at = 0
    for token in tokens:
        end = at + len(token) if text.startswith(token, at) else at
        offsets.append((at, end))
        at = end
    return offsets if at == len(text) else None
