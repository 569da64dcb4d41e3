"""
The damage campaign: every type of file, harmed in every way, found by `verify` and by reading.

What is harmed is put back, and the store must be sound again. `run` does thousands; the tests a
few hundred.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tistore
from durability.every_file import CACHED, TALK, Sound, make_sound, write_bundle, write_every_file
from durability.harm import MANY, WAYS, NotHarmedError
from durability.questions import QUICK, Question, ask_everything, list_questions, list_reads
from durability.table import Row, make_row
from tistore.errors import TistoreError
from tistore.store.layout import commit_number, commit_path
from tistore.store.posix import PosixFiles
from tistore.store.verifying.verify import VerifyReport, verify_store

TORTURE_DAMAGES = 15_000
"""What `run` does at scale 1."""

_ASK_EVERY = 12
"""A question takes fifty times as long as a plain read: it is put after every so many damages."""


@dataclass(frozen=True, slots=True)
class Damage:
    """
    Something done to a store.

    Attributes:
        how: One of `WAYS`.
        paths: Files that are no longer what was committed.
    """

    how: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        """Name it in a finding."""
        return f"{self.how} of {', '.join(self.paths)}"


class Campaign:
    """
    Damages to one store, each examined and put right.

    Args:
        sound: The store.
        questions: What is asked of it.

    Attributes:
        n_refused: Reads and questions that were answered with an error rather than as before.
    """

    def __init__(self, sound: Sound, questions: dict[str, Question]) -> None:
        self._sound = sound
        self._reads = list_reads()
        self._questions = questions
        self._answers, self._readers = ask_everything(sound, self._reads | questions)
        self.n_refused = 0
        self._verify()  # remembers which commit is the last

    @property
    def path(self) -> Path:
        """Where the store lies."""
        return self._sound.path

    @property
    def types(self) -> dict[str, list[str]]:
        """The types of files, each with its paths."""
        return self._sound.types

    @property
    def unread(self) -> list[str]:
        """Files that no question reads: that they are believed could not be seen."""
        return [path for path, readers in self._readers.items() if not readers]

    def read(self, path: str) -> bytes:
        """Read what a file should hold."""
        return self._sound.files[path]

    @contextmanager
    def holding(self, path: str, data: bytes) -> Iterator[None]:
        """Let a file hold something else while the block runs."""
        (self.path / path).write_bytes(data)
        try:
            yield
        finally:
            self._sound.restore(path)

    def harm(self, how: str, path: str, rng: np.random.Generator, *, asks: bool) -> list[str]:
        """
        Damage a file, examine the store, put the file back.

        Args:
            how: One of `WAYS`.
            path: The file.
            rng: Where and how much.
            asks: Whether a question is put too, and not only the plain reads.

        Returns:
            What went wrong: nothing, if the store kept its promise.

        Raises:
            NotHarmedError: That way does nothing to that file.
        """
        sound = self._sound
        if path in sound.types.get(CACHED, []):
            sound.restore_cached()
        else:
            sound.forget_cached()
        touched: tuple[str, ...] = (path,)
        try:
            touched = WAYS[how](sound, path, rng)
            damage = Damage(how, touched)
            return [f"{damage}: {finding}" for finding in self._examine(damage, rng, asks)]
        finally:
            for one in touched:
                sound.restore(one)

    def is_sound_again(self) -> bool:
        """Whether every byte is right, and every answer what it was."""
        self._sound.forget_cached()
        if not self._verify().ok:
            return False
        return all(
            question(tistore.open(self._sound.path)) == self._answers[name]
            for name, question in self._reads.items()
        )

    def _examine(self, damage: Damage, rng: np.random.Generator, asks: bool) -> Iterator[str]:
        types = {name for name, paths in self.types.items() if damage.paths[0] in paths}
        yield from self._require_named(() if types & {CACHED, *TALK} else damage.paths)
        readers = [name for path in damage.paths for name in self._readers[path]]
        reads = [name for name in readers if name in self._reads]
        questions = [name for name in readers if name in self._questions]
        # Header and commits are read by every one of them.
        chosen = reads if len(reads) < 5 else list(rng.choice(reads, 3, replace=False))
        if questions and (asks or not reads):
            chosen.append(str(rng.choice(questions)))
        # Without its newest commit, a store is what it was before; only `verify` can know better.
        is_shorter = damage == Damage("deletion", (self._sound.newest_commit,))
        may_differ = bool(types & TALK) or is_shorter
        for name in dict.fromkeys(chosen):
            yield from self._require_sound_or_error(name, may_differ=may_differ)

    def _verify(self) -> VerifyReport:
        return verify_store(self._sound.path, PosixFiles(self._sound.path), jobs=1)

    def _require_named(self, paths: Collection[str]) -> Iterator[str]:
        """`verify` names these files; and no others, unless another log's commit names them."""
        try:
            named = {problem.path for problem in self._verify().problems}
        except Exception as error:
            yield f"verify raised {error!r}"
            return
        is_log = any(path.startswith("commits/") for path in paths)
        # Of two commits that do not follow each other, each sound by itself, either may be named.
        is_named = named & _near(paths) if is_log else named == set(paths)
        if not is_named:
            yield f"verify names {sorted(named) or 'nothing'}"

    def _require_sound_or_error(self, name: str, *, may_differ: bool) -> Iterator[str]:
        question = (self._reads | self._questions)[name]
        try:
            answer = question(tistore.open(self._sound.path))
        except TistoreError:
            self.n_refused += 1
        except Exception as error:
            yield f"{name} raised {error!r}"
        else:
            if answer != self._answers[name] and not may_differ:
                yield f"{name} is answered wrongly"


