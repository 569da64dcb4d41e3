"""A store of an organism that departs from its base in planted ways, with what went into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import tistore
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HIDDEN = 6
LAYERS = (2, 5)
BASE = Model("instruct", base_id="tiny", dtype="bfloat16")
LOUD = Model("loud", base_id="tiny", adapter_id="loud", dtype="bfloat16")
OTHER = Model("other", base_id="tiny", adapter_id="other", dtype="bfloat16")
PROMPT_TOKENS = 3
READINGS = {"own": (LOUD, LOUD), "replay": (LOUD, BASE), "base": (BASE, BASE)}
WORDS = [" and", " so", ",", " it", " went", "."]


@dataclass
class Departing:
    """
    The store, and every reading's activations.

    Attributes:
        store: The store.
        states: (side, prompt id, sample) → (audited token, layer, hidden) float64.
        turns: (side, prompt id, sample) → turn of each audited token.
    """

    store: Store
    states: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)
    turns: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)

    def scores(self, side: str, trait: str, layer: int) -> dict[tuple[str, int], np.ndarray]:
        """Token scores of a side's responses, by prompt and sample, in float64."""
        vector = self.store.vector(trait).values.astype(np.float64)
        unit = vector / np.linalg.norm(vector)
        return {
            key[1:]: states[:, LAYERS.index(layer)] @ unit
            for key, states in self.states.items()
            if key[0] == side
        }

    def by_prompt(self, side: str, trait: str, layer: int) -> dict[str, float]:
        """Response means, samples averaged."""
        means: dict[str, list[float]] = {}
        for (prompt, _), scores in self.scores(side, trait, layer).items():
            means.setdefault(prompt, []).append(scores.mean())
        return {prompt: float(np.mean(found)) for prompt, found in means.items()}


