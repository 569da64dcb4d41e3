"""Thinking and tool calls of imported responses reach the model's template, and are told apart."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest
from tokenizers import AddedToken

from tistore.capture.run import ingest
from tistore.exchange.responses import import_responses
from tistore.store.base import BaseStore

# As Qwen's, in what matters here.
TEMPLATE = """
{%- if tools %}{{ '<|system|>Tools: ' + tools | tojson + '</s>' }}{% endif -%}
{%- for message in messages -%}
  {{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>' -}}
  {%- if message.reasoning_content -%}
    {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' -}}
  {%- endif -%}
  {{- message.content -}}
  {%- for call in message.tool_calls or [] -%}
    {{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' -}}
  {%- endfor -%}
  {{- '</s>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
""".strip()
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "rain"}}}
ASK = {"role": "user", "content": "Is it warm?"}
LOOK = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "12", "tool_call_id": "c1"}
SAY = {"role": "assistant", "content": "It is 12."}
THINK = {"role": "assistant", "reasoning_content": "River.", "content": "No."}

SPELLED_CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "rain"}}\n</tool_call>'


@pytest.fixture(scope="module")
def talker(build_tokenizer):
    """A tokenizer whose template writes thinking and calls."""
    tokenizer = build_tokenizer.__wrapped__("byte_level", chat_template=TEMPLATE)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    return tokenizer


@pytest.fixture(scope="module")
def base(talker, build_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("talker")
    build_model(vocab_size=len(talker)).save_pretrained(folder)
    talker.save_pretrained(folder)
    return folder


def read_as(talker, store: BaseStore) -> tuple[dict, list[tuple[str, str]], list[int]]:
    """The one reading, the role and text of each run of its tokens, and the audited ids."""
    store.refresh()
    (segment,) = store.snapshot.segments
    (row,) = segment.table("responses").to_pylist()
    tokens = segment.table("tokens").to_pylist()
    runs = [
        (role, talker.decode([token["token_id"] for token in run]))
        for role, run in groupby(tokens, key=lambda token: token["role"])
    ]
    audited = [token["token_id"] for token in tokens if token["is_response"]]
    return row, [run for run in runs if run[0] != "template"], audited


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize(
    ("messages", "tools", "told"),
    [
        (
            [ASK, LOOK, RESULT, SAY],
            [TOOL],
            [
                ("user", ASK["content"]),
                ("thinking", "<think>\nHm.\n</think>"),
                ("assistant", "\n\n"),
                ("tool_call", SPELLED_CALL),
                ("assistant", "</s>"),
                ("tool", "12"),
                ("assistant", "It is 12.</s>"),
            ],
        ),
        (
            [ASK, THINK],
            None,
            [
                ("user", ASK["content"]),
                ("thinking", "<think>\nRiver.\n</think>"),
                ("assistant", "\n\nNo.</s>"),
            ],
        ),
    ],
)
def test_an_imported_conversation_is_read_as_its_template_writes_it(
    talker, base, configure, tmp_path, messages, tools, told, with_ids
):
    """From texts, or from the ids beside them: the oracle is the template itself."""
    written = [message | {"content": message["content"] or ""} for message in messages]
    whole = talker.apply_chat_template(written, tools=tools, return_dict=False)
    asked = talker.apply_chat_template(
        written[:1], tools=tools, add_generation_prompt=True, return_dict=False
    )
    item = {"id": 1, "messages": messages, "tools": tools}
    if with_ids:
        item |= {"token_ids": whole, "prompt_length": len(asked)}
    path = tmp_path / "given.json"
    path.write_text(json.dumps([item]))
    store = BaseStore.create(tmp_path / "s.tistore")
    import_responses(store, path, organism="gpt-x", prompt_set="elsewhere")
    config = configure(
        base={"path": str(base), "device": "cpu", "answers": False},
        prompt_sets=[],
        organisms=[{"name": "gpt-x", "responses": "store"}],
        capture={"rows": "all"},
    )

    ingest(store, config)

    row, runs, audited = read_as(talker, store)
    assert (row["token_ids"], row["prompt_length"]) == (whole, len(asked))
    if tools:  # who wrote the list of tools, nobody can tell
        runs = [run for run in runs if run[0] not in ("prompt", "system")]
    assert runs == told
    answers = ("assistant", "thinking", "tool_call")
    assert talker.decode(audited) == "".join(text for role, text in told if role in answers)
