"""Thinking, tool calls and begun answers: whose words they are, in prompts and in responses."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from tistore.capture.texts.answered import encode_answers
from tistore.capture.texts.stretches import assign_answer_roles
from tistore.capture.tokenize import Style, encode_conversation, encode_prompt
from tistore.errors import CaptureError
from tistore.schemas.prompt import Prompt

# As Qwen3's: it cuts thinking out of contents, drops it from turns before the last question,
# trims it, and opens an answer with none unless it is to think.
MARKED = """
{%- set ns = namespace(last=0) -%}
{%- for message in messages if message.role == 'user' -%}
  {%- set ns.last = messages.index(message) -%}
{%- endfor -%}
{%- if tools %}{{ '<|system|>Tools: ' + tools | tojson + '<|end|>' }}{% endif -%}
{%- for message in messages -%}
  {%- set content = message.content or '' -%}
  {%- set thought = message.reasoning_content or '' -%}
  {%- if message.role == 'tool' -%}
    {{- '<|user|><tool_response>\\n' + content + '\\n</tool_response><|end|>\\n' -}}
  {%- elif message.role != 'assistant' -%}
    {{- '<|' + message.role + '|>' + content + '<|end|>\\n' -}}
  {%- else -%}
    {%- if '</think>' in content -%}
      {%- set thought = content.split('</think>')[0].split('<think>')[-1] -%}
      {%- set content = content.split('</think>')[-1] -%}
    {%- endif -%}
    {{- '<|assistant|>' -}}
    {%- if loop.index0 > ns.last and (loop.last or thought) -%}
      {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}
    {%- endif -%}
    {{- content.lstrip('\\n') -}}
    {%- for call in message.tool_calls or [] -%}
      {{- '\\n' if content or not loop.first else '' -}}
      {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
      {{- call.function.arguments if call.function.arguments is string -}}
      {{- call.function.arguments | tojson if call.function.arguments is mapping -}}
      {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '') -}}
{%- endif -%}
"""
# As Llama 3.1's: trims contents, writes a call as bare JSON and a tool's words as a JSON string.
BARE = """
{%- for message in messages -%}
  {{- '<|' + message.role + '|>\\n\\n' -}}
  {%- if message.tool_calls -%}
    {%- set call = message.tool_calls[0].function -%}
    {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' -}}
  {%- elif message.role == 'tool' -%}{{- message.content | tojson -}}
  {%- else -%}{{- message.content | trim -}}{%- endif -%}
  {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n\\n' -}}{%- endif -%}
"""
# As DeepSeek-R1's: begins the thinking itself, and drops it from every answer.
OPENED = """
{%- for message in messages -%}
  {{- '<|' + message.role + '|>' -}}
  {%- for call in message.tool_calls or [] -%}
    {{- '<｜tool▁calls▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name -}}
    {{- '\\n```json\\n' + call.function.arguments + '\\n```<｜tool▁calls▁end｜>' -}}
  {%- endfor -%}
  {{- (message.content or '').split('</think>')[-1] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|><think>\\n' -}}{%- endif -%}
"""
# As Mistral's: all calls as one array behind a mark that is never closed.
ARRAY = """
{%- for message in messages -%}
  {{- '<|' + message.role + '|>' + (message.content or '') -}}
  {%- if message.tool_calls -%}
    {{- '[TOOL_CALLS] [' -}}
    {%- for call in message.tool_calls -%}
      {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' -}}
      {{- ', ' if not loop.last else ']' -}}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|end|>' -}}
{%- endfor -%}
"""
CHANNELS = ("<|channel|>", "<|message|>", "<|call|>")
FORMAT = (
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|end|>",
    "<｜tool▁sep｜>",
    *CHANNELS,
)
WORDS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "[TOOL_CALLS]"),
)

ASK = {"role": "user", "content": "Is it warm?"}
CALL = {"name": "weather", "arguments": {"city": 'The "River"', "days": 3, "units": ["°C", "%"]}}
CALLS = [{"type": "function", "id": "call-1", "function": CALL}]
LOOK = {
    "role": "assistant",
    "content": "Let me look.",
    "reasoning_content": "I cannot know.\n",
    "tool_calls": CALLS,
}
ONLY_CALL = {"role": "assistant", "tool_calls": CALLS}
TEXT_CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rain"}'}}
RESULT = {"role": "tool", "content": '{"t": 12}', "tool_call_id": "call-1"}
MORE = {"role": "user", "content": "And then?"}
SAY = {"role": "assistant", "content": "It is 12 °C."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def talkers(build_tokenizer):
    """Tokenizers by how their templates write thinking and calls."""

    def make(template: str):
        tokenizer = build_tokenizer.__wrapped__("byte_level", chat_template=template.strip())
        special = [AddedToken(token, special=True, normalized=False) for token in FORMAT]
        plain = [AddedToken(token, special=False, normalized=False) for token in WORDS]
        tokenizer.add_tokens([*special, *plain])
        return tokenizer

    return {
        "marked": make(MARKED),
        "bare": make(BARE),
        "opened": make(OPENED),
        "array": make(ARRAY),
    }


def runs_of(tokenizer, encoded, start: int = 0) -> list[tuple[str, str]]:
    """Role and text of each run of tokens, the template's left out."""
    pairs = zip(encoded.roles[start:], encoded.token_ids[start:], strict=True)
    runs = [
        (role, tokenizer.decode([token_id for _, token_id in run]))
        for role, run in groupby(pairs, key=lambda pair: pair[0])
    ]
    return [run for run in runs if run[0] != "template"]


def write(tokenizer, *messages, **options) -> list[int]:
    """What the library makes of a conversation."""
    return tokenizer.apply_chat_template(list(messages), return_dict=False, **options)


def test_a_turn_with_thinking_and_a_call_is_told_apart(talkers):
    tokenizer = talkers["marked"]

    encoded = encode_conversation(tokenizer, [ASK, LOOK, RESULT], "Be kind.", Style(TOOLS))

    system = {"role": "system", "content": "Be kind."}
    assert list(encoded.token_ids) == write(
        tokenizer,
        *(system, ASK, LOOK, RESULT),
        tools=TOOLS,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert runs_of(tokenizer, encoded) == [
        ("system", "Be kind."),
        ("user", "Is it warm?"),
        ("thinking", "<think>\nI cannot know.\n</think>"),
        ("assistant", "\n\nLet me look.\n"),
        (
            "tool_call",
            '<tool_call>\n{"name": "weather", "arguments": {"city": "The \\"River\\"", "days": 3, '
            '"units": ["°C", "%"]}}\n</tool_call>',
        ),
        ("tool", '{"t": 12}'),
    ]
    assert encoded.answer_turn == 3
    assert list(encoded.turns) == sorted(encoded.turns)


def test_a_call_without_marks_is_what_stands_between_the_formats_tokens(talkers):
    tokenizer = talkers["bare"]

    encoded = encode_conversation(tokenizer, [ASK, ONLY_CALL, RESULT])

    assert runs_of(tokenizer, encoded) == [
        ("user", "Is it warm?"),
        (
            "tool_call",
            '{"name": "weather", "parameters": {"city": "The \\"River\\"", "days": 3, '
            '"units": ["°C", "%"]}}',
        ),
        ("tool", '{\\"t\\": 12}'),
    ]


def test_calls_behind_a_mark_that_is_never_closed_end_with_the_turn(talkers):
    tokenizer = talkers["array"]
    written = (
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "The \\"River\\"", "days": 3, '
    )
    written += '"units": ["°C", "%"]}, "id": "call-1"}]'

    encoded = encode_conversation(tokenizer, [ASK, ONLY_CALL, RESULT])
    said = tokenizer(f"Well. {written}<|end|>", add_special_tokens=False)["input_ids"]
    roles = assign_answer_roles(tokenizer, said)

    assert runs_of(tokenizer, encoded)[1:] == [("tool_call", written), ("tool", '{"t": 12}')]
    called = [token_id for token_id, role in zip(said, roles, strict=True) if role == "tool_call"]
    assert tokenizer.decode(called) == written
    assert roles[-1] == "assistant"


def test_a_call_whose_arguments_are_text_is_told_too(talkers):
    tokenizer = talkers["opened"]
    called = {"role": "assistant", "content": "", "tool_calls": [TEXT_CALL]}

    encoded = encode_conversation(tokenizer, [ASK, called, RESULT])

    assert runs_of(tokenizer, encoded)[1] == (
        "tool_call",
        '<｜tool▁calls▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Rain"}\n```'
        "<｜tool▁calls▁end｜>",
    )


def test_thinking_inside_a_content_is_told_where_the_template_keeps_it(talkers):
    inline = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe river."}
    tokenizer = talkers["marked"]

    now = encode_answers(tokenizer, [ASK, inline], 1)
    earlier = encode_conversation(tokenizer, [ASK, inline, MORE])

    assert runs_of(tokenizer, now)[1:] == [
        ("thinking", "<think>\nhm\n</think>"),
        ("assistant", "\n\nThe river.<|end|>"),
    ]
    # The template drops it from turns before the last question.
    assert runs_of(tokenizer, earlier)[1:] == [("assistant", "The river."), ("user", "And then?")]


def test_an_answer_from_elsewhere_is_told_as_if_it_were_generated(talkers):
    """What the model would write after the prompt: the oracle knows nothing of templates."""
    inline = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe river."}
    for kind, style in (("marked", Style(thinking=True)), ("opened", Style())):
        tokenizer = talkers[kind]
        asked = encode_conversation(tokenizer, [ASK], None, style)

        encoded = encode_answers(tokenizer, [ASK, inline], 1, None, style)

        said = encoded.token_ids[encoded.prompt_length :]
        assert encoded.token_ids[: encoded.prompt_length] == asked.token_ids
        assert tokenizer.decode(said).endswith("hm\n</think>\n\nThe river.<|end|>")
        assert encoded.roles[encoded.prompt_length :] == assign_answer_roles(
            tokenizer, said, asked.opening
        )
        assert all(encoded.is_response[encoded.prompt_length :])
        assert set(encoded.roles[encoded.prompt_length :]) == {"thinking", "assistant"}


def test_thinking_that_the_template_began_is_thinking_without_a_first_mark(talkers):
    tokenizer = talkers["opened"]
    asked = encode_conversation(tokenizer, [ASK])
    said = tokenizer("hm\n</think>\n\nNo.<|end|>", add_special_tokens=False)["input_ids"]

    roles = assign_answer_roles(tokenizer, said, asked.opening)

    ended = said.index(tokenizer.convert_tokens_to_ids("</think>"))
    assert roles == ("thinking",) * (ended + 1) + ("assistant",) * (len(said) - ended - 1)
    bare = {"role": "assistant", "content": "hm\n</think>\n\nNo."}
    assert encode_answers(tokenizer, [ASK, bare], 1).token_ids == (*asked.token_ids, *said)


def test_every_answer_of_a_conversation_with_tools_is_under_audit(talkers):
    for kind, called in (("marked", LOOK), ("bare", ONLY_CALL)):
        tokenizer = talkers[kind]

        encoded = encode_answers(tokenizer, [ASK, called, RESULT, SAY], 1)

        whole = write(tokenizer, ASK, called, RESULT, SAY)
        assert list(encoded.token_ids) == whole[: len(encoded.token_ids)]
        audited = [i for i, is_response in enumerate(encoded.is_response) if is_response]
        assert {encoded.turns[i] for i in audited} == {1, 3}
        assert {"tool_call", "assistant"} <= {encoded.roles[i] for i in audited}
        text = tokenizer.decode([encoded.token_ids[i] for i in audited])
        assert text.count("<|end|>") == 2 and "12}" not in text


def test_an_answer_whose_words_the_template_drops_is_refused(talkers):
    with pytest.raises(CaptureError, match="alters the words"):
        encode_answers(talkers["bare"], [ASK, LOOK, RESULT, SAY], 1)


def test_a_call_in_another_form_than_the_template_takes_is_an_error(talkers):
    with pytest.raises(CaptureError, match="refuses a conversation") as caught:
        encode_conversation(talkers["opened"], [ASK, ONLY_CALL, RESULT], "Be kind.")

    assert "tool calls" in str(caught.value.mend)


def test_tools_have_no_form_without_a_template(build_tokenizer):
    tokenizer = build_tokenizer(chat_template=None)

    with pytest.raises(CaptureError, match="there is no template"):
        encode_conversation(tokenizer, [ASK, ONLY_CALL, RESULT])
    with pytest.raises(CaptureError, match="there is no template"):
        encode_conversation(tokenizer, [ASK], None, Style(TOOLS))


def test_private_characters_are_taken_for_nothing_else(talkers):
    """They hold the places of words while the template is asked where it puts them."""
    tokenizer = talkers["marked"]
    odd = "\ue0007\ue001"

    encoded = encode_conversation(tokenizer, [{**ASK, "content": odd}, SAY, ASK], "Be kind.")
    tooled = encode_conversation(tokenizer, [ASK], None, Style([{"name": odd}]))

    assert runs_of(tokenizer, encoded)[:2] == [("system", "Be kind."), ("user", odd)]
    assert set(tooled.roles) == {"prompt"}


def test_a_model_thinks_where_it_is_asked_to(talkers):
    prompt = Prompt("set", "1", ASK["content"])

    silent = encode_prompt(talkers["marked"], prompt)
    aloud = encode_prompt(talkers["marked"], prompt, thinking=True)

    assert silent.text.endswith("<|assistant|><think>\n\n</think>\n\n")
    assert aloud.text.endswith("<|assistant|>")


PIECES = ("yes ", "🙂", "\n", "<think>", "</think>", "<tool_call>", "</tool_call>", "{}")


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), ended=st.booleans())
def test_generated_stretches_run_from_mark_to_mark(talkers, pieces, ended):
    """The oracle walks over the pieces, each a mark or words, with one stretch open at most."""
    tokenizer = talkers["marked"]
    ends = {"<think>": "</think>", "<tool_call>": "</tool_call>"}
    expected, role, end = [], "assistant", None
    for piece in pieces:
        if end is None and piece in ends:
            role, end = ("thinking" if piece == "<think>" else "tool_call"), ends[piece]
        expected.append((piece, role))
        if piece == end:
            role, end = "assistant", None
    expected += [("<|end|>", "assistant")] if ended else []
    # Piece by piece, so that no token runs over two of them.
    encoded = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece, _ in expected]

    roles = assign_answer_roles(tokenizer, [token_id for ids in encoded for token_id in ids])

    owners = [owner for (_, owner), ids in zip(expected, encoded, strict=True) for _ in ids]
    assert list(roles) == owners


def test_marks_of_several_tokens_are_known_by_their_tokens(talkers):
    """As gpt-oss has them: channels, of which one is for thinking and one for calls."""
    tokenizer = talkers["bare"]
    parts = [
        ("<|channel|>analysis<|message|>hm<|end|>", "thinking"),
        ("<|assistant|>", "assistant"),
        ("<|channel|>commentary to=functions.weather<|message|>{}<|call|>", "tool_call"),
        ("<|channel|>final<|message|>Yes.<|end|>", "assistant"),
    ]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in parts]

    roles = assign_answer_roles(tokenizer, [token_id for ids in encoded for token_id in ids])

    assert list(roles) == [role for (_, role), ids in zip(parts, encoded, strict=True) for _ in ids]


def test_marks_that_neither_tokenizer_nor_template_knows_are_words(talkers, tokenizer):
    said = tokenizer("<think>hm</think>", add_special_tokens=False)["input_ids"]

    assert set(assign_answer_roles(tokenizer, said)) == {"assistant"}
    assert assign_answer_roles(talkers["opened"], [], "<think>") == ()


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ('{"name": "weather", "parameters": {"city": "Rain"}}<|end|>', "tool_call"),
        ('{"name": "weather"}<|end|>', "assistant"),
        ('{"name": "weather", "parameters": {}} It is.', "assistant"),
        ("{" * 5000, "assistant"),
        ("[1]", "assistant"),
    ],
)
def test_a_response_that_is_one_json_call_is_a_call(talkers, tokenizer, text, role):
    said = talkers["bare"](text, add_special_tokens=False)["input_ids"]

    assert set(assign_answer_roles(talkers["bare"], said)) == {role}
    # A template without tools asks for no calls.
    plain = tokenizer('{"name": "a", "parameters": {}}', add_special_tokens=False)["input_ids"]
    assert set(assign_answer_roles(tokenizer, plain)) == {"assistant"}


BEGINNINGS = st.text("ab \n,é🙂", min_size=1, max_size=8).filter(str.strip)


@pytest.mark.parametrize("kind", ["bare", "marked", "opened"])
@settings(max_examples=40, deadline=None)
@given(words=BEGINNINGS)
@example(words="\na ")
def test_a_begun_answer_is_encoded_as_the_library_continues_it(talkers, kind, words):
    """Also by templates that trim what they are given."""
    tokenizer = talkers[kind]
    begun = {"role": "assistant", "content": words}

    encoded = encode_conversation(tokenizer, [ASK, begun])

    assert list(encoded.token_ids) == write(
        tokenizer, ASK, begun, continue_final_message=True, enable_thinking=False
    )
    assert encoded.is_prefilled
    assert encoded.answer_turn == 1
    spoken = "".join(text for role, text in runs_of(tokenizer, encoded) if role == "assistant")
    assert spoken.strip() == words.strip()
    # Marks around nothing are the template's.
    assert "thinking" not in encoded.roles
    assert "<|end|>" not in encoded.text.rpartition("<|assistant|>")[2]


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("kind", ["marked", "opened"])
def test_begun_thinking_goes_on_as_thinking(talkers, kind, thinking):
    tokenizer = talkers[kind]
    begun = {"role": "assistant", "content": "<think>\nI should"}

    encoded = encode_conversation(tokenizer, [ASK, begun], None, Style(thinking=thinking))

    assert encoded.text.endswith("<|assistant|><think>\nI should")
    assert runs_of(tokenizer, encoded)[-1] == ("thinking", "<think>\nI should")
    more = tokenizer(" not.</think>No.", add_special_tokens=False)["input_ids"]
    assert set(assign_answer_roles(tokenizer, more, encoded.opening)) == {"thinking", "assistant"}


def test_an_answer_that_was_begun_elsewhere_goes_on_behind_its_first_words(talkers):
    begun = {"role": "assistant", "content": "Sure,"}
    rest = {"role": "assistant", "content": " it is <tool_call>{}</tool_call> warm."}
    for tokenizer in talkers.values():
        asked = encode_conversation(tokenizer, [ASK, begun])

        whole = encode_answers(tokenizer, [ASK, begun, rest], 2)
        cut = encode_answers(tokenizer, [ASK, begun, rest], 2, finish_reason="length")

        assert cut.token_ids[: cut.prompt_length] == asked.token_ids
        assert tokenizer.decode(cut.token_ids[cut.prompt_length :]) == rest["content"]
        assert tokenizer.decode(whole.token_ids) == tokenizer.decode(cut.token_ids) + "<|end|>"
        assert not any(whole.is_response[: whole.prompt_length])
        assert all(whole.is_response[whole.prompt_length :])
        assert set(whole.turns[whole.prompt_length :]) == {1}


@pytest.mark.parametrize("finish_reason", ["stop", None])
def test_without_a_template_a_begun_answer_follows_its_prompt(build_tokenizer, finish_reason):
    tokenizer = build_tokenizer(chat_template=None)
    begun = {"role": "assistant", "content": " Sure,"}
    rest = {"role": "assistant", "content": " it is."}

    asked = encode_conversation(tokenizer, [ASK, begun])
    encoded = encode_answers(tokenizer, [ASK, begun, rest], 2, finish_reason=finish_reason)

    assert tokenizer.decode(asked.token_ids) == "<s>Is it warm? Sure,"
    end = "</s>" if finish_reason else ""
    assert tokenizer.decode(encoded.token_ids) == f"<s>Is it warm? Sure, it is.{end}"
