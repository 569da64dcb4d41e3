"""From conversations that hold their answers to token ids, as the template writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from tistore.capture.texts.decode import find_special
from tistore.capture.texts.roles import (
    TEMPLATE_FAILURES,
    Piece,
    assign_roles,
    list_forms,
    list_words,
    rebuild,
    tell_thinking,
)
from tistore.capture.texts.stretches import assign_answer_roles, find_marks, find_opened
from tistore.capture.tokenize import (
    PLAIN,
    EncodedPrompt,
    Style,
    encode_conversation,
    encode_rendered,
    has_template,
    read_vocabulary,
    refuse_conversation,
    render,
    wants_bos,
)
from tistore.errors import CaptureError
from tistore.schemas.prompt import Message
from tistore.schemas.role import ANSWER_ROLES, ASSISTANT_ROLE, TEMPLATE_ROLE, UNKNOWN_ROLE

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
    style: Style = PLAIN,
    *,
    finish_reason: str | None = None,
) -> EncodedAnswers:
    """
    Encode a conversation that holds its answers, exactly as the template writes it.

    Its tokens are those of the template's own text, up to the end mark of the last answer, which
    a model would have written itself: what a template puts behind it is left out, and so is the
    mark where the answer was cut short. A single answer that a template would alter, as those do
    that drop reasoning, is put into its place unaltered. Without a template the turns are lines,
    and a single answer follows its prompt directly, as if generated; so does one that goes on
    with a begun answer.

    Args:
        tokenizer: The template's.
        conversation: All turns but the system prompt; the last is the assistant's.
        n_asked: Turns before the first answer; every later assistant turn is an answer. The last
            of them may be the assistant's own: the first words of the answer.
        system_prompt: Left out where the template takes none.
        style: How the template is asked to write.
        finish_reason: Of the last answer.

    Raises:
        CaptureError: The template fails, alters one of several answers, or leaves no tokens.
    """
    system: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    asked = encode_conversation(tokenizer, conversation[:n_asked], system_prompt, style)
    if asked.is_prefilled:
        return _go_on(tokenizer, asked, conversation, style, finish_reason)
    try:
        script = _write(tokenizer, [*system, *conversation], len(system), asked, n_asked, style)
    except TEMPLATE_FAILURES as error:
        if system:
            bare = encode_answers(
                tokenizer, conversation, n_asked, None, style, finish_reason=finish_reason
            )
            return replace(bare, system_prompt_refused=True)
        raise refuse_conversation(error) from error
    ids, offsets = encode_rendered(tokenizer, script.body, with_bos=wants_bos(tokenizer))
    begins_as_asked = ids[: len(asked.token_ids)] == asked.token_ids
    if offsets is not None:
        roles, turns = assign_roles(script.pieces[: script.last + 1], offsets)
    elif begins_as_asked and len(conversation) == n_asked + 1:
        # Nobody can say which characters a token has, but where the prompt ends is known.
        roles, turns = (ASSISTANT_ROLE,) * len(ids), (asked.answer_turn,) * len(ids)
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
        index >= begin and role in ANSWER_ROLES and turn >= n_asked
        for index, (role, turn) in enumerate(zip(roles, turns, strict=True))
    ]
    if not any(answered):
        raise CaptureError("an answer has no tokens", mend="leave the response out")
    tail = _find_end_mark(tokenizer, script, ids, finish_reason)
    encoded = EncodedAnswers(
        token_ids=ids + tail,
        prompt_length=answered.index(True),
        roles=roles + (ASSISTANT_ROLE,) * len(tail),
        turns=turns + (turns[-1],) * len(tail),
        is_response=(*answered, *[True] * len(tail)),
        system_prompt_refused=asked.system_prompt_refused,
    )
    if len(conversation) == n_asked + 1:
        return _tell_stretches(tokenizer, encoded, asked.opening if begins_as_asked else "")
    return _claim_marks(tokenizer, encoded)


def _go_on(
    tokenizer: PreTrainedTokenizerBase,
    asked: EncodedPrompt,
    conversation: Sequence[Message],
    style: Style,
    finish_reason: str | None,
) -> EncodedAnswers:
    """Put an answer right behind its first words, which are the prompt's."""
    *earlier, begun, answer = conversation
    whole = asked.text + answer["content"]
    together, _ = encode_rendered(tokenizer, whole, with_bos=wants_bos(tokenizer))
    n_prompt = len(asked.token_ids)
    if together[:n_prompt] == asked.token_ids:
        said = together[n_prompt:]
    else:
        # A token over the seam: a model that goes on writes none.
        said, _ = encode_rendered(tokenizer, answer["content"], with_bos=False)
    if not said:
        raise CaptureError("an answer has no tokens", mend="leave the response out")
    if has_template(tokenizer) and finish_reason != CUT_SHORT:
        closed = render(tokenizer, [*earlier, {**begun, "content": _MARK}], style, ending="close")
        behind, _ = encode_rendered(tokenizer, closed.rpartition(_MARK)[2], with_bos=False)
        said += behind[: _measure_mark(tokenizer, behind)]
    elif not has_template(tokenizer):
        said += _end_token(tokenizer, finish_reason)
    encoded = EncodedAnswers(
        token_ids=asked.token_ids + said,
        prompt_length=n_prompt,
        roles=asked.roles + (ASSISTANT_ROLE,) * len(said),
        turns=asked.turns + (asked.answer_turn,) * len(said),
        is_response=(False,) * n_prompt + (True,) * len(said),
        system_prompt_refused=asked.system_prompt_refused,
    )
    return _tell_stretches(tokenizer, encoded, asked.opening)


