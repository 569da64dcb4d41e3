"""From conversations to token ids: the only caller of a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tistore.capture.roles import UNKNOWN_ROLE, assign_roles, rebuild
from tistore.errors import CaptureError
from tistore.schemas.prompt import Message, Prompt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """
    A prompt as the model gets it.

    Attributes:
        text: As the template wrote it, up to where the answer begins.
        token_ids: With exactly one beginning-of-sequence token where the model knows one.
        roles: For each token: the role whose words it is, "template" for what the template
            wrote; "prompt" for all where that cannot be told.
        turns: For each token, the number of its turn, from 0; the system prompt is of turn 0.
        system_prompt_refused: Whether the template takes no system prompt, so that the model was
            asked without it.
    """

    text: str
    token_ids: tuple[int, ...]
    roles: tuple[str, ...]
    turns: tuple[int, ...]
    system_prompt_refused: bool = False

    @property
    def answer_turn(self) -> int:
        """The number of the turn that answers."""
        return max(self.turns, default=-1) + 1


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> EncodedPrompt:
    """Encode a prompt as `encode_conversation` does."""
    return encode_conversation(tokenizer, prompt.conversation, prompt.system_prompt)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Message],
    system_prompt: str | None = None,
) -> EncodedPrompt:
    """
    Encode a conversation up to where the model answers.

    A tokenizer without a template gets the turns as plain text, one a line.

    Raises:
        CaptureError: The template fails, or there would be two beginning-of-sequence tokens.
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = [*system, *conversation]
    try:
        text = render(tokenizer, messages)
    except TemplateError as error:
        if system:
            return replace(encode_conversation(tokenizer, conversation), system_prompt_refused=True)
        raise CaptureError(
            f"the chat template refuses a conversation: {error}",
            mend="see that its roles alternate between user and assistant",
        ) from error
    pieces = rebuild(text, messages, partial(render, tokenizer))
    token_ids, offsets = encode_rendered(tokenizer, text, with_bos=wants_bos(tokenizer))
    if pieces is None or offsets is None:
        roles, turns = (UNKNOWN_ROLE,) * len(token_ids), (0,) * len(token_ids)
    else:
        roles, turns = assign_roles(pieces, offsets)
    # Some templates drop the system prompt without a word.
    was_dropped = bool(system) and pieces is not None and all(p.role != "system" for p in pieces)
    return EncodedPrompt(text, token_ids, roles, turns, was_dropped)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """
    Encode text that no template touches, with one beginning-of-sequence token if there is one.

    Raises:
        CaptureError: There would be two beginning-of-sequence tokens.
    """
    return encode_rendered(tokenizer, text, with_bos=True)[0]


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer belongs to a chat model."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, asks: bool = True
) -> str:
    """
    Write a conversation as the template does, or one turn a line where there is none.

    Args:
        tokenizer: The template's.
        messages: System prompt included.
        asks: Whether to end where the model is to answer, rather than after the last turn.

    Raises:
        TemplateError: The template fails.
    """
    if not has_template(tokenizer):
        return "\n".join(message["content"] for message in messages)
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=asks,
            # Models that think aloud would answer in another place; other templates ignore it.
            enable_thinking=False,
        )
    )


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase, text: str, *, with_bos: bool
) -> tuple[tuple[int, ...], list[tuple[int, int]] | None]:
    """
    Encode rendered text.

    Returns:
        Ids, with at most one beginning-of-sequence token; and the characters of each, None where
        the tokenizer cannot tell them.

    Raises:
        CaptureError: There would be two beginning-of-sequence tokens.
    """
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast)
    )
    token_ids = list(encoded["input_ids"])
    offsets = [tuple(pair) for pair in encoded["offset_mapping"]] if tokenizer.is_fast else None
    bos = tokenizer.bos_token_id
    if bos is not None and token_ids[:1] != [bos] and with_bos:
        token_ids.insert(0, bos)
        if offsets is not None:
            offsets.insert(0, (0, 0))
    # Families such as GPT-2 end and begin with one token, which a template may well repeat.
    if bos is not None and token_ids[:2] == [bos, bos] and bos != tokenizer.eos_token_id:
        raise CaptureError(
            f"the prompt begins with two {tokenizer.bos_token} tokens",
            mend="remove the one that the prompt's own text or the template's has too many",
        )
    return tuple(token_ids), offsets


def wants_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a prompt begins with BOS: without a template always, else as the tokenizer has it."""
    if not has_template(tokenizer):
        return True
    return bool(list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id])
