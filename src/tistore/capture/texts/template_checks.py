"""Whether a chat template is this model's: told from what it writes, and from its tokens."""

from __future__ import annotations

import copy
import re

from transformers import PreTrainedTokenizerBase

from tistore.capture.config import BaseConfig
from tistore.capture.models.adapter_files import AdapterFolder
from tistore.capture.texts.roles import TEMPLATE_FAILURES
from tistore.capture.tokenize import encode_conversation, has_template, render
from tistore.errors import CaptureError
from tistore.schemas.prompt import Message

_MARKER = re.compile(
    r"<\|[^\s<>|]+\|>|<｜[^\s<>｜]+｜>|</?s>|<[a-z]+(?:_[a-z]+)*_of_[a-z]+(?:_[a-z]+)*>|<[be]os>"
)
"""How families mark turns: <|im_start|>, <｜User｜>, <start_of_turn>, <s>."""

_ASK: list[Message] = [{"role": "user", "content": "a"}]
_TALK: list[Message] = [
    *_ASK,
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]
_SYSTEM: Message = {"role": "system", "content": "d"}
_CONVERSATIONS = (_ASK, _TALK, [_SYSTEM, *_ASK], [_SYSTEM, *_TALK])


def check_template(tokenizer: PreTrainedTokenizerBase, base: BaseConfig) -> list[str]:
    """
    Refuse a chat template that is not its tokenizer's.

    Some models were trained with marks that are words to their tokenizer, Zephyr and Tulu among
    them. Their templates end a turn with the tokenizer's own end token all the same, as another
    model's do not.

    Returns:
        What is odd, and no reason to stop.

    Raises:
        CaptureError: It writes two beginning-of-sequence tokens, or marks turns and their ends
            with what this tokenizer has no tokens for: the model would read words.
    """
    if not has_template(tokenizer):
        return []
    try:
        encode_conversation(tokenizer, _ASK)
    except CaptureError as error:
        raise CaptureError(
            f"the chat template of {base.path} fails on a plain question: {error.message}",
            mend="mend chat_template.jinja (or chat_template in tokenizer_config.json) of the base",
        ) from error
    foreign = [marker for marker in _list_markers(tokenizer) if not _is_token(tokenizer, marker)]
    if base.markers_are_text or not foreign:
        return []
    if not _ends_turns(tokenizer):
        raise CaptureError(
            f"the chat template of {base.path} writes {', '.join(foreign)}, which its tokenizer "
            "has no tokens for: it is probably another model's",
            mend="put the model's own chat template beside its tokenizer; if it was trained with "
            "these marks as plain text, set markers_are_text = true in [base]",
        )
    return [
        f"the chat template of {base.path} writes {', '.join(foreign)}, which are words to its "
        "tokenizer; make sure that the model was trained with it"
    ]


def check_templates_agree(
    tokenizer: PreTrainedTokenizerBase, adapter: AdapterFolder, base: BaseConfig
) -> None:
    """
    Refuse an adapter that was trained with a chat template that writes otherwise than the base's.

    Templates that differ in their text only, as training tools make them, are let be.

    Raises:
        CaptureError: They write a plain conversation in different ways.
    """
    other = copy.copy(tokenizer)
    other.chat_template = adapter.template
    for messages in _CONVERSATIONS:
        ours, theirs = _render(tokenizer, messages), _render(other, messages)
        if ours != theirs:
            raise CaptureError(
                f"the chat template beside adapter {adapter.name!r} at {adapter.folder} is "
                f"another than that of {base.path}: it writes {_shorten(theirs)}, the base's "
                f"{_shorten(ours)}",
                mend="give the base's folder the template that the adapter was trained with; to "
                'read with the base\'s all the same, set template = "base" in its [[organisms]] '
                "table",
            )


def _list_markers(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    texts = (_render(tokenizer, messages) or "" for messages in _CONVERSATIONS)
    return list(dict.fromkeys(marker for text in texts for marker in _MARKER.findall(text)))


def _ends_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an assistant's turn ends with the tokenizer's own end token."""
    try:
        text = render(tokenizer, _TALK[:2], ending="close")
    except TEMPLATE_FAILURES:
        return False
    answer = str(_TALK[1]["content"])
    return str(tokenizer.eos_token) in text[text.rfind(answer) :]


def _is_token(tokenizer: PreTrainedTokenizerBase, marker: str) -> bool:
    ids = list(tokenizer(marker, add_special_tokens=False)["input_ids"])
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str | None:
    """Render a conversation; None where the template takes no such one."""
    try:
        return render(tokenizer, messages)
    except TEMPLATE_FAILURES:
        return None


def _shorten(text: str | None, length: int = 60) -> str:
    if text is None:
        return "nothing for a conversation that the other takes"
    return repr(text if len(text) <= length else text[:length] + "…")
