"""What keeps a store in order: verifying, repairing, merging, removing, collecting."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from tistore.store.collecting.collect import GcReport, Retention, collect_garbage, look_for_garbage
from tistore.store.history import LogEntry, describe_log
from tistore.store.layout import SCORES
from tistore.store.opened import OpenStore, locate
from tistore.store.posix import PosixFiles
from tistore.store.repairing.repair import RepairReport, repair_files, repair_log
from tistore.store.rewriting.compact import TARGET_BYTES, CompactProgress, CompactReport, compact
from tistore.store.rewriting.remove import RemoveReport, remove
from tistore.store.score_files import ScoreFolder
from tistore.store.snapshot import Snapshot
from tistore.store.system import POSIX, System
from tistore.store.verifying.file_check import VerifyProgress
from tistore.store.verifying.verify import VerifyReport, require_store, verify_store


class KeptStore(OpenStore):
    """An open store, with what keeps it in order: what `tistore log`, `verify`, `gc`, … call."""

    def log(self) -> tuple[LogEntry, ...]:
        """List the commits up to the one this handle reads, oldest first."""
        return describe_log(self._snapshot, oldest=self._read_newest().contents.oldest)

    def verify(
        self,
        *,
        strict: bool = True,
        jobs: int | None = None,
        resume: bool = False,
        progress: Callable[[VerifyProgress], object] = lambda progress: None,
    ) -> VerifyReport:
        """
        Read every committed byte from disk, the log's too, and compare; see `verify_store`.

        Args:
            strict: Raise when anything is damaged, rather than only report it.
            jobs: Files read at once; as many as there are cores when left out.
            resume: Go on where a pass that was interrupted has come to.
            progress: Told a few times a second how far it is.

        Raises:
            IntegrityError: `strict`, and something is damaged; every file is named.
            InterruptedRunError: Ctrl-C; `resume` goes on from there.
        """
        commits = self._snapshot.commits
        report = verify_store(
            self.path,
            self._files,
            at=self._snapshot.number if self._is_pinned else None,
            known=commits[-1] if commits else None,
            jobs=jobs,
            resume=resume,
            progress=progress,
        )
        if strict:
            report.raise_if_damaged()
        return report

    @classmethod
    def repair(
        cls, path: str | Path, *, dry_run: bool = True, system: System = POSIX
    ) -> RepairReport:
        """
        Restore what is damaged where that can be proven, keep what is whole, drop the rest.

        A reading is kept whole or not at all. Damaged files go to the trash; commits that need
        them cannot be opened any more. The log is mended first. Nothing happens to a sound store.

        Args:
            path: The store's folder, or a file:// URL; it need not be possible to open it.
            dry_run: Only tell.
            system: The calls that change the disk; tests have others.

        Raises:
            StoreNotFoundError: Nothing is there.
            IntegrityError: What is lost nothing else can stand for: the header, or the chain.
            RewriteConflictError: Another process has removed or replaced something meanwhile.
            NoRoomError: What stays of damaged segments does not fit on the disk a second time.
        """
        root = locate(path)
        files = PosixFiles(root, system)
        require_store(root, files)
        mends, commits = repair_log(root, files, dry_run=dry_run)
        if dry_run:
            newest = Snapshot(files, commits)
            report = repair_files(root, files, None, newest, ScoreFolder(root / SCORES))
        else:
            store = cls.open(root, system=system)
            scores = ScoreFolder(store.score_folder)
            with store._rewriting() as committer:
                report = repair_files(root, files, committer, store._snapshot, scores)
        return replace(report, mends=(*mends, *report.mends))

    def compact(
        self,
        target_bytes: int = TARGET_BYTES,
        *,
        dry_run: bool = False,
        progress: Callable[[CompactProgress], object] = lambda progress: None,
    ) -> CompactReport:
        """
        Merge small segments, and small files of the log's tables; no answer changes.

        The old files stay until `gc` removes them: earlier commits, and whoever reads them now,
        still need them.

        Args:
            target_bytes: What a merged segment's files may hold together.
            dry_run: Only tell what would be merged.
            progress: Told after each merged segment.

        Raises:
            NoRoomError: A merged segment does not fit on the disk; those before are kept.
            IntegrityError: Something that is to be merged is damaged.
            RewriteConflictError: Other processes keep removing or replacing.
        """
        with self._rewriting(dry_run=dry_run) as committer:
            return compact(
                self._files,
                committer,
                self._snapshot,
                ScoreFolder(self.score_folder),
                target_bytes=target_bytes,
                dry_run=dry_run,
                progress=progress,
            )

    def remove_readings(
        self, keys: Collection[str], *, reason: str | None = None, dry_run: bool = False
    ) -> RemoveReport:
        """
        Remove readings, all with one commit: the segments they lie in are written anew.

        Stores opened at an earlier commit still have them. The same reading can be committed
        again; so can another response in a slot of which no reading is left. Vectors that were
        fitted on them stay.

        Args:
            keys: The readings' keys; the column `reading_key` of `responses` has them.
            reason: For people; stored.
            dry_run: Only tell.

        Raises:
            NotStoredError: One of them is not in the store; none is removed then.
            NoRoomError: What stays of their segments does not fit on the disk a second time.
            RewriteConflictError: Other processes keep removing or replacing.
        """
        with self._rewriting(dry_run=dry_run) as committer:
            return remove(
                self._files,
                committer,
                self._snapshot,
                ScoreFolder(self.score_folder),
                keys,
                reason=reason,
                dry_run=dry_run,
            )

    def gc(
        self,
        *,
        dry_run: bool = True,
        keep_days: float = 7.0,
        keep_commits: int | None = None,
        trash_days: float = 7.0,
        now: float | None = None,
    ) -> GcReport:
        """
        Take away what the store no longer needs: what dead writers left, and what was replaced.

        It goes to the trash first. What live writers have not committed yet is left alone.

        Args:
            dry_run: Only look.
            keep_days: States that were the newest within so many days stay readable.
            keep_commits: So do the newest so many.
            trash_days: How long what was taken away lies in the trash before it is deleted.
            now: Seconds since 1970; the present, by the clock of the place, when left out.

        Raises:
            ConfigError: A negative number of days, or no commit to keep.
            ReadOnlyError: Nothing can be moved here.
        """
        retention = Retention(keep_days, keep_commits, trash_days)
        with self._rewriting(dry_run=dry_run) as committer:
            scores = ScoreFolder(self.score_folder)
            if dry_run:
                return look_for_garbage(self._files, self._snapshot, scores, retention, now)
            newest = self._read_newest
            return collect_garbage(self._files, committer, newest, scores, retention, now)
