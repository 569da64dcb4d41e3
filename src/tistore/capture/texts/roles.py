"""Whose words each token of a rendered conversation is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise
from typing import Any

from jinja2 import TemplateError

from tistore.capture.texts.stretches import Marks, find_stretches, split_thinking
from tistore.schemas.prompt import Message
from tistore.schemas.role import (
    ANSWER_ROLES,
    ASSISTANT_ROLE,
    TEMPLATE_ROLE,
    THINKING_ROLE,
    TOOL_CALL_ROLE,
)

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Where a message may hold its thinking; transformers passes it under every name."""

Render = Callable[[Sequence[Message]], str]

TEMPLATE_FAILURES = (TemplateError, TypeError, ValueError)
"""What a template raises: on purpose, or where a message is not of the form it takes."""

# Private-use characters: no template treats them, and a text that holds them fails the check.
_MARK = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Piece:
    """
    A stretch of a rendered conversation.

    Attributes:
        text: Its characters.
        role: The role whose words they are, or "template".
        turn: Number of the turn, from 0; the system prompt is of turn 0.
    """

    text: str
    role: str
    turn: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """
    What tells stretches apart in a rendered conversation.

    Attributes:
        marks: Those around thinking and tool calls.
        list_added: Lists the tokens that are marks of the format; some families have thousands.
    """

    marks: Sequence[Marks] = ()
    list_added: Callable[[], Iterable[str]] = tuple

    @property
    def seams(self) -> re.Pattern[str]:
        """What ends a stretch that has no mark of its own: a line, or a token of the format."""
        return re.compile("|".join(["\n", *map(re.escape, sorted(self.list_added()))]))


def rebuild(
    text: str,
    messages: Sequence[Message],
    render: Render,
    vocabulary: Vocabulary = Vocabulary(),  # noqa: B008
) -> list[Piece] | None:
    """
    Cut a rendered conversation into what the template wrote and what each role said.

    The conversation is rendered a second time with a mark in place of each content, thinking and
    string of a tool call; what stands between the marks is the template's. Templates may depend
    on contents, so the pieces are put together again, and count only when they spell `text`.

    In an assistant's turn, what lies between thinking marks is "thinking" and what lies between
    those of tool calls is "tool_call", the marks included whoever wrote them; what the template
    puts between the stretches of one turn is the assistant's.

    Returns:
        The pieces, which spell `text`; None where they cannot be told.
    """
    # Some templates cut the thinking out of a content themselves.
    for told in (messages, [tell_thinking(message, vocabulary.marks) for message in messages]):
        pieces = _cut(text, told, render)
        if pieces is not None:
            return list(_claim_stretches(pieces, vocabulary))
    return None


