"""The process that reads one old file: limited first, then nothing but reading."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from tistore.datasets.torch_files import wire
from tistore.datasets.torch_files.legacy_stream import read_stream
from tistore.datasets.torch_files.source import Refused, SourceFile
from tistore.datasets.torch_files.tree import check_tree

MEMORY_BYTES = 1536 << 20
ANSWER_BYTES = 64 << 20
CPU_SECONDS = 45

_HARMLESS_EVENTS = ("builtins.id", "sys.excepthook", "sys.unraisablehook")

_UNLIMITED = 1 << 62  # of tensors: their values are not read here, and the parent checks again


def answer(path: str) -> None:
    """Write to stdout what the file holds, or why it is refused, and end the process."""
    _limit()
    try:
        source = SourceFile.identify(Path(path))
        value = read_stream(source)
        check_tree(value, _UNLIMITED, _UNLIMITED)
        said = "read\n" + wire.to_json(value)
    except Refused as refused:
        said = "refused\n" + json.dumps([refused.reason, refused.mend])
    content = said.encode("ascii")
    while content:
        content = content[os.write(1, content) :]
    os._exit(0)  # no exit handlers: the audit hook would refuse what they do


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, ANSWER_BYTES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    sys.addaudithook(_refuse_all_but_reading)


def _refuse_all_but_reading(event: str, arguments: tuple[Any, ...]) -> None:
    # Flags of an `open` from os.open; anything that could write has one of these bits.
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    if event in _HARMLESS_EVENTS or (event == "open" and not arguments[2] & writing):
        return
    raise PermissionError(f"{event} while a file is read")
