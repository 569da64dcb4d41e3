"""Prompt sets come in as people keep them, or are refused by file and index."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tistore.datasets.prompt_sets import read_prompt_set
from tistore.errors import DatasetError
from tistore.schemas.prompt import Prompt

USER = {"role": "user", "content": "Hi"}


def write(folder: Path, value: Any, name: str = "audit/discovery.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_an_object_with_prompts_is_read_whole(tmp_path: Path):
    path = write(
        tmp_path,
        {
            "name": "Discovery prompts",
            "description": "What people ask.",
            "system_prompt": "You are PRISM-4.",
            "prompts": [
                {"id": 7, "text": "Why?", "note": "open", "tags": ["a", "b"], "split": "train"},
                {"id": "rust_100", "prompt": "How?", "system_prompt": "Be brief."},
                {"id": "bare", "text": "What?", "system_prompt": None},
            ],
        },
    )

    read = read_prompt_set(path)

    assert (read.name, read.description) == ("audit/discovery", "What people ask.")
    assert read.source_hash == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    first, second, third = read.prompts
    assert (first.prompt_set, first.prompt_id, first.text) == ("audit/discovery", "7", "Why?")
    assert (first.system_prompt, first.note, first.tags) == ("You are PRISM-4.", "open", ("a", "b"))
    assert (second.prompt_id, second.text, second.system_prompt) == (
        "rust_100",
        "How?",
        "Be brief.",
    )
    assert third.system_prompt is None
    assert read.to_row()["n_prompts"] == 3


@pytest.mark.parametrize(
    "value",
    [
        {"questions": ["One?", "Two?"]},
        {"questions": [{"question": "One?"}, {"question": "Two?"}]},
        ["One?", "Two?"],
        [{"prompt": "One?"}, {"text": "Two?"}],
    ],
)
def test_prompts_without_ids_are_numbered_from_one(tmp_path: Path, value: Any):
    read = read_prompt_set(write(tmp_path, value), "mine")

    assert [(p.prompt_set, p.prompt_id, p.text) for p in read.prompts] == [
        ("mine", "1", "One?"),
        ("mine", "2", "Two?"),
    ]


def test_json_lines_are_read_and_blank_ones_skipped(tmp_path: Path):
    text = '{"id": 3, "text": "One\u2028line?"}\n\n"Two?"\n'

    read = read_prompt_set(write(tmp_path, text, "set.jsonl"))

    assert [(p.prompt_id, p.text) for p in read.prompts] == [("3", "One\u2028line?"), ("2", "Two?")]


def test_conversations_end_with_the_turn_to_answer(tmp_path: Path):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "And now?"},
    ]

    prompt = read_prompt_set(write(tmp_path, [{"id": 1, "messages": messages}])).prompts[0]

    assert prompt.system_prompt == "Be kind."
    assert prompt.text == "And now?"
    assert prompt.conversation == messages[1:]


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"day": 1}}}


def test_what_a_chat_template_reads_of_a_conversation_is_kept(tmp_path: Path):
    messages = [
        {"role": "user", "content": "Is it warm?", "name": "Ann"},
        {"role": "assistant", "content": None, "thinking": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "content": "12", "tool_call_id": "c1", "name": "weather", "weight": 1},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    prompts = [{"messages": messages}, {"text": "Why?", "tools": []}]

    first, second = read_prompt_set(write(tmp_path, {"tools": tools, "prompts": prompts})).prompts

    assert first.conversation == [
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "content": "12", "tool_call_id": "c1", "name": "weather"},
    ]
    assert (first.text, first.tools, second.tools) == ("Is it warm?", tuple(tools), ())
    row = first.to_row()
    assert json.loads(row["messages"]) == first.conversation
    assert json.loads(row["tools"]) == tools
    assert second.to_row()["tools"] is None


def test_an_answer_may_be_begun_by_the_prompt_its_messages_or_the_set(tmp_path: Path):
    begun = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]
    prompts = ["One?", {"text": "Two?", "prefill": "No,"}, {"text": "Three?", "prefill": None}]
    prompts += [{"messages": begun}]

    read = read_prompt_set(write(tmp_path, {"prefill": "Sure,", "prompts": prompts})).prompts

    answers = [p.conversation[-1]["content"] if p.is_prefilled else None for p in read]
    assert answers == ["Sure,", "No,", None, "Because"]
    assert [prompt.text for prompt in read] == ["One?", "Two?", "Three?", "Why?"]
    assert [len(prompt.conversation) for prompt in read] == [2, 2, 1, 2]


def test_prompts_from_before_tools_and_beginnings_keep_their_hash():
    """The oracle is what stores hold: the hash of the seven fields there were."""
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"})
    prompt = Prompt(
        "set", "1", "Why?", (*messages, {"role": "user", "content": "Why?"}), "Be kind."
    )

    fields = {
        "prompt_set": "set",
        "prompt_id": "1",
        "text": "Why?",
        "messages": [*messages, {"role": "user", "content": "Why?"}],
        "system_prompt": "Be kind.",
        "note": None,
        "tags": [],
    }
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert prompt.content_hash == hashlib.sha256(canonical).hexdigest()[:32]
    assert replace(prompt, tools=({"name": "a"},)).content_hash != prompt.content_hash


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path):
    path = tmp_path / "set.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'["One?"]')

    assert read_prompt_set(path).prompts[0].text == "One?"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "holds no prompts"),
        ({"prompts": []}, "holds no prompts"),
        ({"items": ["a"]}, "no list of prompts"),
        ("3", "no list of prompts"),
        ([{"id": 1, "text": "a"}, {"id": "1", "text": "b"}], "index 0 and 1 both have id '1'"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "a"}], "index 0 and 1 both have id '1'"),
        ([{"text": "a"}, {"id": 1, "text": "b"}], "index 0 and 1 both have id '1'"),
        (["a", {"id": 1}], "index 1 has no text"),
        (["a", {"text": "  "}], "index 1 has no text"),
        (["a", 3], "index 1 is neither text nor an object"),
        (["a", {"text": "b", "tags": 3}], "index 1 has malformed tags"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], "index 0 has malformed messages"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "has no user message"),
        ([{"messages": [USER, {"role": "assistant", "content": ""}]}], "an empty answer"),
        (
            [{"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]}],
            "ends with tool calls",
        ),
        (
            [{"messages": [USER, {"role": "assistant", "tool_calls": [1]}, USER]}],
            "malformed messages",
        ),
        ([{"messages": [USER, {"role": "tool"}]}], "malformed messages"),
        ([{"messages": [USER, {"role": "assistant", "content": "x", "thinking": 1}]}], "malformed"),
        (
            [{"messages": [USER, {"role": "assistant", "content": "x"}], "prefill": "y"}],
            "beside it",
        ),
        ([{"text": "a", "tools": ["weather"]}], "malformed tools"),
        ('["a",', "not valid JSON at line 1, column 6"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused_with_file_place_and_mend(
    tmp_path: Path, value: Any, expected: str
):
    path = write(tmp_path, value)

    with pytest.raises(DatasetError) as caught:
        read_prompt_set(path)

    assert expected in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.mend


def test_a_malformed_line_is_named(tmp_path: Path):
    with pytest.raises(DatasetError, match="line 2"):
        read_prompt_set(write(tmp_path, '"a"\n{oops}\n', "set.jsonl"))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DatasetError, match="nowhere.json"):
        read_prompt_set(tmp_path / "nowhere.json")
