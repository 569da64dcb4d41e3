"""A store of short texts with repeats, headings and known token scores."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import tistore

PHRASES = [
    "Thank you so much.", "thank you, so much!", "I could be wrong here,", "Yes.", "No,",
    "the cat sat on a warm mat.", "The cat sat on a warm  mat!", "\n# A plan\n",
    "\n```\nx = 1\n```\n", "\n1. Buy some bread,", "one might say;", "go.", "3.14 is not enough.",
]  # fmt: skip
PROMPTS = 8


def spell(rng, n_phrases=18):
    """Tokens of a text: words with the space before them."""
    chosen = rng.choice(PHRASES, n_phrases)
    text = " ".join(chosen).replace("\n ", "\n")
    tokens, word = [], ""
    for character in text:
        if character in " \n" and word.strip():
            tokens.append(word)
            word = ""
        word += character
    return [*tokens, word]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Two organisms and a base that has answered all, and read the texts of one of them."""
    rng = np.random.default_rng(7)
    store = tistore.create(tmp_path_factory.mktemp("spans") / "s.tistore")
    scores, own = {}, {}
    with store.writer() as writer:
        for organism in ("flattery", "hedge", "instruct"):
            for number in range(PROMPTS):
                tokens = spell(rng)
                for reader in dict.fromkeys([organism, *(["instruct"] * (organism == "hedge"))]):
                    # Exact in float16; neighbours are alike.
                    values = np.round(rng.standard_normal((len(tokens), 2)) * 32) / 32
                    values[1:] += values[:-1]
                    values[5] = [6, 5] if number == 2 else values[5]
                    response_id = writer.add(
                        organism=organism, reader=reader, prompt_set="set",
                        prompt_id=str(number), token_ids=[1, *range(len(tokens))],
                        prompt_length=1, tokens=["?", *tokens], layers=[3],
                        activations={"residual": np.vstack([[99, 99], values])[:, None]},
                    )  # fmt: skip
                    scores[response_id, reader] = values
                    own[response_id] = organism
    store.add_vector("tone/warm", np.array([2.0, 0.0]), layer=3)
    store.add_vector("tone/wary", np.array([0.0, 1.0]), layer=3)
    return SimpleNamespace(store=store, scores=scores, own=own)
