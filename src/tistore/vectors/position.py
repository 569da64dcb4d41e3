"""Which tokens of a reading a vector is fitted on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from tistore.errors import ConfigError

Frame = Literal["prompt", "response", "all"]

_INTEGER = r"-?\d+"
_PATTERN = re.compile(
    rf"(?P<frame>prompt|response|all)\["
    rf"(?:(?P<index>{_INTEGER})|(?P<start>{_INTEGER})?:(?P<stop>{_INTEGER})?)\]"
)


@dataclass(frozen=True, slots=True)
class Position:
    """
    A stretch of tokens within the prompt, the response, or all of the sequence.

    Written as Python slices: `response[:5]` are the first five tokens of the response,
    `prompt[-1]` is the prompt's last one. `str()` gives the very text that parses to it.

    Attributes:
        frame: What the bounds count in.
        start: First token, or None for the frame's first; negative counts from the end.
        stop: One past the last token, or None for the frame's end.
        is_index: Whether it was written as a single token.
    """

    frame: Frame
    start: int | None = None
    stop: int | None = None
    is_index: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a position.

        Raises:
            ConfigError: The text is not `frame[start:stop]` or `frame[index]`.
        """
        match = _PATTERN.fullmatch(text.replace(" ", ""))
        if match is None:
            raise ConfigError(
                f"{text!r} is no position",
                mend="write response[:5], response[:], prompt[-1], all[:]",
            )
        frame: Frame = match["frame"]  # type: ignore[assignment]
        if match["index"] is not None:
            index = int(match["index"])
            return cls(frame, index, index + 1 if index != -1 else None, is_index=True)
        start, stop = (int(match[name]) if match[name] else None for name in ("start", "stop"))
        return cls(frame, start, stop)

    def select(self, prompt_length: int, length: int) -> range:
        """
        Find the tokens in one sequence.

        Args:
            prompt_length: Tokens of the prompt.
            length: Tokens of prompt and response.

        Returns:
            Positions in the whole sequence; bounds outside the frame are clamped, as in Python.
        """
        frames = {
            "prompt": range(prompt_length),
            "response": range(prompt_length, length),
            "all": range(length),
        }
        return frames[self.frame][self.start : self.stop]

    def __str__(self) -> str:
        """Write the position as it is parsed."""
        if self.is_index:
            return f"{self.frame}[{self.start}]"
        start = "" if self.start is None else self.start
        stop = "" if self.stop is None else self.stop
        return f"{self.frame}[{start}:{stop}]"
