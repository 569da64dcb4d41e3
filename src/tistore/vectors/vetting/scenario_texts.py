"""The responses a judge is to read."""

from __future__ import annotations

from dataclasses import dataclass

from tistore.datasets.scenarios import Side
from tistore.errors import NotStoredError
from tistore.schemas.response import ResponseSlot
from tistore.store.snapshot import Snapshot
from tistore.vectors.scenario_readings import find_scenarios


@dataclass(frozen=True, slots=True)
class ScenarioText:
    """
    A scenario in words.

    Attributes:
        side: Side of its trait.
        slot: Who wrote the response, and which scenario it is.
        response_id: The response.
        prompt: What the model was given, system prompt included; empty for a text without any.
        response: What it went on with.
    """

    side: Side
    slot: ResponseSlot
    response_id: str
    prompt: str
    response: str


def read_texts(
    snapshot: Snapshot, trait: str, reader: str, author: str | None = None
) -> list[ScenarioText]:
    """
    Read a trait's scenarios, those that vectors are fitted on, in words.

    Args:
        snapshot: Where.
        trait: `category/name`.
        reader: Who read them.
        author: Who wrote the responses; see `find_scenarios`.

    Raises:
        NotStoredError: A side has none; or a response is stored without its text.
    """
    prompts = _read_prompts(snapshot, trait)
    texts = []
    for scenario in find_scenarios(snapshot, trait, reader, author):
        place = scenario.readings[0]
        row = place.segment.table("responses", ["text"]).slice(place.index, 1)
        text = row["text"][0].as_py()
        if text is None:
            raise NotStoredError(
                f"{scenario.slot} is stored without its text, and a judge reads text",
                mend="read the scenarios with tistore, which keeps it",
            )
        prompt = prompts.get((scenario.slot.prompt_set, scenario.slot.prompt_id), "")
        texts.append(ScenarioText(scenario.side, scenario.slot, scenario.response_id, prompt, text))
    return texts


def _read_prompts(snapshot: Snapshot, trait: str) -> dict[tuple[str, str], str]:
    rows = snapshot.table("prompts").select(["prompt_set", "prompt_id", "text", "system_prompt"])
    return {
        (row["prompt_set"], row["prompt_id"]): "\n".join(
            filter(None, (row["system_prompt"], row["text"]))
        )
        for row in rows.to_pylist()
        if f"/{trait}/" in row["prompt_set"]
    }
