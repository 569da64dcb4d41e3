"""
Leases: how writers say that they live, so that nobody takes their unfinished files for rubbish.

A lease is a file that its writer keeps locked. The lock goes with the process, however it ends:
on the machine of the writer, a lease without a lock is proof that it is dead. From elsewhere
nothing can be proven, and only long silence counts.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tistore.errors import IntegrityError
from tistore.store.collecting.trash import new_batch
from tistore.store.files import Files, FileStatus, Hold
from tistore.store.layout import LEASES, lease_path, lease_writer, trash_path

EXPIRY_SECONDS = 7 * 86_400.0
"""A lease elsewhere that was not renewed for so long no longer protects anything."""

RENEWAL_SECONDS = 60.0

State = Literal["live", "dead", "silent", "expired"]
"""`silent`: on another machine, or where there are no locks; nobody here can tell."""


@dataclass(frozen=True, slots=True)
class Machine:
    """
    The running machine a process is on.

    Attributes:
        host: Its name.
        machine_id: Of its installation; None where it has none.
        boot_id: Of its run since it was switched on; None where the system does not tell.
    """

    host: str
    machine_id: str | None
    boot_id: str | None


@cache
def this_machine() -> Machine:
    """Describe the machine this process is on."""
    return Machine(
        os.uname().nodename,
        _read_line(Path("/etc/machine-id")),
        _read_line(Path("/proc/sys/kernel/random/boot_id")),
    )


def uptime_seconds() -> float:
    """How long ago this machine was started; infinite where the system does not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return math.inf
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Lease:
    """
    A writer's lease, as others see it.

    Attributes:
        writer: The writer's uuid; its first 16 digits begin the names of its folders.
        pid: Its process, for people.
        started_at: ISO 8601, UTC, for people.
        renewed_at: In seconds since 1970, by the clock of the place.
        machine: Where the writer runs; None where the lease does not say, such as when its
            writer was killed while it wrote it.
        state: Whether it lives.
    """

    writer: str
    pid: int | None
    started_at: str | None
    renewed_at: float
    machine: Machine | None
    state: State

    def describe(self) -> str:
        """Name the writer for people."""
        named = f"writer {self.writer[:8]}"
        return f"{named} on {self.machine.host}, process {self.pid}" if self.machine else named

    def renewed(self) -> Lease:
        """Its lease as it is when its writer turns out to live."""
        return replace(self, state="silent")


class HeldLease:
    """
    The lease of a writer of this process.

    Args:
        files: The store's files.
        writer: The writer's uuid.
    """

    def __init__(self, files: Files, writer: str) -> None:
        content = {
            "writer": writer,
            "pid": os.getpid(),
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **asdict(this_machine()),
        }
        self._hold: Hold = files.hold(lease_path(writer), json.dumps(content).encode() + b"\n")
        self._renewed = time.monotonic()

    def renew_if_due(self) -> None:
        """Say again that the writer lives, once a minute at most."""
        if time.monotonic() - self._renewed >= RENEWAL_SECONDS:
            self.is_there()

    def is_there(self) -> bool:
        """Say that the writer lives; False when somebody has taken the lease away."""
        self._renewed = time.monotonic()
        return self._hold.renew()

    def release(self) -> None:
        """Give the lease up."""
        self._hold.release()


def read_leases(files: Files, now: float | None = None) -> list[Lease]:
    """
    Read every lease there is.

    Args:
        files: The store's files.
        now: Seconds since 1970; the present when left out.
    """
    moment = time.time() if now is None else now
    found = []
    for status in files.walk(LEASES):
        writer = lease_writer(status.path)
        if writer and status.kind == "file":
            found.append(_read_lease(files, status, writer, moment))
    return [lease for lease in found if lease]


def take_lease(files: Files, lease: Lease) -> bool:
    """
    Take a silent writer's lease away, durably: what it has not committed is nobody's from now on.

    Should it live after all, it notices before its next commit, and writes anew.

    Returns:
        False when it has just been renewed, or released: nothing is taken then.
    """
    path = lease_path(lease.writer)
    aside = trash_path(new_batch(), path)
    if not files.rename(path, aside):
        return False
    taken = files.status(aside)
    # Renamed rather than removed, so that it can still be seen whether its writer was faster.
    if taken is not None and taken.modified_at != lease.renewed_at:
        files.move(aside, path)
        return False
    files.sync_folders([LEASES])
    return True


def _read_lease(files: Files, status: FileStatus, writer: str, now: float) -> Lease | None:
    try:
        # The lock first: a writer that lives, and has written nothing yet, is seen as living.
        is_held = files.is_held(status.path)
        content = _parse(files.read(status.path))
    except IntegrityError:
        if files.status(status.path) is None:
            return None  # released since it was listed
        raise
    machine = None
    if {"host", "machine_id", "boot_id"} <= content.keys():
        machine = Machine(content["host"], content["machine_id"], content["boot_id"])
    return Lease(
        writer=writer,
        pid=content.get("pid"),
        started_at=content.get("started_at"),
        renewed_at=status.modified_at,
        machine=machine,
        state=_tell_state(is_held, machine, now - status.modified_at),
    )


def _tell_state(is_held: bool | None, machine: Machine | None, silence_seconds: float) -> State:
    if is_held:
        return "live"
    here = this_machine()
    if machine is not None and machine.boot_id is not None and here.boot_id is not None:
        if machine.boot_id == here.boot_id and is_held is False:
            return "dead"
        is_same_installation = machine.machine_id is not None and (
            (machine.host, machine.machine_id) == (here.host, here.machine_id)
        )
        # Containers may share all of these names: a namesake that was heard of since is another.
        was_before = machine.boot_id != here.boot_id and silence_seconds > uptime_seconds()
        if is_same_installation and was_before:
            return "dead"  # with everything that ran before this machine was started
    return "expired" if silence_seconds > EXPIRY_SECONDS else "silent"


def _parse(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:  # its writer died while it wrote it, or is just writing it
        return {}
    return content if isinstance(content, dict) else {}


def _read_line(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
