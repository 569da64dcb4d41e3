"""Responses from elsewhere are read as the very tokens the template, or their ids, say."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tistore.capture import run
from tistore.capture.config import parse_config
from tistore.capture.planning.plan import plan
from tistore.capture.run import ingest
from tistore.capture.texts.answered import encode_answers
from tistore.capture.tokenize import encode_conversation
from tistore.errors import CaptureError, ConfigError, KeyConflictError, PartialRunError
from tistore.schemas.generation import Generation
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot
from tistore.store.base import BaseStore

ASK = {"role": "user", "content": "Why does bread rise?"}
SAY = {"role": "assistant", "content": "The yeast — naïve 🙂 — rose."}
MORE = {"role": "user", "content": "And then?"}
LAST = {"role": "assistant", "content": "Nobody left."}
SYSTEM = "Be kind."
PROMPT = Prompt("elsewhere", "1", ASK["content"], system_prompt=SYSTEM)
ONLY_GIVEN = {"base": {"path": "base", "device": "cpu", "answers": False}, "prompt_sets": []}
GIVEN = {"name": "gpt-x", "responses": "store"}

DROPS_THINKING = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'].split('</think>')[-1] + eos_token -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
TRIMS = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token + '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def generation(prompt_id: str = "1", sample: int = 0, organism: str = "gpt-x", **content):
    return Generation(ResponseSlot(organism, "elsewhere", prompt_id, sample), **content)


def fill(store: BaseStore, *generations: Generation, prompts: tuple[Prompt, ...] = (PROMPT,)):
    store.add_rows("prompts", [prompt.to_row() for prompt in prompts])
    store.add_rows("generations", [given.to_row() for given in generations])


def read_rows(store: BaseStore, table: str = "responses") -> list[dict]:
    store.refresh()
    return [row for seg in store.snapshot.segments for row in seg.table(table).to_pylist()]


def write_as_template(tokenizer, *messages: dict[str, str]) -> tuple[int, ...]:
    """What the template itself makes of a conversation."""
    return tuple(tokenizer.apply_chat_template(list(messages), return_dict=False))


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    return BaseStore.create(tmp_path / "given.tistore")


@pytest.fixture
def configure_given(configure):
    def make(*organisms: dict, **tables):
        tables = {**ONLY_GIVEN, "generation": {"batch_size": 2}, **tables}
        return configure(organisms=list(organisms) or [GIVEN], **tables)

    return make


def test_a_text_is_read_as_the_templates_own_tokens(store, configure_given, tokenizer, build_model):
    """The oracle is the template, and then the model itself on its ids."""
    fill(store, generation(text=SAY["content"]), generation(sample=1, text="Go!"))

    report = ingest(store, configure_given(capture={"layers": "all"}))

    assert (report.readings, report.responses) == (2, 0)
    row = next(row for row in read_rows(store) if row["sample"] == 0)
    system = {"role": "system", "content": SYSTEM}
    assert tuple(row["token_ids"]) == write_as_template(tokenizer, system, ASK, SAY)
    asked = tokenizer.apply_chat_template(
        [system, ASK], add_generation_prompt=True, return_dict=False
    )
    assert row["token_ids"][: row["prompt_length"]] == asked
    assert row["text"] == SAY["content"]
    assert (row["organism"], row["reader"]) == ("gpt-x", "instruct")
    with torch.no_grad():
        states = build_model()(torch.tensor([row["token_ids"]]), output_hidden_states=True)
    for layer in (0, 1):
        expected = states.hidden_states[layer + 1][0, row["prompt_length"] :].numpy()
        stored = store.activations(row["response_id"], reader="instruct", layer=layer)
        np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=2e-3)


def test_given_ids_are_read_as_they_are(store, configure_given, build_model):
    """Ids no tokenizer would make of their text, and no prompt known for them."""
    token_ids = (1, 300, 9, 9, 77, 301, 78, 2)
    fill(store, generation(token_ids=token_ids, prompt_length=3), prompts=())

    ingest(store, configure_given(generation={"batch_size": 1}))

    (row,) = read_rows(store)
    assert (tuple(row["token_ids"]), row["prompt_length"]) == (token_ids, 3)
    with torch.no_grad():
        states = build_model()(torch.tensor([token_ids]), output_hidden_states=True)
    stored = store.activations(row["response_id"], reader="instruct", layer=0)
    np.testing.assert_array_equal(stored, states.hidden_states[1][0, 3:].half().numpy())


def test_the_same_tokens_are_told_the_same_way_whoever_wrote_them(
    store, configure, configure_given, tmp_path
):
    """What the base generated, brought elsewhere as ids: roles, turns and words are the same."""
    made = ingest(store, configure(organisms=[], capture={"rows": "all"}))
    other = BaseStore.create(tmp_path / "other.tistore")
    other.add_rows("prompts", store.snapshot.table("prompts").to_pylist())
    rows = read_rows(store)
    copies = [
        Generation(
            ResponseSlot("gpt-x", row["prompt_set"], row["prompt_id"]),
            text=row["text"],
            token_ids=tuple(row["token_ids"]),
            prompt_length=row["prompt_length"],
        )
        for row in rows
    ]
    other.add_rows("generations", [copy.to_row() for copy in copies])

    ingest(other, configure_given(capture={"rows": "all"}))

    def describe(where: BaseStore) -> list:
        readings = read_rows(where)
        columns = ("role", "turn", "is_response", "token", "char_start", "char_end")
        told = {index: [] for index in range(len(readings))}
        for token in read_rows(where, "tokens"):
            told[token["reading"]].append(tuple(token[column] for column in columns))
        return sorted(
            (row["prompt_set"], row["prompt_id"], told[i]) for i, row in enumerate(readings)
        )

    assert made.readings == 5
    assert describe(other) == describe(store)


def test_every_assistant_turn_of_a_conversation_is_under_audit(store, configure_given, tokenizer):
    messages = ({"role": "system", "content": SYSTEM}, ASK, SAY, MORE, LAST)
    fill(store, generation(messages=messages, text="Yeast.\n\nNobody left."), prompts=())

    ingest(store, configure_given())

    (row,) = read_rows(store)
    assert tuple(row["token_ids"]) == write_as_template(tokenizer, *messages)
    tokens = read_rows(store, "tokens")
    audited = [token["token_id"] for token in tokens if token["is_response"]]
    assert tokenizer.decode(audited) == SAY["content"] + "</s>" + LAST["content"] + "</s>"
    assert {token["turn"] for token in tokens if token["is_response"]} == {1, 3}
    spoken = [token["token_id"] for token in tokens if token["role"] == "user"]
    assert tokenizer.decode(spoken) == MORE["content"]
    assert row["text"] == SAY["content"] + "\n\n" + LAST["content"]
    for token in tokens:
        if token["is_response"] and token["token"] != "</s>":
            assert row["text"][token["char_start"] : token["char_end"]] == token["token"]
    clauses = "".join(clause["text"] for clause in read_rows(store, "clauses"))
    assert "And then" not in clauses and "Nobody left." in clauses


def test_an_answer_goes_on_behind_the_words_its_prompt_began_it_with(
    store, configure_given, tokenizer
):
    """As a text, or as ids: the first words are the prompt's, and not under audit."""
    prompt = PROMPT.prefill("The yeast")
    text = " — naïve 🙂 — rose."
    fill(store, generation(text=text), prompts=(prompt,))
    ingest(store, configure_given(capture={"rows": "all"}))
    (row,) = read_rows(store)
    same = tuple(row["token_ids"])
    fill(
        store, generation(sample=1, token_ids=same, prompt_length=row["prompt_length"]), prompts=()
    )

    ingest(store, configure_given(capture={"rows": "all"}))

    system = {"role": "system", "content": SYSTEM}
    begun = {"role": "assistant", "content": "The yeast"}
    asked = tokenizer.apply_chat_template(
        [system, ASK, begun], continue_final_message=True, return_dict=False
    )
    assert row["token_ids"][: row["prompt_length"]] == asked
    assert row["text"] == text
    assert tokenizer.decode(same) == tokenizer.decode(asked) + text + "</s>"
    columns = ("position", "role", "turn", "is_response")
    told = [tuple(token[column] for column in columns) for token in read_rows(store, "tokens")]
    first, second = told[: len(same)], told[len(same) :]
    assert first == second
    assert {is_response for at, _, _, is_response in first if at < len(asked)} == {False}
    assert {turn for _, role, turn, _ in first if role == "assistant"} == {1}
    words = [at for at, role, _, _ in first if role == "assistant" and at < len(asked)]
    assert tokenizer.decode([same[at] for at in words]) == "The yeast"


