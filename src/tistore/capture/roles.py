"""Whose words each token of a rendered conversation is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from tistore.schemas.prompt import Message

UNKNOWN_ROLE = "prompt"
TEMPLATE_ROLE = "template"

Render = Callable[[Sequence[Message]], str]


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


def rebuild(text: str, messages: Sequence[Message], render: Render) -> list[Piece] | None:
    """
    Cut a rendered conversation into what the template wrote and what each role said.

    The conversation is rendered a second time with a mark in place of each content; what stands
    between the marks is the template's. Templates may depend on contents, so the pieces are put
    together again, and count only when they spell `text`.

    Returns:
        The pieces, which spell `text`; None where they cannot be told.
    """
    # Private-use characters: no template treats them, and a text that holds them fails the check.
    marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    skeleton = render(marked)
    shown = [index for index, mark in enumerate(marks) if mark in skeleton]
    places = [skeleton.index(marks[index]) for index in shown]
    if any(earlier >= later for earlier, later in pairwise(places)):
        return None
    for trim in (str, str.strip):  # templates differ in whether they trim contents
        pieces = list(_fill(skeleton, messages, marks, shown, trim))
        if "".join(piece.text for piece in pieces) == text:
            return pieces
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


def _fill(
    skeleton: str,
    messages: Sequence[Message],
    marks: Sequence[str],
    shown: Sequence[int],
    trim: Callable[[str], str],
) -> Iterable[Piece]:
    """Put the contents back between the template's words."""
    at, turn = 0, 0
    for index in shown:
        message = messages[index]
        turn = sum(earlier["role"] != "system" for earlier in messages[:index])
        start = skeleton.index(marks[index])
        yield Piece(skeleton[at:start], TEMPLATE_ROLE, turn)
        yield Piece(trim(message["content"]), message["role"], turn)
        at = start + len(marks[index])
    yield Piece(skeleton[at:], TEMPLATE_ROLE, turn)
