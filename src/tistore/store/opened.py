"""A store that is open: where it lies, and the state of it that a handle reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

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
from tistore.store.collector import collector_paused
from tistore.store.committing import Committer
from tistore.store.files import TEMPORARY, Files
from tistore.store.header import Feature, Header, read_header, write_header
from tistore.store.layout import COMMITS, HEADER, SCORES, SEGMENTS, cache_folder
from tistore.store.log import Commit, read_commits
from tistore.store.posix import PosixFiles
from tistore.store.snapshot import Snapshot
from tistore.store.system import POSIX, System


class OpenStore:
    """
    An open store: its files, and the state that this handle reads.

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
    def is_pinned(self) -> bool:
        """Whether the store is open at a commit that was named, and so not to be written."""
        return self._is_pinned

    @property
    def is_writable(self) -> bool:
        """Whether files can be added where the store lies."""
        return self._files.is_writable()

    @cached_property
    def score_folder(self) -> Path:
        """Where scores are cached: in the store, or the user's cache when it is read-only."""
        if self._files.is_writable():
            return self.path / SCORES
        return cache_folder() / SCORES / self.header.uuid

    def refresh(self) -> None:
        """Move on to the newest commit."""
        self._snapshot = self._read_newest()

    def committer(self) -> Committer:
        """Make what commits on behalf of one writer; see `Committer`."""
        return Committer(self._files, self.header.sha256, self._read_newest)

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
