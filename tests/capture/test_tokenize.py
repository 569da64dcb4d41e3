"""From conversations to ids: one BOS, and each token's role."""

from __future__ import annotations

import pytest

from tistore.capture.tokenize import encode_conversation, encode_prompt, encode_text
from tistore.errors import CaptureError
from tistore.schemas.prompt import Prompt

ASK = [{"role": "user", "content": "Why does bread rise?"}]
WITHOUT_BOS = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token -}}"
    "{%- endfor -%}<|assistant|>"
)
REFUSES_SYSTEM = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- raise_exception('no system role') -}}{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + eos_token -}}"
    "{%- endfor -%}<|assistant|>"
)
DROPS_SYSTEM = (
    REFUSES_SYSTEM.replace("{{- raise_exception('no system role') -}}", "")
    .replace("{{- '<|'", "{%- if message['role'] != 'system' -%}{{- '<|'")
    .replace("eos_token -}}", "eos_token -}}{%- endif -%}")
)
MERGES_SYSTEM = (
    "{%- set first = messages[0] -%}"
    "{%- set system = first['content'] + '\n\n' if first['role'] == 'system' else '' -%}"
    "{{- bos_token -}}{%- for message in messages if message['role'] != 'system' -%}"
    "{{- '<|' + message['role'] + '|>' + (system if loop.first else '') + message['content'] -}}"
    "{{- eos_token -}}{%- endfor -%}<|assistant|>"
)
THINKS = (
    "{{- bos_token + messages[-1]['content'] -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}<|assistant|>{%- endif -%}"
)
SHOUTS = "{{- bos_token + messages[-1]['content'] | upper + '<|assistant|>' -}}"


def words_of(tokenizer, encoded, role: str) -> str:
    pairs = zip(encoded.token_ids, encoded.roles, strict=True)
    return tokenizer.decode([token_id for token_id, owner in pairs if owner == role])


def adding_bos(build_tokenizer, **changes):
    """A tokenizer that puts BOS before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer.__wrapped__("byte_level", **changes)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    assert tokenizer("a")["input_ids"][0] == 1
    return tokenizer


def test_the_templates_bos_is_the_only_one(build_tokenizer):
    for tokenizer in (build_tokenizer(), adding_bos(build_tokenizer)):
        ids = encode_conversation(tokenizer, ASK).token_ids

        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


def test_the_tokenizers_bos_is_added_where_the_template_has_none(build_tokenizer):
    tokenizer = adding_bos(build_tokenizer, chat_template=WITHOUT_BOS)

    encoded = encode_conversation(tokenizer, ASK)

    assert encoded.token_ids[0] == 1
    assert encoded.token_ids.count(1) == 1
    assert encoded.roles[0] == "template"


def test_no_bos_is_made_up_for_a_chat_model_that_has_none(build_tokenizer):
    tokenizer = build_tokenizer(chat_template=WITHOUT_BOS)

    assert 1 not in encode_conversation(tokenizer, ASK).token_ids


def test_a_base_model_gets_plain_text_behind_one_bos(build_tokenizer):
    for tokenizer in (
        build_tokenizer(chat_template=None),
        adding_bos(build_tokenizer, chat_template=None),
    ):
        encoded = encode_conversation(tokenizer, ASK)

        assert tokenizer.decode(encoded.token_ids) == "<s>Why does bread rise?"
        assert encoded.token_ids == encode_text(tokenizer, "Why does bread rise?")


def test_a_second_bos_is_refused(build_tokenizer):
    tokenizer = build_tokenizer(chat_template="{{- bos_token + bos_token -}}hello")

    with pytest.raises(CaptureError, match="two <s> tokens"):
        encode_conversation(tokenizer, ASK)


def test_each_token_knows_whose_words_it_is(build_tokenizer):
    talk = [*ASK, {"role": "assistant", "content": "Yeast."}, {"role": "user", "content": "Oh? 🙂"}]

    encoded = encode_conversation(build_tokenizer(), talk, "Be kind.")

    tokenizer = build_tokenizer()
    assert words_of(tokenizer, encoded, "system") == "Be kind."
    assert words_of(tokenizer, encoded, "user") == "Why does bread rise?Oh? 🙂"
    assert words_of(tokenizer, encoded, "assistant") == "Yeast."
    assert words_of(tokenizer, encoded, "template").startswith("<s><|system|></s><|user|>")
    assert sorted(set(encoded.turns)) == [0, 1, 2]
    assert encoded.answer_turn == 3
    assert list(encoded.turns) == sorted(encoded.turns)


@pytest.mark.parametrize("template", [WITHOUT_BOS, MERGES_SYSTEM])
def test_roles_are_found_in_templates_that_trim_or_merge(build_tokenizer, template: str):
    tokenizer = build_tokenizer(chat_template=template)
    ask = [{"role": "user", "content": "user" if template is MERGES_SYSTEM else "  user "}]

    encoded = encode_conversation(tokenizer, ask, "Be kind.")

    assert words_of(tokenizer, encoded, "user") == "user"
    assert words_of(tokenizer, encoded, "system") == "Be kind."


def test_roles_that_cannot_be_told_are_not_guessed(build_tokenizer):
    encoded = encode_conversation(build_tokenizer(chat_template=SHOUTS), ASK)

    assert set(encoded.roles) == {"prompt"}
    assert encoded.answer_turn == 1


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_a_system_prompt_that_the_template_does_not_take_is_left_out_and_told(
    build_tokenizer, template: str
):
    tokenizer = build_tokenizer(chat_template=template)

    encoded = encode_conversation(tokenizer, ASK, "Be kind.")

    assert encoded.system_prompt_refused
    assert "Be kind" not in encoded.text
    assert encoded.token_ids == encode_conversation(tokenizer, ASK).token_ids
    assert not encode_conversation(tokenizer, ASK).system_prompt_refused


def test_a_conversation_the_template_refuses_is_an_error(build_tokenizer):
    tokenizer = build_tokenizer(chat_template="{{- raise_exception('roles must alternate') -}}")

    with pytest.raises(CaptureError, match="roles must alternate"):
        encode_conversation(tokenizer, ASK, "Be kind.")


def test_models_are_asked_not_to_think_aloud(build_tokenizer):
    encoded = encode_conversation(build_tokenizer(chat_template=THINKS), ASK)

    assert encoded.text.endswith("<|assistant|>")


def test_prompts_carry_their_own_system_prompt(build_tokenizer):
    prompt = Prompt("set", "1", "Go!", system_prompt="Be kind.")

    encoded = encode_prompt(build_tokenizer(), prompt)

    assert encoded.text == "<s><|system|>Be kind.</s><|user|>Go!</s><|assistant|>"
    assert encoded.answer_turn == 1
