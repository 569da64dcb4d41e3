"""
JSON of other people: read within limits, every value asked for by the type that is due.

A file is refused when it is larger than `MAX_BYTES`, holds more than `MAX_NODES` lists and objects,
nests them deeper than `MAX_DEPTH`, is not UTF-8, or names a key twice in one object. `NaN`,
`Infinity` and numbers that overflow to them are read, as Python wrote them, and refused where a
finite number is due, so that the place is named. A byte order mark is no part of a file.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tistore.errors import DatasetError

# Python objects take up to 20 times the bytes of their JSON: these keep any file below 1 GB.
MAX_BYTES = 32 * 2**20
MAX_NODES = 2_000_000
MAX_DEPTH = 64
MAX_INTEGER = 2**31 - 1

# A string, cut short or not, is one token: so no bracket within it counts, and a string that never
# ends is passed over once.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HALF = re.compile(r"[\ud800-\udfff]")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Node:
    """
    A value in a file, and where it lies.

    Attributes:
        path: The file.
        place: Where in it, such as "runs[3].config"; empty for all of it.
        value: As it was parsed.
    """

    path: Path
    place: str
    value: Any

    def fail(self, what: str, mend: str = "mend the file there, or leave it out") -> NoReturn:
        """
        Refuse the value.

        Raises:
            DatasetError: Always; it names file and place.
        """
        where = f"{self.path} at {self.place}" if self.place else f"{self.path}"
        raise DatasetError(f"{where}: {what}", mend=mend)

    def get(self, key: str) -> Node | None:
        """Return what an object has under `key`; None where that is missing or null."""
        value = self.fields().get(key)
        return None if value is None else self._below(key, value)

    def require(self, key: str) -> Node:
        """Return what an object has under `key`, which may not be missing or null."""
        found = self.get(key)
        if found is None:
            present = ", ".join(sorted(self.fields())[:12])
            self.fail(f"no {key!r} here; there are: {present or 'no keys'}")
        return found

    def fields(self) -> dict[str, Any]:
        """Return the object as it was parsed."""
        if not isinstance(self.value, dict):
            self._refuse("an object")
        return self.value

    def entries(self) -> Iterator[tuple[str, Node]]:
        """Yield the keys of an object, each with its value."""
        for key, value in self.fields().items():
            yield key, self._below(key, value)

    def elements(self) -> Iterator[Node]:
        """Yield the elements of a list."""
        if not isinstance(self.value, list):
            self._refuse("a list")
        for index, value in enumerate(self.value):
            yield Node(self.path, f"{self.place}[{index}]", value)

    def text(self) -> str:
        """Return text."""
        if not isinstance(self.value, str):
            self._refuse("text")
        if half := _HALF.search(self.value):
            # JSON can write it, and no table can hold it.
            self.fail(f"the text holds {half[0]!a}, half of a character")
        return self.value

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            self._refuse("true or false")
        return self.value

    def integer(self, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        """Return an integer, by default one that a count, a layer or a token id can be."""
        value = self.value
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse("an integer")
        if not minimum <= value <= maximum:
            shown = value if abs(value) <= 10**18 else "the integer"
            self.fail(f"{shown} is not between {minimum} and {maximum}")
        return value

    def number(self) -> float:
        """Return a finite number."""
        value = self.value
        if not isinstance(value, int | float) or isinstance(value, bool):
            self._refuse("a number")
        try:
            number = float(value)
        except OverflowError:
            self.fail("the number is too large")
        if not math.isfinite(number):
            self.fail(f"{number} is no finite number")
        return number

    def finite_or_none(self) -> float | None:
        """Return a number; None where it is NaN or infinite."""
        if isinstance(self.value, float) and not math.isfinite(self.value):
            return None
        return self.number()

    def texts(self) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(node.text() for node in self.elements())

    def integers(self) -> tuple[int, ...]:
        """Return a list of integers from 0, such as token ids."""
        if isinstance(self.value, list) and all(type(value) is int for value in self.value):
            if not self.value or (min(self.value) >= 0 and max(self.value) <= MAX_INTEGER):
                return tuple(self.value)
        return tuple(node.integer() for node in self.elements())

    def numbers(self) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        if isinstance(self.value, list) and all(type(value) is float for value in self.value):
            if all(map(math.isfinite, self.value)):
                return tuple(self.value)
        return tuple(node.number() for node in self.elements())

    def identity(self) -> str:
        """Return an id as text: an integer, or text that can name a file."""
        if not isinstance(self.value, str):
            return str(self.integer())
        if problem := find_problem(self.value):
            self.fail(f"{self.value!r} cannot be an id: {problem}")
        return self.value

    def numbered(self) -> Iterator[tuple[int, Node]]:
        """Yield the entries of an object whose keys are integers from 0, such as layers."""
        for key, value in self.entries():
            if not _NUMBER.fullmatch(key) or int(key) > MAX_INTEGER:
                value.fail(f"{key[:40]!r} is no layer or dimension")
            yield int(key), value

    def get_text(self, key: str) -> str | None:
        """Return text under `key`; None where it is missing, null or empty."""
        found = self.get(key)
        return (found.text() or None) if found else None

    def get_known(self, key: str) -> str | None:
        """Return text under `key`; None also where it says that it is unknown."""
        text = self.get_text(key)
        return None if text == "unknown" else text

    def get_texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts under `key`; empty where it is missing or null."""
        found = self.get(key)
        return found.texts() if found else ()

    def get_integer(self, key: str) -> int | None:
        """Return an integer under `key`; None where it is missing or null."""
        found = self.get(key)
        return found.integer() if found else None

    def get_number(self, key: str) -> float | None:
        """Return a finite number under `key`; None where it is missing or null."""
        found = self.get(key)
        return found.number() if found else None

    def get_boolean(self, key: str) -> bool | None:
        """Return true or false under `key`; None where it is missing or null."""
        found = self.get(key)
        return found.boolean() if found else None

    def _below(self, key: str, value: Any) -> Node:
        step = key if key.isidentifier() else f"[{key!r}]"
        dot = "." if self.place and not step.startswith("[") else ""
        return Node(self.path, f"{self.place}{dot}{step}", value)

    def _refuse(self, due: str) -> NoReturn:
        self.fail(f"{due} is due here, not {_TYPE_NAMES[type(self.value)]}")


