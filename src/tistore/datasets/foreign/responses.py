"""
Responses alone, from JSON and JSONL.

A `.json` file holds a list of responses, or an object with the list under `responses`; a `.jsonl`
file one response a line. A response names its prompt (`prompt_id` or `id`) and perhaps its
`sample`, and is given as one of

- `response`, with what it answers: `prompt`, or `messages` that end with the user, or neither
  where the store knows the prompt;
- `messages` that end with the assistant: every assistant turn is an answer;
- `token_ids` of prompt and response with `prompt_length` (or `prompt_end`), with or without the
  texts.

Messages may hold an assistant's `tool_calls` and its thinking, and a tool's `tool_call_id` and
`name`. `system_prompt`, `tools`, `finish_reason`, `tags`, `organism` and `prompt_set` are read
where they are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tistore.datasets.foreign.messages import check_json, read_messages, says_more
from tistore.datasets.trait_interp.documents import MAX_BYTES, Node, read_document, read_lines
from tistore.errors import DatasetError
from tistore.schemas.generation import Generation
from tistore.schemas.prompt import ASSISTANT, Message, Prompt
from tistore.schemas.response import ResponseSlot

LINES_SUFFIXES = (".jsonl", ".ndjson")
# Lines become objects one at a time, so that a file of lines may be larger than a document.
MAX_LINES_BYTES = 8 * MAX_BYTES

LIST_KEY = "responses"
DEFAULTS = ("organism", "prompt_set", "system_prompt")
"""Keys that an object around the list may hold for all of its responses."""
KEYS = (
    *("prompt_id", "id", "sample", "prompt", "response", "messages", "token_ids", "prompt_length"),
    *("prompt_end", "finish_reason", "tags", "tools", *DEFAULTS),
)
MISSPELT = 0.85
"""A key this close to a known one is taken for a slip, not for somebody's own."""
ANSWER_BREAK = "\n\n"
"""What stands between the answers of one conversation."""

Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class _Words:
    """
    What is given as text.

    Attributes:
        asked: The turns before the first answer.
        answered: All turns, where a text alone would not say what the answers are: there are
            several, or one with thinking or tool calls; else none.
        text: The answers' contents; None where there are none.
    """

    asked: Messages = ()
    answered: Messages = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class GivenResponse:
    """
    A response as a file gives it.

    Attributes:
        generation: The response.
        prompt: What it answers; None where the file does not say.
        place: Where in the file it stands, for errors.
        unread: Keys that mean nothing here.
    """

    generation: Generation
    prompt: Prompt | None
    place: str
    unread: tuple[str, ...]


def read_responses(
    path: Path, *, organism: str | None = None, prompt_set: str | None = None
) -> Iterator[GivenResponse]:
    """
    Read responses, one at a time, in file order.

    Args:
        path: A `.json`, `.jsonl` or `.ndjson` file.
        organism: Author of those that name none.
        prompt_set: Set of those that name none.

    Raises:
        DatasetError: The file is missing, too large, malformed or empty; a response is
            incomplete or contradicts itself; or a slot occurs twice. File, place and key are
            named.
    """
    defaults = {"organism": organism, "prompt_set": prompt_set, "system_prompt": None}
    places: dict[ResponseSlot, str] = {}
    for node, header in _list_nodes(path):
        found = _read_response(node, {**defaults, **header})
        slot = found.generation.slot
        if slot in places:
            node.fail(
                f"{slot} is given at {places[slot]} already",
                mend="remove one of the two, or give them different samples",
            )
        places[slot] = found.place
        yield found
    if not places:
        raise DatasetError(f"{path} holds no responses", mend="add at least one response to it")


def _list_nodes(path: Path) -> Iterator[tuple[Node, dict[str, str]]]:
    """Yield each response of a file, with what the object around them says of all."""
    if path.suffix in LINES_SUFFIXES:
        _refuse_long_lines(path)
        for line in read_lines(path, MAX_LINES_BYTES):
            yield line, {}
        return
    if path.suffix != ".json":
        raise DatasetError(
            f"{path} is neither .json nor {' nor '.join(LINES_SUFFIXES)}",
            mend="give a file of responses, and name it for what it holds",
        )
    document = read_document(path)
    if isinstance(document.value, list):
        for element in document.elements():
            yield element, {}
        return
    responses = document.require(LIST_KEY)
    header = {key: text for key in DEFAULTS if (text := document.get_text(key))}
    if unknown := sorted(set(document.fields()) - {LIST_KEY, *DEFAULTS}):
        document.fail(
            f"{unknown[0]!r} beside {LIST_KEY!r} means nothing",
            mend=f"beside the list there may be {', '.join(DEFAULTS)}",
        )
    for element in responses.elements():
        yield element, header


