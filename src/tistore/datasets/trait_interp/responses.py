"""
Responses, in the three forms they were written in, and conversations.

The token strings of these files are left unread: the writer in use since January 2026 put a space
after every comma inside them, and dropped those before one. Ids are what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from tistore.datasets.trait_interp.documents import Node, read_document

Form = Literal["flat", "nested", "oldest"]


@dataclass(frozen=True, slots=True)
class Turn:
    """
    A turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        token_start: First token, in the whole sequence.
        token_end: One past the last.
        has_thinking: Whether it holds reasoning.
        has_tool_calls: Whether it calls tools.
        tool_names: Tools it calls.
        tool_call_id: Call that a tool's turn answers.
        tool_name: Tool that a tool's turn is of.
    """

    role: str
    token_start: int
    token_end: int
    has_thinking: bool = False
    has_tool_calls: bool = False
    tool_names: tuple[str, ...] = ()
    tool_call_id: str | None = None
    tool_name: str | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """
    A sentence of a response.

    Attributes:
        number: As the file counts.
        token_start: First token, counted from the response's start.
        token_end: One past the last.
        cue_p: Share of resampled answers that follow the cue, where measured.
    """

    number: int
    token_start: int
    token_end: int
    cue_p: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """
    What a model was given and what it said.

    Attributes:
        form: How the file was written: "flat" since January 2026, "nested" before, "oldest" with
            neither ids nor model.
        prompt_text: The prompt, its chat template filled in. For a conversation, all of it.
        response_text: The answer, special tokens left out; empty for a conversation.
        token_ids: Ids of prompt and response; empty where the file has none.
        prompt_length: How many of them are the prompt's; None where the file does not say.
        n_token_strings: Token strings the file holds; None where it has no such list.
        system_prompt: Instruction given before the prompt, where it was kept.
        model: Hub id of the model.
        lora: Its adapter, where the file says.
        note: What kind of prompt it is.
        captured_at: When it was written, as the file says.
        tags: Labels. A comma in one may have gained a space.
        turns: Turns of a conversation, in order.
        sentences: Sentences of the response.
        source: Where a conversation came from: `type`, `environment`, `run`, `sample_idx` and more.
        prompt_set: The set, where the file names it.
        prompt_id: The prompt, where the file names it.
    """

    token_strings_are_reliable: ClassVar[bool] = False

    form: Form
    prompt_text: str
    response_text: str
    token_ids: tuple[int, ...] = ()
    prompt_length: int | None = None
    n_token_strings: int | None = None
    system_prompt: str | None = None
    model: str | None = None
    lora: str | None = None
    note: str | None = None
    captured_at: str | None = None
    tags: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    prompt_set: str | None = None
    prompt_id: str | None = None

    @property
    def is_rollout(self) -> bool:
        """Whether all of it is a conversation, kept as one prompt without an answer."""
        return bool(self.turns) or (
            not self.response_text
            and bool(self.token_ids)
            and self.prompt_length == len(self.token_ids)
        )


def read_response(path: Path) -> Response:
    """
    Read a response file.

    Raises:
        DatasetError: The file is malformed, or is no response of a known form.
    """
    node = read_document(path)
    if not isinstance(node.value, dict):
        node.fail("a response is an object, not a list of them")
    prompt = node.require("prompt")
    if isinstance(prompt.value, dict):
        return _read_nested(node)
    if "prompt_idx" in node.fields():
        return _read_oldest(node)
    return _read_flat(node)


def _read_flat(node: Node) -> Response:
    token_ids = _ids(node)
    n_strings = _count(node, "tokens", len(token_ids))
    prompt_end = node.get("prompt_end")
    prompt_length = prompt_end.integer() if prompt_end else None
    if prompt_end and token_ids and prompt_end.value > len(token_ids):
        prompt_end.fail(f"the prompt cannot be {prompt_length} of {len(token_ids)} tokens")
    text = node.require("response").text()
    n_response = len(token_ids) - prompt_length if prompt_length is not None else None
    return Response(
        form="flat",
        prompt_text=node.require("prompt").text(),
        response_text=text,
        token_ids=token_ids,
        prompt_length=prompt_length,
        n_token_strings=n_strings,
        system_prompt=node.get_text("system_prompt"),
        model=node.get_known("inference_model"),
        lora=node.get_text("lora_adapter"),
        note=node.get_text("prompt_note"),
        captured_at=node.get_text("capture_date"),
        tags=node.get_texts("tags"),
        turns=_read_turns(node, len(token_ids)),
        sentences=_read_sentences(node, n_response),
        source=_read_source(node),
    )


def _read_nested(node: Node) -> Response:
    prompt, response = node.require("prompt"), node.require("response")
    halves = [_ids(prompt), _ids(response)]
    counts = [
        _count(half, "tokens", len(ids))
        for half, ids in zip((prompt, response), halves, strict=True)
    ]
    # Captures of layer internals kept the strings and no ids.
    if bool(halves[0]) != bool(halves[1]) and counts[halves.index(())] not in (0, None):
        node.fail("one of prompt and response has token ids, the other only token strings")
    metadata = node.get("metadata") or Node(node.path, "metadata", {})
    prompt_id = metadata.get("prompt_id")
    return Response(
        form="nested",
        prompt_text=prompt.require("text").text(),
        response_text=response.require("text").text(),
        token_ids=halves[0] + halves[1],
        prompt_length=len(halves[0]) if any(halves) else None,
        n_token_strings=None if None in counts else sum(count or 0 for count in counts),
        system_prompt=metadata.get_text("system_prompt"),
        model=metadata.get_known("inference_model"),
        lora=metadata.get_text("lora_adapter"),
        note=metadata.get_text("prompt_note"),
        captured_at=metadata.get_text("capture_date"),
        prompt_set=metadata.get_text("prompt_set"),
        prompt_id=prompt_id.identity() if prompt_id else None,
    )


def _read_oldest(node: Node) -> Response:
    """Read the form of November 2025, whose response repeats the prompt."""
    prompt = node.require("prompt").text()
    return Response(
        form="oldest",
        prompt_text=prompt,
        response_text=node.require("response").text().removeprefix(prompt),
        n_token_strings=_count(node, "tokens", 0),
        prompt_id=str(node.require("prompt_idx").integer()),
    )


def _read_turns(node: Node, n_tokens: int) -> tuple[Turn, ...]:
    found = node.get("turn_boundaries")
    return tuple(_read_turn(turn, n_tokens) for turn in found.elements()) if found else ()


def _read_turn(node: Node, n_tokens: int) -> Turn:
    start, end = read_range(node, n_tokens)
    return Turn(
        role=node.require("role").text(),
        token_start=start,
        token_end=end,
        has_thinking=node.get_boolean("has_thinking") or False,
        has_tool_calls=node.get_boolean("has_tool_calls") or False,
        tool_names=node.get_texts("tool_names"),
        tool_call_id=node.get_text("tool_call_id"),
        tool_name=node.get_text("tool_name"),
    )


def _read_sentences(node: Node, n_tokens: int | None) -> tuple[Sentence, ...]:
    found = node.get("sentence_boundaries")
    if found is None:
        return ()
    sentences = []
    for sentence in found.elements():
        start, end = read_range(sentence, n_tokens)
        number = sentence.require("sentence_num").integer()
        sentences.append(Sentence(number, start, end, sentence.get_number("cue_p")))
    return tuple(sentences)


def read_range(node: Node, n_tokens: int | None) -> tuple[int, int]:
    """
    Read `token_start` and `token_end`.

    Args:
        node: The object that has both.
        n_tokens: How many tokens there are to point at, where known.

    Raises:
        DatasetError: They are no range of these tokens.
    """
    start = node.require("token_start").integer()
    end = node.require("token_end").integer()
    check_range(node, start, end, n_tokens)
    return start, end


def check_range(node: Node, start: int, end: int, n_tokens: int | None) -> None:
    """Refuse a range that runs backwards or past the last token."""
    if start > end:
        node.fail(f"tokens {start} to {end} run backwards")
    if n_tokens is not None and end > n_tokens:
        node.fail(f"tokens {start} to {end} of {n_tokens}: there are not so many")


def _read_source(node: Node) -> dict[str, Any]:
    found = node.get("source")
    if found is None:
        return {}
    for _, value in found.entries():
        if isinstance(value.value, dict | list):
            value.fail("a source holds plain values only")
        if isinstance(value.value, float):
            value.number()
    return dict(found.fields())


def _ids(node: Node) -> tuple[int, ...]:
    found = node.get("token_ids")
    return found.integers() if found else ()


def _count(node: Node, key: str, n_ids: int) -> int | None:
    """Count token strings, unread; where there are ids, there must be as many."""
    found = node.get(key)
    if found is None:
        return None
    count = sum(1 for _ in found.elements())
    if n_ids and count != n_ids:
        found.fail(f"{count} token strings beside {n_ids} token ids")
    return count
