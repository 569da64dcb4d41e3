"""
Positions as folder names.

A position such as `response[:5]` cannot name a folder, so `[:]` became `_all`, `[` and `:` became
`_`, and `]` was left out: `response__5`. Read back by trait-interp itself, a slice with both ends
comes out wrong (`response_5_10` as `response[5_10]`); it has one meaning all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_INTEGER = r"-?\d+"
_FRAME = r"prompt|response|all|full|thinking|system|tool_call|tool_result"
_CODE = re.compile(
    rf"(?:turn_(?P<turn>{_INTEGER})_)?(?P<frame>{_FRAME})_"
    rf"(?:(?P<all>all)|(?P<index>{_INTEGER})"
    rf"|(?P<from>{_INTEGER})_|_(?P<to>{_INTEGER})|(?P<start>{_INTEGER})_(?P<stop>{_INTEGER}))"
)


@dataclass(frozen=True, slots=True)
class FolderPosition:
    """
    A position, read from the name of a folder.

    Attributes:
        text: The position, such as "response[:5]"; the folder's name where it is no known code.
        is_lossy: Whether trait-interp reads the same name as another position, or none.
    """

    text: str
    is_lossy: bool


def is_position_code(name: str) -> bool:
    """Whether a folder's name stands for a position."""
    return _CODE.fullmatch(name) is not None


def encode_position(text: str) -> str:
    """Name the folder of a position, as trait-interp does."""
    return text.replace("[:]", "_all").replace("[", "_").replace("]", "").replace(":", "_")


def decode_position(name: str) -> FolderPosition:
    """Read a position from the name of its folder."""
    match = _CODE.fullmatch(name)
    if match is None:
        return FolderPosition(name, is_lossy=True)
    turn = f"turn[{match['turn']}]:" if match["turn"] is not None else ""
    lossy = match["start"] is not None or match["turn"] is not None
    return FolderPosition(f"{turn}{match['frame']}[{_slice(match)}]", lossy)


def _slice(match: re.Match[str]) -> str:
    if match["all"]:
        return ":"
    if match["index"] is not None:
        return match["index"]
    if match["from"] is not None:
        return f"{match['from']}:"
    if match["to"] is not None:
        return f":{match['to']}"
    return f"{match['start']}:{match['stop']}"