def assign_roles(
    pieces: Iterable[Piece], offsets: Iterable[tuple[int, int]]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """
    Give each token the role and turn of its characters.

    A token over a seam counts as the piece it ends in; one without characters, such as an added
    beginning of sequence, as the template's.

    Args:
        pieces: Of the whole text, in order.
        offsets: First character and the one after the last of each token.

    Returns:
        Roles and turns, one of each a token.
    """
    owners = list(chain.from_iterable([piece] * len(piece.text) for piece in pieces))
    nobody = Piece("", TEMPLATE_ROLE, 0)
    owned = [owners[end - 1] if end > start else nobody for start, end in offsets]
    return tuple(piece.role for piece in owned), tuple(piece.turn for piece in owned)


def list_words(message: Message) -> list[str]:
    """List all that a message says: thinking, content, and the strings of its tool calls."""
    words: list[Piece] = []
    _mark_message(message, 0, words)
    return [piece.text for piece in words]


def tell_thinking(message: Message, marks: Sequence[Marks]) -> Message:
    """Move thinking that a content begins with into its own field."""
    content = message.get("content")
    if message["role"] != ASSISTANT_ROLE or not isinstance(content, str):
        return message
    found = split_thinking(content, marks)
    if found is None:
        return message
    return {**message, REASONING_FIELDS[0]: found[0], "content": found[1]}


def _cut(text: str, messages: Sequence[Message], render: Render) -> list[Piece] | None:
    """Cut a text at the words of its messages; None where they do not spell it."""
    words: list[Piece] = []
    marked: list[Message] = []
    turn = 0
    for message in messages:
        marked.append(_mark_message(message, turn, words))
        turn += message["role"] != "system"
    try:
        parts = _MARK.split(render(marked))
    except TEMPLATE_FAILURES:
        return None  # it looks into the words, and takes no marks in their place
    numbers = [int(number) for number in parts[1::2]]
    if any(number >= len(words) for number in numbers):
        return None  # a mark of somebody else's, such as in a tool's description
    shown = [words[number] for number in numbers]
    if any(one.turn > other.turn for one, other in pairwise(shown)):
        return None
    return _fill(text, parts[::2], shown)


def _fill(text: str, written: Sequence[str], shown: Sequence[Piece]) -> list[Piece] | None:
    """Put the words back between what the template wrote, in the form it gave them."""
    pieces: list[Piece] = []
    at, turn = 0, 0
    for number, word in enumerate(shown):
        template, following = written[number], written[number + 1]
        turn = word.turn
        at += len(template)
        # Behind the last word nothing is left to tell where it ends.
        rest = text[at:] if number + 1 == len(shown) else None
        spelled = next(
            (
                form
                for form in list_forms(word.text)
                if text.startswith(form + following, at) and rest in (None, form + following)
            ),
            None,
        )
        if spelled is None:
            return None
        pieces += [Piece(template, TEMPLATE_ROLE, turn), replace(word, text=spelled)]
        at += len(spelled)
    pieces.append(Piece(written[-1], TEMPLATE_ROLE, turn))
    return pieces if "".join(piece.text for piece in pieces) == text else None


def list_forms(words: str) -> Iterator[str]:
    """List what templates make of words: as they are, trimmed, or as JSON has them."""
    yield words
    yield words.strip()
    yield words.strip("\n")
    yield words.lstrip("\n")
    yield words.lstrip()
    yield words.rstrip()
    yield json.dumps(words, ensure_ascii=False)[1:-1]


def _mark_message(message: Message, turn: int, words: list[Piece]) -> Message:
    """Put marks in place of a message's words, which are added to `words`."""
    marked = dict(message)
    role = message["role"]
    for field in (*REASONING_FIELDS, "content"):
        if isinstance(message.get(field), str):
            own = THINKING_ROLE if field in REASONING_FIELDS else role
            marked[field] = _mark(message[field], own, turn, words)
    if calls := message.get("tool_calls"):
        marked["tool_calls"] = [_mark_call(call, turn, words) for call in calls]
    return marked


def _mark_call(call: Mapping[str, Any], turn: int, words: list[Piece]) -> Mapping[str, Any]:
    function = call.get("function", call)
    named = {
        key: _mark(value, TOOL_CALL_ROLE, turn, words)
        for key, value in function.items()
        if key in ("name", "arguments", "parameters")
    }
    return {**call, "function": {**function, **named}} if "function" in call else {**call, **named}


def _mark(value: Any, role: str, turn: int, words: list[Piece]) -> Any:
    """Replace the strings of a JSON value by marks."""
    if isinstance(value, Mapping):
        return {key: _mark(entry, role, turn, words) for key, entry in value.items()}
    if isinstance(value, list):
        return [_mark(entry, role, turn, words) for entry in value]
    # Whether a text is empty, templates ask: a mark in its place would change the answer.
    if not isinstance(value, str) or not value:
        return value
    words.append(Piece(value, role, turn))
    return f"\ue000{len(words) - 1}\ue001"


def _claim_stretches(pieces: Sequence[Piece], vocabulary: Vocabulary) -> Iterator[Piece]:
    """Give an assistant what the template wrote of its turns: marks, and all between its words."""
    text = "".join(piece.text for piece in pieces)
    owners = [(piece.role, piece.turn) for piece in pieces for _ in piece.text]
    claims: dict[int, tuple[str, int]] = {}
    at = 0
    for turn, group in groupby(pieces, key=lambda piece: piece.turn):
        start, at = at, at + sum(len(piece.text) for piece in group)
        said = [place for place in range(start, at) if owners[place][0] != TEMPLATE_ROLE]
        if said and owners[said[0]][0] in ANSWER_ROLES:
            after = range(at, len(text))
            stop = next((i for i in after if owners[i][0] != TEMPLATE_ROLE), len(text))
            found = _find_claims(text, owners, said, range(start, stop), vocabulary)
            claims |= {place: (role, turn) for place, role in found.items()}
    owners = [claims.get(place, owner) for place, owner in enumerate(owners)]
    for (role, turn), run in groupby(zip(owners, text, strict=True), key=lambda pair: pair[0]):
        yield Piece("".join(character for _, character in run), role, turn)


def _find_claims(
    text: str,
    owners: Sequence[tuple[str, int]],
    said: Sequence[int],
    region: range,
    vocabulary: Vocabulary,
) -> dict[int, str]:
    """
    Find the characters of a turn that are of another role than their piece.

    Args:
        text: The whole conversation.
        owners: Role and turn of each character.
        said: Characters of the turn's own words, in order.
        region: From behind the words of the turn before to the words of the next one.
        vocabulary: Marks to look for.
    """
    claims: dict[int, str] = {}
    for stretch in find_stretches(text[region.start : region.stop], vocabulary.marks):
        start, end = stretch.start + region.start, stretch.end + region.start
        if not stretch.is_closed:
            # What a template never closes ends with the words, or with the format's next token.
            end = said[-1] + 1
            end = end if stretch.marks.end else _find_seam(text, end, region, vocabulary)
        # A stretch that holds no word, as some templates put before an answer, is the template's.
        if any(start <= place < end for place in said):
            claims |= dict.fromkeys(range(start, end), stretch.marks.role)
    calls = [i for i in said if owners[i][0] == TOOL_CALL_ROLE and i not in claims]
    if calls:
        unmarked = _widen(text, owners, range(calls[0], calls[-1] + 1), region, vocabulary)
        claims |= dict.fromkeys(unmarked, TOOL_CALL_ROLE)
    last = max(said[-1], *claims, -1)
    for place in range(min(said[0], *claims, last), last):
        if owners[place][0] == TEMPLATE_ROLE:
            claims.setdefault(place, ASSISTANT_ROLE)
    return claims


def _widen(
    text: str,
    owners: Sequence[tuple[str, int]],
    calls: range,
    region: range,
    vocabulary: Vocabulary,
) -> range:
    """Widen calls without marks, as Llama's JSON, to the format's tokens or the line's ends."""
    start = calls.start
    while start > region.start and owners[start - 1][0] == TEMPLATE_ROLE:
        start -= 1
    for seam in vocabulary.seams.finditer(text, start, calls.start):
        start = seam.end()
    return range(start, _find_seam(text, calls.stop, region, vocabulary))


def _find_seam(text: str, at: int, region: range, vocabulary: Vocabulary) -> int:
    """Find where the template's next token or line begins."""
    found = vocabulary.seams.search(text, at, region.stop)
    return found.start() if found else region.stop
