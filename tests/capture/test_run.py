"""A run does what is left, and only that."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tistore.capture import run
from tistore.capture.planning.preflight import check_run
from tistore.capture.run import ingest
from tistore.capture.running import executor
from tistore.capture.running.agenda import Agenda
from tistore.errors import (
    InterruptedRunError,
    KeyConflictError,
    NoRoomError,
    PartialRunError,
    SiteNotFoundError,
)
from tistore.store.base import BaseStore

SET = "prompts/short"


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    return BaseStore.create(tmp_path / "run.tistore")


def read_rows(store: BaseStore, table: str) -> list[dict]:
    store.refresh()
    if table in ("responses", "tokens", "clauses"):
        return [row for seg in store.snapshot.segments for row in seg.table(table).to_pylist()]
    return store.snapshot.table(table).to_pylist()


def read_activations(store: BaseStore, layer: int = 1) -> dict[tuple[str, ...], np.ndarray]:
    return {
        (row["organism"], row["reader"], row["prompt_set"], row["prompt_id"]): store.activations(
            row["response_id"], reader=row["reader"], layer=layer
        )
        for row in read_rows(store, "responses")
    }


class Interruption:
    """A progress that sends a signal once so many readings are done."""

    def __init__(self, number: int, after: int) -> None:
        self.number = number
        self.after = after

    def note(self, message: str) -> None:
        pass

    def update(self, tally) -> None:
        if tally.readings >= self.after and self.number:
            number, self.number = self.number, 0
            os.kill(os.getpid(), number)

    def close(self) -> None:
        pass


def test_a_run_stores_every_reading_of_every_response(store, configure):
    report = ingest(store, configure())

    readings = {(r["organism"], r["reader"]) for r in read_rows(store, "responses")}
    assert readings == {
        ("instruct", "instruct"),
        ("zero", "zero"),
        ("zero", "instruct"),
        ("loud", "loud"),
        ("loud", "instruct"),
    }
    assert (report.readings, report.skipped, report.responses) == (25, 0, 15)
    assert {row["prompt_set"] for row in read_rows(store, "prompt_sets")} == {SET, "prompts/other"}
    assert len(read_rows(store, "prompts")) == 5
    assert {row["name"] for row in read_rows(store, "models")} == {"instruct", "zero", "loud"}
    (row,) = read_rows(store, "runs")
    assert row["run_id"] == report.run_id
    assert json.loads(row["config"])["base"]["path"] == "base"
    assert store.verify() is not None


def test_stored_activations_are_the_models_own_hidden_states(store, configure, build_model):
    """The oracle runs the base on the stored token ids, one by one, without any of our code."""
    ingest(store, configure(organisms=[], generation={"max_new_tokens": 8, "batch_size": 1}))

    model = build_model()
    for row in read_rows(store, "responses"):
        with torch.no_grad():
            states = model(torch.tensor([row["token_ids"]]), output_hidden_states=True)
        for layer in (0, 1):
            expected = states.hidden_states[layer + 1][0, row["prompt_length"] :].half().numpy()
            stored = store.activations(row["response_id"], reader="instruct", layer=layer)
            np.testing.assert_array_equal(stored, expected)


def test_what_blocks_add_to_the_stream_is_stored_beside_it(store, configure):
    """From one block's output to the next: what its attention and its MLP add."""
    capture = {"components": ["residual", "mlp_out", "attn_out"], "rows": "all"}

    ingest(store, configure(capture=capture))

    assert store.info().raw_bytes == 3 * 3 * 32 * 2 * store.info().tokens
    for row in read_rows(store, "responses"):
        found = {
            (part, layer): store.activations(
                row["response_id"], reader=row["reader"], layer=layer, component=part
            ).astype(np.float64)
            for part in ("residual", "mlp_out", "attn_out")
            for layer in (1, 2)
        }
        added = found["attn_out", 2] + found["mlp_out", 2]
        np.testing.assert_allclose(
            found["residual", 1] + added, found["residual", 2], rtol=2e-3, atol=2e-2
        )


def test_a_component_the_base_lacks_is_found_before_anything_is_generated(
    store, configure, build_model, workplace, monkeypatch, tmp_path
):
    folder = tmp_path / "experts"
    build_model("mixtral").save_pretrained(folder)
    for file in (workplace / "base").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(
        (workplace / "base/chat_template.jinja").read_text()
    )
    monkeypatch.setattr(executor, "generate", None)
    config = configure(
        base={"path": str(folder), "device": "cpu"},
        organisms=[],
        capture={"components": ["down_proj"]},
    )

    with pytest.raises(SiteNotFoundError, match="no down_proj"):
        ingest(store, config)


