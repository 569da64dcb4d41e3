"""Contrast scenarios become readings: as they are given, or continued by the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tistore
from tistore.capture.models.load import load_base
from tistore.capture.scenarios import read
from tistore.capture.scenarios.read import Wanted, read_scenarios
from tistore.capture.scenarios.tasks import Continuation
from tistore.datasets.scenarios import Scenario, TraitScenarios
from tistore.errors import (
    DatasetError,
    KeyConflictError,
    ModelLoadError,
    NotStoredError,
    PartialRunError,
)
from tistore.vectors.extract import extract_vectors
from tistore.vectors.scenario_rows import open_scenarios


def make_trait(n: int = 12, response: bool = True, name: str = "tone/joy") -> TraitScenarios:
    def side(words: str) -> tuple[Scenario, ...]:
        return tuple(
            Scenario(f"Why does bread rise, {i}?", f"{words} It is yeast {i}.")
            if response
            else Scenario(f"{words} It is yeast {i}, and the river")
            for i in range(n)
        )

    return TraitScenarios(name, side("Wow, hooray!"), side("Well, no."))


@pytest.fixture
def configure(configure):
    """Without heads, whose commits take longer than everything else here."""
    return lambda **tables: configure(**{"capture": {"head": False}} | tables)


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s.tistore")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Whose weights are loaded, one entry a load."""
    seen = []

    def count(config, weights):
        seen.append(weights)
        return load_base(config, weights)

    monkeypatch.setattr(read, "load_base", count)
    return seen


def begin(tokenizer, scenario: Scenario, manner: str) -> list[int]:
    """Tokens before the response, by the tokenizer's own means."""
    if manner in ("completion", "none"):
        return [tokenizer.bos_token_id, *tokenizer(scenario.prompt)["input_ids"]]
    system = [{"role": "system", "content": scenario.system_prompt}]
    chat = [{"role": "user", "content": scenario.prompt}]
    rendered = tokenizer.apply_chat_template(
        (system if scenario.system_prompt else []) + chat,
        tokenize=False,
        add_generation_prompt=True,
    )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def look_up(store, scenario_number: int, side: str = "positive", trait: str = "tone/joy"):
    """The one response to a scenario: its row."""
    query = "SELECT * FROM responses WHERE prompt_set = ? AND prompt_id = ?"
    (row,) = store.sql(query, [f"scenarios/{trait}/{side}", str(scenario_number)]).rows()
    return row


def read_tokens(store, response_id: str) -> list[int]:
    for segment in store.snapshot.segments:
        for row in segment.table("responses", ["response_id", "token_ids"]).to_pylist():
            if row["response_id"] == response_id:
                return row["token_ids"]
    raise AssertionError


@pytest.mark.parametrize("manner", ["given", "none"])
def test_vectors_are_the_mean_difference_of_the_models_own_hidden_states(store, configure, manner):
    """Each scenario by itself, unbatched and unpadded, through the plain model."""
    config, trait = configure(), make_trait(response=manner == "given")
    loaded = load_base(config)
    tokenizer = loaded.tokenizer

    def average(scenario: Scenario) -> np.ndarray:
        if manner == "given":
            prompt_ids, text = begin(tokenizer, scenario, "chat"), scenario.response
        else:
            prompt_ids, text = [tokenizer.bos_token_id], scenario.prompt
        ids = prompt_ids + tokenizer(text, add_special_tokens=False)["input_ids"]
        with loaded.reading_as("instruct") as model, torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        return states[2][0, len(prompt_ids) :].double().numpy().mean(axis=0)

    positive = np.mean([average(scenario) for scenario in trait.positive], axis=0)
    negative = np.mean([average(scenario) for scenario in trait.negative], axis=0)

    report = read_scenarios(store, config, [trait], continuation=Continuation("none"))
    vectors = extract_vectors(store, "tone/joy")

    assert (report.readings, report.responses, report.loads) == (24, 0, 1)
    assert [vector.layer for vector in vectors] == [0, 1, 2]
    np.testing.assert_allclose(vectors[1].values, positive - negative, atol=2e-3)
    midpoint = (positive + negative) / 2 @ (positive - negative)
    midpoint /= np.linalg.norm(positive - negative)
    assert vectors[1].midpoint == pytest.approx(midpoint, abs=5e-3)
    assert vectors[1].separation is not None
    assert vectors[1].separation > 1
    assert {row["organism"] for row in store.sql("SELECT * FROM responses").rows()} == {"scenarios"}


