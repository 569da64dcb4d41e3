"""Finding one flipped bit by trying them all; a hash tells which one it was."""

from __future__ import annotations

from collections.abc import Iterator

_MOST_BYTES = 64 << 10
"""Trying all bits takes time that grows with the square of the length: seconds, up to here."""


def flip_each_bit(data: bytes) -> Iterator[bytes]:
    """Give every text that differs in one bit; nothing where there are too many."""
    if len(data) > _MOST_BYTES:
        return
    flipped = bytearray(data)
    for at in range(len(data)):
        for bit in range(8):
            flipped[at] ^= 1 << bit
            yield bytes(flipped)
            flipped[at] ^= 1 << bit
