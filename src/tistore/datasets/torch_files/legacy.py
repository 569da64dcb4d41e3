"""
Files from before torch 1.6, read in a process of their own.

The interpreter is the same as for archives, and would do here too. But nothing in these files says
how long anything is before it is read, so the child adds limits that the system keeps: memory,
time, no new files, no processes, and an audit hook that lets nothing happen but reading. It costs
0.2 s a file; such files are old and few. What comes back is JSON, and the values are read by
this process, from ranges of the file that it has checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import tistore
from tistore.datasets.torch_files import wire
from tistore.datasets.torch_files.source import Refused, SourceFile

TIMEOUT_SECONDS = 60

SAVE_AGAIN = "if you trust its source, open it in torch and write it anew with torch.save"

# The magic number as every pickle protocol from 2 on writes it, whatever comes before it.
_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_MAGIC_WITHIN = 32

# This very tistore, not another that is installed; and behind the standard library, not before.
_START = (
    "import sys\n"
    "place = next((i for i, p in enumerate(sys.path) if p.endswith('-packages')), len(sys.path))\n"
    "sys.path.insert(place, sys.argv[1])\n"
    "from tistore.datasets.torch_files.legacy_child import answer; answer(sys.argv[2])"
)


def is_legacy(head: bytes) -> bool:
    """Tell by its first bytes whether a file is from before torch 1.6."""
    return head[:1] == b"\x80" and _MAGIC in head[:_MAGIC_WITHIN]


def read_isolated(source: SourceFile) -> Any:
    """
    Read the structure of a file in a process that can do nothing else.

    Raises:
        Refused: The child refused the file, or died of a limit.
    """
    package_root = str(Path(tistore.__file__).parents[1])
    command = [sys.executable, "-I", "-B", "-c", _START, package_root, str(source.path.absolute())]
    with TemporaryFile() as answer:
        try:
            child = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(f"its pickle was not read in {TIMEOUT_SECONDS} s", SAVE_AGAIN) from error
        if child.returncode != 0:
            raise Refused(
                "the process that read its pickle met a limit of memory, time or rights "
                f"(it ended with {child.returncode})",
                SAVE_AGAIN,
            )
        answer.seek(0)
        return _understand(answer.read(), source)


def _understand(answer: bytes, source: SourceFile) -> Any:
    """Take the answer's first line, which says whether it was refused, and what follows it."""
    verdict, _, rest = answer.partition(b"\n")
    if verdict == b"read":
        return wire.from_json(rest, source)
    if verdict == b"refused":
        reason, mend = json.loads(rest)
        raise Refused(reason, mend)
    raise Refused("the process that read its pickle gave no answer", SAVE_AGAIN)


def _environment() -> dict[str, str]:
    """Give the child no secrets, and what its Python needs to start."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    # A thread's stack takes address space, of which there is little.
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
