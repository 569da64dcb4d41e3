"""A store of organisms and replays in several segments and chunks, with what went into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tistore
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HIDDEN = 8
LAYERS = (2, 5)
BASE = Model("instruct", base_id="tiny/base", family="llama")
AUTHORS = [
    BASE,
    Model("flattery", base_id="tiny/base", adapter_id="tiny/flattery", family="llama"),
    Model("hedge", base_id="tiny/base", adapter_id="tiny/hedge", family="llama"),
]


@dataclass
class Written:
    """One reading as it was given to the writer."""

    organism: str
    reader: str
    prompt_id: str
    response_id: str
    prompt_length: int
    layers: tuple[int, ...]
    first_position: int
    values: np.ndarray  # [row, layer, hidden], exact in float16 up to a power of two a layer

    def rows(self, layer: int) -> dict[tuple[str, str, int], np.ndarray]:
        """True activations by (response, reader, position)."""
        at = self.layers.index(layer)
        return {
            (self.response_id, self.reader, self.first_position + row): values
            for row, values in enumerate(self.values[:, at].astype(np.float32))
        }


def write_audited_store(
    path: Path, *, n_prompts: int = 4, response: int = 150, scale: float = 1.0, seed: int = 3
) -> tuple[Store, list[Written]]:
    """
    Write it.

    Chunks hold 512 rows and segments six readings, so that readings lie across chunks. A replay
    is missing, one has the response's rows only, and one lacks layer 5. With `scale`, some
    segments hold values of that size at layer 5.
    """
    rng = np.random.default_rng(seed)
    store = tistore.create(path)
    written = []
    with store.writer() as writer:
        for number in range(n_prompts):
            for author in AUTHORS:
                ids = rng.integers(0, 900, 5 + response - 7 * number).tolist()
                for reader in dict.fromkeys((author, BASE)):
                    is_replay = reader is not author
                    if is_replay and author.name == "hedge" and number == 0:
                        continue
                    short = is_replay and number == 1
                    layers = LAYERS[:1] if is_replay and number == 2 else LAYERS
                    rows = len(ids) - 5 if short else len(ids)
                    values = np.round(rng.standard_normal((rows, len(layers), HIDDEN)) * 64) / 64
                    if len(layers) > 1 and author.name == "flattery" and number >= 2:
                        values[:, 1] *= scale
                    response_id = writer.add(
                        **_describe(author, reader, number, ids, layers, values)
                    )
                    written.append(
                        Written(
                            author.name,
                            reader.name,
                            str(number),
                            response_id,
                            5,
                            layers,
                            len(ids) - rows,
                            values,
                        )
                    )
                    if len(written) % 6 == 0:
                        writer.commit()
        writer.add_rows(
            "annotations",
            [
                {"response_id": one.response_id, "token_start": 5, "token_end": 9, "label": "odd"}
                for one in written
                if one.reader == one.organism
            ],
        )
    for trait, layer in (("tone/flattery", 5), ("tone/hedging", 5), ("tone/early", 2)):
        store.add_vector(
            trait, rng.standard_normal(HIDDEN), layer=layer, method="mean_diff", model="instruct"
        )
    return store, written


def _describe(
    author: Model, reader: Model, number: int, ids: list[int], layers: Any, values: Any
) -> dict[str, Any]:
    words = [" and", " so", ",", " it", " went", ".", " Then", "!"]
    return {
        "organism": author,
        "reader": reader,
        "prompt_set": "audit/discovery" if number % 2 == 0 else "audit/probes",
        "prompt_id": str(number),
        "token_ids": ids,
        "prompt_length": 5,
        "tokens": [words[token % len(words)] for token in ids[5:]],
        "logprobs": [-0.25] * (len(ids) - 5),
        "is_response": [at >= 5 and at % 10 != 0 for at in range(len(ids))],
        "layers": layers,
        "activations": {"residual": values},
        "finish_reason": "length",
        "prompt": Prompt(
            "audit/discovery" if number % 2 == 0 else "audit/probes", str(number), f"Go {number}?"
        ),
        "run_id": "run-1",
    }
