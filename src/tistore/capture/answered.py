"""From conversations that hold their answers to token ids, as the template writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tistore.capture.decode import find_special
from tistore.capture.roles import TEMPLATE_ROLE, UNKNOWN_ROLE, Piece, assign_roles, rebuild
from tistore.capture.tokenize import (
    encode_conversation,
    encode_rendered,
    has_template,
    render,
    wants_bos,
)
from tistore.errors import CaptureError
from tistore.schemas.prompt import Message

ANSWER_ROLE = "assistant"
CUT_SHORT = "length"
"""Finish reason of an answer that its limit ended, so that no end mark follows."""
STOPPED = "stop"

_MARK = "\ue000answer\ue001"


@dataclass(frozen=True, slots=True)
class EncodedAnswers:
    """
    A conversation as a model reads it, from its start to the end mark of its last answer.

    Attributes:
        token_ids: Of all of it.
        prompt_length: Tokens before the first answer.
        roles: Of each token, as `EncodedPrompt` has them; an answer's end mark is its own.
        turns: Of each token.
        is_response: Whether each token is of an answer.
        system_prompt_refused: Whether the template takes no system prompt.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    roles: tuple[str, ...]
    turns: tuple[int, ...]
    is_response: tuple[bool, ...]
    system_prompt_refused: bool = False


@dataclass(frozen=True, slots=True)
class _Script:
    """
    A rendered conversation, cut up.

    Attributes:
        pieces: They spell it.
        last: Index of the last answer among them.
        n_asked: Turns before the first answer.
    """

    pieces: Sequence[Piece]
    last: int
    n_asked: int

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def body(self) -> str:
        """The text up to the last word of the last answer."""
        return "".join(piece.text for piece in self.pieces[: self.last + 1])


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Message],
    n_asked: int,
    system_prompt: str | None = None,
    *,
    finish_reason: str | None = None,
) -> EncodedAnswers:
    """
    Encode a conversation that holds its answers, exactly as the template writes it.

    Its tokens are those of the template's own text, up to the end mark of the last answer, which
    a model would have written itself: what a template puts behind it is left out, and so is the
    mark where the answer was cut short. A single answer that a template would alter, as those do
    that drop reasoning, is put into its place unaltered. Without a template the turns are lines,
    and a single answer follows its prompt directly, as if generated.

    Args:
        tokenizer: The template's.
        conversation: All turns but the system prompt; the last is the assistant's.
        n_asked: Turns before the first answer; every later assistant turn is an answer.
        system_prompt: Left out where the template takes none.
        finish_reason: Of the last answer.

    Raises:
        CaptureError: The template fails, alters one of several answers, or leaves no tokens.
    """
    system: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    try:
        script = _write(tokenizer, [*system, *conversation], len(system), n_asked)
    except TemplateError as error:
        if system:
            bare = encode_answers(tokenizer, conversation, n_asked, finish_reason=finish_reason)
            return replace(bare, system_prompt_refused=True)
        raise CaptureError(
            f"the chat template refuses a conversation: {error}",
            mend="see that its roles alternate between user and assistant",
        ) from error
    asked = encode_conversation(tokenizer, conversation[:n_asked], system_prompt)
    ids, offsets = encode_rendered(tokenizer, script.body, with_bos=wants_bos(tokenizer))
    begins_as_asked = ids[: len(asked.token_ids)] == asked.token_ids
    if offsets is not None:
        roles, turns = assign_roles(script.pieces[: script.last + 1], offsets)
    elif begins_as_asked and len(conversation) == n_asked + 1:
        # Nobody can say which characters a token has, but where the prompt ends is known.
        roles, turns = (ANSWER_ROLE,) * len(ids), (asked.answer_turn,) * len(ids)
    else:
        raise CaptureError(
            "this tokenizer does not tell the characters of its tokens, so that answers cannot "
            "be found among them",
            mend="give token ids",
        )
    if begins_as_asked:
        # So that a prompt has the same roles and turns whoever answers it.
        n_prompt = len(asked.token_ids)
        roles, turns = asked.roles + roles[n_prompt:], asked.turns + turns[n_prompt:]
    begin = len(asked.token_ids) if begins_as_asked else 0
    answered = [
        index >= begin and role == ANSWER_ROLE and turn >= n_asked
        for index, (role, turn) in enumerate(zip(roles, turns, strict=True))
    ]
    if not any(answered):
        raise CaptureError("an answer has no tokens", mend="leave the response out")
    tail = _find_end_mark(tokenizer, script, ids, finish_reason)
    return _claim_marks(
        tokenizer,
        EncodedAnswers(
            token_ids=ids + tail,
            prompt_length=answered.index(True),
            roles=roles + (ANSWER_ROLE,) * len(tail),
            turns=turns + (turns[-1],) * len(tail),
            is_response=(*answered, *[True] * len(tail)),
            system_prompt_refused=asked.system_prompt_refused,
        ),
    )


