"""A store as its data: opening, writing, reading back, verifying. Questions come a floor above."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tistore.errors import (
    ConfigError,
    NoMemoryError,
    NotAStoreError,
    NotStoredError,
    ReadOnlyError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Component, Site
from tistore.schemas.vector import Vector
from tistore.store.collecting.collect import GcReport, Retention, collect_garbage, look_for_garbage
from tistore.store.collector import collector_paused
from tistore.store.committing import Committer
from tistore.store.events import EventLog
from tistore.store.files import TEMPORARY, Files
from tistore.store.header import Feature, Header, read_header, write_header
from tistore.store.history import LogEntry, describe_log
from tistore.store.info import StoreInfo, describe
from tistore.store.layout import ANALYSES, COMMITS, HEADER, SCORES, SEGMENTS, cache_folder
from tistore.store.log import Commit, read_commits
from tistore.store.posix import PosixFiles
from tistore.store.repairing.repair import RepairReport, repair_files, repair_log
from tistore.store.rewriting.compact import TARGET_BYTES, CompactProgress, CompactReport, compact
from tistore.store.rewriting.remove import RemoveReport, remove
from tistore.store.score_files import ScoreFolder
from tistore.store.snapshot import Snapshot, StoredResponse, read_activations
from tistore.store.system import POSIX, System
from tistore.store.verifying.file_check import VerifyProgress
from tistore.store.verifying.verify import VerifyReport, require_store, verify_store
from tistore.store.writer import FLUSH_BYTES, FLUSH_SECONDS, Writer


class BaseStore:
    """
    An open store.

    A handle reads one snapshot: the state it was opened at, moved on by its own commits and by
    `refresh`. Use `create` and `open` rather than the constructor.

    Args:
        root: Folder of the store.
        files: Its file operations.
        at: Commit to stay at; the newest when left out.
    """

    def __init__(self, root: Path, files: Files, at: int | None = None) -> None:
        self.path = root
        self._files = files
        self.header: Header = read_header(files, str(root))
        with collector_paused():
            commits = read_commits(files, None, self.header.sha256)
            if at is not None:
                _check_number(root, commits, at)
            self._snapshot = self._newest = Snapshot(files, commits[:at])
        self._is_pinned = at is not None

    @classmethod
    def create(
        cls, path: str | Path, *, features: Sequence[Feature] = (), system: System = POSIX
    ) -> Self:
        """
        Make an empty store.

        Args:
            path: Where; nothing may be there, but what a creation left behind that was killed.
            features: What it will need beyond the first version of the format.
            system: The calls that change the disk; tests have others.

        Raises:
            StoreExistsError: A store is there already.
            NotAStoreError: A file, or a folder that is not empty, is in the way.
        """
        root = locate(path)
        if root.exists() and not root.is_dir():
            raise NotAStoreError(f"{root} is a file", mend="choose a path that is free")
        if (root / HEADER).exists():
            raise StoreExistsError(f"{root} is a store already", mend="open it instead")
        if root.exists() and not _is_unfinished(root):
            raise NotAStoreError(f"{root} is not empty", mend="choose a path that is free")
        files = PosixFiles(root, system)
        files.make_folders([COMMITS, SEGMENTS])
        files.sync_root()
        # The header comes last: before it, there is no store here.
        if not write_header(files, features):
            raise StoreExistsError(f"{root} is a store already", mend="open it instead")
        return cls(root, files)

    @classmethod
    def open(cls, path: str | Path, at: int | None = None, *, system: System = POSIX) -> Self:
        """
        Open a store.

        Args:
            path: Its folder, or a file:// URL.
            at: Commit number to read it as of; the newest when left out.
            system: The calls that change the disk; tests have others.

        Raises:
            StoreNotFoundError: Nothing is there.
            NotAStoreError: Something else is there.
            FormatVersionError: The store is of a later format.
            IntegrityError: The header or the log is damaged.
        """
        root = locate(path)
        if not root.exists():
            raise StoreNotFoundError(
                f"no store at {root}", mend="make one with `tistore ingest` or tistore.create()"
            )
        if not (root / HEADER).exists():
            what = "a folder without" if root.is_dir() else "a file, not a folder with"
            raise NotAStoreError(f"{root} is {what} a {HEADER}", mend="mend the path")
        return cls(root, PosixFiles(root, system), at)

    @property
    def snapshot(self) -> Snapshot:
        """The state this handle reads."""
        return self._snapshot

    @property
    def free_bytes(self) -> int | None:
        """What is free where the store lies; None where nobody can tell."""
        return self._files.free_bytes()

    @property
    def events(self) -> EventLog:
        """What runs say about themselves."""
        return EventLog(self.path)

    @property
    def analyses(self) -> EventLog:
        """What has been asked of the store, for `tistore log --analyses`."""
        return EventLog(self.path, ANALYSES)

    @property
    def is_pinned(self) -> bool:
        """Whether the store is open at a commit that was named, and so not to be written."""
        return self._is_pinned

    @property
    def is_writable(self) -> bool:
        """Whether files can be added where the store lies."""
        return self._files.is_writable()

    def refresh(self) -> None:
        """Move on to the newest commit."""
        self._snapshot = self._read_newest()

    def writer(
        self, *, flush_bytes: int = FLUSH_BYTES, flush_seconds: float = FLUSH_SECONDS
    ) -> Writer:
        """
        Open a writer; see `Writer`.

        Raises:
            StoreError: The store is read-only, or open at an older commit.
        """
        self._require_unpinned()
        self._require_writable()
        self.refresh()
        return _FollowedWriter(self, flush_bytes, flush_seconds)

    def committer(self) -> Committer:
        """Make what commits on behalf of one writer; see `Committer`."""
        return Committer(self._files, self.header.sha256, self._read_newest)

    def holds(self, reading_key: str) -> bool:
        """Whether a reading with this key is committed; see `identify_reading`."""
        return reading_key in self._snapshot.keys.get("readings", {})

    def stored_response(self, slot: ResponseSlot) -> StoredResponse | None:
        """Look up the committed response of a slot."""
        return self._snapshot.find_response(slot)

    def add_vector(
        self,
        trait: str,
        values: ArrayLike,
        *,
        layer: int,
        component: Component = "residual",
        method: str = "unknown",
        position: str = "unknown",
        model: str | None = None,
        separation: float | None = None,
        midpoint: float | None = None,
    ) -> Vector:
        """
        Commit a direction. The same vector again is a no-op.

        Args:
            trait: `category/name`.
            values: (hidden,), in the site's activation units; any length, only its direction
                counts in scores.
            layer: Block it was fitted at.
            component: Component it was fitted at.
            method: How it was fitted, such as "mean_diff".
            position: Tokens it was fitted on, such as "response[:5]".
            model: Name of the model it was fitted on.
            separation: Held-out effect size; see `Vector`.
            midpoint: See `Vector`.

        Raises:
            InvalidRecordError: The values are not a finite, non-zero direction.
            KeyConflictError: The same name holds another direction.
        """
        vector = Vector(
            trait=trait,
            values=_as_direction(values),
            layer=layer,
            component=component,
            method=method,
            position=position,
            model=model,
            separation=separation,
            midpoint=midpoint,
        )
        self.add_rows("vectors", [vector.to_row()])
        return vector

    def add_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Commit rows of a table of the log; see `Writer.add_rows`."""
        with self.writer() as writer:
            writer.add_rows(table, rows)

    def activations(
        self, response_id: str, *, reader: str, layer: int, component: Component = "residual"
    ) -> NDArray[Any]:
        """
        Read one reading's activations.

        Returns:
            [rows, width] float16; float32 where the layer exceeds float16 and is stored with an
            exponent. What is there for each head lies head by head.

        Raises:
            NotStoredError: No such response, reader, layer or component.
        """
        return read_activations(self._snapshot, response_id, reader, Site(component, layer))

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

    @contextmanager
    def _rewriting(self, *, dry_run: bool = False) -> Iterator[Committer]:
        """Commit from the newest state on, and move on to what was committed."""
        self._require_unpinned()
        if not dry_run:
            self._require_writable()
        self.refresh()
        with closing(self.committer()) as committer:
            try:
                yield committer
            except MemoryError as error:
                raise NoMemoryError(
                    f"memory ran out over {self.path}",
                    mend="free some memory and run it again; everything committed is intact",
                ) from error
            finally:
                self.refresh()
            if not dry_run:  # what others have done already is not done again
                committer.confirm(self._snapshot)

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

    def log(self) -> tuple[LogEntry, ...]:
        """List the commits up to the one this handle reads, oldest first."""
        return describe_log(self._snapshot, oldest=self._read_newest().contents.oldest)

    def info(self) -> StoreInfo:
        """Count what the store holds."""
        return describe(str(self.path), self.header, self._snapshot)

    @cached_property
    def score_folder(self) -> Path:
        """Where scores are cached: in the store, or the user's cache when it is read-only."""
        if self._files.is_writable():
            return self.path / SCORES
        return cache_folder() / SCORES / self.header.uuid

    def _require_unpinned(self) -> None:
        if self._is_pinned:
            raise StoreError(
                f"{self.path} is open at commit {self._snapshot.number}",
                mend="open it without `at` to write",
            )

    def _require_writable(self) -> None:
        if not self._files.is_writable():
            raise ReadOnlyError(f"{self.path} is read-only", mend="copy it to where you can write")

    def _read_newest(self) -> Snapshot:
        known = self._newest
        last = known.commits[-1] if known.commits else None
        if newer := read_commits(self._files, last, self.header.sha256):
            self._newest = Snapshot(self._files, [*known.commits, *newer], known)
        return self._newest

    def __repr__(self) -> str:
        """Name the store by path and commit."""
        return f"<tistore {self.path} at commit {self._snapshot.number}>"


