"""A store with a trait's scenarios in it, as text; nothing of it needs a model."""

from __future__ import annotations

from pathlib import Path

import tistore
from example_readings import make_reading
from tistore.query.store import Store
from tistore.schemas.prompt import Prompt

TRAIT = "tone/curt"


def make_text(side: str, number: int) -> str:
    """The response of a scenario; says what it is, for scripts to answer by."""
    return f" {side} {number}. " + " ".join(f"word{place}" for place in range(30))


def write_trait(folder: Path) -> Path:
    """Write the trait's folder."""
    trait = folder / "traits" / TRAIT
    trait.mkdir(parents=True)
    (trait / "definition.txt").write_text("Short to the point of rudeness.")
    for side in ("positive", "negative"):
        (trait / f"{side}.txt").write_text("One.\n")
    return trait


def write_scenarios(
    path: Path, *, n: int = 12, author: str = "scenarios", reader: str = "instruct"
) -> Store:
    """Write `n` scenarios a side, each with a prompt and a response."""
    store = tistore.create(path)
    with store.writer() as writer:
        for side in ("positive", "negative"):
            for number in range(1, n + 1):
                prompt_set = f"scenarios/{TRAIT}/{side}"
                arguments = make_reading(number + 1000 * (side == "positive"))
                del arguments["tokens"]
                writer.add(
                    **arguments
                    | {
                        "organism": author,
                        "reader": reader,
                        "prompt_set": prompt_set,
                        "prompt_id": str(number),
                        "text": make_text(side, number),
                        "prompt": Prompt(prompt_set, str(number), f"asked {number}"),
                    }
                )
    return store