def test_own_readings_and_replays_differ_by_the_adapter_alone(store, configure):
    ingest(store, configure())

    stored = read_activations(store)
    for organism, reader, *prompt in stored:
        if organism == reader or organism == "instruct":
            continue
        own = stored[(organism, organism, *prompt)]
        replay = stored[(organism, reader, *prompt)]
        assert np.array_equal(own, replay) == (organism == "zero")


def test_tokens_know_their_characters_roles_and_probabilities(store, configure):
    ingest(store, configure(organisms=[], capture={"rows": "all"}))

    rows = read_rows(store, "responses")
    tokens = read_rows(store, "tokens")
    for index, response in enumerate(rows):
        of_this = [token for token in tokens if token["reading"] == index]
        answered = [token for token in of_this if token["is_response"]]
        assert len(of_this) == len(response["token_ids"])
        spans = [(token["char_start"], token["char_end"]) for token in answered]
        assert "".join(response["text"][start:end] for start, end in spans) == response["text"]
        assert {token["role"] for token in answered} == {"assistant"}
        roles = {token["role"] for token in of_this} - {"assistant"}
        asked_with_system = response["prompt_set"] == SET
        assert roles == {"template", "user", *(["system"] if asked_with_system else [])}
        assert of_this[0]["logprob"] is None
        assert all(token["logprob"] <= 0 for token in of_this[1:])


def test_a_second_run_loads_nothing_and_stores_nothing(store, configure, monkeypatch):
    ingest(store, configure())
    before = store.snapshot.number
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))

    report = ingest(store, configure())

    assert (report.readings, report.skipped, report.run_id) == (0, 25, None)
    assert store.snapshot.number == before


def test_more_organisms_are_added_to_what_is_there(store, configure):
    ingest(store, configure(organisms=[]))

    report = ingest(store, configure())

    assert (report.readings, report.skipped, report.responses) == (20, 5, 10)


def test_a_reader_added_later_reads_the_stored_tokens(store, configure, monkeypatch):
    ingest(store, configure(capture={"readers": ["self"]}))
    monkeypatch.setattr(
        executor, "generate", lambda *_, **__: pytest.fail("text was written again")
    )

    report = ingest(store, configure())

    assert (report.readings, report.responses) == (10, 0)
    stored = read_activations(store)
    assert np.array_equal(stored["zero", "zero", SET, "1"], stored["zero", "instruct", SET, "1"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [1, 4, 13])
def test_a_stopped_run_goes_on_to_the_same_store(
    configure, tmp_path: Path, monkeypatch, number: signal.Signals, after: int
):
    # So little may wait to be written that the model is never far ahead of what is stored.
    monkeypatch.setattr(run, "BYTES_PER_MB", 1)
    whole = BaseStore.create(tmp_path / "whole.tistore")
    ingest(whole, configure())
    parted = BaseStore.create(tmp_path / "parted.tistore")
    kind = InterruptedRunError if number == signal.SIGINT else PartialRunError
    handler = signal.getsignal(number)

    with pytest.raises(kind) as caught:
        ingest(parted, configure(), progress=Interruption(number, after))
    done = len(read_rows(parted, "responses"))
    report = ingest(parted, configure())

    assert caught.value.exit_code == (130 if number == signal.SIGINT else 6)
    assert after <= done < 25
    assert f"after {done} of 25" in caught.value.message
    assert report.skipped == done
    assert report.readings == 25 - done
    assert signal.getsignal(number) is handler
    expected, found = read_activations(whole), read_activations(parted)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[key], found[key]) for key in expected)


def test_a_batch_of_which_one_response_is_missing_is_written_as_the_whole_batch(
    store, configure, monkeypatch
):
    """What is left to do never decides who sits in a batch with whom."""
    batches = []
    whole = executor.generate

    def watched(model, tokenizer, drafts, *rest, **options):
        batches.append(len(drafts))
        return whole(model, tokenizer, drafts, *rest, **options)

    monkeypatch.setattr(executor, "generate", watched)
    generation = {"max_new_tokens": 8, "batch_size": 5}
    few = [{"path": "prompts/short.json", "prompt_ids": [1, 2]}]
    ingest(store, configure(generation=generation, prompt_sets=few, organisms=[]))

    report = ingest(store, configure(generation=generation, organisms=[]))

    assert report.responses == 3
    assert batches == [2, 5]


def test_stored_responses_are_kept_whatever_would_be_written_now(store, configure):
    def sampled(seed: int) -> dict:
        return {"max_new_tokens": 8, "batch_size": 5, "temperature": 1.0, "seed": seed}

    few = [{"path": "prompts/short.json", "prompt_ids": [1, 2]}]
    ingest(store, configure(generation=sampled(0), prompt_sets=few, capture={"readers": ["self"]}))
    before = {row["response_id"] for row in read_rows(store, "responses")}

    ingest(store, configure(generation=sampled(1)))

    after = read_rows(store, "responses")
    kept = [row for row in after if row["prompt_id"] in "12" and row["prompt_set"] == SET]
    assert {row["response_id"] for row in kept} == before
    assert len(kept) == 2 * 5


