"""
Record batches of Arrow and Parquet files, read in a process of their own.

Arrow's readers are C++ and sized by what a file claims: compressed buffers, dictionaries and pages
say themselves what they unpack to, and a wrong file can take the process with it. The child has
limits that the system keeps; what comes back is checked, unpacked, and a few MB at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeAlias

import pyarrow as pa

import tistore
from tistore.datasets.foreign.sample import LIMIT_BYTES
from tistore.datasets.torch_files.source import Refused

_COPY_AGAIN = "copy or download the file again, or write it anew"
_MOST_SCHEMA_BYTES = 16 << 20
_FRAMING_BYTES = 64 << 20  # of a batch, besides its values

# This very tistore, not another that is installed; and behind the standard library, not before.
_START = (
    "import sys\n"
    "place = next((i for i, p in enumerate(sys.path) if p.endswith('-packages')), len(sys.path))\n"
    "sys.path.insert(place, sys.argv[1])\n"
    "from tistore.datasets.foreign.arrow_child import answer; answer()"
)

Frame: TypeAlias = "pa.RecordBatch | Refused | None"
"""Rows of a file; or why it gives no more; or None, its end."""


def read_frames(
    paths: Sequence[Path], columns: Iterable[str], limit_bytes: int = LIMIT_BYTES
) -> Iterator[tuple[int, Frame]]:
    """
    Read files one after the other.

    Args:
        paths: Arrow streams, Arrow files and Parquet files.
        columns: Columns that are wanted, where they are there.
        limit_bytes: Most bytes a row may take.

    Yields:
        The file's place in `paths`, with a frame. Each file ends with a refusal or None.
    """
    asked = {
        "paths": [str(path.absolute()) for path in paths],
        "columns": list(columns),
        "limit_bytes": limit_bytes,
    }
    package_root = str(Path(tistore.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _START, package_root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        cwd="/",
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            # A child that died is told by what it does not answer.
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps(asked).encode())
                child.stdin.close()
            yield from _receive(child.stdout, len(paths), limit_bytes)
        finally:
            child.kill()


def _receive(pipe: IO[bytes], n_files: int, limit_bytes: int) -> Iterator[tuple[int, Frame]]:
    place = 0
    schema: pa.Schema | None = None
    while place < n_files:
        head = pipe.read(9)
        tag, size = head[:1], int.from_bytes(head[1:], "little")
        if len(head) < 9 or size > limit_bytes + _FRAMING_BYTES:
            # Nobody knows whether the files behind it were sound.
            for left in range(place, n_files):
                yield left, Refused("the process that read it met a limit of memory", _COPY_AGAIN)
            return
        content = pipe.read(size)
        if tag == b"S" and size <= _MOST_SCHEMA_BYTES:
            schema = pa.ipc.read_schema(pa.py_buffer(content))
        elif tag == b"B" and schema is not None:
            yield place, pa.ipc.read_record_batch(pa.py_buffer(content), schema)
        else:
            reason = content.decode("utf-8", "replace")
            yield place, Refused(reason, _COPY_AGAIN) if tag == b"R" else None
            place, schema = place + 1, None


def _environment() -> dict[str, str]:
    """Give the child no secrets, and what its Python needs to start."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    # The system's allocator takes what it is asked for, and no more in advance.
    return {**kept, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