def _refuse_long_lines(path: Path) -> None:
    """Refuse a line that would take more memory than a document may."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_BYTES + 1):
                number += 1
                if len(line) > MAX_BYTES:
                    raise DatasetError(
                        f"{path} at line {number}: the line is longer than {MAX_BYTES:,} bytes",
                        mend="write one response a line",
                    )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot read {path}: {reason}", mend="check the path") from error


def _read_response(node: Node, defaults: Mapping[str, str | None]) -> GivenResponse:
    unread = _list_unread(node)
    slot = ResponseSlot(
        organism=_name(node, "organism", defaults),
        prompt_set=_name(node, "prompt_set", defaults),
        prompt_id=_read_id(_require_either(node, "prompt_id", "id")),
        sample=node.get_integer("sample") or 0,
    )
    words = _read_words(node)
    token_ids, prompt_length = _read_ids(node)
    if words.text is None and not words.answered and token_ids is None:
        node.fail(
            "there is no answer here",
            mend="give 'response', 'messages' that end with the assistant, or 'token_ids'",
        )
    system = _read_system(node, defaults)
    conversation: Messages | None = None
    if words.answered:
        first = ({"role": "system", "content": system},) if system else ()
        conversation = (*first, *words.answered)
    tags = node.get("tags")
    generation = Generation(
        slot=slot,
        text=words.text,
        token_ids=token_ids,
        prompt_length=prompt_length,
        messages=conversation,
        finish_reason=node.get_text("finish_reason"),
        tags=() if tags is None else (tags.value,) if isinstance(tags.value, str) else tags.texts(),
    )
    tools = _read_tools(node, words.asked)
    prompt = None
    if words.asked:
        prompt = Prompt(
            prompt_set=slot.prompt_set,
            prompt_id=slot.prompt_id,
            text=words.asked[-1]["content"],
            # One turn is what `text` says already.
            messages=words.asked if len(words.asked) > 1 else (),
            system_prompt=system,
            tools=tools,
        )
    return GivenResponse(generation, prompt, f"{node.path} at {node.place}", unread)


def _list_unread(node: Node) -> tuple[str, ...]:
    """List keys that mean nothing here; one that looks like a slip is refused."""
    unread = tuple(key for key in node.fields() if key not in KEYS)
    for key in unread:
        if close := get_close_matches(key, KEYS, n=1, cutoff=MISSPELT):
            node.fail(f"unknown key {key!r}", mend=f"did you mean {close[0]!r}?")
    return unread


def _name(node: Node, key: str, defaults: Mapping[str, str | None]) -> str:
    name = node.get_text(key) or defaults[key]
    if not name:
        option = key.replace("_", "-")
        node.fail(f"no {key!r} here", mend=f"add it, or give --{option} for all responses")
    return name


def _require_either(node: Node, key: str, other: str) -> Node:
    """Return what stands under one of two names of the same thing."""
    found, alias = node.get(key), node.get(other)
    if found and alias and found.value != alias.value:
        node.fail(f"{key!r} and {other!r} differ", mend="keep one of the two")
    return found or alias or node.require(key)


def _read_id(node: Node) -> str:
    if isinstance(node.value, str) and node.value.strip():
        return node.text()
    return str(node.integer())


def _read_words(node: Node) -> _Words:
    response = node.get("response")
    if response and not response.text():
        response.fail("the response is empty", mend="leave it out")
    answer = response.text() if response else None
    prompt, messages = node.get("prompt"), node.get("messages")
    if messages is None:
        if prompt and not prompt.text().strip():
            prompt.fail("the prompt is empty", mend="leave the key out where it is not known")
        asked: Messages = ({"role": "user", "content": prompt.text()},) if prompt else ()
        return _Words(asked, text=answer)
    if prompt:
        node.fail("there are both 'prompt' and 'messages'", mend="keep one of the two")
    return _split_messages(messages, answer, has_ids=node.get("token_ids") is not None)


def _split_messages(node: Node, answer: str | None, *, has_ids: bool) -> _Words:
    turns = tuple(turn for turn in read_messages(node) if turn["role"] != "system")
    if not turns or turns[0]["role"] != "user":
        node.fail("the first turn is not the user's", mend="begin with the user's turn")
    if answer is not None:
        if turns[-1]["role"] == ASSISTANT:
            node.fail(
                "messages end with the assistant, and there is a 'response' beside them",
                mend="end messages with what the response answers, or leave 'response' out",
            )
        return _Words(turns, text=answer)
    if turns[-1]["role"] != ASSISTANT and has_ids:
        return _Words(turns)
    if turns[-1]["role"] != ASSISTANT:
        node.fail(
            "messages do not end with the assistant, and there is no 'response'",
            mend="add the assistant's turn, or the key 'response'",
        )
    first = next(index for index, turn in enumerate(turns) if turn["role"] == ASSISTANT)
    answers = [turn for turn in turns if turn["role"] == ASSISTANT]
    is_more_than_text = len(turns) > first + 1 or says_more(answers[0])
    text = ANSWER_BREAK.join(turn["content"] for turn in answers if turn["content"])
    return _Words(turns[:first], turns if is_more_than_text else (), text or None)


def _read_tools(node: Node, asked: Messages) -> tuple[Mapping[str, Any], ...]:
    """Read the descriptions of the tools that the prompt offers."""
    found = node.get("tools")
    if found is None or not found.value:
        return ()
    if not asked:
        found.fail(
            "there is no prompt that these tools could be of",
            mend="give 'prompt' or 'messages' beside them, or leave them out",
        )
    check_json(found)
    return tuple(tool.fields() for tool in found.elements())


def _read_system(node: Node, defaults: Mapping[str, str | None]) -> str | None:
    own = node.get_text("system_prompt")
    messages = node.get("messages")
    first: dict[str, Any] = messages.value[0] if messages and messages.value else {}
    leading = first["content"] if first.get("role") == "system" else None
    if own and leading and own != leading:
        node.fail("'system_prompt' differs from the system message", mend="keep one of the two")
    return leading or own or defaults["system_prompt"]


def _read_ids(node: Node) -> tuple[tuple[int, ...] | None, int | None]:
    found = node.get("token_ids")
    lengths = node.get("prompt_length") or node.get("prompt_end")
    if found is None:
        if lengths:
            lengths.fail("there are no 'token_ids' it could be of", mend="add them, or remove it")
        return None, None
    token_ids = found.integers()
    prompt_length = _require_either(node, "prompt_length", "prompt_end")
    if not 1 <= prompt_length.integer() < len(token_ids):
        prompt_length.fail(
            f"the prompt cannot be {prompt_length.value} of {len(token_ids)} tokens",
            mend="'token_ids' are the prompt's and the response's together, one of each at least",
        )
    return token_ids, prompt_length.integer()