def test_readers_are_the_base_and_any_adapters(store, configure_given):
    """An author without an adapter has no reading of its own; one with an adapter has."""
    fill(store, generation(text="Go!"), generation(organism="zero", text="No."))
    organisms = (
        {**GIVEN, "readers": ["base", "loud"]},
        {"name": "zero", "adapter": "zero", "responses": "store"},
        {"name": "loud", "adapter": "loud", "responses": "store"},
    )
    with pytest.raises(ConfigError, match="no responses of 'loud'"):
        ingest(store, configure_given(*organisms))
    fill(store, generation(organism="loud", text="Go!"))

    ingest(store, configure_given(*organisms))

    assert {(row["organism"], row["reader"]) for row in read_rows(store)} == {
        ("gpt-x", "instruct"),
        ("gpt-x", "loud"),
        ("zero", "zero"),
        ("zero", "instruct"),
        ("loud", "loud"),
        ("loud", "instruct"),
    }
    store.refresh()
    models = store.snapshot.models
    assert models["gpt-x"].base_id is None
    assert models["zero"].adapter_hash is not None


def test_generated_and_given_responses_share_a_run(store, configure_given, configure):
    fill(store, generation(text="Go!"))
    organisms = [{"name": "zero", "adapter": "zero"}, GIVEN]

    report = ingest(store, configure(organisms=organisms))

    assert (report.readings, report.responses) == (5 + 10 + 1, 10)


