"""
Prompt sets, read from JSON and JSONL.

A file holds a list of prompts, an object with the list under `prompts` or `questions`, or one
prompt a line. A prompt is a string, or an object with `text`, `prompt`, `question` or `messages`,
and perhaps `id`, `system_prompt`, `prefill`, `tools`, `note` and `tags`. Other keys are left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tistore.errors import DatasetError
from tistore.schemas.digest import DIGEST_LENGTH
from tistore.schemas.prompt import Message, Prompt

LIST_KEYS = ("prompts", "questions")
TEXT_KEYS = ("text", "prompt", "question")
ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "reasoning_content", "thinking", "tool_calls"),
    "tool": ("role", "content", "tool_call_id", "name"),
}
"""What is kept of a message: what chat templates read."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """
    A named list of prompts.

    Attributes:
        name: What the store calls the set; may contain "/".
        description: For people, where the file has one.
        prompts: At least one, in file order; ids are unique.
        source: Path the set was read from.
        source_hash: Hash of the file's bytes.
    """

    name: str
    description: str | None
    prompts: tuple[Prompt, ...]
    source: str
    source_hash: str

    def to_row(self) -> dict[str, Any]:
        """Lay the set out as a row of the `prompt_sets` table."""
        return {
            "prompt_set": self.name,
            "description": self.description,
            "source": self.source,
            "source_hash": self.source_hash,
            "n_prompts": len(self.prompts),
        }


def name_prompt_set(path: Path) -> str:
    """Name a set after its file: `<parent folder>/<stem>`."""
    resolved = path.resolve()
    return f"{resolved.parent.name}/{resolved.stem}" if resolved.parent.name else resolved.stem


def read_prompt_set(path: Path, name: str | None = None, *, unique_ids: bool = True) -> PromptSet:
    """
    Read a prompt set.

    Prompts without an id are numbered from 1 by their place in the file.

    Args:
        path: A `.json` or `.jsonl` file.
        name: What to call the set; by default `<parent folder>/<stem>`.
        unique_ids: Whether to refuse an id that occurs twice, as no store can hold it.

    Raises:
        DatasetError: The file is missing, malformed or empty, a prompt has no text, or an id
            occurs twice.
    """
    content = read_bytes(path)
    entries, header = _parse(path, content)
    if not entries:
        raise DatasetError(f"{path} holds no prompts", mend="add at least one prompt to it")
    name = name or name_prompt_set(path)
    prompts = tuple(
        _read_prompt(path, index, entry, name, header) for index, entry in enumerate(entries)
    )
    if unique_ids:
        _refuse_duplicates(path, prompts)
    return PromptSet(
        name=name,
        description=_text_or_none(header.get("description")),
        prompts=prompts,
        source=str(path),
        source_hash=hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH],
    )


def read_bytes(path: Path) -> bytes:
    """
    Read a data set's file.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"cannot read {path}: {error.strerror}", mend="check the path and its permissions"
        ) from error


def parse_json(path: Path, content: str | bytes, line: int | None = None) -> Any:
    """
    Parse JSON, or one line of JSONL.

    Raises:
        DatasetError: The text is not JSON; file and line are named.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise DatasetError(
            f"{path} is not valid JSON at {where}: {error.msg}", mend="mend the file there"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}", mend="save it as UTF-8") from error


def parse_json_lines(path: Path, content: bytes) -> list[Any]:
    """
    Parse JSONL; blank lines are skipped.

    Raises:
        DatasetError: A line is not JSON; file and line are named.
    """
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = enumerate(lines, start=1)
    return [parse_json(path, line, number) for number, line in numbered if line.strip()]


def _parse(path: Path, content: bytes) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the prompts as the file holds them, and the object around them."""
    if path.suffix == ".jsonl":
        return parse_json_lines(path, content), {}
    value = parse_json(path, content)
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        for key in LIST_KEYS:
            if isinstance(value.get(key), list):
                return value[key], value
    raise DatasetError(
        f"{path} holds no list of prompts",
        mend='write {"prompts": [{"id": "1", "text": "…"}, …]}, or the list by itself',
    )