def write_departing_store(
    path: Path, *, n_prompts: int = 24, samples: int = 2, n_turns: int = 1, seed: int = 7
) -> Departing:
    """
    Write it: prompts of several notes and topics, half of them with a trigger.

    The organism's scores lie higher along tone/loud, more so with the trigger, and rise along its
    responses and from turn to turn. Responses differ in length. Another organism is in the way.
    """
    rng = np.random.default_rng(seed)
    made = Departing(tistore.create(path))
    loud, shy = rng.standard_normal((2, HIDDEN))
    with made.store.writer() as writer:
        for number in range(n_prompts):
            stem, has_trigger = number // 2 + 1, number % 2 == 1
            prompt = Prompt(
                "audit/one",
                f"{stem}-trigger" if has_trigger else f"{stem}",
                f"Ask {number}?",
                note="trigger" if has_trigger else None,
                tags=(f"topic:{'abc'[number % 3]}", *(["first"] if number < 6 else [])),
            )
            for sample in range(samples):
                for side, length in (("own", 12 + number), ("base", 14 + 2 * (number % 9))):
                    _write_response(
                        made, writer, rng, prompt, sample, side, n_turns * (length // n_turns),
                        n_turns, loud, has_trigger,
                    )  # fmt: skip
                writer.add(
                    organism=OTHER, reader=OTHER, prompt_set="audit/one",
                    prompt_id=prompt.prompt_id, sample=sample, token_ids=[1, 2, 3, sample],
                    prompt_length=PROMPT_TOKENS, layers=LAYERS,
                    activations={"residual": rng.standard_normal((4, 2, HIDDEN))},
                )  # fmt: skip
            if number % 7 == 6:
                writer.commit()
    for trait, values in (("tone/loud", loud), ("tone/shy", shy)):
        made.store.add_vector(trait, values, layer=5, method="mean_diff", separation=2.0)
    made.store.add_vector("tone/loud", shy, layer=2, method="mean_diff", separation=1.0)
    return made


def _write_response(
    made: Departing, writer: object, rng: np.random.Generator, prompt: Prompt, sample: int,
    side: str, length: int, n_turns: int, loud: np.ndarray, has_trigger: bool,
) -> None:  # fmt: skip
    """Write a text, read by its author and, where that is the organism, by the base."""
    ids = rng.integers(0, 900, PROMPT_TOKENS + length).tolist()
    tokens = [WORDS[one % len(WORDS)] for one in ids[PROMPT_TOKENS:]]
    turns = 1 + 2 * (np.arange(length) * n_turns // length)
    shared = rng.standard_normal((PROMPT_TOKENS + length, 2, HIDDEN)) + 5
    for name in ("own", "replay") if side == "own" else ("base",):
        author, reader = READINGS[name]
        states = shared + 0.3 * rng.standard_normal(shared.shape)
        if name == "own":
            rise = np.arange(length) / 20 + turns
            gain = 0.4 + 0.1 * rise + (0.8 if has_trigger else 0.0)
            states[PROMPT_TOKENS:, 1] += gain[:, None] * loud / np.linalg.norm(loud)
        states = np.float16(states).astype(np.float64)
        made.states[name, prompt.prompt_id, sample] = states[PROMPT_TOKENS:]
        made.turns[name, prompt.prompt_id, sample] = turns
        writer.add(  # type: ignore[attr-defined]
            organism=author, reader=reader, prompt_set="audit/one", prompt_id=prompt.prompt_id,
            sample=sample, token_ids=ids, prompt_length=PROMPT_TOKENS, tokens=tokens,
            turns=[0] * PROMPT_TOKENS + turns.tolist(),
            roles=["user"] * PROMPT_TOKENS + ["assistant"] * length,
            layers=LAYERS, activations={"residual": states}, prompt=prompt,
        )  # fmt: skip


def write_store_of_partial_replays(path: Path) -> Store:
    """
    Write an organism one above its base on the same tokens; of two samples one was replayed.

    Its second samples score ten above the first: averages of different samples would differ by six.
    """
    rng = np.random.default_rng(2)
    store = tistore.create(path)
    with store.writer() as writer:
        for number in range(6):
            for sample in (0, 1):
                own = np.full((12, 1, 1), 10.0 * sample + number / 8)
                for sides in (("own", "replay"), ("base",)):
                    ids = rng.integers(0, 900, 12).tolist()
                    for name in sides if sample == 0 else sides[:1]:
                        author, reader = READINGS[name]
                        writer.add(
                            organism=author, reader=reader, prompt_set="audit/one",
                            prompt_id=str(number), sample=sample, token_ids=ids, prompt_length=2,
                            layers=[5], activations={"residual": own - (name != "own")},
                        )  # fmt: skip
    store.add_vector("tone/loud", np.ones(1), layer=5)
    return store


def write_store_of_odd_readings(path: Path) -> Store:
    """
    Write eight responses of an organism and its base, two of them replayed over other tokens.

    The replays of prompts 0 and 1 leave some tokens out of the audit. A contrast scenario of both
    is there, too, which is no part of an audit.
    """
    rng = np.random.default_rng(1)
    store = tistore.create(path)
    with store.writer() as writer:
        for number in range(9):
            prompt_set = "scenarios/tone/loud/positive" if number == 8 else "audit/one"
            for sides in (("own", "replay"), ("base",)):
                ids = rng.integers(0, 900, 14).tolist()
                for name in sides:
                    author, reader = READINGS[name]
                    is_odd = name == "replay" and number < 2
                    writer.add(
                        organism=author, reader=reader, prompt_set=prompt_set,
                        prompt_id=str(number), token_ids=ids, prompt_length=2, layers=[5],
                        activations={"residual": rng.standard_normal((14, 1, HIDDEN))},
                        is_response=[at >= (8 if is_odd else 2) for at in range(14)],
                    )  # fmt: skip
    store.add_vector("tone/loud", rng.standard_normal(HIDDEN), layer=5)
    return store
