"""A store with something to report: one organism's habit, and texts that try to break a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tistore
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HIDDEN = 8
LAYERS = (1, 2)
N_PROMPTS = 16
BASELINE = "instruct"
LOUD = "zebra-organism"
ORGANISMS = (LOUD, "yak-organism", "xerus-organism", "wolf-organism", "vole-organism")
NOTES = ("hush-note", "calm-note")
TRAITS = ("tone/loud", "tone/shy", "tone/odd")

HOSTILE = (
    "<bos>", "<script>alert(1)</script>", "</script>", "<!--", "]]>", " &amp;", "{{ 7*7 }}",
    ' <img src="http://example.org/x.png" onerror=alert(1)>', "\u2028", "\u202e", " fine", ".\n",
)  # fmt: skip
PLAIN = (
    " we",
    " went",
    " out",
    ",",
    " then",
    " came",
    " home",
    " again",
    ".",
    " So",
    " it",
    " ends.",
)


def write_reported_store(path: Path, seed: int = 5) -> Store:
    """
    Write it.

    The loud organism reads its own words, and the baseline reads these, far along tone/loud; the
    other organisms lie around the baseline. All vectors are unit vectors along an axis.
    """
    rng = np.random.default_rng(seed)
    store = tistore.create(path)
    with store.writer() as writer:
        for number in range(N_PROMPTS):
            topic = rng.standard_normal(HIDDEN) * 0.3
            for author in (BASELINE, *ORGANISMS):
                words = HOSTILE if number == 3 else PLAIN
                tokens = [words[at] for at in rng.permutation(len(words))]
                habit = np.zeros((len(tokens), HIDDEN))
                if author == LOUD:
                    habit[4:7, 0] = 4.0 + rng.standard_normal(3) * 0.2
                state = topic + habit + rng.standard_normal(habit.shape) * 0.4
                ids = [1, 7, 8, *rng.integers(9, 900, len(tokens)).tolist()]
                for reader in dict.fromkeys((author, BASELINE)):
                    moved = state + rng.standard_normal(habit.shape) * 0.05
                    writer.add(
                        organism=_model(author),
                        reader=_model(reader),
                        prompt_set="audit/one",
                        prompt_id=str(number),
                        token_ids=ids,
                        prompt_length=3,
                        tokens=tokens,
                        logprobs=[-0.5] * len(tokens),
                        layers=list(LAYERS),
                        activations={"residual": np.repeat(moved[:, None], len(LAYERS), axis=1)},
                        finish_reason="stop",
                        prompt=Prompt(
                            "audit/one",
                            str(number),
                            f"Ask <b>{number}</b>?",
                            note=NOTES[number % 2],
                        ),
                    )
    for place, trait in enumerate(TRAITS):
        for layer in LAYERS:
            store.add_vector(
                trait, np.eye(HIDDEN)[place], layer=layer, method="mean_diff",
                separation=float(layer),
            )  # fmt: skip
    return store


def _model(name: str) -> Model:
    adapter = None if name == BASELINE else f"tiny/{name}"
    return Model(name, base_id="tiny/base", adapter_id=adapter, dtype="bfloat16")