def find_problem(name: str) -> str | None:
    """Say why a name cannot be one step of a path; None where it can."""
    if not name.strip():
        return "it is empty"
    if name in (".", "..") or "/" in name or "\\" in name:
        return "it leads elsewhere"
    if match := _CONTROL.search(name):
        return f"it holds the character {match[0]!a}"
    return None


def read_document(path: Path, maximum: int = MAX_BYTES) -> Node:
    """
    Read a JSON file.

    Args:
        path: The file.
        maximum: Bytes it may have.

    Raises:
        DatasetError: It cannot be read, or breaks a limit or the syntax; file and place are named.
    """
    content = read_content(path, maximum)
    return Node(path, "", _parse(path, content, "", 0))


def read_lines(path: Path, maximum: int = MAX_BYTES) -> Iterator[Node]:
    """
    Read a file with one JSON value a line; blank lines are passed over.

    Raises:
        DatasetError: It cannot be read, or breaks a limit or the syntax; file and line are named.
    """
    content = read_content(path, maximum)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            place = f"line {number}"
            yield Node(path, place, _parse(path, line, place, number))


def read_content(path: Path, maximum: int = MAX_BYTES) -> bytes:
    """
    Read a regular file of a bounded size, a byte order mark left out.

    Raises:
        DatasetError: It is missing, unreadable, too large, or no regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DatasetError(f"{path} is no regular file", mend="leave it out")
        with path.open("rb") as file:
            content = file.read(maximum + 1)
    except OSError as error:
        raise DatasetError(
            f"cannot read {path}: {error.strerror}", mend="check the path and its permissions"
        ) from error
    except ValueError as error:
        raise DatasetError(f"cannot read {path}: {error}", mend="rename the file") from error
    if len(content) > maximum:
        raise DatasetError(
            f"{path} is larger than {maximum:,} bytes", mend="leave it out, or split it"
        )
    return content.removeprefix(b"\xef\xbb\xbf")


def decode_text(path: Path, content: bytes, place: str = "") -> str:
    """
    Decode UTF-8.

    Raises:
        DatasetError: It is something else; file and byte are named.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        where = f"{place}, byte {error.start}" if place else f"byte {error.start}"
        raise DatasetError(
            f"{path} is not UTF-8 at {where}: {error.reason}", mend="save it as UTF-8"
        ) from error


def _parse(path: Path, content: bytes, place: str, line: int) -> Any:
    """Parse JSON within the limits of depth and keys."""
    text = decode_text(path, content, place)
    _check_brackets(path, content, place)

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            repeated = _find_repeated(key for key, _ in pairs)
            Node(path, place, None).fail(
                f"an object has the key {repeated!r} twice", "keep one of the two"
            )
        return built

    try:
        return json.loads(text, object_pairs_hook=build)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise DatasetError(
            f"{path} is not valid JSON at {where}: {error.msg}",
            mend="it may have been cut short while it was written: leave it out, or write it again",
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits
        raise DatasetError(
            f"{path} cannot be read as JSON: {error}", mend="leave it out"
        ) from error


def _check_brackets(path: Path, content: bytes, place: str) -> None:
    """Refuse too many brackets, or too deep ones, before a parser that recurses sees them."""
    n_brackets = content.count(b"[") + content.count(b"{")
    if n_brackets <= MAX_DEPTH:
        return
    if n_brackets > MAX_NODES:
        Node(path, place, None).fail(f"more than {MAX_NODES:,} lists and objects", "leave it out")
    depth = 0
    for match in _TOKENS.finditer(content):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                Node(path, place, None).fail(
                    f"lists and objects nest deeper than {MAX_DEPTH}", "leave it out"
                )
        elif token in (b"]", b"}"):
            depth -= 1


def _find_repeated(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")
