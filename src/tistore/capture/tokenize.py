"""From conversations to token ids: the only caller of a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tistore.capture.texts.roles import (
    TEMPLATE_FAILURES,
    Piece,
    Render,
    Vocabulary,
    assign_roles,
    rebuild,
)
from tistore.capture.texts.stretches import find_marks, find_opened
from tistore.errors import CaptureError
from tistore.schemas.prompt import ASSISTANT, Message, Prompt
from tistore.schemas.role import ANSWER_ROLES, TEMPLATE_ROLE, UNKNOWN_ROLE

Ending = Literal["ask", "continue", "close"]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """
    A prompt as the model gets it.

    Attributes:
        text: As the template wrote it, up to where the answer begins.
        token_ids: With exactly one beginning-of-sequence token where the model knows one.
        roles: For each token: the role whose words it is ("system", "user", "assistant", "tool";
            "thinking" and "tool_call" for stretches of an assistant's turn), "template" for what
            the template wrote; "prompt" for all where that cannot be told.
        turns: For each token, the number of its turn, from 0; the system prompt is of turn 0.
        system_prompt_refused: Whether the template takes no system prompt, so that the model was
            asked without it.
        opening: The text behind the last words that are not the assistant's.
        is_prefilled: Whether the answer is begun in it; those words are the prompt's.
    """

    text: str
    token_ids: tuple[int, ...]
    roles: tuple[str, ...]
    turns: tuple[int, ...]
    system_prompt_refused: bool = False
    opening: str = ""
    is_prefilled: bool = False

    @property
    def answer_turn(self) -> int:
        """The number of the turn that answers."""
        last = max(self.turns, default=-1)
        is_begun = self.is_prefilled and UNKNOWN_ROLE not in self.roles
        return last if is_begun else last + 1


@dataclass(frozen=True, slots=True)
class Style:
    """
    How a template is asked to write.

    Attributes:
        tools: Descriptions of the tools the model may call.
        thinking: Whether a model that can think aloud is to do so.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    thinking: bool = False


PLAIN = Style()


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, thinking: bool = False
) -> EncodedPrompt:
    """Encode a prompt as `encode_conversation` does."""
    style = Style(prompt.tools, thinking)
    return encode_conversation(tokenizer, prompt.conversation, prompt.system_prompt, style)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Message],
    system_prompt: str | None = None,
    style: Style = PLAIN,
) -> EncodedPrompt:
    """
    Encode a conversation up to where the model answers.

    One that ends with the assistant is to be continued: it is encoded up to the end of those
    words. A tokenizer without a template gets the turns as plain text, one a line, and the begun
    answer right behind them.

    Raises:
        CaptureError: The template fails, or there would be two beginning-of-sequence tokens.
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = [*system, *conversation]
    try:
        told, write = _plan_writing(tokenizer, messages, style)
        text = write(told)
    except TEMPLATE_FAILURES as error:
        if system:
            bare = encode_conversation(tokenizer, conversation, None, style)
            return replace(bare, system_prompt_refused=True)
        raise refuse_conversation(error) from error
    pieces = rebuild(text, told, write, read_vocabulary(tokenizer))
    token_ids, offsets = encode_rendered(tokenizer, text, with_bos=wants_bos(tokenizer))
    if pieces is None or offsets is None:
        roles, turns = (UNKNOWN_ROLE,) * len(token_ids), (0,) * len(token_ids)
    else:
        roles, turns = assign_roles(pieces, offsets)
    # Some templates drop the system prompt without a word.
    was_dropped = bool(system) and pieces is not None and all(p.role != "system" for p in pieces)
    return EncodedPrompt(
        text,
        token_ids,
        roles,
        turns,
        system_prompt_refused=was_dropped,
        opening=_find_opening(text, pieces),
        is_prefilled=messages[-1]["role"] == ASSISTANT,
    )


def refuse_conversation(error: Exception) -> CaptureError:
    """Say that a template fails on a conversation."""
    # Behind the first sentence there may be the whole conversation.
    reason = str(error).partition("\n")[0].partition("! ")[0]
    return CaptureError(
        f"the chat template refuses a conversation: {reason}",
        mend="see that its roles alternate between user and assistant, and that its tool calls "
        "have the form the template takes",
    )


def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Read what tells stretches apart in this tokenizer's conversations."""

    def list_added() -> Iterator[str]:
        return (token.content for token in tokenizer.added_tokens_decoder.values())

    return Vocabulary(find_marks(tokenizer), list_added)


def find_last_word(text: str) -> str:
    """Find what a stretch open at the end of a text begins with, where no more is known."""
    return next(iter(text.split()[-1:]), "")


def _find_opening(text: str, pieces: Sequence[Piece] | None) -> str:
    if pieces is None:
        return find_last_word(text)
    others = [i for i, p in enumerate(pieces) if p.role not in (TEMPLATE_ROLE, *ANSWER_ROLES)]
    return "".join(piece.text for piece in pieces[others[-1] + 1 if others else 0 :])


def _plan_writing(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], style: Style
) -> tuple[Sequence[Message], Render]:
    """
    Decide how a conversation is written up to where the model writes on.

    Returns:
        The messages, and what writes them or marks in their places.

    Raises:
        TEMPLATE_FAILURES: The template fails.
    """
    if messages[-1]["role"] != ASSISTANT:
        return messages, partial(render, tokenizer, style=style)
    begun = str(messages[-1]["content"])
    known = find_marks(tokenizer)
    marks = next((marks for marks in known if begun.lstrip().startswith(marks.begin)), None)
    if marks is None and has_template(tokenizer):
        return messages, partial(render, tokenizer, style=style, ending="continue")
    # No template goes on with thinking: the turn is opened as for an answer, and begun by hand.
    style = replace(style, thinking=marks is not None)
    asked = render(tokenizer, messages[:-1], style)
    if marks is not None and find_opened(find_last_word(asked), known) == marks:
        begun = begun.lstrip().removeprefix(marks.begin).lstrip()
        messages = [*messages[:-1], {**messages[-1], "content": begun}]

    def write(given: Sequence[Message]) -> str:
        return render(tokenizer, given[:-1], style) + str(given[-1]["content"])

    return messages, write


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
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    style: Style = PLAIN,
    *,
    ending: Ending = "ask",
) -> str:
    """
    Write a conversation as the template does, or one turn a line where there is none.

    Args:
        tokenizer: The template's.
        messages: System prompt included.
        style: How the template is asked to write.
        ending: Whether to "ask", ending where the model is to answer; to "continue", ending
            where the last turn's words do; or to "close" the last turn.

    Raises:
        TEMPLATE_FAILURES: The template fails.
    """
    if not has_template(tokenizer):
        if style.tools or any(message.get("tool_calls") for message in messages):
            raise TemplateError("there is no template, and tools have no form without one")
        return "\n".join(str(message["content"]) for message in messages)
    # Models that think aloud would answer in another place; other templates ignore it. Some
    # families call it by another name, and have it off where it is left out.
    options: dict[str, Any] = {"enable_thinking": style.thinking}
    if style.thinking:
        options["thinking"] = True
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in style.tools] or None,
            tokenize=False,
            add_generation_prompt=ending == "ask",
            continue_final_message=ending == "continue",
            **options,
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