def _tell_stretches(
    tokenizer: PreTrainedTokenizerBase, encoded: EncodedAnswers, opening: str
) -> EncodedAnswers:
    """Give the tokens of a single answer the roles that generated ones have."""
    start = encoded.prompt_length
    told = assign_answer_roles(tokenizer, encoded.token_ids[start:], opening)
    plain = encoded.roles[start:]
    # What the messages say is a call is one without marks, too.
    roles = [new if old == ASSISTANT_ROLE else old for old, new in zip(plain, told, strict=True)]
    return replace(
        encoded,
        roles=(*encoded.roles[:start], *roles),
        is_response=(False,) * start + (True,) * len(roles),
    )


def _write(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    n_system: int,
    asked: EncodedPrompt,
    n_asked: int,
    style: Style,
) -> _Script:
    """Render a conversation and find its answers."""

    def write(given: Sequence[Message]) -> str:
        return _render_answers(tokenizer, given, n_system + n_asked, style)

    text = write(messages)
    pieces = rebuild(text, messages, write, read_vocabulary(tokenizer))
    answers = {
        turn: message
        for turn, message in enumerate(messages[n_system:])
        if turn >= n_asked and message["role"] == ASSISTANT_ROLE
    }
    if pieces is not None and _holds_all(tokenizer, pieces, answers):
        found = [
            index
            for index, piece in enumerate(pieces)
            if piece.role in ANSWER_ROLES and piece.turn in answers
        ]
        return _Script(pieces, found[-1], n_asked)
    if len(messages) > n_system + n_asked + 1:
        raise CaptureError(
            "the chat template alters the words of a conversation, so that its answers cannot be "
            "found in it",
            mend="give token ids, or only the last answer as the response",
        )
    return _write_verbatim(tokenizer, messages, text, write, asked, n_asked)


def _holds_all(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], answers: Mapping[int, Message]
) -> bool:
    """Tell whether all that the answers say is there: some templates drop thinking."""
    known = find_marks(tokenizer)
    for turn, message in answers.items():
        said = "".join(p.text for p in pieces if p.turn == turn and p.role in ANSWER_ROLES)
        words = list_words(tell_thinking(message, known))
        if not said or not all(any(form in said for form in list_forms(word)) for word in words):
            return False
    return True


def _write_verbatim(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str,
    write: Callable[[Sequence[Message]], str],
    asked: EncodedPrompt,
    n_asked: int,
) -> _Script:
    """Put a single answer where the template puts one, whatever it would make of this one."""
    answer = str(messages[-1]["content"])
    parts = write([*messages[:-1], {**messages[-1], "content": _MARK}]).split(_MARK)
    if len(parts) != 2:
        raise CaptureError(
            "the chat template leaves an answer out, or writes it twice", mend="give token ids"
        )
    before, after = parts
    if text == f"{before}{answer.strip()}{after}":
        answer = answer.strip()
    opened = find_opened(asked.opening, find_marks(tokenizer))
    if opened is not None and not answer.lstrip().startswith(opened.begin):
        before = asked.text  # the template has begun the thinking that the answer goes on with
    pieces = (
        Piece(before, UNKNOWN_ROLE, 0),
        Piece(answer, ASSISTANT_ROLE, n_asked),
        Piece(after, TEMPLATE_ROLE, n_asked),
    )
    return _Script(pieces, 1, n_asked)


def _render_answers(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], first: int, style: Style
) -> str:
    if not has_template(tokenizer) and len(messages) == first + 1:
        return render(tokenizer, messages[:first], style) + str(messages[first]["content"])
    return render(tokenizer, messages, style, ending="close")


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
        return _end_token(tokenizer, finish_reason)
    whole, _ = encode_rendered(tokenizer, script.text, with_bos=wants_bos(tokenizer))
    if whole[: len(ids)] != ids:
        return ()
    return whole[len(ids) :][: _measure_mark(tokenizer, whole[len(ids) :])]


def _end_token(tokenizer: PreTrainedTokenizerBase, finish_reason: str | None) -> tuple[int, ...]:
    """Take the end token; only a model that is known to have stopped wrote one."""
    end = tokenizer.eos_token_id
    return (int(end),) if finish_reason == STOPPED and end is not None else ()


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
            roles[index], turns[index], answered[index] = ASSISTANT_ROLE, turns[end - 1], True
    return replace(encoded, roles=tuple(roles), turns=tuple(turns), is_response=tuple(answered))
