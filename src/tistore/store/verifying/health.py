"""
How a store is, looked at from outside: its log, its place, and what lies about in it.

Nothing here opens the store: a damaged one is looked at like any other.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tistore.errors import TistoreError
from tistore.store.base import BaseStore
from tistore.store.committing import WRITER_DIGITS
from tistore.store.contents import Contents
from tistore.store.files import TEMPORARY, Files, FileStatus
from tistore.store.header import read_header
from tistore.store.layout import COMMITS, SEGMENTS
from tistore.store.leases import Lease, read_leases
from tistore.store.place import Place, describe_place
from tistore.store.posix import PosixFiles
from tistore.store.system import POSIX, System
from tistore.store.verifying.examined_log import ExaminedLog, examine_log
from tistore.store.verifying.verified import Checked, read_finished_pass
from tistore.store.verifying.verify import find_lost_commits, require_store
from tistore.store.writer import FLUSH_BYTES, SPARE_BYTES

State = Literal["ok", "warning", "problem"]

_FEW_INODES = 10_000
_SLOW_FSYNC_SECONDS = 0.1
_FSYNCS = 5
_FEW_FILES = 500
_FILES_PER_GIB = 10
"""How many files a GiB of a store may be spread over before compacting is worth its while."""


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing that was looked at.

    Attributes:
        check: What.
        state: Whether it is as it should be. A warning keeps nothing from working.
        detail: What was found.
        mend: What to do about it; None where nothing has to be done.
    """

    check: str
    state: State
    detail: str
    mend: str | None = None


def check_store(root: Path, system: System = POSIX) -> list[Check]:
    """
    Look at everything about a store that can be told without reading its segments.

    Writes a few bytes beside the log to try the file system, where it can be written, and removes
    them.

    Args:
        root: Its folder.
        system: The calls that change the disk; tests have others.

    Returns:
        What was looked at, in order. Only the first when there is no store.
    """
    checkup = _Checkup(root, PosixFiles(root, system), system)
    first = _attempt("store", checkup.check_header)
    if first.state == "problem" and not checkup.has_log:
        return [first]
    others: dict[str, Callable[[], Check]] = {
        "log": checkup.check_log,
        "file system": checkup.check_file_system,
        "room": checkup.check_room,
        "exclusive creates": checkup.check_exclusive_creates,
        "fsync": checkup.check_fsync,
        "writers": checkup.check_writers,
        "unfinished segments": checkup.check_unfinished,
        "temporary files": checkup.check_temporary,
        "small files": checkup.check_small_files,
        "verified": checkup.check_verified,
    }
    return [first, *(_attempt(name, look) for name, look in others.items())]


def _attempt(name: str, look: Callable[[], Check]) -> Check:
    """Look at one thing; that it cannot be looked at is a problem, and no reason to stop."""
    try:
        return look()
    except TistoreError as error:
        return Check(name, "problem", error.message, error.mend)
    except OSError as error:
        return Check(name, "problem", f"cannot be looked at: {error.strerror or error}")


