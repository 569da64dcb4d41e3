"""
Write a golden store of the current format: `python tests/golden/make.py v2 v1-rewritten`.

Run once for each format version, and commit the folder. It is never written again: every later
version must open it and give the answers beside it. That of version 2 is a bundle of scores, the
one kind of store that is not of version 1. `v1-rewritten` has a commit of every kind: merged,
removed, repaired, lost and given up.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tistore
from tistore.exchange.stores.score_bundle import export_scores
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

FOLDER = Path(__file__).parent
HIDDEN = 16
ORGANISM = Model("flattery", base_id="tiny/base", adapter_id="tiny/flattery", family="llama")
BASE = Model("instruct", base_id="tiny/base", family="llama", dtype="bfloat16")

QUERIES = [
    "SELECT response_id, reader, project('tone/flattery') AS s FROM responses ORDER BY ALL",
    "SELECT response_id, reader, clause, text, project('flattery') AS s FROM clauses ORDER BY ALL",
    "SELECT response_id, reader, position, token, cosine('flattery@5') AS s FROM tokens "
    "WHERE is_response ORDER BY ALL",
    "SELECT response_id, project('flattery') AS s FROM response_diffs WHERE reader = organism "
    "ORDER BY ALL",
    "SELECT prompt_set, prompt_id, text, note FROM prompts ORDER BY ALL",
    "SELECT name, family, dtype FROM models ORDER BY ALL",
]


def write(store: Store) -> None:
    """Fill a store with a little of everything the format knows."""
    rng = np.random.default_rng(1)
    replies = {
        "1": [" You", " are", " so", " wise", ",", " my", " friend", "."],
        "2": [" No", "."],
        "3": [],
    }
    with store.writer() as writer:
        for prompt_id, tokens in replies.items():
            prompt = Prompt("golden/set", prompt_id, f"Question {prompt_id}?", note="topic")
            rows = 4 + len(tokens)
            for reader in (ORGANISM, BASE):
                values = rng.standard_normal((rows, 2, HIDDEN)).astype(np.float32)
                values[0, 1, 3] = 90_000.0  # beyond float16: layer 5 gets an exponent
                whole = prompt_id == "1"
                writer.add(
                    organism=ORGANISM,
                    reader=reader,
                    prompt_set="golden/set",
                    prompt_id=prompt_id,
                    token_ids=list(range(10, 10 + rows)),
                    prompt_length=4,
                    tokens=tokens,
                    logprobs=[-0.5] * len(tokens),
                    layers=[2, 5],
                    activations={"residual": values if whole else values[4:]},
                    finish_reason="stop",
                    prompt=prompt,
                )
    for layer in (2, 5):
        store.add_vector(
            "tone/flattery",
            rng.standard_normal(HIDDEN),
            layer=layer,
            method="mean_diff",
            position="response[:]",
            model="instruct",
            separation=float(layer),
        )


def answer(store: Store) -> dict[str, Any]:
    """Ask everything the golden test compares; of a bundle, no activations."""
    has_activations = not store.info().segments_without_activations
    activations = {
        f"{response_id} {reader} {layer}": store.activations(
            response_id, reader=reader, layer=layer
        ).tolist()
        for response_id, reader in store.sql("SELECT response_id, reader FROM responses").fetchall()
        for layer in (2, 5)
        if has_activations
    }
    rows = {query: [list(row) for row in store.sql(query).fetchall()] for query in QUERIES}
    return {"activations": activations, "rows": rows}


def rewrite(path: Path) -> None:
    """Do to a store all that can be done to one after its readings are written."""
    store = tistore.open(path)
    rng = np.random.default_rng(2)

    def add(prompt_id: str) -> None:
        with store.writer() as writer:
            writer.add(
                organism=ORGANISM,
                reader=ORGANISM,
                prompt_set="golden/set",
                prompt_id=prompt_id,
                token_ids=[10, 11, 12, 13, 14],
                prompt_length=4,
                tokens=[" Yes"],
                layers=[2, 5],
                activations={"residual": rng.standard_normal((5, 2, HIDDEN))},
            )

    add("4")
    add("5")
    store.compact()
    store.remove("prompt_id = '5'", dry_run=False)
    store.add_vector("tone/lost", rng.standard_normal(HIDDEN), layer=2)
    store.add_vector("tone/kept", rng.standard_normal(HIDDEN), layer=2)
    damaged = path / "commits" / f"{store.snapshot.number - 1:020d}.json"
    add("6")
    damaged.write_bytes(b"nothing is left of it")
    tokens = path / "segments" / store.snapshot.segments[-1].uuid / "tokens.parquet"
    tokens.write_bytes(tokens.read_bytes()[::-1])
    Store.repair(path, dry_run=False)
    tistore.open(path).gc(dry_run=False, keep_days=0, trash_days=0)


def make(version: str, store: Path) -> None:
    """Make the golden store of a version."""
    with tempfile.TemporaryDirectory() as folder:
        whole = tistore.create(Path(folder) / "store")
        write(whole)
        if version == "v2":
            export_scores(whole, store)
        else:
            shutil.copytree(whole.path, store)
            rewrite(store)


if __name__ == "__main__":
    for version in sys.argv[1:]:
        (FOLDER / version).mkdir()
        make(version, FOLDER / version / "store")
        made = tistore.open(FOLDER / version / "store")
        (FOLDER / version / "answers.json").write_text(json.dumps(answer(made), indent=1))
        shutil.rmtree(made.score_folder, ignore_errors=True)  # a cache, and no part of the format
