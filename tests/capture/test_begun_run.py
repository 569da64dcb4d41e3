"""A run whose answers are begun, and end at a stop text: the tokens it stores, and their roles."""

from __future__ import annotations

import json

import pytest
import torch

from tistore.capture.run import ingest
from tistore.store.base import BaseStore

SHORT = {"max_new_tokens": 8, "batch_size": 2}
ONLY_BASE = {"organisms": [], "capture": {"rows": "all", "readers": ["base"]}}


@pytest.fixture
def store(tmp_path) -> BaseStore:
    return BaseStore.create(tmp_path / "begun.tistore")


def read_rows(store: BaseStore, table: str = "responses") -> list[dict]:
    store.refresh()
    return [row for seg in store.snapshot.segments for row in seg.table(table).to_pylist()]


def write_greedily(model, token_ids: list[int], count: int) -> list[int]:
    ids = list(token_ids)
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
    return ids


def test_a_begun_answer_is_gone_on_with_and_its_beginning_is_the_prompts(
    store, configure, build_model, tokenizer
):
    sets = [{"path": "prompts/short.json", "name": "begun", "prefill": "Sure,", "prompt_ids": [1]}]

    ingest(store, configure(**ONLY_BASE, prompt_sets=sets))

    (row,) = read_rows(store)
    asked = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why does bread rise?"},
        {"role": "assistant", "content": "Sure,"},
    ]
    prompt_ids = tokenizer.apply_chat_template(
        asked, continue_final_message=True, return_dict=False
    )
    assert row["prompt_length"] == len(prompt_ids)
    n_said = len(row["token_ids"]) - len(prompt_ids)
    assert row["token_ids"] == write_greedily(build_model(), prompt_ids, n_said)
    tokens = read_rows(store, "tokens")
    begun = [token for token in tokens if token["role"] == "assistant"][: -n_said or None]
    assert tokenizer.decode([token["token_id"] for token in begun]) == "Sure,"
    assert not any(token["is_response"] for token in tokens[: len(prompt_ids)])
    assert all(token["is_response"] for token in tokens[len(prompt_ids) :])
    assert {token["turn"] for token in tokens if token["role"] == "assistant"} == {1}
    (prompt,) = store.snapshot.table("prompts").to_pylist()
    assert json.loads(prompt["messages"]) == asked[1:]
    assert prompt["text"] == "Why does bread rise?"


def test_each_response_says_why_it_ended(store, configure, tokenizer, tmp_path):
    """What one greedy run wrote tells where a second one is to stop."""
    sets = [{"path": "prompts/short.json"}]
    whole = configure(**ONLY_BASE, prompt_sets=sets)
    ingest(store, whole)
    free = {row["prompt_id"]: row for row in read_rows(store)}
    stop = free["1"]["text"][2:5]
    other = BaseStore.create(tmp_path / "stopped.tistore")

    ingest(other, configure(**ONLY_BASE, prompt_sets=sets, generation={**SHORT, "stop": [stop]}))

    for row in read_rows(other):
        before = free[row["prompt_id"]]
        assert before["text"].startswith(row["text"])
        if stop in before["text"]:
            shorter = tokenizer.decode(row["token_ids"][row["prompt_length"] : -1])
            assert stop in row["text"] and stop not in shorter
            assert row["finish_reason"] == "stop"
        else:
            assert (row["text"], row["finish_reason"]) == (before["text"], before["finish_reason"])
    assert any(row["finish_reason"] == "length" for row in free.values())
