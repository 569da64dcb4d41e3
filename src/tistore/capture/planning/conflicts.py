"""What a run would contradict in a store: seen before a model is loaded or anything is skipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tistore.capture.config import RunConfig
from tistore.capture.models.adapter_files import find_adapter
from tistore.capture.models.fingerprint import hash_adapter
from tistore.capture.running.agenda import Agenda
from tistore.capture.running.workload import Selection, list_slots
from tistore.capture.texts.given import GivenResponses
from tistore.errors import KeyConflictError
from tistore.store.base import BaseStore
from tistore.store.keys import slot_key


def refuse_changes(store: BaseStore, config: RunConfig, selections: Sequence[Selection]) -> None:
    """
    Refuse prompts and adapters that are no longer what the store knows by their names.

    Resuming skips what is committed under a name; without this, a run with an adapter that was
    trained again would be done before it began.

    Raises:
        KeyConflictError: A prompt has another text, an organism another adapter, or a response
            that is to be generated was imported already.
    """
    _refuse_changed_prompts(store, selections)
    _refuse_changed_adapters(store, config)
    _refuse_second_responses(store, config, selections)


def refuse_other_tokens(store: BaseStore, given: Iterable[GivenResponses]) -> None:
    """
    Refuse imported responses in whose slots the store has readings of other tokens.

    Raises:
        KeyConflictError: One is; it is named.
    """
    read = store.snapshot.keys.get("slots", {})
    for responses in given:
        for place in responses.places:
            if slot_key(place.slot) not in read:
                continue
            stored = store.stored_response(place.slot)
            sequence = responses.encode(place.row).sequence
            if stored is None or (tuple(stored.token_ids), stored.prompt_length) != (
                sequence.token_ids,
                sequence.prompt_length,
            ):
                raise KeyConflictError(
                    f"{place.slot} has readings in the store of other tokens than the imported "
                    "response has with this base's tokenizer",
                    mend="import it again under another organism's name or sample, or read it "
                    "with the base that read it first",
                )


def refuse_other_prompts(store: BaseStore, agenda: Agenda) -> None:
    """
    Refuse prompts that are encoded otherwise today than when their stored responses were written.

    Raises:
        KeyConflictError: One is; it is named.
    """
    written = store.snapshot.keys.get("slots", {})
    for task in agenda.tasks:
        if slot_key(task.slot) not in written:
            continue
        stored = store.stored_response(task.slot)
        today = task.question.encoded.token_ids
        if stored is None or tuple(stored.token_ids[: stored.prompt_length]) != today:
            raise KeyConflictError(
                f"{task.slot} was written to a prompt of other tokens than this run's "
                "configuration makes of it",
                mend="use the chat template, tokenizer and `thinking` it was written with, or "
                "give the organism another name",
            )


def _refuse_changed_prompts(store: BaseStore, selections: Sequence[Selection]) -> None:
    columns = ["prompt_set", "prompt_id", "content_hash"]
    stored = {
        (row["prompt_set"], row["prompt_id"]): row["content_hash"]
        for row in store.snapshot.table("prompts").select(columns).to_pylist()
    }
    for prompt in (prompt for selection in selections for prompt in selection.prompts):
        known = stored.get((prompt.prompt_set, prompt.prompt_id))
        if known not in (None, prompt.content_hash):
            raise KeyConflictError(
                f"prompt {prompt.prompt_set}#{prompt.prompt_id} is in the store with other content",
                mend="give the changed prompt a new id, or its set a new name in [[prompt_sets]]",
            )


def _refuse_changed_adapters(store: BaseStore, config: RunConfig) -> None:
    for name, adapter in config.adapters.items():
        known = store.snapshot.models.get(name)
        if known is None or known.adapter_hash is None:
            continue
        if known.adapter_hash != hash_adapter(find_adapter(name, adapter)):
            raise KeyConflictError(
                f"organism {name!r} is in the store with another adapter than {adapter}",
                mend="give the changed adapter a new name in [[organisms]]",
            )


def _refuse_second_responses(
    store: BaseStore, config: RunConfig, selections: Sequence[Selection]
) -> None:
    """Refuse to generate where an imported response waits to be read."""
    imported = store.snapshot.keys.get("generations", {})
    read = store.snapshot.keys.get("slots", {})
    prompts = [prompt for selection in selections for prompt in selection.prompts]
    for name in config.answerers:
        if config.is_given(name) or not imported:
            continue
        for slot in list_slots(config, name, prompts):
            # The keys of both are the slot's.
            if (key := slot_key(slot)) in imported and key not in read:
                raise KeyConflictError(
                    f"{slot} was imported, and would be generated a second time",
                    mend=f'set responses = "store" for {name!r}, or give it another name',
                )