def test_batches_hold_prompts_of_about_one_length(store, configure):
    config = configure()
    agenda = Agenda(store, config, check_run(config), {})

    batches = agenda.batches_of("loud", most_tokens=1000)

    lengths = [len(task.question.encoded.token_ids) for batch in batches for task in batch]
    assert lengths == sorted(lengths)
    assert [len(batch) for batch in batches] == [2, 2, 1]


def test_samples_are_responses_of_their_own(store, configure):
    sampled = {"max_new_tokens": 8, "batch_size": 4, "samples": 3, "temperature": 1.0}

    report = ingest(store, configure(organisms=[], generation=sampled))

    rows = read_rows(store, "responses")
    assert report.responses == len(rows) == 15
    texts = {tuple(row["token_ids"]) for row in rows if row["prompt_id"] == "three"}
    assert len(texts) == 3


def test_running_out_of_memory_while_reading_halves_the_batch(store, configure, monkeypatch):
    sizes = []
    whole = executor.start_prefill

    def limited(model, sequences, *rest, **options):
        sizes.append(len(sequences))
        if len(sequences) > 1:
            raise torch.OutOfMemoryError("fake")
        return whole(model, sequences, *rest, **options)

    monkeypatch.setattr(executor, "start_prefill", limited)

    report = ingest(store, configure(organisms=[]))

    assert report.readings == 5
    assert sizes == [2, 1, 1, 2, 1, 1, 1]


def test_what_was_read_before_a_failure_is_committed(store, configure, monkeypatch):
    calls = []
    whole = executor.start_prefill

    def failing(*arguments, **options):
        calls.append(None)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("fake")
        return whole(*arguments, **options)

    monkeypatch.setattr(executor, "start_prefill", failing)

    with pytest.raises(NoRoomError):
        ingest(store, configure(organisms=[]))

    assert len(read_rows(store, "responses")) == 4


def test_a_full_disk_is_found_before_the_base_is_loaded(store, configure, monkeypatch):
    monkeypatch.setattr(run, "measure_free", lambda _: 10)
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))

    with pytest.raises(NoRoomError, match="are free"):
        ingest(store, configure())


def test_a_layer_the_base_lacks_is_found_before_the_base_is_loaded(store, configure, monkeypatch):
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))

    with pytest.raises(SiteNotFoundError, match="0 to 2"):
        ingest(store, configure(capture={"layers": 7}))


def test_organisms_do_not_pile_up_in_memory(store, configure, monkeypatch):
    loaded = []
    whole = run.load_base
    monkeypatch.setattr(run, "load_base", lambda *a: loaded.append(whole(*a)) or loaded[0])

    ingest(store, configure())

    assert len(loaded) == 1
    assert loaded[0].loaded_adapters == ()


def test_refused_system_prompts_are_told(store, configure, workplace, tmp_path: Path):
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(workplace / "base", folder)
    template = folder / "chat_template.jinja"
    assert template.exists()
    template.write_text(
        "{{- bos_token -}}{%- for m in messages -%}"
        "{%- if m['role'] == 'system' -%}{{- raise_exception('no') -}}{%- endif -%}"
        "{{- m['content'] -}}{%- endfor -%}"
    )

    report = ingest(store, configure(base={"path": str(folder), "device": "cpu"}, organisms=[]))

    assert report.refused_system_prompts == 3


def test_thinking_that_is_written_is_told_from_the_answer(store, configure, monkeypatch):
    """The same stretches as in responses that were imported."""
    seen = []
    monkeypatch.setattr(
        executor,
        "assign_answer_roles",
        lambda tokenizer, ids, opening: seen.append(opening) or ("thinking",) * len(ids),
    )

    ingest(store, configure(organisms=[]))

    rows = read_rows(store, "tokens")
    assert {row["role"] for row in rows if row["is_response"]} == {"thinking"}
    assert all(opening.endswith("<|assistant|>") for opening in seen)


def test_prompts_that_are_encoded_otherwise_than_before_are_refused(
    store, configure, workplace, tmp_path, monkeypatch
):
    folder = tmp_path / "changed"
    shutil.copytree(workplace, folder)
    ingest(store, configure())
    template = folder / "base/chat_template.jinja"
    template.write_text(template.read_text().replace("'|>' + message", "'|> ' + message"))
    monkeypatch.setattr(run, "load_base", lambda *_: pytest.fail("the base was loaded"))
    changed = configure(base={"path": str(folder / "base"), "device": "cpu"})

    with pytest.raises(KeyConflictError, match="a prompt of other tokens"):
        ingest(store, changed)
