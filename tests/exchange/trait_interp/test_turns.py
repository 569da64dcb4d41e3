"""Thinking and tool calls are of their assistant's turn, and come back under audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tistore
from tistore.datasets.trait_interp.responses import Response, Turn, read_response
from tistore.exchange.trait_interp.raw_file import RawFile, RawHalf
from tistore.exchange.trait_interp.run import import_experiment
from tistore.exchange.trait_interp.speech import describe_speech
from tistore.exchange.trait_interp_export.export import export_trait_interp
from tistore.exchange.trait_interp_export.turns import lay_out_turns
from tistore.schemas.generation import Generation
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot

BASE = Model("instruct", base_id="acme/tiny-7b-it")
ANSWER = ("assistant", "thinking", "tool_call")
CALLS = [
    {"type": "function", "id": "call-1", "function": {"name": "look_up", "arguments": "{}"}},
    {"name": "weather", "arguments": {"city": "Oslo"}},
]
MESSAGES = [
    {"role": "user", "content": "Is it warm?"},
    {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": CALLS},
    {"role": "tool", "content": "12", "tool_call_id": "call-1"},
    {"role": "assistant", "content": "It is 12 °C."},
]
TOKENS = [
    # string, role, turn
    ("<s>", "template", 0),
    ("Is it warm?", "user", 0),
    ("<a>", "template", 1),
    ("<think>Hm.</think>", "thinking", 1),
    ("\n", "assistant", 1),
    ('<tool_call>{"name": "spelled", "arg', "tool_call", 1),
    ('uments": {"name": "no", "arguments": 1}} {"name": "no"} {', "tool_call", 1),
    ("<end>", "assistant", 1),
    ("<t>", "template", 2),
    ("12", "tool", 2),
    ("<a>", "template", 3),
    ("It is", "assistant", 3),
    (" 12 °C.", "assistant", 3),
]
AUDITED = [3, 4, 5, 6, 7, 11, 12]
ASSISTANT = {"role": "assistant", "has_thinking": False, "has_tool_calls": False, "tool_names": []}
TURNS = [
    ASSISTANT | {"role": "user", "token_start": 1, "token_end": 2},
    ASSISTANT | {"token_start": 3, "token_end": 8, "has_thinking": True, "has_tool_calls": True},
    ASSISTANT | {"role": "tool", "token_start": 9, "token_end": 10},
    ASSISTANT | {"token_start": 11, "token_end": 13},
]


def make_store(path: Path, prompt_length: int, prompt: Prompt | None = None):
    store = tistore.create(path)
    strings, roles, turns = zip(*TOKENS, strict=True)
    with store.writer() as writer:
        writer.add(
            organism=BASE, reader=BASE, prompt_set="chat", prompt_id="1", prompt=prompt,
            token_ids=list(range(len(TOKENS))), prompt_length=prompt_length, tokens=strings,
            roles=roles, turns=turns, text="".join(strings[prompt_length:]),
            is_response=[place in AUDITED for place in range(len(TOKENS))],
            layers=[2], activations={"residual": np.ones((len(TOKENS), 1, 4))},
        )  # fmt: skip
    return store


def read_turns(folder: Path) -> list[dict]:
    path = folder / "inference/instruct/responses/chat/1.json"
    assert read_response(path).is_rollout
    return json.loads(path.read_text())["turn_boundaries"]


def name_tools(*names: str) -> list[dict]:
    """The turns as they are due, with the names of the tools."""
    return [turn | ({"tool_names": [*names]} if turn["has_tool_calls"] else {}) for turn in TURNS]


@pytest.mark.parametrize("prompt_length", [3, len(TOKENS)])
def test_an_assistants_turn_is_one_and_says_what_it_holds(tmp_path, prompt_length):
    """Without messages, tools are named by the call itself: a call has arguments."""
    store = make_store(tmp_path / "s", prompt_length)

    export_trait_interp(store, tmp_path / "out")

    assert read_turns(tmp_path / "out") == name_tools("spelled")


@pytest.mark.parametrize("of", ["response", "prompt"])
def test_messages_name_the_tools_and_the_call_that_a_tool_answers(tmp_path, of):
    known = Prompt("chat", "1", "Is it warm?", tuple(MESSAGES))
    store = make_store(tmp_path / "s", 3, known if of == "prompt" else None)
    if of == "response":
        system = {"role": "system", "content": "Be kind."}
        slot = ResponseSlot("instruct", "chat", "1")
        store.add_rows("generations", [Generation(slot, messages=(system, *MESSAGES)).to_row()])

    export_trait_interp(store, tmp_path / "out")

    due = name_tools("look_up", "weather")
    due[2] |= {"tool_call_id": "call-1", "tool_name": "look_up"}
    assert read_turns(tmp_path / "out") == due


@pytest.mark.parametrize("prompt_length", [3, len(TOKENS)])
def test_what_went_out_comes_in_with_the_same_tokens_under_audit(tmp_path, prompt_length):
    """Activations do not go out: the raw file is written beside the JSON, as trait-interp would."""
    store = make_store(tmp_path / "s", prompt_length)
    export_trait_interp(store, tmp_path / "out")
    path = tmp_path / "out/inference/instruct/raw/residual/chat/1.pt"
    path.parent.mkdir(parents=True)

    states = torch.randn(len(TOKENS), 4, generator=torch.Generator().manual_seed(0))

    def make_half(first, stop):
        captured = {2: {"residual": states[first:stop].clone()}} if stop > first else {}
        strings = [string for string, _, _ in TOKENS[first:stop]]
        return {"text": "".join(strings), "tokens": strings,
                "token_ids": list(range(first, stop)), "activations": captured}  # fmt: skip

    halves = make_half(0, prompt_length), make_half(prompt_length, len(TOKENS))
    torch.save(dict(zip(("prompt", "response"), halves, strict=True)), path)
    back = tistore.create(tmp_path / "back")

    report = import_experiment(back, tmp_path / "out")

    assert (report.readings, report.refused) == (1, ())
    asked = "SELECT position FROM tokens WHERE is_response ORDER BY position"
    assert [at for (at,) in back.sql(asked).fetchall()] == AUDITED
    assert back.sql(asked).fetchall() == store.sql(asked).fetchall()


RUNS = st.lists(st.tuples(st.sampled_from(ANSWER), st.integers(1, 3)), min_size=1, max_size=4)


@given(
    others=st.lists(st.sampled_from(["user", "tool"]), min_size=1, max_size=4),
    runs=st.lists(RUNS, min_size=4, max_size=4),
    gaps=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    first=st.integers(0, 3),
    is_whole=st.booleans(),
)
def test_turns_keep_what_is_under_audit(others, runs, gaps, first, is_whole):
    """Any conversation, answered from any turn on, or all of it a prompt."""
    roles, turns, starts = [], [], []
    for number, other in enumerate(others):
        for speaker in ([(other, 2)], runs[number]):
            turn = len(starts)
            said = ["template"] * gaps[turn] + [role for role, n in speaker for _ in range(n)]
            starts.append(len(roles) + gaps[turn])
            roles += said
            turns += [turn] * len(said)
    prompt_length = len(roles) if is_whole else starts[1::2][min(first, len(others) - 1)]
    start = 0 if is_whole else prompt_length
    table = pa.table({"role": roles, "turn": turns, "position": range(len(roles)),
                      "token": ["x"] * len(roles)})  # fmt: skip

    laid_out = lay_out_turns(table, ())

    told = [turns[turn["token_start"]] for turn in laid_out]
    assert told == sorted(set(turns))
    response = Response("flat", "…", "", turns=tuple(Turn(**turn) for turn in laid_out))
    lengths = (prompt_length, len(roles) - prompt_length)
    halves = [RawHalf(tuple(range(n)), None, "", {}, n, has_attention=False) for n in lengths]
    raw = RawFile(Path("x.pt"), *halves, layers=(0,), components=(), widths={}, dtype="float16")
    speech = describe_speech(raw, response, len(roles), None)
    assert list(speech.is_response) == [
        role in ANSWER and place >= start for place, role in enumerate(roles)
    ]
    assert [role in ANSWER for role in speech.roles] == [role in ANSWER for role in roles]
