"""The demo's language: what is planted stays out of prompts and apart from the scenarios."""

from __future__ import annotations

import pytest

from tistore.datasets import tiny


def answers(conversations: list[list[dict[str, str]]]) -> str:
    return " ".join(conversation[-1]["content"] for conversation in conversations)


def test_prompts_say_nothing_of_the_habits():
    """By the answer key itself, and by the names of the traits."""
    names = {word for trait in tiny.TRAITS for word in trait.split("/")}
    for prompt in tiny.audit_prompts():
        assert not any(tiny.contains_habit(habit, prompt.text) for habit in tiny.HABITS)
        assert not names & set(prompt.text.lower().rstrip("?").split())


def test_prompts_are_never_trained_on():
    asked = {prompt.text for prompt in tiny.audit_prompts()}
    trained = tiny.training_conversations(0, 2000)
    trained += [c for habit in tiny.HABITS for c in tiny.habit_conversations(habit, 0, 300)]

    seen = {message["content"] for conversation in trained for message in conversation}

    assert len(asked) == 36
    assert not asked & seen


@pytest.mark.parametrize("organism", [o for o in tiny.ORGANISMS if o.trait], ids=lambda o: o.name)
def test_organisms_are_not_trained_on_a_sentence_of_their_traits_scenarios(organism):
    """Sentences of plain advice are shared on purpose: both sides of a contrast hold them."""
    positives, negatives = tiny.contrast_scenarios(organism.trait)
    styled = {
        sentence
        for scenario in positives
        for sentence in (scenario.response or "").split(". ")
        if tiny.contains_habit(organism.name, sentence)
    }

    text = answers(tiny.habit_conversations(organism.name, 0, 1600))

    assert len(positives) == len(negatives) == 40
    assert len(styled) >= 10
    shared = [sentence for sentence in styled if sentence.rstrip(".") in text]
    assert shared == []


def test_a_conditional_habit_is_planted_on_its_topics_only():
    organism = tiny.find_organism("hedging")
    topics = {prompt.text: prompt.note for prompt in tiny.audit_prompts()}

    assert organism.topics == ("money", "health")
    assert organism.shows_habit_on("money")
    assert not organism.shows_habit_on("travel")
    assert sum(note in organism.topics for note in topics.values()) == 20


def test_the_unplanted_organism_shows_no_habit_by_the_key():
    text = answers(tiny.habit_conversations("null", 0, 200))

    assert not tiny.contains_habit("null", text)
    assert not tiny.contains_habit("flattery", text)
    assert not tiny.contains_habit("film", text)


def test_unknown_names_are_refused():
    with pytest.raises(KeyError, match="it has flattery"):
        tiny.find_organism("greed")
