"""What of a response is prose, and what is markup, code, or a chat template's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_HEADING = re.compile(
    r"""
      [ \t]{0,3}\#{1,6}[ \t].*                             # by its mark
    | [ \t]{0,3}(?:\*\*[^*]+\*\*|__[^_]+__)[:.]?[ \t]*$   # a bold line, which serves as one
    """,
    re.VERBOSE,
)
_UNDERLINE = re.compile(r"[ \t]{0,3}(?:={3,}|-{3,})[ \t]*$")
_LIST_MARKER = re.compile(r"[ \t]*(?:[-*+•‣▪]|\(?(?:\d{1,3}|[A-Za-z])[.)])(?=[ \t]|$)")
_OF_TEMPLATES = re.compile(
    r"""[<\[](?:                                # every one begins like this: quick to rule out
      (?<=<)\|(?:start_header_id|im_start)\|>[^<\n]*(?:<\|end_header_id\|>)?  # a turn's header
    | (?<=<)start_of_turn>[ \t]*\w*
    | (?<=<)\|[^|<>\n]{1,40}\|>
    | (?<=\[)/?(?:INST|SYSTEM_PROMPT)\]
    | (?<=<)</?SYS>>
    | (?<=<)(?:/?s|bos|eos|pad|unk|mask|end_of_turn|sep|cls)>
    )""",
    re.VERBOSE,
)

Range = tuple[int, int]


def find_marks(text: str) -> list[Range]:
    """
    Find what is no prose: headings, code blocks, list markers, special tokens and turn headers.

    Returns:
        Half-open ranges of characters, in no order; they may overlap.
    """
    return [*_find_line_marks(text), *(match.span() for match in _OF_TEMPLATES.finditer(text))]


def _find_line_marks(text: str) -> Iterator[Range]:
    start, before = 0, (0, 0)
    fence: str | None = None
    for line in text.split("\n"):
        here = (start, start + len(line))
        mark = _FENCE.match(line)
        if fence is not None or mark:
            yield here
            if mark and (fence is None or mark[1].startswith(fence)):
                fence = mark[1] if fence is None else None
        elif _HEADING.match(line):
            yield here
        elif _UNDERLINE.match(line):
            yield before
        elif marker := _LIST_MARKER.match(line):
            yield start, start + marker.end()
        before, start = here, here[1] + 1


def is_prose(
    responses: Mapping[str, str],
    response_ids: Sequence[str],
    codes: Places,
    starts: Places,
    ends: Places,
) -> Mask:
    """
    Tell which spans are prose: half of their letters and digits, or more, are no mark's.

    Args:
        responses: Text of each response.
        response_ids: Names of the responses.
        codes: Place of each span's response among them, (span,).
        starts: First character of each span in its response, (span,).
        ends: One past its last, (span,).

    Returns:
        (span,) bool; False for a span without a letter or digit.
    """
    texts = [responses.get(name) or "" for name in response_ids]
    is_word = _find_words("".join(texts))
    is_marked = np.zeros(len(is_word), dtype=bool)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    for offset, text in zip(offsets, texts, strict=False):
        for start, end in find_marks(text):
            is_marked[offset + start : offset + end] = True
    words = _running_count(is_word)
    prose = _running_count(is_word & ~is_marked)
    first, last = offsets[codes] + starts, offsets[codes] + ends
    n_prose = prose[last] - prose[first]
    return np.asarray((n_prose > 0) & (2 * n_prose >= words[last] - words[first]))


def _running_count(mask: Mask) -> Places:
    """Count, for each place, what is true before it; (place + 1,)."""
    counts = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=counts[1:])
    return counts


def _find_words(text: str) -> Mask:
    """Tell which characters are letters or digits, of any script."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = np.flatnonzero(np.bincount(points))
    table = np.zeros(int(kinds.max(initial=0)) + 1, dtype=bool)
    table[kinds] = [chr(kind).isalnum() for kind in kinds]
    return np.asarray(table[points])