def _read_prompt(
    path: Path, index: int, entry: Any, prompt_set: str, header: Mapping[str, Any]
) -> Prompt:
    """Read the prompt at `index` of the file, in whichever form it has."""
    where = f"{path}: prompt at index {index}"
    fields: dict[str, Any] = {"text": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict):
        raise DatasetError(f"{where} is neither text nor an object", mend='write {"text": "…"}')
    messages = _read_messages(where, fields.get("messages"))
    leading = [message["content"] for message in messages if message["role"] == "system"]
    turns = tuple(message for message in messages if message["role"] != "system")
    system = fields.get("system_prompt", leading[0] if leading else header.get("system_prompt"))
    identity = fields.get("id")
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    prompt = Prompt(
        prompt_set=prompt_set,
        prompt_id=str(index + 1 if identity is None else identity),
        text=asked[-1] if asked else _read_text(where, fields),
        messages=turns,
        system_prompt=_text_or_none(system),
        note=_text_or_none(fields.get("note")),
        tags=_read_tags(where, fields.get("tags")),
        tools=_read_tools(where, fields.get("tools", header.get("tools"))),
    )
    own = _text_or_none(fields.get("prefill"))
    if own and prompt.is_prefilled:
        raise DatasetError(
            f"{where} ends with the assistant, and has a 'prefill' beside it",
            mend="keep one of the two",
        )
    begun = own if "prefill" in fields else _text_or_none(header.get("prefill"))
    return prompt.prefill(begun) if begun else prompt


def _read_text(where: str, fields: Mapping[str, Any]) -> str:
    for key in TEXT_KEYS:
        text = fields.get(key)
        if isinstance(text, str) and text.strip():
            return text
    raise DatasetError(f"{where} has no text", mend='give it "text", "prompt" or "messages"')


def _read_messages(where: str, messages: Any) -> list[Message]:
    if messages is None:
        return []
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise DatasetError(
            f"{where} has malformed messages",
            mend=f'write [{{"role": "user", "content": "…"}}, …]; roles are {", ".join(ROLES)}, '
            "an assistant's 'tool_calls' name a 'function' each, and its thinking is text",
        )
    if any(message["role"] == "system" for message in messages[1:]):
        raise DatasetError(f"{where} has a system message after the first", mend="move it up")
    if not any(message["role"] == "user" for message in messages):
        raise DatasetError(f"{where} has no user message", mend="add what is asked")
    last = messages[-1]
    if last["role"] == "assistant" and (last.get("tool_calls") or not last.get("content")):
        raise DatasetError(
            f"{where} ends with tool calls or an empty answer, which no model can go on with",
            mend="end it with a user or tool message, or with the answer's first words",
        )
    if last["role"] == "system":
        raise DatasetError(f"{where} does not end with a user message", mend="end it with one")
    return [_keep_known(message) for message in messages]


def _keep_known(message: Mapping[str, Any]) -> Message:
    known = MESSAGE_KEYS[message["role"]]
    # Beside tool calls there may be no content, or null; templates look for a text.
    kept = {key: message[key] for key in known if message.get(key) is not None}
    return {"role": kept["role"], "content": "", **kept}


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return False
    calls = message.get("tool_calls") or []
    texts = [message[key] for key in ("reasoning_content", "thinking") if message.get(key)]
    # Beside calls and thinking there is often nothing else to say.
    says_more = message["role"] == "assistant" and bool(calls or texts)
    texts.append((message.get("content") or "") if says_more else message.get("content"))
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(calls, list)
        and all(_is_call(call) for call in calls)
    )


def _is_call(call: Any) -> bool:
    function = call.get("function", call) if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _read_tools(where: str, tools: Any) -> tuple[Mapping[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DatasetError(
            f"{where} has malformed tools",
            mend='write [{"type": "function", "function": {"name": "…", "parameters": {…}}}, …]',
        )
    return tuple(tools)


def _read_tags(where: str, tags: Any) -> tuple[str, ...]:
    if tags is None:
        return ()
    if isinstance(tags, str):
        return (tags,)
    if isinstance(tags, list):
        return tuple(str(tag) for tag in tags)
    raise DatasetError(f"{where} has malformed tags", mend='write ["one", "two"]')


def _text_or_none(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _refuse_duplicates(path: Path, prompts: Sequence[Prompt]) -> None:
    first_index: dict[str, int] = {}
    for index, prompt in enumerate(prompts):
        earlier = first_index.setdefault(prompt.prompt_id, index)
        if earlier != index:
            raise DatasetError(
                f"{path}: prompts at index {earlier} and {index} both have id {prompt.prompt_id!r}",
                mend="give each prompt an id of its own, or remove one",
            )