def make_campaign(folder: Path, *, is_bundle: bool = False, is_quick: bool = False) -> Campaign:
    """
    Write the stores of a campaign: the one to be harmed, and another of its kind.

    Args:
        folder: Where.
        is_bundle: Whether they are bundles of scores.
        is_quick: Put only some of the questions; every file is read all the same.
    """
    folder.mkdir(exist_ok=True)
    stores = []
    for seed in (3, 4):
        store = write_every_file(folder / f"store{seed}", seed)
        if is_bundle:
            store = write_bundle(store, folder / f"bundle{seed}")
            store.sql("SELECT avg(project('flattery')) FROM tokens").fetchall()
        stores.append(store.path)
    questions = list_questions(is_bundle=is_bundle)
    if is_quick:
        questions = {name: one for name, one in questions.items() if name in QUICK}
    return Campaign(make_sound(*stores), questions)


def _near(paths: Collection[str]) -> set[str]:
    """Commits, and those after them."""
    numbers = [number for path in paths if (number := commit_number(Path(path).name))]
    return {commit_path(number + offset) for number in numbers for offset in (0, 1)}


def carry_out(
    campaign: Campaign, n_damages: int, seed: int, say: Callable[[str], Any] = lambda line: None
) -> tuple[Counter[str], list[str]]:
    """
    Damage files of every type in turn: flips and truncations mostly, the other ways as well.

    Returns:
        How many damages of each way were done, and what went wrong.
    """
    rng = np.random.default_rng(seed)
    names = sorted(campaign.types)
    ways = [*MANY * 6, *(way for way in WAYS if way not in MANY)]
    done: Counter[str] = Counter()
    findings: list[str] = []
    for number in range(n_damages):
        paths = campaign.types[names[number % len(names)]]
        path = str(rng.choice(paths))
        how = str(rng.choice(ways))
        try:
            found = campaign.harm(how, path, rng, asks=number % _ASK_EVERY == 0)
        except NotHarmedError:
            continue
        done[how] += 1
        findings += found
        if number % 1000 == 999:
            say(f"{number + 1:,} damages, {len(findings)} findings")
    return done, findings


def run(scale: float, say: Callable[[str], Any], seed: int = 0) -> Row:
    """Damage a store and a bundle some ten thousand times."""
    done: Counter[str] = Counter()
    findings: list[str] = []
    types: set[str] = set()
    n_refused = 0
    with own_folder() as folder:
        for is_bundle, share in ((False, 0.75), (True, 0.25)):
            campaign = make_campaign(folder / f"bundle-{is_bundle}", is_bundle=is_bundle)
            n_damages = int(TORTURE_DAMAGES * scale * share)
            ways, broken = carry_out(campaign, n_damages, 2 * seed + is_bundle, say)
            if not campaign.is_sound_again():
                broken.append("the store is not sound after everything was put back")
            done += ways
            findings += broken
            types |= campaign.types.keys()
            n_refused += campaign.n_refused
    n_flips = sum(done[how] for how in MANY)
    notes = (
        f"{n_flips:,} of them flips and truncations, of {len(types)} types of files; "
        f"{n_refused:,} reads were refused, the others answered as before"
    )
    return make_row(
        "damaged files", done.total(), {"lost": [], "partial": [], "wrong": findings}, notes, say
    )


@contextmanager
def own_folder() -> Iterator[Path]:
    """Give a folder that goes again, with the cache that `verify` remembers its passes in."""
    before = os.environ.get("TISTORE_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="tistore-damage-") as folder:
        os.environ["TISTORE_CACHE_DIR"] = f"{folder}/cache"
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["TISTORE_CACHE_DIR"]
            else:
                os.environ["TISTORE_CACHE_DIR"] = before