@pytest.mark.parametrize(
    ("manner", "reader"), [("completion", "instruct"), ("chat", "instruct"), ("chat", "loud")]
)
def test_continuations_are_the_models_own_and_so_are_their_states(store, configure, manner, reader):
    """Greedy, by the plain model's own generate; states by its own hidden_states."""
    # The run's own temperature is for its organisms' answers.
    config = configure(generation={"temperature": 0.9, "samples": 2})
    trait = make_trait(n=3, response=False)
    loaded = load_base(config)

    report = read_scenarios(
        store, config, [trait], reader=reader, continuation=Continuation(manner, 6)
    )

    assert report.responses == report.readings == 6
    for number, scenario in enumerate(trait.positive, start=1):
        row = look_up(store, number)
        begun = begin(loaded.tokenizer, scenario, manner)
        with loaded.reading_as(reader) as model, torch.no_grad():
            asked = torch.tensor([begun])
            whole = model.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=6, do_sample=False
            )
            states = model(whole, output_hidden_states=True).hidden_states
        assert (row["organism"], row["reader"]) == (reader, reader)
        assert read_tokens(store, row["response_id"]) == whole[0].tolist()
        assert row["prompt_length"] == len(begun)
        kept = store.activations(row["response_id"], reader=reader, layer=1)
        np.testing.assert_allclose(kept, states[2][0, len(begun) :].numpy(), atol=2e-2)


def test_auto_asks_through_the_template_where_there_is_a_system_prompt(store, configure):
    plain = make_trait(n=2, response=False)
    told = tuple(replace(one, system_prompt="Be glad.") for one in plain.positive)
    tokenizer = load_base(configure()).tokenizer

    read_scenarios(store, configure(), [replace(plain, positive=told)])

    for number in (1, 2):
        for side, scenario, manner in (
            ("positive", told[number - 1], "chat"),
            ("negative", plain.negative[number - 1], "completion"),
        ):
            row = look_up(store, number, side)
            expected = begin(tokenizer, scenario, manner)
            assert read_tokens(store, row["response_id"])[: row["prompt_length"]] == expected
            assert row["n_tokens"] <= 16
    prompts = store.sql("SELECT * FROM prompts WHERE prompt_id = '1' ORDER BY note").rows()
    assert [row["system_prompt"] for row in prompts] == [None, "Be glad."]


def test_a_response_that_changed_since_it_was_read_is_named(store, configure):
    trait = make_trait(n=3)
    read_scenarios(store, configure(), [trait])
    words = replace(trait.negative[1], response="Well, no. It is dough 1.")

    with pytest.raises(KeyConflictError, match=r"negative scenario 2 .* is now 'Well, no. It is d"):
        read_scenarios(
            store,
            configure(),
            [replace(trait, negative=(trait.negative[0], words, trait.negative[2]))],
        )


def test_a_system_prompt_is_never_dropped(store, configure):
    told = tuple(replace(one, system_prompt="Be.") for one in make_trait(2, False).positive)
    trait = replace(make_trait(2, False), positive=told)

    for manner in ("completion", "none"):
        with pytest.raises(DatasetError, match=r"positive scenario 1 of tone/joy has a system"):
            read_scenarios(store, configure(), [trait], continuation=Continuation(manner))
    assert store.snapshot.number == 0


def test_reading_again_loads_nothing_and_adds_nothing(store, configure, loads):
    traits = [make_trait(), make_trait(3, response=False, name="tone/calm")]
    read_scenarios(store, configure(), traits)
    commit = store.snapshot.number

    report = read_scenarios(store, configure(), traits)

    assert loads == ["instruct"]
    assert (report.loads, report.readings, report.skipped) == (0, 0, 30)
    assert store.snapshot.number == commit


def test_new_scenarios_at_the_end_are_read_and_nothing_else_is(store, configure):
    read_scenarios(store, configure(), [make_trait()])

    report = read_scenarios(store, configure(), [make_trait(n=14)])

    assert (report.readings, report.skipped) == (4, 24)
    assert open_scenarios(store, "tone/joy").n_positive == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: replace(t, positive=t.positive[::-1]), "positive scenario 1 of tone/joy has"),
        (
            lambda t: replace(t, negative=(*t.negative[:4], *t.negative[5:], t.negative[4])),
            "negative scenario 5 of tone/joy has",
        ),
        (lambda t: replace(t, negative=t.negative[:-1]), "negative scenario 12 of tone/joy was"),
        (
            lambda t: replace(
                t, positive=(replace(t.positive[0], system_prompt="Be."), *t.positive[1:])
            ),
            "positive scenario 1 of tone/joy has",
        ),
    ],
    ids=["reversed", "moved", "removed", "system prompt"],
)
@pytest.mark.parametrize("response", [True, False])
def test_scenarios_that_changed_since_they_were_read_are_named(
    store, configure, change, message, response
):
    trait = make_trait(response=response)
    read_scenarios(store, configure(), [trait])
    commit = store.snapshot.number

    with pytest.raises(KeyConflictError, match=message) as caught:
        read_scenarios(store, configure(), [change(trait)])

    assert "a folder of another name" in str(caught.value)
    assert store.snapshot.number == commit


