"""Importing responses without activations: rows of `generations`, which a run reads later."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tistore.datasets.foreign.responses import GivenResponse, read_responses
from tistore.errors import DatasetError, KeyConflictError
from tistore.schemas.generation import Generation
from tistore.schemas.prompt import Prompt
from tistore.store.base import BaseStore
from tistore.store.keys import row_content, row_key

SOURCE_FORMAT = "responses"
ROWS_AT_ONCE = 2000
"""Rows in memory before they are committed."""

PromptKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ResponsesReport:
    """
    What an import did, or would do.

    Attributes:
        source: The file.
        seen: Responses in it.
        imported: Those that were new.
        present: Those that were in the store.
        prompts: Prompts that were new.
        unread_keys: Keys that mean nothing here, and how many responses have each.
        dry_run: Whether nothing was written.
    """

    source: str
    seen: int
    imported: int
    present: int
    prompts: int
    unread_keys: dict[str, int] = field(default_factory=dict)
    dry_run: bool = False


def import_responses(
    store: BaseStore | None,
    source: Path,
    *,
    organism: str | None = None,
    prompt_set: str | None = None,
    dry_run: bool = False,
) -> ResponsesReport:
    """
    Import a file of responses.

    The whole file is checked before anything is written. The same file again adds nothing; an
    import that was stopped goes on where it was.

    Args:
        store: Where to; None for one that is not made yet, in a dry run.
        source: A JSON or JSONL file; see `tistore.datasets.foreign.responses`.
        organism: Author of the responses that name none.
        prompt_set: Prompt set of the responses that name none.
        dry_run: Whether to check and count only.

    Raises:
        DatasetError: The file is malformed, or has an answer to a prompt that nobody knows.
        KeyConflictError: The store or the file holds another response in a slot, or another
            prompt under its id.
    """
    if store is not None:
        store.refresh()
    digest = _hash_file(source)
    known = _Known(store)
    unread: Counter[str] = Counter()
    seen = imported = 0
    for given in read_responses(source, organism=organism, prompt_set=prompt_set):
        unread.update(given.unread)
        seen += 1
        imported += known.admit(given)
    if store is not None and not dry_run:
        responses = read_responses(source, organism=organism, prompt_set=prompt_set)
        _store(store, responses, known, _describe(source, digest))
    return ResponsesReport(
        source=str(source),
        seen=seen,
        imported=imported,
        present=seen - imported,
        prompts=len(known.new_prompts),
        unread_keys=dict(sorted(unread.items())),
        dry_run=dry_run,
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """
    What a model is asked, as canonical JSON; labels of the prompt are no part of it.

    Attributes:
        conversation: All turns but the system prompt.
        system_prompt: Instruction given before them.
        tools: Descriptions of the tools it may call.
    """

    conversation: str
    system_prompt: str | None
    tools: str

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        """Take what a prompt asks."""
        tools = _write(list(prompt.tools))
        return cls(_write(prompt.conversation), prompt.system_prompt or None, tools)

    def is_asked_by(self, other: Self) -> bool:
        """Whether a response's prompt is this one; it need not say which tools there were."""
        return other in (self, replace(self, tools=_NO_TOOLS))


def _write(value: object) -> str:
    return json.dumps(value, sort_keys=True)


_NO_TOOLS = _write([])


