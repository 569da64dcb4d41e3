"""
Files of the score cache: one direction's scores over one segment, row-aligned with its tokens.

They are never truth. A file that is missing, unreadable, of another length or whose bytes do not
match their checksum counts as absent; whoever wanted it computes it again.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from numpy.typing import NDArray

_COLUMN = "score"


def score_path(folder: Path, direction: str, segment: str) -> Path:
    """Where the scores of a direction over a segment are cached."""
    return folder / direction / f"{segment}.parquet"


def has_scores(folder: Path, direction: str, segment: str) -> bool:
    """Whether there is a file; only `read_scores` tells whether it is good."""
    return score_path(folder, direction, segment).is_file()


def read_scores(
    folder: Path, direction: str, segment: str, n_rows: int
) -> NDArray[np.float32] | None:
    """
    Read cached scores.

    Args:
        folder: The cache.
        direction: Key of the direction and the site it is applied to.
        segment: The segment's uuid.
        n_rows: Rows of the segment.

    Returns:
        (n_rows,) float32; None when there is no file, or not a good one.
    """
    try:
        table = pq.read_table(score_path(folder, direction, segment), use_threads=False)
        values = table[_COLUMN].to_numpy()
    except (OSError, pa.ArrowException, KeyError):
        return None
    if values.dtype != np.float32 or len(values) != n_rows:
        return None
    found = table.schema.metadata or {}
    is_good = all(
        found.get(key) == value for key, value in _describe(direction, segment, values).items()
    )
    return values if is_good else None


def write_scores(folder: Path, direction: str, segment: str, values: NDArray[np.float32]) -> bool:
    """
    Cache scores, all at once or not at all.

    Returns:
        Whether they are cached now; a cache that is full or read-only is no reason to fail.
    """
    path = score_path(folder, direction, segment)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    schema = pa.schema(
        [pa.field(_COLUMN, pa.float32(), nullable=False)],
        metadata=_describe(direction, segment, values),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Scores hardly compress; reading them back is to be one copy.
            pq.write_table(
                pa.Table.from_arrays([pa.array(values, pa.float32())], schema=schema),
                temporary,
                compression="none",
                use_dictionary=False,
                row_group_size=122_880,
            )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _describe(direction: str, segment: str, values: NDArray[np.float32]) -> dict[bytes, bytes]:
    return {
        b"tistore.direction": direction.encode(),
        b"tistore.segment": segment.encode(),
        b"tistore.rows": str(len(values)).encode(),
        b"tistore.blake3": blake3(np.ascontiguousarray(values).tobytes()).hexdigest().encode(),
    }
