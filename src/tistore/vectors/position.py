"""Which tokens of a reading a vector is fitted on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.errors import ConfigError, NotStoredError, nearest

PlaceFrame = Literal["prompt", "response", "all"]
RoleFrame = Literal["system", "user", "assistant", "tool", "thinking", "tool_call", "template"]
Frame = PlaceFrame | RoleFrame
FRAMES: tuple[Frame, ...] = (*get_args(PlaceFrame), *get_args(RoleFrame))
ROLE_FRAMES: tuple[RoleFrame, ...] = get_args(RoleFrame)

_NAMED_ELSEWHERE = {"tool_result": "tool", "full": "all"}  # by trait-interp

_INTEGER = r"-?\d+"
_PATTERN = re.compile(
    rf"(?:turn\[(?P<turn>{_INTEGER})\]:)?(?P<frame>\w+)\["
    rf"(?:(?P<index>{_INTEGER})|(?P<start>{_INTEGER})?:(?P<stop>{_INTEGER})?)\]",
    re.ASCII,
)

_Known = TypeVar("_Known")


@dataclass(frozen=True, slots=True)
class Position:
    """
    A stretch of tokens within the prompt, the response, a role's words, or all of the sequence.

    Written as Python slices: `response[:5]` are the first five tokens of the response,
    `prompt[-1]` is the prompt's last one, `thinking[:]` is all that was thought, and
    `turn[-1]:user[:3]` are the first three tokens of what the user says in the last turn. `str()`
    gives the very text that parses to it.

    Attributes:
        frame: What the bounds count in: the tokens of a part of the sequence, or those of a role,
            wherever they stand.
        start: First token, or None for the frame's first; negative counts from the end.
        stop: One past the last token, or None for the frame's end.
        is_index: Whether it was written as a single token.
        turn: Number of the turn that the frame is a part of, as tokens have it; negative counts
            from the last. None where the frame is of the whole sequence.
    """

    frame: Frame
    start: int | None = None
    stop: int | None = None
    is_index: bool = False
    turn: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a position.

        Raises:
            ConfigError: The text is not `frame[start:stop]` or `frame[index]`, with or without
                `turn[number]:` before it, or there is no such frame.
        """
        match = _PATTERN.fullmatch(text.replace(" ", ""))
        if match is None:
            raise ConfigError(
                f"{text!r} is no position",
                mend="write response[:5], response[:], prompt[-1], all[:], thinking[:], "
                "turn[-1]:user[:3]",
            )
        frame = _find_frame(match["frame"], text)
        turn = int(match["turn"]) if match["turn"] else None
        if match["index"]:
            index = int(match["index"])
            return cls(frame, index, index + 1 if index != -1 else None, is_index=True, turn=turn)
        start, stop = (int(match[name]) if match[name] else None for name in ("start", "stop"))
        return cls(frame, start, stop, turn=turn)

    @property
    def needs_roles(self) -> bool:
        """Whether the role of each token must be known to select."""
        return self.frame in ROLE_FRAMES

    @property
    def needs_turns(self) -> bool:
        """Whether the turn of each token must be known to select."""
        return self.turn is not None

    def select(
        self,
        prompt_length: int,
        length: int,
        roles: Sequence[str] | None = None,
        turns: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> range | NDArray[np.int64]:
        """
        Find the tokens in one sequence.

        Args:
            prompt_length: Tokens of the prompt.
            length: Tokens of prompt and response.
            roles: Role of each token, where `needs_roles`; any other text, such as "", where it is
                not known.
            turns: Turn of each token, where `needs_turns`; -1 where it is not known.

        Returns:
            Positions in the whole sequence, ascending; bounds outside the frame are clamped, as in
            Python. A range, or with roles or turns an array: their tokens may be several stretches.

        Raises:
            NotStoredError: The position needs roles or turns, and there are none.
        """
        bounds = slice(self.start, self.stop)
        places = {"prompt": range(prompt_length), "response": range(prompt_length, length)}
        frame = places.get(self.frame, range(length))
        if not self.needs_roles and not self.needs_turns:
            return frame[bounds]
        is_inside = np.zeros(length, dtype=np.bool_)
        is_inside[frame.start : frame.stop] = True
        if self.needs_roles:
            is_inside &= np.asarray(self._expect(roles, "role")) == self.frame
        if self.turn is not None:
            is_inside &= _is_of_turn(np.asarray(self._expect(turns, "turn")), self.turn)
        return np.flatnonzero(is_inside)[bounds]

    def _expect(self, known: _Known | None, what: str) -> _Known:
        if known is None:
            raise NotStoredError(f"{self} needs the {what} of each token, which is not known here")
        return known

    def __str__(self) -> str:
        """Write the position as it is parsed."""
        turn = "" if self.turn is None else f"turn[{self.turn}]:"
        if self.is_index:
            return f"{turn}{self.frame}[{self.start}]"
        start = "" if self.start is None else self.start
        stop = "" if self.stop is None else self.stop
        return f"{turn}{self.frame}[{start}:{stop}]"


def _find_frame(name: str, text: str) -> Frame:
    for frame in FRAMES:
        if frame == name:
            return frame
    known = _NAMED_ELSEWHERE.get(name)
    raise ConfigError(
        f"{text!r} is no position: {name!r} is no part of a sequence",
        mend=f"here it is called {known!r}" if known else nearest(name, FRAMES),
    )


def _is_of_turn(turns: NDArray[np.integer], number: int) -> NDArray[np.bool_]:
    """Tell the tokens of a turn; a negative number counts from the last."""
    if number < 0:
        known = np.unique(turns[turns >= 0])
        if number < -len(known):
            return np.zeros(len(turns), dtype=np.bool_)
        number = int(known[number])
    return np.asarray(turns == number)
