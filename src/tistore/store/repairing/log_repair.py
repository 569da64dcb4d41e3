"""
Mending a damaged log: what can be proven is restored, and the rest gives up its number only.

A commit is proven by its hash, which its own second line and the commit after it name. One that
cannot be restored leaves a placeholder that keeps the chain whole, so that all that follows stays
valid. Nobody names the hash of the last commit: damaged beyond repair, it goes to the trash.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tistore.errors import IntegrityError, NoMemoryError, StoreError, TooManyFilesError
from tistore.store.files import Files
from tistore.store.layout import HEADER, commit_number, commit_path
from tistore.store.log import Commit, read_line, write_trailer
from tistore.store.repairing.flipped_bit import flip_each_bit
from tistore.store.verifying.examined_log import ExaminedLog
from tistore.version import __version__

_TRAILER = b'{"sha256":"'
_PROVEN_DIGITS = 16  # of a hash that was cut short: enough not to be there by chance


@dataclass(frozen=True, slots=True)
class LogMend:
    """
    What mends one file of the log.

    Attributes:
        path: The file.
        problem: What is wrong with it.
        action: What is done about it, in words.
        data: Its new bytes; None where it goes without replacement.
        is_lost: Whether what it said is lost.
    """

    path: str
    problem: str
    action: str
    data: bytes | None
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class MendedLog:
    """
    A log as it will be.

    Attributes:
        commits: Every commit, without gaps.
        mends: What leads there, in the order of the log.
    """

    commits: tuple[Commit, ...]
    mends: tuple[LogMend, ...]


def mend_log(files: Files, log: ExaminedLog, store: str) -> MendedLog:
    """
    Work out how to mend a log; nothing is written.

    Args:
        files: The store's files.
        log: What there is of it.
        store: Where the store lies, for messages.

    Raises:
        IntegrityError: The header is lost, or the log is put together of two.
    """
    problems = dict(log.troubles)
    mends: list[LogMend] = []
    sound = _leave_out_foreign({commit.number: commit for commit in log.commits})
    if HEADER in problems:
        mends.append(_mend_header(files, problems[HEADER], sound.get(1), store))
        parent = sound[1].body["parent"]
    else:
        parent = hashlib.sha256(files.read(HEADER)).hexdigest()
    lines = _find_lines(files, sound, problems)
    found = sound | {number: read_line(line) for number, line in lines.items()}
    last = max(found, default=0)
    commits: list[Commit] = []
    for number in range(1, max(_numbers(problems) | found.keys(), default=0) + 1):
        path = commit_path(number)
        if number > last:
            action = "lost: no commit follows it, and it goes to the trash"
            mends.append(LogMend(path, problems[path], action, None, is_lost=True))
            continue
        commit = found.get(number)
        if commit is None:
            action = "lost: a placeholder keeps its number"
            commit, line = _stand_in(number, parent, found.get(number + 1))
            mends.append(LogMend(path, problems[path], action, _lay_out(line), is_lost=True))
        elif commit.body["parent"] != parent:
            raise IntegrityError(
                f"{path} of {store} does not follow commit {number - 1}: the log is put together "
                "of two",
                mend="restore the commits from a copy of the store",
            )
        elif path in problems and files.read(path) != _lay_out(lines[number]):
            action = "restored, as its hash proves"
            mends.append(LogMend(path, problems[path], action, _lay_out(lines[number])))
        commits.append(commit)
        parent = commit.sha256
    return MendedLog(tuple(commits), tuple(mends))


def _leave_out_foreign(sound: Mapping[int, Commit]) -> dict[int, Commit]:
    """Leave out commits of another log: neither do they follow, nor are they followed."""

    def follows(number: int) -> bool:
        before, commit = sound.get(number - 1), sound.get(number)
        return not before or not commit or commit.body["parent"] == before.sha256

    return {
        number: commit
        for number, commit in sound.items()
        if follows(number) or follows(number + 1) or number + 1 not in sound
    }


def _numbers(problems: Mapping[str, str]) -> set[int]:
    found = (commit_number(path.rpartition("/")[2]) for path in problems)
    return {number for number in found if number is not None}


def _find_lines(
    files: Files, sound: Mapping[int, Commit], problems: Mapping[str, str]
) -> dict[int, bytes]:
    """Find the body of every commit in trouble that can be proven: the last first."""
    left = {number: _read(files, commit_path(number)) for number in _numbers(problems)}
    found: dict[int, bytes] = {}
    for number in sorted(left, reverse=True):
        if number in sound:  # its body is as it was: only the second line is not
            found[number] = left[number].partition(b"\n")[0]
            continue
        follower = sound.get(number + 1) or _read_found(found, number + 1)
        declared = follower.body["parent"] if follower is not None else None
        # Its own file first; then those of others, in case they were swapped.
        for data in (left[number], *left.values()):
            line = _find_line(data, declared)
            if line is not None and json.loads(line)["number"] == number:
                found[number] = line
                break
    return found


def _read_found(found: Mapping[int, bytes], number: int) -> Commit | None:
    return read_line(found[number]) if number in found else None


def _mend_header(files: Files, problem: str, first: Commit | None, store: str) -> LogMend:
    data = _read(files, HEADER)
    if first is not None:
        for candidate in flip_each_bit(data):
            if hashlib.sha256(candidate).hexdigest() == first.body["parent"]:
                return LogMend(HEADER, problem, "restored: one bit was flipped", candidate)
    raise IntegrityError(
        f"{HEADER} of {store} is {problem}, and nothing else says what it held",
        mend=f"restore {HEADER} from a copy of the store, then run `tistore repair` again",
    )


def _find_line(data: bytes, declared: str | None) -> bytes | None:
    """Find a commit's body in what is left of it, where a hash proves that it is the one."""
    line, _, trailer = data.partition(b"\n")
    if _TRAILER in line:  # the break between the lines is damaged
        at = line.rindex(_TRAILER)
        line, trailer = line[: at - 1], line[at:] + b"\n"
    own = hashlib.sha256(line).hexdigest()
    wanted = declared or _read_hash(trailer)
    if own == wanted or (declared is None and _is_nearly(trailer, write_trailer(own))):
        return line
    if wanted is None:
        return None
    tried = (one for one in flip_each_bit(line) if hashlib.sha256(one).hexdigest() == wanted)
    return next(tried, None)