class _Checkup:
    """What the checks of one store share."""

    def __init__(self, root: Path, files: Files, system: System) -> None:
        self._root = root
        self._files = files
        self._system = system

    @property
    def has_log(self) -> bool:
        return self._root.is_dir() and bool(self._files.list_names(COMMITS))

    @cached_property
    def _log(self) -> ExaminedLog:
        return examine_log(self._files, str(self._root))

    @cached_property
    def _contents(self) -> Contents:
        return Contents().after(self._log.commits)

    @cached_property
    def _place(self) -> Place:
        return describe_place(self._root)

    @cached_property
    def _leases(self) -> list[Lease]:
        return read_leases(self._files)

    def check_header(self) -> Check:
        if not self._root.is_dir():
            return Check("store", "problem", f"no folder at {self._root}", "mend the path")
        require_store(self._root, self._files)
        header = read_header(self._files, str(self._root))
        features = f", with {', '.join(header.features)}" if header.features else ""
        detail = f"{header.uuid}, of format version {header.format_version}{features}"
        return Check("store", "ok", detail)

    def check_log(self) -> Check:
        commits = self._log.commits
        if troubles := [*self._log.troubles, *find_lost_commits(self._root, self._log)]:
            path, what = troubles[0]
            more = f", and {len(troubles) - 1} more files" if len(troubles) > 1 else ""
            return Check(
                "log", "problem", f"{len(commits)} commits are sound; {path}: {what}{more}",
                f"`tistore verify {self._root}` names all damage; restore these files from a copy, "
                f"or see what `tistore repair {self._root}` would keep",
            )  # fmt: skip
        last = f", the last at {commits[-1].body['created_at']}" if commits else ""
        return Check("log", "ok", f"{len(commits)} commits{last}")

    def check_file_system(self) -> Check:
        place = self._place
        detail = f"{place.file_system}, mounted at {place.mount_point}"
        if place.is_object_mount:
            return Check(
                "file system", "problem", f"{detail}: object storage that only looks like folders",
                "read the store here, but write it on a local disk, NFS or Lustre",
            )  # fmt: skip
        if place.is_in_memory:
            return Check(
                "file system", "warning", f"{detail}: in memory, gone with the machine's power",
                "copy what is to last to a disk",
            )  # fmt: skip
        notes = [", of a network" * place.is_network, ", for reading only" * place.is_read_only]
        return Check("file system", "ok", detail + "".join(notes))

    def check_room(self) -> Check:
        place, needed = self._place, FLUSH_BYTES + SPARE_BYTES
        inodes = "" if place.free_inodes is None else f", {place.free_inodes:,} inodes"
        detail = f"{place.free_bytes / 1e9:.1f} GB free{inodes}"
        is_short = place.free_bytes < needed
        if not is_short and (place.free_inodes is None or place.free_inodes >= _FEW_INODES):
            return Check("room", "ok", detail)
        return Check(
            "room", "warning", f"{detail}; a commit takes up to {needed / 1e9:.1f} GB and a few "
            "dozen files",
            "free some space; `tistore gc` tells what of this store can go",
        )  # fmt: skip

    def check_exclusive_creates(self) -> Check:
        if not self._files.is_writable():
            return Check("exclusive creates", "ok", "not tried: nothing can be written here")
        self._files.require_exclusive_creates()
        return Check("exclusive creates", "ok", "hold: several writers do not harm each other")

    def check_fsync(self) -> Check:
        if not self._files.is_writable():
            return Check("fsync", "ok", "not tried: nothing can be written here")
        seconds = statistics.median(self._time_fsync() for _ in range(_FSYNCS))
        detail = f"{seconds * 1e3:.1f} ms for a small file"
        if seconds < _SLOW_FSYNC_SECONDS:
            return Check("fsync", "ok", detail)
        return Check(
            "fsync", "warning", f"{detail}: a commit waits for some twenty of them",
            "write to a faster disk, or commit less often",
        )  # fmt: skip

    def _time_fsync(self) -> float:
        path = f"{self._root / COMMITS}/{TEMPORARY}{uuid.uuid4().hex}"
        descriptor = self._system.create(path)
        try:
            self._system.write(descriptor, memoryview(bytes(4096)))
            started = time.perf_counter()
            self._system.sync(descriptor)
            return time.perf_counter() - started
        finally:
            self._system.close(descriptor)
            with suppress(OSError):  # `gc` knows it by its name
                self._system.unlink(path)

    def check_writers(self) -> Check:
        states = [lease.state for lease in self._leases]
        counted = [f"{states.count(state)} {state}" for state in sorted(set(states))]
        if not {"dead", "expired"} & set(states):
            return Check("writers", "ok", ", ".join(counted) or "none")
        return Check(
            "writers", "warning", f"{', '.join(counted)}: some ended without closing",
            f"`tistore gc {self._root}` tells what they left",
        )  # fmt: skip

    def check_unfinished(self) -> Check:
        named = {record.path.split("/")[1] for record in self._contents.kept_files}
        found = [name for name in self._files.list_names(SEGMENTS) if name not in named]
        writing = (lease.writer for lease in self._leases if lease.state in ("live", "silent"))
        living = {writer[:WRITER_DIGITS] for writer in writing}
        left = [name for name in found if name[:WRITER_DIGITS] not in living]
        if self._log.troubles and left:
            return Check(
                "unfinished segments", "warning",
                f"{len(left)} folders that no sound commit names; a damaged one may",
            )  # fmt: skip
        if not left:
            written = f"{len(found)} being written" if found else "none"
            return Check("unfinished segments", "ok", written)
        size = sum(status.size_bytes for name in left for status in self._walk_segment(name))
        return Check(
            "unfinished segments", "warning",
            f"{len(left)} folders of {size / 1e6:.1f} MB that no commit names any more, or yet",
            f"`tistore gc {self._root}` tells which of them can go",
        )  # fmt: skip

    def _walk_segment(self, name: str) -> list[FileStatus]:
        return self._files.walk(f"{SEGMENTS}/{name}")

    def check_temporary(self) -> Check:
        found = [name for name in self._files.list_names(COMMITS) if name.startswith(TEMPORARY)]
        if not found:
            return Check("temporary files", "ok", "none")
        return Check(
            "temporary files", "warning", f"{len(found)} beside the log: of commits being made, or "
            "never finished",
            f"`tistore gc {self._root}` removes those older than a day",
        )  # fmt: skip

    def check_small_files(self) -> Check:
        files = self._contents.files
        n_files = len(files) + len(self._log.commits)
        gib = sum(record.size_bytes for record in files) / 2**30
        detail = f"{n_files} files for {gib:.2f} GiB in {len(self._contents.segments)} segments"
        is_few = n_files <= max(_FEW_FILES, _FILES_PER_GIB * gib)
        if is_few or self._log.troubles:
            return Check("small files", "ok", detail)
        merged = BaseStore.open(self._root).compact(dry_run=True)
        if merged.files_after >= merged.files_before:
            return Check("small files", "ok", f"{detail}; no neighbours can be merged")
        return Check(
            "small files", "warning",
            f"{detail}; merging neighbours would leave {merged.files_after}",
            f"`tistore compact {self._root}`",
        )  # fmt: skip

    def check_verified(self) -> Check:
        unfinished = len(Checked(self._root, resume=True))
        goes_on = f"`tistore verify {self._root} --resume` goes on" if unfinished else None
        last = read_finished_pass(self._root)
        if last is None or last.store_uuid != self._log.store_uuid:
            return Check("verified", "ok", "never, from here", goes_on)
        detail = f"up to commit {last.commit}, at {last.finished_at}"
        if not last.problems:
            return Check("verified", "ok", detail, goes_on)
        return Check(
            "verified", "problem", f"{detail}: {last.problems} files were damaged",
            f"`tistore verify {self._root}` names them",
        )  # fmt: skip
