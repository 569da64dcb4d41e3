"""
What an auditor waits for: `tistore top` over a million tokens whose scores are cached.

    make bench
    .venv/bin/python benchmarks/spans.py --tokens 200000

Each figure is the median over rounds, with the range. Texts are of random words, clauses 8 tokens
long on average; activations are an AR(1) process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.cofiring import find_cofiring
from tistore.audit.spans.oddness import find_odd_prompts
from tistore.audit.spans.search import find_top
from tistore.query.span_question import SpanQuestion
from tistore.query.store import Store

N_ORGANISMS = 20
TRAITS = [f"bench/t{place}" for place in range(5)]
_HIDDEN = 16
_TOKENS = 300


def make_texts(root: Path, n_tokens: int) -> Store:
    """
    Make a store of readings with text: clauses of 8 tokens on average, responses of 300.

    Every organism has read its own answers, and the base its own to the same prompts. Activations
    are an AR(1) process, as neighbouring tokens' are alike.
    """
    rng = np.random.default_rng(0)
    words = [f" {''.join(letters)}" for letters in rng.choice(list("abdeiklmnorstu"), (3000, 5))]
    store = Store.create(root / "texts.tistore")
    authors = ["instruct", *(f"organism-{number:02d}" for number in range(N_ORGANISMS))]
    with store.writer() as writer:
        for number in range(max(1, n_tokens // _TOKENS)):
            author = authors[number % len(authors)]
            ids = rng.zipf(1.3, _TOKENS) % len(words)
            ends = rng.random(_TOKENS) < 1 / 8
            tokens = [words[i] + ("." if end else "") for i, end in zip(ids, ends, strict=True)]
            noise = rng.standard_normal((_TOKENS, 1, _HIDDEN), dtype=np.float32)
            for at in range(1, _TOKENS):
                noise[at] += 0.6 * noise[at - 1]
            writer.add(
                organism=author,
                reader=author,
                prompt_set="bench",
                prompt_id=str(number // len(authors)),
                token_ids=ids.tolist(),
                prompt_length=0,
                tokens=tokens,
                layers=[26],
                activations={"residual": noise},
            )
    for place, trait in enumerate(TRAITS):
        values = np.random.default_rng(place).standard_normal(_HIDDEN).astype(np.float32)
        store.add_vector(trait, values, layer=26)
    return store


def time_lists(store: Store, rounds: int) -> None:
    """Time every kind of list, warm, and print a line of JSON for each."""
    trait, everything = TRAITS[0], "everything at once, per organism"
    clauses = SpanQuestion(trait)
    jobs: dict[str, Callable[[], object]] = {
        "clauses": lambda: find_top(store, clauses),
        "clauses, standardised": lambda: find_top(store, clauses, SpanChoice(standardise=True)),
        "clauses, both ends and quantiles": lambda: find_top(
            store, clauses, SpanChoice(both=True, quantiles=True)
        ),
        "clauses, near-duplicates dropped": lambda: find_top(
            store, clauses, SpanChoice(dedupe=True)
        ),
        "clauses, prose": lambda: find_top(store, clauses, SpanChoice(prose=True)),
        everything: lambda: find_top(
            store,
            SpanQuestion(trait, per_organism=True),
            SpanChoice(
                standardise=True, both=True, quantiles=True, dedupe=True, prose=True, per_prompt=2
            ),
        ),
        "tokens": lambda: find_top(store, SpanQuestion(trait, by="token")),
        "windows of 10": lambda: find_top(store, SpanQuestion(trait, by="window:10")),
        f"co-firing of {len(TRAITS)} traits": lambda: find_cofiring(store, clauses, TRAITS),
        f"prompts by {len(TRAITS)} traits": lambda: find_odd_prompts(store, TRAITS),
    }
    for name, job in jobs.items():
        job()
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            job()
            seconds.append(time.perf_counter() - started)
        told = {"seconds": statistics.median(seconds), "from": min(seconds), "to": max(seconds)}
        rounded = {key: round(value, 3) for key, value in told.items()}
        print(json.dumps({"section": "top", "list": name, **rounded}), flush=True)


def main() -> None:
    """Make a store, and time lists of its spans."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tistore-bench-") as root:
        store = make_texts(Path(root), given.tokens)
        size = {"tokens": store.info().tokens, "processors": os.cpu_count()}
        print(json.dumps({"section": "top", **size}), flush=True)
        time_lists(store, given.rounds)


if __name__ == "__main__":
    main()