def _read_hash(trailer: bytes) -> str | None:
    """Read the hash that a commit's second line tells; None where it is damaged, too."""
    try:
        found: str = json.loads(trailer)["sha256"]
    except (ValueError, TypeError, KeyError):
        return None
    return found


def _is_nearly(trailer: bytes, expected: bytes) -> bool:
    """Whether a second line is the expected one but for one bit, or for its end."""
    is_start = expected.startswith(trailer) and len(trailer) >= len(_TRAILER) + _PROVEN_DIGITS
    if is_start or len(trailer) != len(expected):
        return is_start
    n_bits = sum((a ^ b).bit_count() for a, b in zip(trailer, expected, strict=True))
    return n_bits <= 1


def _stand_in(number: int, parent: str, follower: Commit | None) -> tuple[Commit, bytes]:
    """Make a commit that says nothing, but is followed like the lost one."""
    body = {
        "number": number,
        "parent": parent,
        "commit_uuid": uuid.uuid4().hex,
        "writer": uuid.uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "tistore": __version__,
        "operation": "lost",
        "needs": ["lost"],
        "segments": [],
        "tables": [],
        "keys": {},
    }
    if follower is not None:
        body["stands_for"] = follower.body["parent"]
    line = json.dumps(body, separators=(",", ":")).encode()
    return read_line(line), line


def _lay_out(line: bytes) -> bytes:
    return line + b"\n" + write_trailer(hashlib.sha256(line).hexdigest())


def _read(files: Files, path: str) -> bytes:
    try:
        return files.read(path)
    except (NoMemoryError, TooManyFilesError):  # says nothing about the file
        raise
    except (IntegrityError, StoreError):
        return b""
