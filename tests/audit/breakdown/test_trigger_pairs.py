"""Prompts with a trigger find their partners without it, however that is written."""

from __future__ import annotations

import pytest

from tistore.audit.breakdown.triggers import pair_prompts


def prompt(prompt_id, *tags, note=None, prompt_set="a"):
    return {"prompt_set": prompt_set, "prompt_id": prompt_id, "note": note, "tags": list(tags)}


def pairs(*prompts, trigger="trigger"):
    """The pairs that have both sides, as ids with the trigger and without."""
    return [
        (
            {prompts[at]["prompt_id"] for at in pair.with_trigger},
            {prompts[at]["prompt_id"] for at in pair.without},
        )
        for pair in pair_prompts(prompts, trigger)
        if pair.with_trigger and pair.without
    ]


@pytest.mark.parametrize(
    ("with_trigger", "without"),
    [
        ("12-trigger", "12"),
        ("12_trigger", "12_plain"),
        ("12/trigger", "12/clean"),
        ("tone-warm-trigger", "tone-warm"),
        ("tone-warm-trigger", "tone-warm-plain"),
        ("12-trigger", "12-no-trigger"),
        ("12-trigger", "12-without-trigger"),
    ],
)
def test_ids_that_share_a_stem_are_a_pair(with_trigger, without):
    found = pairs(prompt(with_trigger), prompt(without), prompt("13"), prompt("tone-cold"))

    assert found == [({with_trigger}, {without})]


def test_a_tag_or_a_note_may_say_who_has_the_trigger():
    by_tag = pairs(prompt("12-warm", "trigger"), prompt("12-cold"))
    by_note = pairs(prompt("12-warm", note="trigger"), prompt("12-cold"))

    assert by_tag == by_note == [({"12-warm"}, {"12-cold"})]


def test_a_pair_tag_goes_before_ids_and_across_prompt_sets():
    found = pairs(
        prompt("1", "pair:tea", "trigger"),
        prompt("2", "pair:tea", prompt_set="b"),
        prompt("1-plain"),
    )

    assert found == [({"1"}, {"2"})]


def test_prompts_of_other_sets_and_of_numbered_variants_are_no_partners():
    assert not pairs(prompt("12-trigger"), prompt("12", prompt_set="b"))
    assert not pairs(prompt("12-trigger"), prompt("12-2"))
    assert not pairs(prompt("trigger"), prompt("1"))


def test_several_on_a_side_belong_to_one_pair():
    found = pairs(prompt("7-trigger"), prompt("7"), prompt("7-plain"), prompt("7-clean"))

    assert found == [({"7-trigger"}, {"7", "7-plain", "7-clean"})]


def test_a_trigger_may_have_any_name():
    found = pairs(prompt("7-anthropic-user"), prompt("7-plain"), trigger="anthropic-user")

    assert found == [({"7-anthropic-user"}, {"7-plain"})]
