"""A store as its data: opening, writing, reading back, verifying. Questions come a floor above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tistore.errors import (
    ConfigError,
    NotAStoreError,
    NotStoredError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Component, Site
from tistore.schemas.vector import Vector
from tistore.store.events import EventLog
from tistore.store.files import TEMPORARY, Files, PosixFiles
from tistore.store.header import Feature, Header, read_header, write_header
from tistore.store.info import StoreInfo, describe
from tistore.store.layout import ANALYSES, COMMITS, HEADER, SCORES, SEGMENTS, cache_folder
from tistore.store.log import read_commits
from tistore.store.snapshot import Snapshot, StoredResponse, read_activations
from tistore.store.verify import VerifyReport, verify_snapshot
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
        commits = read_commits(files, None, self.header.sha256)
        if at is not None and not 0 <= at <= len(commits):
            raise NotStoredError(f"{root} has commits up to {len(commits)}, and no commit {at}")
        self._is_pinned = at is not None
        self._snapshot = Snapshot(files, commits[:at])

    @classmethod
    def create(cls, path: str | Path, *, features: Sequence[Feature] = ()) -> Self:
        """
        Make an empty store.

        Args:
            path: Where; nothing may be there, but what a creation left behind that was killed.
            features: What it will need beyond the first version of the format.

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
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / COMMITS).mkdir(exist_ok=True)
            (root / SEGMENTS).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{root} cannot be made: {error.strerror}") from error
        files = PosixFiles(root)
        files.sync_folders([COMMITS, SEGMENTS])
        # The header comes last: before it, there is no store here.
        if not write_header(files, features):
            raise StoreExistsError(f"{root} is a store already", mend="open it instead")
        return cls(root, files)

    @classmethod
    def open(cls, path: str | Path, at: int | None = None) -> Self:
        """
        Open a store.

        Args:
            path: Its folder, or a file:// URL.
            at: Commit number to read it as of; the newest when left out.

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
        return cls(root, PosixFiles(root), at)

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
        """What has been asked of the store, for `tistore log`."""
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
        if self._is_pinned:
            raise StoreError(
                f"{self.path} is open at commit {self._snapshot.number}",
                mend="open it without `at` to write",
            )
        if not self._files.is_writable():
            raise StoreError(f"{self.path} is read-only", mend="copy it to where you can write")
        self.refresh()
        return _FollowedWriter(self, flush_bytes, flush_seconds)

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
        self, *, strict: bool = True, progress: Callable[[int], None] = lambda size_bytes: None
    ) -> VerifyReport:
        """
        Read every committed byte and compare it with the log.

        Args:
            strict: Raise when anything is damaged, rather than only report it.
            progress: Called with the bytes of each file once it is checked.

        Raises:
            IntegrityError: `strict`, and something is damaged; every file is named.
        """
        report = verify_snapshot(self._files, self._snapshot, progress)
        if strict:
            report.raise_if_damaged()
        return report

    def info(self) -> StoreInfo:
        """Count what the store holds."""
        return describe(str(self.path), self.header, self._snapshot)

    @cached_property
    def score_folder(self) -> Path:
        """Where scores are cached: in the store, or the user's cache when it is read-only."""
        if self._files.is_writable():
            return self.path / SCORES
        return cache_folder() / SCORES / self.header.uuid

    def _read_newest(self) -> Snapshot:
        known = self._snapshot
        last = known.commits[-1] if known.commits else None
        newer = read_commits(self._files, last, self.header.sha256)
        return Snapshot(self._files, [*known.commits, *newer], known) if newer else known

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


def _as_direction(values: ArrayLike) -> NDArray[np.float32]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)
