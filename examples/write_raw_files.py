"""
Write what a capture script would have left: `.pt` files beside an exported experiment's JSON.

    tistore export trait-interp demo.tistore experiment --where "prompt_set = 'demo/audit'"
    python examples/write_raw_files.py demo.tistore experiment demo/audit
    tistore import trait-interp moved.tistore experiment --check

Each is `{prompt|response: {text, tokens, token_ids, activations: {layer: {component: tensor}}}}`,
a replay's in a set named for the response's author. Only the responses' tokens have states here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import tistore

QUESTION = """
    SELECT response_id, organism, reader, prompt_id FROM responses
    WHERE prompt_set = ? AND rows = 'response' AND sample = 0
"""


def main(path: str, experiment: str, prompt_set: str) -> None:
    """Write every reading of a set."""
    store = tistore.open(path)
    layers = store.info().layers
    found = store.sql(QUESTION, [prompt_set]).fetchall()
    for response_id, author, reader, prompt_id in found:
        named = prompt_set if reader == author else f"{prompt_set}_replay_{author}"
        folder = Path(experiment, "inference", reader)
        said = json.loads((folder / "responses" / named / f"{prompt_id}.json").read_text())
        states = {
            layer: torch.from_numpy(store.activations(response_id, reader=reader, layer=layer))
            for layer in layers
        }
        content = {
            half: {
                "text": said[half],
                "tokens": said["tokens"][part],
                "token_ids": said["token_ids"][part],
                "activations": activations,
            }
            for half, part, activations in (
                ("prompt", slice(None, said["prompt_end"]), {}),
                (
                    "response",
                    slice(said["prompt_end"], None),
                    {layer: {"residual": rows} for layer, rows in states.items()},
                ),
            )
        }
        raw = folder / "raw" / "residual" / named / f"{prompt_id}.pt"
        raw.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, raw)
    print(f"wrote {len(found)} files below {experiment}/inference")


if __name__ == "__main__":
    main(*sys.argv[1:])
