"""What one query may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tistore.schemas.size import parse_size

Use = Literal["database", "tables", "scores", "columns"]

_SHARES: dict[Use, float] = {"database": 0.5, "tables": 0.2, "scores": 0.15, "columns": 0.15}


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one query may use.

    Attributes:
        memory_limit: Memory, in bytes or such as "4GB"; no limit when None. Half is DuckDB's; the
            rest is for tables handed to it, scores kept, and columns read before. It does not grow
            with the store: what is too large is read piece by piece. An answer's own rows come on
            top.
        timeout_seconds: Time the SQL may run, the scan before it left out; no limit when None.
        threads: Threads of the scan and of DuckDB; one for each processor when None.
        max_read_bytes: Bytes of activations a query may read; no limit when None.
        max_multiply_adds: Multiplications that `lens` may take, of rows with unembeddings; no
            limit when None. A row of an 8B model with 128k tokens takes 5e8.
    """

    memory_limit: str | int | None = "1GB"
    timeout_seconds: float | None = 300.0
    threads: int | None = None
    max_read_bytes: int | None = None
    max_multiply_adds: float | None = 1e13

    def memory_for(self, use: Use) -> int | None:
        """
        Tell how many bytes one use may take; None for no limit.

        Raises:
            ConfigError: The limit is no size.
        """
        if self.memory_limit is None:
            return None
        given = self.memory_limit
        whole = given if isinstance(given, int) else parse_size("memory_limit", given)
        return int(whole * _SHARES[use])
