"""A writer's way to a commit: who it is, where it writes, and how its turn comes."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tistore.errors import DeviceError, StoreError, TistoreError
from tistore.store.files import Files
from tistore.store.layout import COMMITS, commit_path, segment_folder
from tistore.store.leases import HeldLease
from tistore.store.log import Commit, append_commit, is_named
from tistore.store.snapshot import Snapshot

WRITER_DIGITS = 16
"""How much of a writer's uuid the names of its folders begin with."""

_PATIENCE_SECONDS = 60.0
_TURN_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 0.02


class Committer:
    """
    Makes commits for one writer.

    Its folders are named after it, and it holds a lease from the first of them on: what it has
    not committed yet is not taken for rubbish while it lives.

    Args:
        files: The store's files.
        header_hash: SHA-256 of the store's header.
        read_newest: Reads the store's newest state.
    """

    def __init__(self, files: Files, header_hash: str, read_newest: Callable[[], Snapshot]) -> None:
        self._files = files
        self._header_hash = header_hash
        self._read_newest = read_newest
        self._lease: HeldLease | None = None
        self._broken: str | None = None
        self._may_last = False
        self._durable_number = -1
        self.writer = uuid.uuid4().hex

    def new_segment(self) -> str:
        """
        Name a folder for files that are to be committed.

        Raises:
            UnsafePlaceError: The place does not keep writers from replacing each other's files.
            DeviceError: The disk has failed this writer before.
        """
        self._require_whole()
        self._may_last = False
        self._take_lease().renew_if_due()
        return self.writer[:WRITER_DIGITS] + uuid.uuid4().hex[WRITER_DIGITS:]

    def abandon(self, segments: Iterable[str]) -> None:
        """Remove files that no commit names; those of an attempt that may last are left."""
        for segment in () if self._may_last else segments:
            self._files.remove_folder(segment_folder(segment))

    def append(
        self,
        snapshot: Snapshot,
        additions: Mapping[str, Any],
        is_still_good: Callable[[Snapshot], bool],
    ) -> tuple[Snapshot, bool]:
        """
        Make the next commit, durably, as soon as a number is free.

        Args:
            snapshot: The state that the additions were made for.
            additions: The commit's body, beyond what every commit has.
            is_still_good: Whether they may follow a newer state as they are.

        Returns:
            The state with the commit, now acknowledged, and True. Or a newer state, after which
            the additions have to be made anew, and False: nothing is committed, and their files
            are of no use.

        Raises:
            DeviceError: The disk failed. The commit may be in the log or not; it is not
                acknowledged, and this writer makes no more.
        """
        self._require_whole()
        refused, since = -1, 0.0
        while True:
            if not self._has_lease():
                return self._read_newest(), False
            with self._files.turn(COMMITS, _TURN_SECONDS) as end_turn:
                # Looked for first: writing a commit that cannot be linked takes far longer.
                if self._is_taken(snapshot.number + 1):
                    newer = self._read_newest()
                    if newer.number > snapshot.number and not is_still_good(newer):
                        return newer, False
                    snapshot = newer
                # A power cut must not take a commit and leave the one that follows it.
                self.confirm(snapshot)
                # Whoever is next need not wait until this one is durable: it sees to that itself.
                is_committed = self._try(snapshot, additions, end_turn)
            if is_committed:
                return self._read_newest(), True
            if refused != snapshot.number:
                refused, since = snapshot.number, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                break
            # Without a queue, those who go on at once meet again: each waits a time of its own.
            time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))
        raise StoreError(
            f"commit {snapshot.number + 1} cannot be written, and cannot be read either",
            mend="the file system shows some of its files late; run the same command again",
        )

    def confirm(self, snapshot: Snapshot) -> None:
        """
        Make sure that a state that was read is durable; nothing is done where that is known.

        Another writer's commit can be seen before it is durable, and so can the header of a store
        that is just being made. Whoever relies on it, such as by leaving out what it holds, calls
        this before anything is acknowledged.
        """
        if snapshot.number > self._durable_number:
            # The header does not move: the first time is enough.
            is_first = self._durable_number < 0
            self._files.sync_folders([COMMITS, *([""] if is_first else [])])
            self._durable_number = snapshot.number

    def close(self) -> None:
        """Give the lease up. Another folder may still be asked for."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _try(
        self, snapshot: Snapshot, additions: Mapping[str, Any], seen: Callable[[], None]
    ) -> bool:
        last = snapshot.commits[-1] if snapshot.commits else None
        attempt = uuid.uuid4().hex
        try:
            commit = append_commit(
                self._files,
                parent=last,
                header_hash=self._header_hash,
                writer=self.writer,
                commit_uuid=attempt,
                additions=additions,
                seen=seen,
            )
        except BaseException as error:
            self._may_last = self._may_be_named(last, attempt)
            # Linked, but not known to be durable: a second fsync could say so without it being
            # true, since Linux may have dropped what it could not write.
            if self._may_last and isinstance(error, TistoreError):
                self._broken = (
                    f"commit {snapshot.number + 1} was written, but not confirmed to be durable"
                )
                raise DeviceError(
                    f"{self._broken}: {error.message}",
                    mend="look after the disk, then run `tistore verify` and the same command "
                    "again: what is there is left out",
                ) from error
            raise
        if commit is not None:
            self._durable_number = commit.number  # and all before, which it was linked after
            self._may_last = True  # whatever fails from here on, such as reading it back
        return commit is not None

    def _is_taken(self, number: int) -> bool:
        return self._files.size(commit_path(number)) is not None

    def _may_be_named(self, last: Commit | None, attempt: str) -> bool:
        try:
            return is_named(self._files, last, attempt)
        except TistoreError:
            return True  # nobody can tell now: its files must stay

    def _take_lease(self) -> HeldLease:
        if self._lease is None:
            self._files.require_exclusive_creates()
            self._lease = HeldLease(self._files, self.writer)
        return self._lease

    def _has_lease(self) -> bool:
        """Whether the lease is still there; without it, this writer is no longer who it was."""
        if self._take_lease().is_there():
            return True
        self.close()
        self.writer = uuid.uuid4().hex
        return False

    def _require_whole(self) -> None:
        if self._broken:
            raise DeviceError(
                f"{self._broken}; this writer makes no more commits",
                mend="look after the disk, then run `tistore verify` and the same command again",
            )


def is_disjoint(additions: Mapping[str, Any], known: Snapshot, newer: Snapshot) -> bool:
    """Whether nothing that others have committed since is also among the additions."""
    removed = additions.get("removed", {})
    for kind, entries in additions["keys"].items():
        there, before = newer.keys.get(kind, {}), known.keys.get(kind, {})
        # A slot may come to hold the very response that another reader of it has committed.
        same = entries if kind == "slots" else {}
        if any(there.get(key) not in (before.get(key), same.get(key)) for key in entries):
            return False
    return all(
        newer.keys.get(kind, {}).get(key) == content
        for kind, entries in removed.items()
        for key, content in entries.items()
    )
