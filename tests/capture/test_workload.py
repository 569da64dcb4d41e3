"""Which prompts a run asks, and how their answers begin."""

from __future__ import annotations

import json

import pytest

from tistore.capture.config import parse_config
from tistore.capture.running.workload import encode_questions, read_selections
from tistore.errors import CaptureError, ConfigError

PROMPTS = [
    {"id": 1, "text": "Why?", "tags": ["open", "short"]},
    {"id": 2, "text": "When?", "tags": ["closed"]},
    {"id": 3, "text": "How?", "tags": ["open"], "prefill": "By hand"},
    {"id": 4, "text": "Where?"},
]
THINKS = (
    "{{- bos_token + messages[0]['content'] + '|' -}}"
    "{%- if enable_thinking is false -%}<think></think>{%- endif -%}"
)


@pytest.fixture
def select(tmp_path):
    """Read the selection of one set, of which the keywords choose."""
    (tmp_path / "set.json").write_text(json.dumps({"prompts": PROMPTS}))

    def read(generation: dict | None = None, **choice):
        tables = {
            "base": {"path": "base"},
            "prompt_sets": [{"path": "set.json", "name": "mine", **choice}],
            "generation": generation or {},
        }
        return read_selections(parse_config(tables, folder=tmp_path))

    return read


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({}, ["1", "2", "3", "4"]),
        ({"tags": ["open"]}, ["1", "3"]),
        ({"tags": ["closed", "short"]}, ["1", "2"]),
        ({"tags": ["open"], "limit": 1}, ["1"]),
        ({"tags": ["open"], "prompt_ids": [2, 3]}, ["3"]),
    ],
)
def test_tags_choose_prompts_before_the_limit_does(select, choice, chosen):
    (selection,) = select(**choice)

    assert [prompt.prompt_id for prompt in selection.prompts] == chosen


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"tags": ["opan"]}, "no prompt tagged 'opan'"),
        ({"tags": ["closed"], "prompt_ids": [1]}, "none of the prompts chosen by prompt_ids"),
        ({"tags": []}, "tags"),
        ({"prefill": ""}, "prefill"),
    ],
)
def test_a_choice_of_nothing_is_refused(select, choice, said):
    with pytest.raises(ConfigError, match=said):
        select(**choice)


def test_a_set_may_begin_every_answer_that_its_prompts_do_not_begin(select):
    (plain,), (begun,) = select(), select(prefill="Sure,")

    answers = [prompt.conversation[1:] for prompt in begun.prompts]
    own = {"role": "assistant", "content": "By hand"}
    sure = {"role": "assistant", "content": "Sure,"}
    assert answers == [[sure], [sure], [own], [sure]]
    # What is asked is no longer the same, and a store would say so.
    pairs = zip(plain.prompts, begun.prompts, strict=True)
    assert [one.content_hash == two.content_hash for one, two in pairs] == [
        *(False, False, True, False)
    ]


def test_a_prompt_that_the_template_refuses_is_named(select, build_tokenizer):
    """This template leaves answers out, so that none can be begun."""
    with pytest.raises(CaptureError, match="^prompt mine#3: the chat template refuses"):
        encode_questions(build_tokenizer(chat_template=THINKS), select())


def test_models_think_where_the_run_says_so(select, build_tokenizer):
    tokenizer = build_tokenizer(chat_template=THINKS)

    silent = encode_questions(tokenizer, select(prompt_ids=[1]))
    aloud = encode_questions(tokenizer, select({"thinking": True}, prompt_ids=[1]))

    assert silent[0].encoded.text == "<s>Why?|<think></think>"
    assert aloud[0].encoded.text == "<s>Why?|"
