"""What a span is: a response, a clause, a token, a turn, or a window."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tistore.errors import QueryError


@dataclass(frozen=True, slots=True)
class Unit:
    """
    What a span is.

    Attributes:
        name: "response", "clause", "token", "window" or "turn".
        width: Tokens of a window; 1 for everything else.
    """

    name: str
    width: int = 1

    @classmethod
    def parse(cls, by: str) -> Unit:
        """
        Read a unit as users write it.

        Raises:
            QueryError: There is no such unit.
        """
        if by in ("response", "clause", "token", "turn"):
            return cls(by)
        if (match := re.fullmatch(r"window:(\d+)", by)) and int(match[1]) > 0:
            return cls("window", int(match[1]))
        raise QueryError(
            f"spans cannot be taken by {by!r}",
            mend="write clause, response, token, turn or window:10",
        )