def test_a_plan_counts_stored_responses_exactly(store, configure_given):
    fill(store, generation(text="Go!"), generation(sample=1, text=SAY["content"]))
    config = configure_given(
        {**GIVEN, "readers": ["base", "loud"]},
        {"name": "loud", "adapter": "loud", "responses": "store"},
    )
    fill(store, generation(organism="loud", text="Go!"))

    planned = plan(config, path=store.path)
    ingest(store, config)

    assert [organism.responses for organism in planned.organisms] == [2, 1]
    assert planned.generated_tokens == 0
    rows = read_rows(store)
    assert planned.readings == len(rows) == 6
    assert planned.rows == sum(row["n_rows"] for row in rows)


def test_a_plan_without_the_store_says_where_responses_come_from(configure_given, tmp_path):
    with pytest.raises(ConfigError, match="'gpt-x' are to come from the store"):
        plan(configure_given(), path=tmp_path / "none.tistore")


class Interruption:
    """A progress that sends a signal once so many readings are done."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.sent = False

    def note(self, message: str) -> None:
        pass

    def update(self, tally) -> None:
        if tally.readings >= self.after and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass


def test_a_stopped_run_goes_on_and_a_finished_one_loads_nothing(
    store, configure_given, monkeypatch
):
    # So little may wait to be written that the model is never far ahead of what is stored.
    monkeypatch.setattr(run, "BYTES_PER_MB", 1)
    fill(store, *(generation(sample=n, text="Go! " * (n + 1)) for n in range(6)))
    with pytest.raises(PartialRunError):
        ingest(store, configure_given(), progress=Interruption(after=2))
    done = len(read_rows(store))

    report = ingest(store, configure_given())

    assert 2 <= done < 6
    assert (report.skipped, report.readings) == (done, 6 - done)
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))
    assert ingest(store, configure_given()).skipped == 6


def test_prompt_sets_choose_among_stored_responses(store, configure_given):
    other = Generation(ResponseSlot("gpt-x", "second", "1"), text="No.")
    fill(store, generation(text="Go!"), other, prompts=(PROMPT, Prompt("second", "1", "What?")))

    report = ingest(store, configure_given({**GIVEN, "prompt_sets": ["second"]}))

    assert report.readings == 1
    with pytest.raises(ConfigError, match="did you mean 'second'"):
        ingest(store, configure_given({**GIVEN, "prompt_sets": ["seconds"]}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"token_ids": (1, 5, 400), "prompt_length": 1}, "token id 400 .* vocabulary of 400"),
        ({"token_ids": (1, 5, 77), "prompt_length": 1, "text": "Other words."}, "'Other words.'"),
        ({"token_ids": (1,) * 300, "prompt_length": 1}, "300 tokens, and the base reads 256"),
        ({"text": "word " * 300}, "the base reads 256"),
        ({"token_ids": (1, 5), "prompt_length": 2}, "2 of its 2 token ids are the prompt's"),
        ({"token_ids": (1, 5)}, "None of its 2 token ids are the prompt's"),
    ],
)
def test_what_does_not_fit_the_base_is_named_before_it_is_loaded(
    store, configure_given, monkeypatch, content, said
):
    fill(store, generation(text="Go!"), generation(sample=7, **content))
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))

    with pytest.raises(CaptureError, match=f"gpt-x on elsewhere#1, sample 7: .*{said}"):
        ingest(store, configure_given())

    assert read_rows(store) == []


def test_a_response_whose_prompt_nobody_knows_is_named(store, configure_given):
    fill(store, generation(prompt_id="9", text="Go!"))

    with pytest.raises(CaptureError, match="elsewhere#9.*neither its prompt nor its token ids"):
        ingest(store, configure_given())


def test_a_slot_with_readings_of_other_tokens_is_a_conflict(store, configure_given, monkeypatch):
    with store.writer() as writer:
        writer.add(
            organism="gpt-x",
            reader="somebody",
            prompt_set="elsewhere",
            prompt_id="1",
            token_ids=[1, 5, 6],
            prompt_length=1,
            layers=[0],
            activations={"residual": np.ones((3, 1, 4), np.float32)},
        )
    fill(store, generation(text="Go!"))
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))

    with pytest.raises(KeyConflictError, match="gpt-x on elsewhere#1, sample 0 .* other tokens"):
        ingest(store, configure_given())


def test_an_imported_response_is_not_generated_a_second_time(store, configure):
    slot = ResponseSlot("loud", "prompts/short", "1")
    store.add_rows("generations", [Generation(slot, text="Go!").to_row()])

    with pytest.raises(KeyConflictError, match="loud on prompts/short#1") as caught:
        ingest(store, configure())

    assert 'responses = "store"' in str(caught.value)


def test_a_template_that_trims_does_so_to_answers_too(build_tokenizer):
    tokenizer = build_tokenizer(chat_template=TRIMS)
    padded = {**SAY, "content": f"\n {SAY['content']}  "}

    encoded = encode_answers(tokenizer, [ASK, padded], 1)

    whole = write_as_template(tokenizer, ASK, padded)
    end = len(encoded.token_ids)
    assert encoded.token_ids == whole[:end]
    assert tokenizer.decode(whole[end:]) == "\n"  # what no model would write after its end mark


def test_reasoning_that_a_template_drops_from_an_answer_stays(build_tokenizer):
    tokenizer = build_tokenizer(chat_template=DROPS_THINKING)
    thought = {"role": "assistant", "content": "hm</think>The river."}

    encoded = encode_answers(tokenizer, [ASK, thought], 1)

    asked = encode_conversation(tokenizer, [ASK])
    assert encoded.token_ids[: encoded.prompt_length] == asked.token_ids
    assert (
        tokenizer.decode(encoded.token_ids[encoded.prompt_length :]) == "hm</think>The river.</s>"
    )
    with pytest.raises(CaptureError, match="alters the words"):
        encode_answers(tokenizer, [ASK, thought, MORE, LAST], 1)


def test_an_answer_that_was_cut_short_has_no_end_mark(build_tokenizer):
    tokenizer = build_tokenizer()

    whole = encode_answers(tokenizer, [ASK, SAY], 1, finish_reason="stop")
    cut = encode_answers(tokenizer, [ASK, SAY], 1, finish_reason="length")

    assert whole.token_ids == (*cut.token_ids, tokenizer.eos_token_id)


def test_a_template_without_an_end_mark_adds_none(build_tokenizer):
    """Where its next header would follow, that is no mark of the answer's."""
    tokenizer = build_tokenizer(chat_template=TRIMS.replace(" + eos_token + '\n'", ""))

    encoded = encode_answers(tokenizer, [ASK, SAY], 1)

    assert encoded.token_ids == write_as_template(tokenizer, ASK, SAY)
    assert tokenizer.decode(encoded.token_ids).endswith(SAY["content"])