class _Known:
    """What a store and the file so far hold, against which each response is checked."""

    def __init__(self, store: BaseStore | None) -> None:
        self._store = store
        self._slots = store.snapshot.keys.get("generations", {}) if store else {}
        self._prompts = _read_prompts(store) if store else {}
        self.new_prompts: dict[PromptKey, Prompt] = {}
        self._places: dict[PromptKey, str] = {}

    def admit(self, given: GivenResponse) -> bool:
        """
        Check a response, and tell whether it is new.

        Raises:
            DatasetError: Nobody knows what it answers.
            KeyConflictError: It contradicts the store, or an earlier response.
        """
        self._admit_prompt(given)
        self._refuse_other_tokens(given)
        row = given.generation.to_row()
        held = self._slots.get(row_key("generations", row))
        if held not in (None, row_content("generations", row)):
            raise KeyConflictError(
                f"{given.place}: {given.generation.slot} is in the store with another response",
                mend="give the new one another sample, or its organism another name",
            )
        return held is None

    def is_new(self, generation: Generation) -> bool:
        """Whether the store has nothing in the slot."""
        return row_key("generations", generation.to_row()) not in self._slots

    def _admit_prompt(self, given: GivenResponse) -> None:
        slot, prompt = given.generation.slot, given.prompt
        key = (slot.prompt_set, slot.prompt_id)
        asked = self._prompts.get(key)
        if prompt is None:
            if asked is None and given.generation.token_ids is None:
                raise DatasetError(
                    f"{given.place}: there is no 'prompt', and the store knows none "
                    f"called {slot.prompt_set}#{slot.prompt_id}",
                    mend="add the key 'prompt' or 'messages', or mend 'prompt_id' or the prompt "
                    "set's name",
                )
            return
        if asked is None:
            self._prompts[key] = _Question.of(prompt)
            self.new_prompts[key] = prompt
            self._places[key] = given.place
        elif not asked.is_asked_by(_Question.of(prompt)):
            where = f"given at {self._places[key]}" if key in self._places else "in the store"
            raise KeyConflictError(
                f"{given.place}: prompt {slot.prompt_set}#{slot.prompt_id} is {where} "
                "with other content",
                mend="give the changed prompt another id, or its set another name",
            )

    def _refuse_other_tokens(self, given: GivenResponse) -> None:
        generation = given.generation
        if self._store is None or generation.token_ids is None:
            return
        stored = self._store.stored_response(generation.slot)
        if stored is None:
            return
        if (tuple(stored.token_ids), stored.prompt_length) != (
            generation.token_ids,
            generation.prompt_length,
        ):
            raise KeyConflictError(
                f"{given.place}: {generation.slot} has readings in the store, of other tokens",
                mend="give the new one another sample, or its organism another name",
            )


def _store(
    store: BaseStore, responses: Iterator[GivenResponse], known: _Known, source: dict[str, Any]
) -> None:
    """Write what is new, some rows at a time; the source comes last, once all of it is there."""
    with store.writer() as writer:
        writer.add_rows("prompts", [prompt.to_row() for prompt in known.new_prompts.values()])
        waiting: list[dict[str, Any]] = []
        for given in responses:
            if known.is_new(given.generation):
                waiting.append(given.generation.to_row())
            if len(waiting) >= ROWS_AT_ONCE:
                writer.add_rows("generations", waiting)
                writer.commit()
                waiting.clear()
        if _hash_file(Path(source["path"])) != source["sha256"]:
            raise DatasetError(
                f"{source['path']} changed while it was read", mend="import it again"
            )
        writer.add_rows("generations", waiting)
        writer.add_rows("sources", [source])


def _read_prompts(store: BaseStore) -> dict[PromptKey, _Question]:
    columns = ["prompt_set", "prompt_id", "messages", "system_prompt", "tools"]
    return {
        (row["prompt_set"], row["prompt_id"]): _Question(
            _write(json.loads(row["messages"])),
            row["system_prompt"] or None,
            _write(json.loads(row["tools"] or "[]")),
        )
        for row in store.snapshot.table("prompts").select(columns).to_pylist()
    }


def _describe(source: Path, digest: str) -> dict[str, Any]:
    """Lay the file out as a row of the `sources` table."""
    return {
        "source_format": SOURCE_FORMAT,
        "path": str(source),
        "sha256": digest,
        "size_bytes": source.stat().st_size,
        "kind": "responses",
        "variety": source.suffix.removeprefix("."),
    }


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot read {path}: {reason}", mend="check the path") from error
