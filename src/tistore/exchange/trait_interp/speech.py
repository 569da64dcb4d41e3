"""What is said in a response: its tokens' strings, whose words they are, and which are audited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tistore.datasets.clauses import Offset
from tistore.datasets.trait_interp.responses import Response, Turn
from tistore.errors import InvalidRecordError
from tistore.exchange.token_strings import TokenStrings
from tistore.exchange.trait_interp.raw_file import RawFile
from tistore.schemas.role import ANSWER_ROLES, TEMPLATE_ROLE

_NO_LETTER = re.compile("[^A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Speech:
    """
    A response's words, laid out for `Writer.add`.

    Attributes:
        tokens: A string a token; None where the file has none.
        text: The response.
        offsets: Characters of each response token in the text; None where they are to be found.
        roles: A role a token; None where prompt and response are all that is known.
        turns: A turn a token, with the roles.
        is_response: Which tokens are under audit.
        notes: What people should know.
    """

    tokens: tuple[str, ...] | None
    text: str | None
    offsets: tuple[Offset, ...] | None
    roles: tuple[str, ...] | None
    turns: tuple[int, ...] | None
    is_response: tuple[bool, ...]
    notes: tuple[str, ...] = ()


def describe_speech(
    raw: RawFile, response: Response | None, audited_stop: int, speller: TokenStrings | None
) -> Speech:
    """
    Lay out what is said.

    Strings are the raw file's or, with a tokenizer, made anew; never those of the JSON, which are
    corrupt. Audited are the response's tokens or, for a conversation, which has no response, the
    turns of the assistant, as are those of a conversation that goes on behind its first answer; of
    all, those that every reading has a row for.

    Args:
        raw: The raw file.
        response: The JSON beside it, whose ids are the raw file's.
        audited_stop: One past the last token to audit.
        speller: The tokenizer.

    Raises:
        InvalidRecordError: The tokenizer has no such id, or spells other words than the file.
    """
    turns = response.turns if response else ()
    n_tokens, is_rollout = len(raw.token_ids), not raw.response.token_ids
    roles, numbers = _assign_turns(turns, n_tokens) if turns else (None, None)
    if roles and (is_rollout or _goes_on(turns, raw.prompt_length)):
        start = 0 if is_rollout else raw.prompt_length
        audited = [place >= start and role in ANSWER_ROLES for place, role in enumerate(roles)]
    else:
        audited = [not is_rollout and place >= raw.prompt_length for place in range(n_tokens)]
    marked = tuple(is_said and place < audited_stop for place, is_said in enumerate(audited))
    notes: tuple[str, ...] = ()
    if is_rollout and not turns:
        notes = ("a conversation whose turns are not known: no token is marked as audited",)
    spelled = speller.spell(raw.token_ids, raw.prompt_length) if speller else None
    if spelled is not None and raw.tokens is not None:
        _check_spelling(spelled.tokens, raw.tokens)
    return Speech(
        tokens=spelled.tokens if spelled else raw.tokens,
        text=spelled.text if spelled else raw.response.text,
        offsets=spelled.offsets if spelled else None,
        roles=roles,
        turns=numbers,
        is_response=marked,
        notes=notes,
    )


def _goes_on(turns: Sequence[Turn], start: int) -> bool:
    """Tell whether others speak behind the first answer, so that not all of it is the answer's."""
    return any(turn.token_start >= start and turn.role not in ANSWER_ROLES for turn in turns)


def _check_spelling(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """
    Refuse a tokenizer that is not the one the file was written with.

    Its ids are known to many vocabularies, its words are not. Spaces and marks of tokenizers are
    written in several ways, and pieces of characters too: plain letters and digits are compared.
    """
    words = [
        (our, their)
        for our, their in zip(ours, theirs, strict=True)
        if _NO_LETTER.sub("", their).isalnum()
    ]
    wrong = [pair for pair in words if len({_NO_LETTER.sub("", word) for word in pair}) > 1]
    if len(wrong) > len(words) / 2:
        raise InvalidRecordError(
            f"the tokenizer is another than its own: {len(wrong)} of {len(words)} words differ, "
            f"such as {wrong[0][0]!r} for {wrong[0][1]!r}",
            mend="give the tokenizer of its model, or leave --tokenizer out",
        )


def _assign_turns(turns: Sequence[Turn], n_tokens: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Give each token its turn; what lies between turns is the template's, of the turn to come."""
    roles, numbers = [TEMPLATE_ROLE] * n_tokens, [0] * n_tokens
    number = at = 0
    for turn in turns:
        start, end = max(at, turn.token_start), max(at, turn.token_end)
        numbers[at:end] = [number] * (end - at)
        roles[start:end] = [turn.role] * (end - start)
        at = end
        number += turn.role != "system"
    numbers[at:] = [max(0, number - 1)] * (n_tokens - at)
    return tuple(roles), tuple(numbers)