@pytest.mark.parametrize("ended", [True, False])
def test_without_a_template_an_answer_follows_its_prompt(build_tokenizer, tokenizer_kind, ended):
    tokenizer = build_tokenizer(tokenizer_kind, chat_template=None)
    answer = {"role": "assistant", "content": " bread rises"}

    encoded = encode_answers(tokenizer, [ASK, answer], 1, finish_reason="stop" if ended else None)

    joined = tokenizer(ASK["content"] + answer["content"], add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id] if ended else []
    assert list(encoded.token_ids) == [tokenizer.bos_token_id, *joined, *end]
    answered = tokenizer.decode(encoded.token_ids[encoded.prompt_length :][: -1 if ended else None])
    assert answered.strip() == answer["content"].strip()


def test_roles_and_marks_hold_for_every_kind_of_tokenizer(build_tokenizer, tokenizer_kind):
    tokenizer = build_tokenizer(tokenizer_kind)

    encoded = encode_answers(tokenizer, [ASK, SAY, MORE, LAST], 1, SYSTEM)

    system = {"role": "system", "content": SYSTEM}
    assert encoded.token_ids == write_as_template(tokenizer, system, ASK, SAY, MORE, LAST)
    marks = [i for i, t in enumerate(encoded.token_ids) if t == tokenizer.eos_token_id]
    assert [encoded.is_response[i] for i in marks] == [False, False, True, False, True]
    asked = encode_conversation(tokenizer, [ASK], SYSTEM)
    assert encoded.prompt_length == len(asked.token_ids)
    assert encoded.roles[: encoded.prompt_length] == asked.roles


@pytest.mark.parametrize(
    ("organism", "said"),
    [
        ({"name": "x"}, "number 1 lacks 'adapter'"),
        ({"name": "x", "responses": "stored"}, "responses"),
        ({**GIVEN, "readers": ["self"]}, "cannot read its own responses"),
        ({**GIVEN, "readers": ["bass"]}, "did you mean 'base'"),
        ({"name": "x", "adapter": "x", "prompt_sets": ["a"]}, "chooses among stored"),
    ],
)
def test_an_organism_that_makes_no_sense_is_refused(organism, said):
    tables = {"base": {"path": "b"}, "prompt_sets": [{"path": "p"}], "organisms": [organism]}

    with pytest.raises(ConfigError, match=said):
        parse_config(tables)


def test_nobody_to_read_and_nothing_to_answer_are_refused():
    base = {"path": "b", "answers": False}

    with pytest.raises(ConfigError, match="nobody reads the responses of 'gpt-x'"):
        parse_config({"base": base, "organisms": [GIVEN], "capture": {"readers": ["self"]}})
    with pytest.raises(ConfigError, match="'prompt_sets' is missing"):
        parse_config({"base": {"path": "b"}, "organisms": [GIVEN]})
