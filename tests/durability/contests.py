"""
Contests: writers that contradict each other at the same moment. One is told yes, all others no.

    python -m durability.contests '{"writers": 8, "rounds": 8}'       in tests/
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from durability.acknowledgements import Findings
from durability.forked import ask, warm_up
from durability.made import Made
from durability.races import OWN_SEEDS, Racer, ask_for_findings, check_log
from example_readings import HIDDEN, LAYERS, make_reading
from tistore.errors import KeyConflictError
from tistore.schemas.prompt import Prompt
from tistore.schemas.vector import Vector
from tistore.store.base import BaseStore
from tistore.store.writer import Writer

WON, REFUSED = "won", "refused"


@dataclass(frozen=True, slots=True)
class Contest:
    """
    Something that every writer of a round wants to be otherwise.

    A contest is over a reading's activations, over the tokens of a slot, over a vector's values
    or over a prompt's text, in turn.

    Attributes:
        turn: Which round.
    """

    turn: int

    @property
    def kind(self) -> str:
        """What it is over."""
        return ("activations", "tokens", "vector", "prompt")[self.turn % 4]

    def add(self, writer: Writer, variant: int) -> None:
        """Give a writer its own variant, to be committed."""
        if self.kind == "vector":
            vector = Vector(trait=self._name, values=self._direction(variant), layer=LAYERS[0])
            writer.add_rows("vectors", [vector.to_row()])
        elif self.kind == "prompt":
            prompt = Prompt("contests", self._name, text=str(variant))
            writer.add_rows("prompts", [prompt.to_row()])
        else:
            writer.add(**self._reading(variant))

    def find(self, store: BaseStore, n_variants: int) -> list[int]:
        """List the variants that a store holds; one, if all is well."""
        return [
            variant for variant in range(n_variants) for _ in range(self._count(store, variant))
        ]

    def _count(self, store: BaseStore, variant: int) -> int:
        snapshot = store.snapshot
        if self.kind == "vector":
            wanted = self._direction(variant)
            named = [one for one in snapshot.vectors() if one.trait == self._name]
            return sum(np.array_equal(one.values, wanted) for one in named)
        if self.kind == "prompt":
            rows = snapshot.table("prompts").to_pylist()
            wanted_row = (self._name, str(variant))
            return sum((row["prompt_id"], row["text"]) == wanted_row for row in rows)
        return sum(
            row["token_ids"] == self._reading(variant)["token_ids"]
            and self._holds(store, row, variant)
            for segment in snapshot.segments
            for row in segment.table("responses").to_pylist()
            if row["prompt_id"] == self._name
        )

    def _holds(self, store: BaseStore, row: dict[str, Any], variant: int) -> bool:
        wanted = self._reading(variant)["activations"]["residual"].astype(np.float16)
        return all(
            np.array_equal(
                store.activations(row["response_id"], reader=row["reader"], layer=layer),
                wanted[:, place],
            )
            for place, layer in enumerate(LAYERS)
        )

    @property
    def _name(self) -> str:
        return f"contest/{self.turn}"

    def _direction(self, variant: int) -> Any:
        return np.random.default_rng([self.turn, variant]).standard_normal(HIDDEN, np.float32)

    def _reading(self, variant: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.turn, variant])
        own = {"activations": {"residual": rng.standard_normal((5, len(LAYERS), HIDDEN))}}
        if self.kind == "tokens":
            own["token_ids"] = rng.integers(0, 1000, 7).tolist()
        return make_reading(self.turn, prompt_set="contests", prompt_id=self._name, **own)


def contend(folder: Path, writers: int, rounds: int) -> dict[str, Any]:
    """
    Let writers contradict each other, round after round, then look who was told what.

    Every commit holds a reading of the writer's own, too, which is committed either way.
    """
    store = folder / "s.tistore"
    ask(lambda: BaseStore.create(store).path)
    together = multiprocessing.get_context("fork").Barrier(writers)
    racing = [
        Racer.start(
            folder / f"writer-{number}", partial(take_part, store, rounds, number, together)
        )
        for number in range(writers)
    ]
    findings = Findings()
    for racer in racing:
        findings += racer.end()
    told = [(racer.folder / "told").read_text().split() for racer in racing]
    findings += ask_for_findings(lambda: check_log(store))
    findings += ask_for_findings(lambda: check_contests(store, told))
    return {
        "contests": rounds,
        "refused": sum(answers.count(REFUSED) for answers in told),
        "lost": findings.lost,
        "partial": findings.partial,
        "wrong": findings.wrong,
    }


def take_part(store: Path, rounds: int, number: int, together: Barrier, folder: Path) -> None:
    """Commit one's own variant of every contest at the moment that all the others do."""
    with (folder / "told").open("a", buffering=1) as told, BaseStore.open(store).writer() as writer:
        for turn in range(rounds):
            Contest(turn).add(writer, number)
            writer.add(**Made("reading", (number + 1) * OWN_SEEDS + turn).arguments())
            together.wait()
            try:
                writer.commit()
                told.write(f"{WON}\n")
            except KeyConflictError:
                told.write(f"{REFUSED}\n")


def check_contests(path: Path, told: list[list[str]]) -> Findings:
    """Hold a store against what each writer was told in each round."""
    store = BaseStore.open(path)
    damaged = store.verify(strict=False).problems
    findings = Findings(partial=tuple(f"{file.path}: {file.problem}" for file in damaged))
    for turn in range(len(told[0])):
        winners = [number for number, answers in enumerate(told) if answers[turn] == WON]
        found = Contest(turn).find(store, len(told))
        if len(winners) != 1 or found != winners:
            what = (
                f"{Contest(turn).kind} of round {turn}: {winners} were told yes, {found} is there"
            )
            findings += Findings(wrong=(what,))
    rows = [
        row
        for segment in store.snapshot.segments
        for row in segment.table("responses").to_pylist()
        if row["prompt_set"] != "contests"
    ]
    there = sorted(Made.of(row) for row in rows)
    wanted = sorted(
        Made("reading", (number + 1) * OWN_SEEDS + turn)
        for number, answers in enumerate(told)
        for turn in range(len(answers))
    )
    lost = tuple(str(made) for made in wanted if made not in there)
    twice = () if len(there) == len(set(there)) else ("own readings are there twice",)
    return findings + Findings(lost=lost, wrong=twice)


def rehearse(folder: Path) -> None:
    """Do everything once, for what it makes Python load."""
    store = BaseStore.create(folder / "s.tistore").path
    together = multiprocessing.get_context("fork").Barrier(1)
    take_part(store, 4, 0, together, folder)
    check_log(store)
    check_contests(store, [[WON] * 4]).raise_if_broken()


def main(writers: int, rounds: int) -> dict[str, Any]:
    """Contend in a scratch folder."""
    warm_up(rehearse)
    with tempfile.TemporaryDirectory() as scratch:
        return contend(Path(scratch), writers, rounds)


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
