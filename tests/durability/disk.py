"""
A disk as a power cut may leave it: what POSIX promises, and nothing more.

What was fsynced is certain: a file's bytes and length, a folder's entries at that moment. A file's
fsync says nothing of its entry in its folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from durability.recording import Operation

Tree = dict[str, bytes | None]
"""What lies below a folder: path → bytes, None for a folder."""

Fate = Callable[[bytes], bytes]
FATES: dict[str, Fate] = {
    "whole": lambda data: data,
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "torn": lambda data: data[: len(data) // 2],
    "hole": lambda data: data[: len(data) // 3] + bytes(len(data) - len(data) // 3),
}
"""What may become of bytes that were written, and not fsynced."""


@dataclass(eq=False, slots=True)
class File:
    """
    A file, whatever its names.

    Attributes:
        data: Its bytes, as processes see them.
        is_durable: Whether they were fsynced.
    """

    data: bytes = b""
    is_durable: bool = False


@dataclass(eq=False, slots=True)
class Change:
    """
    A change of a folder's entries that was not fsynced.

    Attributes:
        folder: The folder.
        name: The entry.
        node: What it names now; None where it was removed.
        follows: A rename takes the old name away no earlier than it gives the new one: the file
            systems there are promise that much.
    """

    folder: Folder
    name: str
    node: Node | None
    follows: Change | None = None


@dataclass(eq=False, slots=True)
class Folder:
    """
    A folder.

    Attributes:
        entries: What it holds, as processes see it.
        durable: What it is certain to hold, but for what is pending.
        pending: Changes since its last fsync, in order.
    """

    entries: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def change(self, name: str, node: Node | None, follows: Change | None = None) -> Change:
        """Change an entry."""
        change = Change(self, name, node, follows)
        _apply(change, self.entries)
        self.pending.append(change)
        return change

    def sync(self) -> None:
        """Make the entries certain."""
        self.durable = dict(self.entries)
        self.pending.clear()


Node = File | Folder


@dataclass(frozen=True, slots=True)
class Cut:
    """
    One way in which a power cut may come out.

    Attributes:
        name: For people.
        survivors: Pending changes that last.
        fates: What becomes of files that were not fsynced; `whole` where nothing is said.
    """

    name: str
    survivors: frozenset[Change]
    fates: Mapping[File, str] = field(default_factory=dict)


class Disk:
    """
    A disk on which operations are done one by one.

    Args:
        tree: What it holds at first, for certain.
    """

    def __init__(self, tree: Tree | None = None) -> None:
        self.root = Folder()
        for path, data in sorted((tree or {}).items()):
            folder, name = self._find_parent(path)
            node = Folder() if data is None else File(data, is_durable=True)
            folder.entries[name] = folder.durable[name] = node

    def do(self, operation: Operation) -> None:
        """Do an operation, of which nothing is certain yet but what it fsyncs."""
        path, target = operation.path, operation.target
        match operation.call:
            case "create":
                self._change(path, File())
            case "make_folder":
                self._change(path, Folder())
            case "write":
                file = self._file(path)
                file.data, file.is_durable = file.data + operation.data, False
            case "sync":
                self._file(path).is_durable = True
            case "sync_folder":
                self._folder(path).sync()
            case "link":
                self._change(target, self._find(path))
            case "rename":
                added = self._change(target, self._find(path))
                self._change(path, None, follows=added)
            case "unlink" | "remove_folder":
                self._change(path, None)
            case _:
                raise ValueError(operation)

    def cuts(self, rng: random.Random, n_random: int) -> Iterator[Cut]:
        """
        Give ways in which a power cut may come out now.

        Nothing of what is uncertain lasts, all of it, each alone, all but each, and some at random.
        """
        nodes = list(_walk(self.root))
        pending = [change for node in nodes if isinstance(node, Folder) for change in node.pending]
        dirty = [node for node in nodes if isinstance(node, File) and not node.is_durable]
        everything = frozenset(pending)
        yield Cut("nothing lasts", frozenset(), dict.fromkeys(dirty, "empty"))
        for fate in FATES if dirty else ["whole"]:
            yield Cut(f"all lasts, bytes {fate}", everything, dict.fromkeys(dirty, fate))
        for change in pending:
            yield Cut(f"only {change.name} lasts", frozenset([change]))
            yield Cut(f"all lasts but {change.name}", everything - {change})
        for file in dirty if len(dirty) > 1 else ():
            yield Cut("one file has no bytes", everything, {file: "empty"})
        for _ in range(n_random if pending or dirty else 0):
            yield Cut(
                "at random",
                frozenset(change for change in pending if rng.random() < 0.5),
                {file: rng.choice(list(FATES)) for file in dirty},
            )

    def after(self, cut: Cut) -> Tree:
        """Tell what is there after a power cut."""
        return dict(_survive(self.root, "", cut))

    def _find(self, path: str) -> Node:
        node: Node = self.root
        for name in PurePosixPath(path).parts:
            assert isinstance(node, Folder)
            node = node.entries[name]
        return node

    def _file(self, path: str) -> File:
        node = self._find(path)
        assert isinstance(node, File)
        return node

    def _folder(self, path: str) -> Folder:
        node = self._find(path)
        assert isinstance(node, Folder)
        return node

    def _find_parent(self, path: str) -> tuple[Folder, str]:
        pure = PurePosixPath(path)
        return self._folder(str(pure.parent)), pure.name

    def _change(self, path: str, node: Node | None, follows: Change | None = None) -> Change:
        folder, name = self._find_parent(path)
        return folder.change(name, node, follows)


def read_tree(folder: Path) -> Tree:
    """Read what lies below a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def write_tree(tree: Tree, folder: Path) -> None:
    """Put a tree into a folder that is not there yet."""
    folder.mkdir()
    for path, data in sorted(tree.items()):
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def _apply(change: Change, entries: dict[str, Node]) -> None:
    if change.node is None:
        entries.pop(change.name, None)
    else:
        entries[change.name] = change.node


def _walk(node: Node) -> Iterator[Node]:
    """Give what processes see, and what a lost removal would bring back."""
    seen: dict[int, Node] = {}
    waiting: list[Node] = [node]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, Folder):
            added = (change.node for change in one.pending if change.node is not None)
            waiting += [*one.entries.values(), *one.durable.values(), *added]
    yield from seen.values()


def _survive(folder: Folder, prefix: str, cut: Cut) -> Iterator[tuple[str, bytes | None]]:
    entries = dict(folder.durable)
    for change in folder.pending:
        follows = change.follows
        is_early = follows is not None and (
            follows in follows.folder.pending and follows not in cut.survivors
        )
        if change in cut.survivors and not is_early:
            _apply(change, entries)
    for name, node in entries.items():
        if isinstance(node, Folder):
            yield f"{prefix}{name}", None
            yield from _survive(node, f"{prefix}{name}/", cut)
        elif node.is_durable:
            yield f"{prefix}{name}", node.data
        else:
            yield f"{prefix}{name}", FATES[cut.fates.get(node, "whole")](node.data)
