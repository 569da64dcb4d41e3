"""Responses alone: all of a file comes in, once, or a mistake in it is named and nothing does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tistore.cli.main import app
from tistore.datasets.foreign import responses as reader
from tistore.errors import DatasetError, KeyConflictError, TistoreError
from tistore.exchange import responses as importer
from tistore.exchange.responses import import_responses
from tistore.schemas.generation import Generation
from tistore.schemas.prompt import Prompt
from tistore.store.base import BaseStore

ASK = {"role": "user", "content": "Why?"}
SAY = {"role": "assistant", "content": "Because."}
MORE = {"role": "user", "content": "And then?"}
LAST = {"role": "assistant", "content": "Nothing."}
BE_KIND = {"role": "system", "content": "Be kind."}
NAMES = {"organism": "gpt-x", "prompt_set": "audit/x"}

TEXTS = {"id": 1, "prompt": "Why?", "response": "Because.", "finish_reason": "stop", "tags": ["a"]}
CHAT = {"prompt_id": "chat", "messages": [BE_KIND, ASK, SAY]}
ROLLOUT = {"prompt_id": "rollout", "sample": 3, "messages": [BE_KIND, ASK, SAY, MORE, LAST]}
CONTEXT = {"prompt_id": "context", "messages": [ASK, SAY, MORE], "response": "Nothing."}
IDS = {"prompt_id": "ids", "token_ids": [1, 70000, 5, 6], "prompt_end": 2}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, "é"]}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ALL = [TEXTS, CHAT, ROLLOUT, CONTEXT, IDS]


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    return BaseStore.create(tmp_path / "s.tistore")


@pytest.fixture
def write(tmp_path: Path):
    def write_file(items: object, name: str = "given.jsonl") -> Path:
        path = tmp_path / name
        if name.endswith(".jsonl"):
            path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
        else:
            path.write_text(json.dumps(items))
        return path

    return write_file


def read_rows(store: BaseStore, table: str = "generations") -> dict[str, dict]:
    store.refresh()
    return {row["prompt_id"]: row for row in store.snapshot.table(table).to_pylist()}


def read_log(store: BaseStore) -> list[bytes]:
    return [path.read_bytes() for path in sorted((store.path / "commits").iterdir())]


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("given.jsonl", lambda items: items),
        ("given.json", lambda items: items),
        ("given.json", lambda items: {"responses": items}),
    ],
)
def test_every_form_of_a_response_comes_in_as_it_was_given(store, write, name, wrap):
    report = import_responses(store, write(wrap(ALL), name), **NAMES)

    assert (report.seen, report.imported, report.present, report.prompts) == (5, 5, 0, 4)
    rows, prompts = read_rows(store), read_rows(store, "prompts")
    assert {(row["organism"], row["prompt_set"]) for row in rows.values()} == {("gpt-x", "audit/x")}
    assert (rows["1"]["text"], rows["1"]["finish_reason"], rows["1"]["tags"]) == (
        "Because.",
        "stop",
        ["a"],
    )
    assert (prompts["1"]["text"], prompts["1"]["system_prompt"]) == ("Why?", None)
    assert (rows["chat"]["text"], rows["chat"]["messages"]) == ("Because.", None)
    assert (prompts["chat"]["text"], prompts["chat"]["system_prompt"]) == ("Why?", "Be kind.")
    assert rows["rollout"]["sample"] == 3
    assert rows["rollout"]["text"] == "Because.\n\nNothing."
    assert json.loads(rows["rollout"]["messages"]) == ROLLOUT["messages"]
    assert json.loads(prompts["rollout"]["messages"]) == [ASK]
    assert (rows["context"]["text"], rows["context"]["messages"]) == ("Nothing.", None)
    assert json.loads(prompts["context"]["messages"]) == [ASK, SAY, MORE]
    assert (rows["ids"]["token_ids"], rows["ids"]["prompt_length"]) == ([1, 70000, 5, 6], 2)
    assert "ids" not in prompts
    assert store.verify() is not None


HASHES_BEFORE = {
    "1": "2b321b59edd515d3d9cfd433a015c234",
    "chat": "998ccf5b36927074658cdbcac15e9e9f",
    "rollout": "5c90990be8250040ececfbc9a0fdfd13",
    "context": "2c363a4f3f3be7db798a25d416b0cd27",
    "ids": "0ceb3391c5fd02ee7cbca5e5ec2136e2",
}
CALLS = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "12", "tool_call_id": "c1", "name": "f"}
THOUGHT = {**SAY, "thinking": "Hm."}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([ASK, CALLS, RESULT, LAST], "Nothing."),
        ([BE_KIND, ASK, THOUGHT], "Because."),
        ([ASK, {**SAY, "reasoning": "Hm."}], "Because."),
        ([ASK, CALLS], None),
        ([ASK, THOUGHT, MORE, LAST], "Because.\n\nNothing."),
    ],
)
def test_thinking_and_tool_calls_are_kept_word_for_word(store, write, messages, text):
    report = import_responses(store, write([{"id": 1, "messages": messages}]), **NAMES)

    assert (report.imported, report.unread_keys) == (1, {})
    row = read_rows(store)["1"]
    assert row["text"] == text
    kept = [message | {"content": message["content"] or ""} for message in messages]
    assert json.loads(row["messages"]) == kept
    generation = Generation.from_row(row)
    assert list(generation.messages) == kept
    assert generation.content_hash == row["content_hash"]
    again = import_responses(store, write([{"id": 1, "messages": messages}]), **NAMES)
    assert (again.imported, again.present) == (0, 1)


def test_what_a_prompt_says_before_an_answer_is_kept_with_its_tools(store, write):
    item = {"id": 1, "messages": [ASK, CALLS, RESULT], "response": "Warm.", "tools": [TOOL]}

    import_responses(store, write([item]), **NAMES)

    row = read_rows(store, "prompts")["1"]
    assert json.loads(row["messages"]) == [ASK, CALLS | {"content": ""}, RESULT]
    assert json.loads(row["tools"]) == [TOOL]
    assert read_rows(store)["1"]["messages"] is None
    silent = {"id": 1, "sample": 1, "messages": item["messages"], "response": "Cold."}
    other = silent | {"sample": 2, "tools": [TOOL | {"type": "other"}]}
    assert import_responses(store, write([silent]), **NAMES).imported == 1
    with pytest.raises(KeyConflictError, match="in the store with other content"):
        import_responses(store, write([other]), **NAMES)


def test_rows_hash_as_they_did_before_messages_held_more(store, write):
    """Written down from a store of the version before."""
    import_responses(store, write(ALL), **NAMES)

    hashes = {key: row["content_hash"] for key, row in read_rows(store).items()}
    assert hashes == HASHES_BEFORE


def test_the_source_is_recorded(store, write):
    path = write(ALL)

    import_responses(store, path, **NAMES)

    (row,) = store.snapshot.table("sources").to_pylist()
    assert row["path"] == str(path)
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (row["source_format"], row["kind"], row["variety"]) == (
        "responses",
        "responses",
        "jsonl",
    )
    assert row["size_bytes"] == path.stat().st_size


def test_the_same_file_again_adds_nothing(store, write):
    path = write(ALL)
    import_responses(store, path, **NAMES)
    before = read_log(store)

    report = import_responses(store, path, **NAMES)

    assert (report.seen, report.imported, report.present, report.prompts) == (5, 0, 5, 0)
    assert read_log(store) == before


def test_a_stopped_import_goes_on_to_the_same_rows(store, write, tmp_path, monkeypatch):
    path = write([{"id": n, "prompt": f"{n}?", "response": f"{n}."} for n in range(10)])
    whole = BaseStore.create(tmp_path / "whole.tistore")
    import_responses(whole, path, **NAMES)
    monkeypatch.setattr(importer, "ROWS_AT_ONCE", 4)
    given = list(reader.read_responses(path, **NAMES))

    def stop_early(*_, **__):
        calls.append(None)
        yield from given
        if len(calls) == 2:
            raise KeyboardInterrupt

    calls: list[None] = []
    monkeypatch.setattr(importer, "read_responses", stop_early)
    with pytest.raises(KeyboardInterrupt):
        import_responses(store, path, **NAMES)
    assert len(read_rows(store)) == 8
    report = import_responses(store, path, **NAMES)

    assert (report.imported, report.present) == (2, 8)
    assert read_rows(store) == read_rows(whole)


def test_a_dry_run_tells_the_same_and_writes_nothing(store, write):
    before = read_log(store)

    told = import_responses(store, write(ALL), **NAMES, dry_run=True)

    assert (told.imported, told.prompts, told.dry_run) == (5, 4, True)
    assert read_log(store) == before


def test_names_in_the_file_go_before_those_that_are_given(store, write):
    own = {**TEXTS, "organism": "own", "prompt_set": "mine"}

    import_responses(store, write([own, TEXTS]), **NAMES)

    rows = store.snapshot.table("generations").to_pylist()
    assert [(row["organism"], row["prompt_set"]) for row in rows] == [
        ("own", "mine"),
        ("gpt-x", "audit/x"),
    ]


def test_a_prompt_the_store_knows_need_not_be_repeated(store, write):
    """Labels of the stored prompt stand; what it asks must be the same."""
    known = Prompt("audit/x", "1", "Why?", note="odd", tags=("b",))
    store.add_rows("prompts", [known.to_row()])
    bare = {"id": 1, "sample": 1, "response": "No."}

    report = import_responses(store, write([TEXTS, bare]), **NAMES)

    assert (report.imported, report.prompts) == (2, 0)
    assert read_rows(store, "prompts")["1"]["note"] == "odd"


def test_keys_that_mean_nothing_are_counted(store, write):
    items = [{**TEXTS, "usage": {"total": 9}}, {**CHAT, "usage": 1, "model": "x"}]

    assert import_responses(store, write(items), **NAMES).unread_keys == {"model": 1, "usage": 2}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ([1], "line 2: an object is due"),
        ({"prompt": "a", "response": "b"}, "line 2: no 'prompt_id'"),
        ({"id": "", "prompt": "a", "response": "b"}, "line 2.id: an integer is due"),
        ({"id": True, "prompt": "a", "response": "b"}, "line 2.id: an integer is due"),
        ({"id": 2, "prompt_id": 3, "response": "b"}, "'prompt_id' and 'id' differ"),
        ({"id": 2, "prompt": "a"}, "line 2: there is no answer"),
        ({"id": 2, "prompt": "a", "response": ""}, "line 2.response: the response is empty"),
        ({"id": 2, "prompt": " ", "response": "b"}, "line 2.prompt: the prompt is empty"),
        ({"id": 2, "prompt": "a", "response": 5}, "line 2.response: text is due"),
        ({"id": 2, "prompt": "a", "response": "b\ud83d"}, "line 2.response: .*half of a character"),
        ({"id": "\ud83d", "prompt": "a", "response": "b"}, "line 2.id: .*half of a character"),
        ({"id": 2, "response": "b"}, "knows none called audit/x#2"),
        ({"id": 2, "prompt": "a", "responses": "b"}, "did you mean 'response'"),
        ({"id": 2, "prompt": "a", "response": "b", "sample": -1}, "line 2.sample: -1"),
        ({"id": 2, "prompt": "a", "response": "b", "tags": [1]}, r"line 2.tags\[0\]: text is due"),
        ({"id": 2, "prompt": "a", "messages": [ASK, SAY]}, "both 'prompt' and 'messages'"),
        ({"id": 2, "messages": []}, "first turn is not the user's"),
        ({"id": 2, "messages": [SAY]}, "first turn is not the user's"),
        ({"id": 2, "messages": [ASK]}, "do not end with the assistant"),
        ({"id": 2, "messages": [ASK, SAY], "response": "b"}, "end with the assistant, and there"),
        ({"id": 2, "messages": [ASK, BE_KIND, SAY]}, r"messages\[1\].role: a system prompt comes"),
        ({"id": 2, "messages": [{"role": "bot", "content": "x"}]}, "no role 'bot'"),
        ({"id": 2, "messages": [ASK, {"role": "assistant", "content": ["x"]}]}, "text is due"),
        ({"id": 2, "messages": [ASK, {**SAY, "tool_calls": [{}]}]}, r"calls\[0\]: no 'name'"),
        ({"id": 2, "messages": [ASK, {**SAY, "tool_calls": "x"}]}, "tool_calls: a list is due"),
        (
            {"id": 2, "messages": [ASK, {**SAY, "tool_calls": [{**CALL, "x": "\ud83d"}]}]},
            r"tool_calls\[0\].x: .*half of a character",
        ),
        ({"id": 2, "messages": [ASK, {**SAY, "thinking": ["x"]}]}, "thinking: text is due"),
        ({"id": 2, "messages": [ASK, {**SAY, "audio": {"x": 1}}]}, "'audio' .* would be lost"),
        ({"id": 2, "messages": [ASK, {**SAY, "tool_call_id": "x"}]}, "_id' .* would be lost"),
        ({"id": 2, "messages": [ASK, {"role": "assistant"}]}, r"\[1\]: no 'content'"),
        ({"id": 2, "messages": [ASK, {**SAY, "content": ""}]}, "no 'content'|answer is empty"),
        ({"id": 2, "prompt": "a", "response": "b", "tools": ["x"]}, r"tools\[0\]: an object is"),
        ({"id": 2, "response": "b", "tools": [TOOL]}, "no prompt that these tools"),
        ({**TEXTS, "sample": 1, "tools": [TOOL]}, "line 2: prompt audit/x#1 is given at"),
        (
            {"id": 2, "messages": [BE_KIND, ASK, SAY], "system_prompt": "No."},
            "differs from the sys",
        ),
        ({"id": 2, "token_ids": [1, 2]}, "no 'prompt_length'"),
        ({"id": 2, "token_ids": [1, 2], "prompt_end": 2}, "cannot be 2 of 2 tokens"),
        ({"id": 2, "token_ids": [1, 2], "prompt_end": 0}, "cannot be 0 of 2 tokens"),
        ({"id": 2, "token_ids": [1, -2], "prompt_end": 1}, r"token_ids\[1\]: -2"),
        ({"id": 2, "token_ids": [1, 2**31], "prompt_end": 1}, r"token_ids\[1\]"),
        ({"id": 2, "prompt": "a", "response": "b", "prompt_length": 1}, "no 'token_ids'"),
        ({**TEXTS, "response": "Other."}, "line 2: .* is given at .* line 1 already"),
        ({**TEXTS, "sample": 1, "prompt": "Why not?"}, "line 2: prompt audit/x#1 is given at"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_nothing_comes_in(store, write, item, said):
    before = read_log(store)

    with pytest.raises(TistoreError, match=said) as caught:
        import_responses(store, write([TEXTS, item]), **NAMES)

    assert "given.jsonl" in str(caught.value)
    assert caught.value.mend
    assert read_log(store) == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.jsonl", None, "cannot read"),
        ("empty.jsonl", b"\n\n", "holds no responses"),
        ("empty.json", b"[]", "holds no responses"),
        ("text.txt", b"[]", "neither .json nor"),
        ("cut.jsonl", b'{"id": 1, "resp', "not valid JSON at line 1"),
        ("other.json", b'{"prompts": []}', "no 'responses' here"),
        ("extra.json", b'{"responses": [], "model": "x"}', "'model' beside 'responses'"),
        ("deep.jsonl", b"[" * 100_000, "nest deeper"),
        ("deep.json", b'{"responses":' + b"[" * 100_000, "nest deeper"),
        ("twice.jsonl", b'{"id": 1, "id": 2}', "the key 'id' twice"),
        ("bytes.jsonl", b'{"id": "\xff"}', "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(store, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = read_log(store)

    with pytest.raises(DatasetError, match=said) as caught:
        import_responses(store, tmp_path / name, **NAMES)

    assert name in str(caught.value)
    assert read_log(store) == before


def test_a_file_or_a_line_above_its_cap_is_refused(store, write, monkeypatch):
    path = write([TEXTS, {**CHAT, "note": "x" * 2000}])
    monkeypatch.setattr(reader, "MAX_BYTES", 1000)
    with pytest.raises(DatasetError, match="line 2: the line is longer than 1,000 bytes"):
        import_responses(store, path, **NAMES)
    monkeypatch.setattr(reader, "MAX_BYTES", 10_000)
    monkeypatch.setattr(reader, "MAX_LINES_BYTES", 500)

    with pytest.raises(DatasetError, match="larger than 500 bytes"):
        import_responses(store, path, **NAMES)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({**TEXTS, "response": "Other."}, "in the store with another response"),
        ({**TEXTS, "sample": 5, "prompt": "Why not?"}, "in the store with other content"),
        ({**IDS, "prompt_id": "read"}, "readings in the store, of other tokens"),
    ],
)
def test_what_contradicts_the_store_is_refused(store, write, item, said):
    import_responses(store, write(ALL), **NAMES)
    with store.writer() as writer:
        writer.add(
            **NAMES,
            reader="gpt-x",
            prompt_id="read",
            token_ids=[1, 2, 3],
            prompt_length=1,
            layers=[0],
            activations={"residual": np.ones((3, 1, 4), np.float32)},
        )
    before = read_log(store)

    with pytest.raises(KeyConflictError, match=f"line 1: .*{said}"):
        import_responses(store, write([item], "more.jsonl"), **NAMES)

    assert read_log(store) == before


def test_a_file_that_changes_while_it_is_read_is_refused(store, write, monkeypatch):
    path = write(ALL)
    digests = iter(["one", "other"])
    monkeypatch.setattr(importer, "_hash_file", lambda _: next(digests))

    with pytest.raises(DatasetError, match="changed while it was read"):
        import_responses(store, path, **NAMES)

    assert store.snapshot.table("sources").num_rows == 0


def run(*arguments: object):
    return CliRunner().invoke(app, ["import", "responses", *map(str, arguments)])


def test_the_command_makes_the_store_and_reports(tmp_path, write):
    path, where = write([{**TEXTS, "model": "x"}]), tmp_path / "new.tistore"
    names = ("--organism", "gpt-x", "--prompt-set", "audit/x", "--json")

    dry = run(where, path, *names, "--dry-run")
    assert not where.exists()
    wet = run(where, path, *names)

    assert json.loads(dry.stdout)["dry_run"] is True
    report = json.loads(wet.stdout)
    assert (report["seen"], report["imported"], report["dry_run"]) == (1, 1, False)
    assert "key 'model'" in wet.stderr
    assert len(read_rows(BaseStore.open(where))) == 1


def test_a_bad_file_leaves_no_store(tmp_path, write):
    result = run(
        tmp_path / "new.tistore", write([{"id": 1}]), "--organism", "a", "--prompt-set", "b"
    )

    assert isinstance(result.exception, DatasetError)
    assert not (tmp_path / "new.tistore").exists()


def test_a_missing_name_is_asked_for(tmp_path, write):
    result = run(tmp_path / "new.tistore", write([TEXTS]), "--organism", "a")

    assert "--prompt-set" in str(result.exception)
