"""Contrast scenarios become readings, and readings become vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tistore
from tistore.capture.models.load import load_base
from tistore.capture.scenarios import read_scenarios
from tistore.datasets.scenarios import Scenario, TraitScenarios
from tistore.errors import KeyConflictError, NotStoredError
from tistore.vectors.extract import extract_vectors


def make_trait(n: int = 12, response: bool = True) -> TraitScenarios:
    def side(words: str) -> tuple[Scenario, ...]:
        return tuple(
            Scenario(f"Why does bread rise, {i}?", f"{words} It is yeast {i}.")
            if response
            else Scenario(f"{words} It is yeast {i}.")
            for i in range(n)
        )

    return TraitScenarios("tone/joy", side("Wow, hooray!"), side("Well, no."))


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s.tistore")


@pytest.mark.parametrize("response", [True, False])
def test_vectors_are_the_mean_difference_of_the_models_own_hidden_states(
    store, configure, response
):
    """Each scenario by itself, unbatched and unpadded, through the plain model."""
    config, trait = configure(), make_trait(response=response)
    loaded = load_base(config)
    tokenizer = loaded.tokenizer

    def average(scenario: Scenario) -> np.ndarray:
        prompt_ids, text = [tokenizer.bos_token_id], scenario.prompt
        if scenario.response is not None:
            chat = [{"role": "user", "content": scenario.prompt}]
            rendered = tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True
            )
            prompt_ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            text = scenario.response
        ids = prompt_ids + tokenizer(text, add_special_tokens=False)["input_ids"]
        with loaded.reading_as("instruct") as model, torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        return states[2][0, len(prompt_ids) :].double().numpy().mean(axis=0)

    positive = np.mean([average(scenario) for scenario in trait.positive], axis=0)
    negative = np.mean([average(scenario) for scenario in trait.negative], axis=0)

    assert read_scenarios(store, config, [trait]) == 24
    vectors = extract_vectors(store, "tone/joy")

    assert [vector.layer for vector in vectors] == [0, 1, 2]
    np.testing.assert_allclose(vectors[1].values, positive - negative, atol=2e-3)
    midpoint = (positive + negative) / 2 @ (positive - negative)
    midpoint /= np.linalg.norm(positive - negative)
    assert vectors[1].midpoint == pytest.approx(midpoint, abs=5e-3)
    assert vectors[1].separation is not None
    assert vectors[1].separation > 1


def test_reading_and_fitting_again_add_nothing(store, configure):
    for _ in range(2):
        read_scenarios(store, configure(), [make_trait()])
        extract_vectors(store, "tone/joy")
        commit = store.snapshot.number

    assert store.snapshot.number == commit
    assert len(store.snapshot.vectors()) == 3
    assert store.info().readings == 24


def test_changed_scenarios_under_the_same_name_are_refused(store, configure):
    read_scenarios(store, configure(), [make_trait()])
    changed = make_trait(n=13)
    changed = TraitScenarios(changed.trait, changed.positive[::-1], changed.negative)

    with pytest.raises(KeyConflictError):
        read_scenarios(store, configure(), [changed])


def test_other_positions_are_fitted_from_stored_tokens(store, configure):
    read_scenarios(store, configure(), [make_trait()])

    (first,) = extract_vectors(store, "tone/joy", position="response[:2]", layers=[1])

    rows = {"positive": [], "negative": []}
    for segment in store.snapshot.segments:
        for row in segment.table("responses").to_pylist():
            read = store.activations(row["response_id"], reader="instruct", layer=1)
            side = row["prompt_set"].rpartition("/")[2]
            rows[side].append(read[:2].astype(np.float64).mean(axis=0))
    wanted = np.mean(rows["positive"], axis=0) - np.mean(rows["negative"], axis=0)
    np.testing.assert_allclose(first.values, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(NotStoredError, match="only the response's tokens were captured"):
        extract_vectors(store, "tone/joy", position="prompt[-1]", layers=[1])


def test_traits_and_layers_that_were_not_read_are_named(store, configure):
    read_scenarios(store, configure(), [make_trait()])

    with pytest.raises(NotStoredError, match="no scenarios of tone/sorrow"):
        extract_vectors(store, "tone/sorrow")
    with pytest.raises(NotStoredError, match="residual@9"):
        extract_vectors(store, "tone/joy", layers=[9])