def _write(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], n_system: int, n_asked: int
) -> _Script:
    """Render a conversation and find its answers."""

    def write(given: Sequence[Message]) -> str:
        return _render_answers(tokenizer, given, n_system + n_asked)

    pieces = rebuild(write(messages), messages, write)
    n_answers = sum(message["role"] == ANSWER_ROLE for message in messages[n_system + n_asked :])
    if pieces is not None:
        found = [
            index
            for index, piece in enumerate(pieces)
            if piece.role == ANSWER_ROLE and piece.turn >= n_asked
        ]
        if len(found) == n_answers:
            return _Script(pieces, found[-1], n_asked)
    if len(messages) > n_system + n_asked + 1:
        raise CaptureError(
            "the chat template alters the words of a conversation, so that its answers cannot be "
            "found in it",
            mend="give token ids, or only the last answer as the response",
        )
    return _write_verbatim(messages, write(messages), write, n_asked)


def _write_verbatim(
    messages: Sequence[Message],
    text: str,
    write: Callable[[Sequence[Message]], str],
    n_asked: int,
) -> _Script:
    """Put a single answer where the template puts one, whatever it would make of this one."""
    answer = messages[-1]["content"]
    parts = write([*messages[:-1], {**messages[-1], "content": _MARK}]).split(_MARK)
    if len(parts) != 2:
        raise CaptureError(
            "the chat template leaves an answer out, or writes it twice", mend="give token ids"
        )
    before, after = parts
    if text == f"{before}{answer.strip()}{after}":
        answer = answer.strip()
    pieces = (
        Piece(before, UNKNOWN_ROLE, 0),
        Piece(answer, ANSWER_ROLE, n_asked),
        Piece(after, TEMPLATE_ROLE, n_asked),
    )
    return _Script(pieces, 1, n_asked)


def _render_answers(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], first: int
) -> str:
    if not has_template(tokenizer) and len(messages) == first + 1:
        return render(tokenizer, messages[:first]) + messages[first]["content"]
    return render(tokenizer, messages, asks=False)


def _find_end_mark(
    tokenizer: PreTrainedTokenizerBase,
    script: _Script,
    ids: tuple[int, ...],
    finish_reason: str | None,
) -> tuple[int, ...]:
    """Find the tokens by which the last answer ends; none where it was cut short."""
    if finish_reason == CUT_SHORT:
        return ()
    if not has_template(tokenizer):
        # Only a model that is known to have stopped wrote an end mark.
        end = tokenizer.eos_token_id
        return (int(end),) if finish_reason == STOPPED and end is not None else ()
    whole, _ = encode_rendered(tokenizer, script.text, with_bos=wants_bos(tokenizer))
    if whole[: len(ids)] != ids:
        return ()
    return whole[len(ids) :][: _measure_mark(tokenizer, whole[len(ids) :])]


def _measure_mark(tokenizer: PreTrainedTokenizerBase, following: Sequence[int]) -> int:
    """Count the tokens up to the special one that ends an answer; 0 where there is none."""
    special = find_special(tokenizer, following)
    for index, token_id in enumerate(following):
        if token_id in special:
            return index + 1
        # Some templates write a space before the mark.
        if str(tokenizer.decode([token_id])).strip():
            break
    return 0


def _claim_marks(tokenizer: PreTrainedTokenizerBase, encoded: EncodedAnswers) -> EncodedAnswers:
    """Count the end marks of earlier answers as theirs, as those of generated ones are."""
    roles, turns = list(encoded.roles), list(encoded.turns)
    answered = list(encoded.is_response)
    ends = [
        index for index in range(1, len(answered)) if answered[index - 1] and not answered[index]
    ]
    for end in ends:
        following = encoded.token_ids[end:]
        for index in range(end, end + _measure_mark(tokenizer, following)):
            roles[index], turns[index], answered[index] = ANSWER_ROLE, turns[end - 1], True
    return replace(encoded, roles=tuple(roles), turns=tuple(turns), is_response=tuple(answered))