class _FollowedWriter(Writer):
    """A writer whose commits move its store's snapshot on."""

    def __init__(self, store: BaseStore, flush_bytes: int, flush_seconds: float) -> None:
        super().__init__(
            store._files, store.header.sha256, store._read_newest, flush_bytes, flush_seconds
        )
        self._store = store

    def commit(self) -> int:
        """Commit, and let the store see it."""
        number = super().commit()
        self._store.refresh()
        # Whoever asks the store whether it holds something may leave it out.
        self._committer.confirm(self._store.snapshot)
        return number


def locate(path: str | Path) -> Path:
    """
    Turn what a user wrote into the store's folder.

    Raises:
        ConfigError: A URL of a kind that cannot be opened.
    """
    text = str(path)
    if "://" not in text:
        return Path(path).expanduser()
    url = urlsplit(text)
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        raise ConfigError(
            f"{text}: stores on {url.scheme}:// cannot be opened",
            mend="use a path or a file:// URL",
        )
    return Path(unquote(url.path))


def _is_unfinished(root: Path) -> bool:
    """Whether a folder is empty, but for what making a store puts there before the header."""
    return not any(
        path.name not in (COMMITS, SEGMENTS) or any(path.iterdir())
        for path in root.iterdir()
        if not path.name.startswith(TEMPORARY)
    )


def _check_number(root: Path, commits: Sequence[Commit], at: int) -> None:
    if not 0 <= at <= len(commits):
        raise NotStoredError(f"{root} has commits up to {len(commits)}, and no commit {at}")
    oldest, by = max(((commit.body.get("oldest", 0), commit.number) for commit in commits),
                     default=(0, 0))  # fmt: skip
    if at < oldest:
        raise NotStoredError(
            f"commit {at} of {root} was given up by commit {by}: files that only it needed may be "
            "gone",
            mend=f"the oldest that can be opened is {oldest}",
        )


def _as_direction(values: ArrayLike) -> NDArray[np.float32]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)
