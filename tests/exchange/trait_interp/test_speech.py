"""Whose words tokens are, and how they are spelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tistore.datasets.trait_interp.responses import Response, Turn
from tistore.errors import InvalidRecordError
from tistore.exchange.token_strings import SpelledTokens
from tistore.exchange.trait_interp.raw_file import RawFile, RawHalf
from tistore.exchange.trait_interp.speech import describe_speech


def make(n_prompt, n_response, tokens="abcdefgh"):
    halves = [
        RawHalf(tuple(range(n)), tuple(tokens[:n]), tokens[:n], {}, n, has_attention=False)
        for n in (n_prompt, n_response)
    ]
    return RawFile(Path("x.pt"), *halves, layers=(0,), components=(), widths={}, dtype="float16")


@dataclass
class Speller:
    """Spells every token by one pattern."""

    pattern: str

    def spell(self, token_ids, prompt_length):
        tokens = tuple(self.pattern.format("abcdefgh"[i]) for i in token_ids)
        n_response = len(token_ids) - prompt_length
        spans = tuple((place, place + 1) for place in range(n_response))
        return SpelledTokens(tokens, "".join(tokens[prompt_length:]), spans)


def test_a_response_is_audited_up_to_the_last_token_all_readings_have():
    speech = describe_speech(make(3, 4), None, 6, None)

    assert speech.is_response == (False,) * 3 + (True,) * 3 + (False,)
    assert (speech.tokens, speech.text) == (tuple("abcabcd"), "abcd")
    assert speech.roles is speech.turns is speech.offsets is None


def test_a_tokenizer_spells_anew():
    speech = describe_speech(make(3, 2), None, 5, Speller("▁{}"))

    assert (speech.tokens, speech.text) == (("▁a", "▁b", "▁c", "▁a", "▁b"), "▁a▁b")
    assert speech.offsets == ((0, 1), (1, 2))


def test_a_tokenizer_of_other_words_is_refused():
    """Its ids are in range, so that nothing else would tell."""
    with pytest.raises(InvalidRecordError, match="5 of 5 words differ, such as 'za' for 'a'"):
        describe_speech(make(3, 2), None, 5, Speller("z{}"))


def test_turns_give_roles_and_what_lies_between_is_the_template_s():
    turns = (Turn("system", 1, 2), Turn("user", 3, 5), Turn("assistant", 6, 8))
    response = Response("flat", "…", "", turns=turns)

    speech = describe_speech(make(8, 0), response, 8, None)

    template = "template"
    assert speech.roles == (
        template, "system", template, "user", "user", template, "assistant", "assistant",
    )  # fmt: skip
    assert speech.turns == (0, 0, 0, 0, 0, 1, 1, 1)
    assert [place for place, is_said in enumerate(speech.is_response) if is_said] == [6, 7]


def test_turns_before_an_answer_do_not_make_it_a_conversation():
    """The answer alone is under audit, as it was generated."""
    turns = (
        Turn("user", 0, 1),
        Turn("assistant", 1, 2),
        Turn("user", 2, 3),
        Turn("assistant", 3, 6),
    )
    response = Response("flat", "…", "abc", turns=turns)

    speech = describe_speech(make(3, 3), response, 6, None)

    assert speech.is_response == (False,) * 3 + (True,) * 3
    assert speech.turns == (0, 1, 2, 3, 3, 3)


def test_a_conversation_of_unknown_turns_says_so():
    speech = describe_speech(make(4, 0), None, 4, None)

    assert not any(speech.is_response)
    assert "turns are not known" in speech.notes[0]
