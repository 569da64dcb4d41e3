"""What a store has of scenarios already, and whether they are still the ones it read."""

from __future__ import annotations

from collections.abc import Sequence

from tistore.capture.scenarios.tasks import Continuation, ScenarioTask
from tistore.datasets.scenarios import SIDES, TraitScenarios
from tistore.errors import KeyConflictError
from tistore.schemas.prompt import SCENARIO_SETS, Prompt
from tistore.schemas.response import CaptureSettings, ResponseSlot
from tistore.schemas.site import Site
from tistore.store.base import BaseStore
from tistore.store.snapshot import StoredResponse
from tistore.vectors.scenario_readings import scenario_set, walk_readings

_SHOWN = 60
"""Characters of a scenario in a message."""


def find_missing(
    store: BaseStore, tasks: Sequence[ScenarioTask], reader: str, settings: CaptureSettings
) -> set[ResponseSlot]:
    """
    Find the scenarios of which not all that is wanted is stored.

    It does not matter in how many readings, nor what else these hold.
    """
    wanted = set(settings.sites)
    read: dict[ResponseSlot, set[Site]] = {}
    sets = sorted({task.slot.prompt_set for task in tasks})
    for reading in walk_readings(store.snapshot, sets, reader):
        if settings.rows == "all" and reading.row["rows"] != "all":
            continue
        slot = ResponseSlot(*(reading.row[name] for name in ResponseSlot.__slots__))
        read.setdefault(slot, set()).update(
            Site(component, layer)
            for component in reading.segment.components
            for layer in reading.segment.layers
        )
    return {task.slot for task in tasks if not wanted <= read.get(task.slot, set())}


def find_prompts(store: BaseStore, tasks: Sequence[ScenarioTask]) -> dict[ResponseSlot, Prompt]:
    """
    Find what is to be stored of each scenario as a prompt; nothing where it is known already.

    A text that was read as it stands is known with no question, and one that was continued as a
    question; what is stored first stays.

    Raises:
        KeyConflictError: The store knows another scenario by that number.
    """
    columns = ["prompt_set", "prompt_id", "content_hash", "text"]
    known = {
        (row["prompt_set"], row["prompt_id"]): row
        for row in store.snapshot.table("prompts").select(columns).to_pylist()
    }
    new = {}
    for task in tasks:
        stored = known.get((task.slot.prompt_set, task.slot.prompt_id))
        if stored is None:
            new[task.slot] = task.prompt
        elif stored["content_hash"] not in _list_hashes(task):
            raise _describe_change(task, stored["text"], task.scenario.prompt)
    return new


def refuse_changes(
    store: BaseStore,
    traits: Sequence[TraitScenarios],
    tasks: Sequence[ScenarioTask],
    continuation: Continuation,
) -> None:
    """
    Refuse scenarios that are no longer what the store read under their names.

    New ones at a side's end are no change.

    Raises:
        KeyConflictError: A scenario has another text or was removed, or is to be continued in
            another manner, or further, than it was; the first such is named.
    """
    for task in tasks:
        stored = store.stored_response(task.slot)
        if stored is not None:
            _refuse_change(task, stored, continuation)
    numbers: dict[str, set[str]] = {}
    for row in store.snapshot.table("prompts").select(["prompt_set", "prompt_id"]).to_pylist():
        numbers.setdefault(row["prompt_set"], set()).add(row["prompt_id"])
    for trait in traits:
        for side, scenarios in zip(SIDES, (trait.positive, trait.negative), strict=True):
            present = {str(number) for number in range(1, len(scenarios) + 1)}
            gone = numbers.get(scenario_set(trait.trait, side), set()) - present
            if gone:
                raise KeyConflictError(
                    f"{side} scenario {min(gone, key=lambda one: (len(one), one))} of "
                    f"{trait.trait} was read into this store and is no longer in the trait's "
                    f"folder, which has {len(scenarios)}",
                    mend=_MEND,
                )


_MEND = (
    "put it back as it was, or give the trait a folder of another name; new scenarios may be "
    "added at the end"
)


def _list_hashes(task: ScenarioTask) -> set[str]:
    """List what the prompt of an unchanged scenario may be stored as."""
    asked, bare = (
        Prompt(
            prompt_set=task.slot.prompt_set,
            prompt_id=task.slot.prompt_id,
            text=text,
            system_prompt=task.scenario.system_prompt,
            note=task.side,
        ).content_hash
        for text in (task.scenario.prompt, "")
    )
    return {asked} if task.scenario.response is not None else {asked, bare}


def _refuse_change(task: ScenarioTask, stored: StoredResponse, continuation: Continuation) -> None:
    begun = tuple(stored.token_ids[: stored.prompt_length])
    written = tuple(stored.token_ids[stored.prompt_length :])
    if task.response is not None:
        if (begun, written) != (task.begun.token_ids, task.response):
            raise _describe_change(task, stored.text, task.scenario.response)
        return
    label = _label(task)
    if begun != task.begun.token_ids:
        raise KeyConflictError(
            f"{label} was continued by {task.slot.organism} from other tokens than it would be "
            "now: its text has changed, or the manner, or the chat template",
            mend="extract with the --generate it was continued with, or give the trait a folder "
            "of another name",
        )
    asked = continuation.max_new_tokens
    is_short = stored.finish_reason == "length" and len(written) < (asked or continuation.needed)
    if is_short or (asked is not None and len(written) > asked):
        raise KeyConflictError(
            f"{label} was continued for {len(written)} tokens, and "
            f"{asked or continuation.needed} are asked for now",
            mend="ask for as many, or for a position within them; or give the trait a folder of "
            "another name",
        )


def _describe_change(task: ScenarioTask, before: str | None, now: str | None) -> KeyConflictError:
    texts = f": {_shorten(before)} is now {_shorten(now)}" if before and before != now else ""
    return KeyConflictError(
        f"{_label(task)} has changed since it was read into this store{texts}", mend=_MEND
    )


def _label(task: ScenarioTask) -> str:
    trait = task.slot.prompt_set.removeprefix(SCENARIO_SETS).rpartition("/")[0]
    return f"{task.side} scenario {task.slot.prompt_id} of {trait}"


def _shorten(text: str | None) -> str:
    words = repr(text or "")
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"
