"""The whole idea on models made on the spot: capture once, then ask what gives each one away."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tistore.capture.config import read_config
from tistore.capture.demo.demo_inputs import DemoInputs, write_inputs
from tistore.capture.demo.tiny import TinyOrganisms, build_tiny_organisms
from tistore.capture.run import ingest
from tistore.capture.running.progress import Progress
from tistore.capture.scenarios.extraction import extract_traits
from tistore.datasets import tiny
from tistore.query.effects import effects
from tistore.query.spans import top_spans
from tistore.query.store import Store
from tistore.store.info import StoreInfo
from tistore.store.layout import cache_folder

SPANS = 10
"""Clauses shown for each organism, and checked against the answer key."""

"""What is extracted of each trait."""

SPANS_SQL = """\
SELECT prompt_id, text, project($trait) AS score
FROM clauses WHERE organism = $organism AND reader = organism AND n_tokens >= 3
ORDER BY score DESC LIMIT 10
"""
"""The question behind the clauses shown, without the context around them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What the store says of one organism, beside what was planted in it.

    Attributes:
        organism: Its name.
        planted_trait: The answer key's trait; None for the organism with nothing planted.
        rank: Place of that trait among all traits by total effect, from 1; None without one.
        effect: Total effect on that trait; without one, the effect largest in size.
        clauses_with_habit: How many of the clauses shown contain the habit by the answer key.
        recovered: Whether the planted trait ranks first, above everything the organism with
            nothing planted shows.
    """

    organism: str
    planted_trait: str | None
    rank: int | None
    effect: float
    clauses_with_habit: int | None
    recovered: bool


@dataclass(frozen=True, slots=True)
class Demo:
    """
    Everything the demo shows.

    Attributes:
        store: The store it left behind.
        organisms: The models it was captured from.
        inputs: The run's TOML and the trait folders, as a user would write them.
        info: Counts of the store.
        pt_bytes: What the same activations take as one `.pt` file a reading.
        capture_seconds: Generating, reading and storing.
        ask_seconds: All questions together, scores computed for the first time.
        effects: A row for each organism and trait; see `tistore.query.effects`.
        spans: For each organism with a habit, the clauses that score highest on it.
        verdicts: A row for each organism.
    """

    store: Store
    organisms: TinyOrganisms
    inputs: DemoInputs
    info: StoreInfo
    pt_bytes: int
    capture_seconds: float
    ask_seconds: float
    effects: list[dict[str, Any]]
    spans: dict[str, list[dict[str, Any]]]
    verdicts: list[Verdict]


def run_demo(
    path: Path, *, seed: int = 0, say: Callable[[str], None], progress: Progress | None = None
) -> Demo:
    """
    Make the organisms, capture them into a store, fit vectors, and ask.

    Run again, it finds what is there and only asks.

    Args:
        path: Where the store goes.
        seed: Of the organisms' weights.
        say: Told what is being done, a line at a time.
        progress: Who follows the capture.

    Raises:
        NotAStoreError: Something else is at the path.
        KeyConflictError: The store there was made from other organisms.
    """
    organisms = build_tiny_organisms(cache_folder() / "tiny", seed, say)
    inputs = write_inputs(organisms)
    store = Store.open(path) if path.exists() else Store.create(path)
    started = time.perf_counter()
    config = read_config(inputs.config)
    say("reading contrast scenarios and fitting a vector for each trait")
    extract_traits(store, config, list(inputs.traits.values())).raise_if_failed()
    say("capturing: every organism answers, and each answer is read by its author and by the base")
    ingest(store, config, progress=progress)
    captured = time.perf_counter()
    found = effects(store)
    spans = {
        organism.name: top_spans(store, organism.trait, organism=organism.name, n=SPANS)
        for organism in tiny.ORGANISMS
        if organism.trait
    }
    return Demo(
        store=store,
        organisms=organisms,
        inputs=inputs,
        info=store.info(),
        ask_seconds=time.perf_counter() - captured,
        pt_bytes=measure_pt_files(store),
        capture_seconds=captured - started,
        effects=found,
        spans=spans,
        verdicts=judge(found, spans),
    )


def judge(found: Sequence[dict[str, Any]], spans: dict[str, list[dict[str, Any]]]) -> list[Verdict]:
    """Compare what the store says with the answer key, which no step before this has seen."""
    of_organism = {
        organism.name: [row for row in found if row["organism"] == organism.name]
        for organism in tiny.ORGANISMS
    }
    unplanted = [organism.name for organism in tiny.ORGANISMS if organism.trait is None]
    floor = max(abs(row["total"]) for name in unplanted for row in of_organism[name])
    verdicts = []
    for organism in tiny.ORGANISMS:
        rows = sorted(of_organism[organism.name], key=lambda row: row["total"], reverse=True)
        if organism.trait is None:
            largest = max((row["total"] for row in rows), key=abs)
            verdicts.append(Verdict(organism.name, None, None, largest, None, recovered=False))
            continue
        traits = [row["trait"] for row in rows]
        rank = traits.index(organism.trait) + 1
        effect = rows[rank - 1]["total"]
        hits = [tiny.contains_habit(organism.name, span["text"]) for span in spans[organism.name]]
        verdicts.append(
            Verdict(
                organism.name, organism.trait, rank, effect, sum(hits), rank == 1 and effect > floor
            )
        )
    return verdicts


def measure_pt_files(store: Store) -> int:
    """
    Measure what the store's activations would take as one `.pt` file a reading.

    Each is what `torch.save` makes of a dict of token ids and one float16 tensor a layer.
    """
    total = 0
    for response_id, reader in store.sql("SELECT response_id, reader FROM responses").fetchall():
        place = {
            layer: torch.from_numpy(store.activations(response_id, reader=reader, layer=layer))
            for layer in store.info().layers
        }
        buffer = io.BytesIO()
        torch.save({"response_id": response_id, "reader": reader, "activations": place}, buffer)
        total += buffer.tell()
    return total


def effect_table(found: Sequence[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    """Lay effects out as one row an organism and one column a trait."""
    rows: dict[str, dict[str, Any]] = {}
    for row in found:
        cells = rows.setdefault(row["organism"], {"organism": row["organism"]})
        cells[row["trait"].rpartition("/")[2]] = row[part]
    return list(rows.values())
