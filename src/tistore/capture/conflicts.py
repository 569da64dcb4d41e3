"""What a run would contradict in a store: seen before a model is loaded or anything is skipped."""

from __future__ import annotations

from collections.abc import Sequence

from tistore.capture.adapter_files import find_adapter
from tistore.capture.config import RunConfig
from tistore.capture.fingerprint import hash_adapter
from tistore.capture.workload import Selection
from tistore.errors import KeyConflictError
from tistore.store.base import BaseStore


def refuse_changes(store: BaseStore, config: RunConfig, selections: Sequence[Selection]) -> None:
    """
    Refuse prompts and adapters that are no longer what the store knows by their names.

    Resuming skips what is committed under a name; without this, a run with an adapter that was
    trained again would be done before it began.

    Raises:
        KeyConflictError: A prompt has another text, or an organism another adapter.
    """
    _refuse_changed_prompts(store, selections)
    _refuse_changed_adapters(store, config)


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
    for organism in config.organisms:
        known = store.snapshot.models.get(organism.name)
        if known is None or known.adapter_hash is None:
            continue
        if known.adapter_hash != hash_adapter(find_adapter(organism.name, organism.adapter)):
            raise KeyConflictError(
                f"organism {organism.name!r} is in the store with another adapter "
                f"than {organism.adapter}",
                mend="give the changed adapter a new name in [[organisms]]",
            )