@pytest.mark.parametrize(
    "now",
    [
        Continuation("chat"),
        Continuation("auto", 4),
        Continuation("auto", 20),
        Continuation(needed=20),
    ],
    ids=["chat", "shorter", "longer", "further"],
)
def test_continuations_are_not_mixed_with_others(store, configure, now):
    """The tiny model hardly ever ends a text by itself, so that 16 tokens are 16."""
    trait = make_trait(n=3, response=False)
    read_scenarios(store, configure(), [trait])

    with pytest.raises(KeyConflictError, match=r"positive scenario 1 of tone/joy was continued"):
        read_scenarios(store, configure(), [trait], continuation=now)

    # A position within what is there asks for nothing new.
    assert (
        read_scenarios(store, configure(), [trait], continuation=Continuation(needed=5)).loads == 0
    )


def test_texts_can_be_read_as_they_stand_and_continued_in_one_store(store, configure):
    trait = make_trait(n=3, response=False)

    for manner in ("none", "completion", "none"):
        read_scenarios(store, configure(), [trait], continuation=Continuation(manner))

    assert store.info().readings == 12
    own = open_scenarios(store, "tone/joy")
    written = open_scenarios(store, "tone/joy", author="scenarios")
    assert own.fitted_on == open_scenarios(store, "tone/joy", author="instruct").fitted_on
    assert own.fitted_on != written.fitted_on


def test_other_layers_components_and_rows_cost_a_reading_only_where_they_are_not_there(
    store, configure
):
    config, trait = configure(), make_trait(n=3)
    read_scenarios(store, config, [trait])

    same = read_scenarios(store, config, [trait], wanted=Wanted(layers="1-2"))
    other = read_scenarios(
        store, config, [trait], wanted=Wanted(layers=1, components=("attn_out",), rows="all")
    )

    assert (same.loads, other.readings) == (0, 6)
    assert open_scenarios(store, "tone/joy", position="prompt[-1]").sites == (
        tistore.schemas.site.Site("attn_out", 1),
    )
    with pytest.raises(NotStoredError, match="attn_out@2"):
        extract_vectors(store, "tone/joy", component="attn_out", layers=[2])


def test_a_reading_that_was_stopped_goes_on_where_it_was(store, configure, loads, monkeypatch):
    config, trait = configure(), make_trait(n=4, response=False)
    plain = read.generate
    seen = []

    def stop_at_the_third(*args, **options):
        seen.append(1)
        if len(seen) == 3:
            raise read.StopError("enough")
        return plain(*args, **options)

    monkeypatch.setattr(read, "generate", stop_at_the_third)
    with pytest.raises(PartialRunError, match="4 of 8"):
        read_scenarios(store, config, [trait])
    assert store.info().readings == 4

    report = read_scenarios(store, config, [trait])

    assert (report.readings, report.skipped, report.responses) == (4, 4, 4)
    whole = tistore.create(store.path.parent / "whole.tistore")
    read_scenarios(whole, config, [trait])
    query = "SELECT response_id FROM responses ORDER BY ALL"
    assert store.sql(query).fetchall() == whole.sql(query).fetchall()


def test_a_reader_that_is_no_model_of_the_run_is_named(store, configure):
    with pytest.raises(ModelLoadError, match="no model 'lout'") as caught:
        read_scenarios(store, configure(), [make_trait()], reader="lout")

    assert "loud" in str(caught.value)


def test_tokens_of_prompt_and_response_keep_their_roles(store, configure):
    read_scenarios(store, configure(), [make_trait(n=2)], wanted=Wanted(rows="all"))

    query = "SELECT DISTINCT role FROM tokens WHERE NOT is_response ORDER BY role"
    assert store.sql(query).fetchall() == [("template",), ("user",)]
    query = "SELECT DISTINCT role, turn FROM tokens WHERE is_response"
    assert store.sql(query).fetchall() == [("assistant", 1)]


def test_the_readers_head_is_kept_as_by_a_run(store, configure):
    read_scenarios(store, configure(capture={}), [make_trait(n=2)])

    assert set(store.snapshot.reader_heads) == {"instruct"}


def test_traits_and_layers_that_were_not_read_are_named(store, configure):
    read_scenarios(store, configure(), [make_trait()])

    with pytest.raises(NotStoredError, match="no scenarios of tone/sorrow"):
        extract_vectors(store, "tone/sorrow")
    with pytest.raises(NotStoredError, match="residual@9"):
        extract_vectors(store, "tone/joy", layers=[9])
    with pytest.raises(NotStoredError, match="only the response's tokens were captured"):
        extract_vectors(store, "tone/joy", position="prompt[-1]", layers=[1])
