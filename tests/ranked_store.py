"""A store of six organisms and their base, two of which do something of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tistore
from tistore.query.noise import name_again
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HIDDEN, LAYER = 4, 3
N_PROMPTS, PROMPT_LENGTH, N_TOKENS = 24, 3, 18
BASE = Model("instruct", base_id="tiny")
ORGANISMS = ("loud-a", "loud-b", "plain-a", "plain-b", "ramp-a", "shy-a")
TRAITS = ("tone/loud", "tone/rising", "tone/other")


def write_ranked_store(
    path: Path, *, seed: int = 0
) -> tuple[Store, dict[tuple[str, str, str], np.ndarray]]:
    """
    Write it; loud organisms score high on the first trait, ramp-a rises along the second.

    Even prompts are answered in three turns, and bear the note "even". Some of loud-a's responses
    are read twice.

    Returns:
        The store, and (organism, reader, prompt id) → what was written: (token, hidden) float16.
    """
    rng = np.random.default_rng(seed)
    store = tistore.create(path)
    written = {}
    models = [BASE, *(Model(name, base_id="tiny", adapter_id=name) for name in ORGANISMS)]
    with store.writer() as writer:
        for author in models:
            for number in range(1, N_PROMPTS + 1):
                ids = rng.integers(0, 900, N_TOKENS).tolist()
                readers = [author] if author is BASE else [author, BASE]
                if author.name == "loud-a" and number <= 4:
                    readers.append(Model(name_again("loud-a"), base_id="tiny", adapter_id="loud-a"))
                for reader in readers:
                    values = rng.standard_normal((N_TOKENS, HIDDEN)) * 0.3
                    if reader.name.startswith("loud"):
                        values[:, 0] += 4
                    if reader.name == "ramp-a":
                        values[:, 1] += np.linspace(-3, 3, N_TOKENS)
                    values = values.astype(np.float16)
                    written[author.name, reader.name, str(number)] = values
                    writer.add(
                        organism=author,
                        reader=reader,
                        prompt_set="audit/ranked",
                        prompt_id=str(number),
                        token_ids=ids,
                        prompt_length=PROMPT_LENGTH,
                        turns=turns_of(number),
                        is_response=is_response(number),
                        layers=[LAYER],
                        activations={"residual": values[:, None]},
                        prompt=Prompt(
                            "audit/ranked", str(number), "Go?", note="odd" if number % 2 else "even"
                        ),
                    )
    for place, trait in enumerate(TRAITS):
        store.add_vector(trait, np.eye(HIDDEN)[place] * 2, layer=LAYER, method="mean_diff")
    return store, written


def turns_of(number: int) -> list[int]:
    """Turn of each token: a prompt and one answer, or three answers with a question between."""
    if number % 2:
        return [0] * PROMPT_LENGTH + [1] * (N_TOKENS - PROMPT_LENGTH)
    return [0] * 3 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 1 + [5] * 4


def is_response(number: int) -> list[bool]:
    """Which tokens are the organism's own."""
    return [turn % 2 == 1 for turn in turns_of(number)]
