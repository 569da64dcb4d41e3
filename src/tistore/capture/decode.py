"""From token ids back to text, with each token's characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class DecodedTokens:
    """
    A text and the tokens that spell it.

    Attributes:
        text: Without special tokens.
        tokens: One string a token; together they spell the text, special tokens included. A
            character spread over several tokens is the last one's; the others are empty.
        offsets: For each token, its first character in `text` and the one after its last; equal
            for tokens without characters there.
    """

    text: str
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]


def decode_tokens(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> DecodedTokens:
    """Decode tokens, exactly as the tokenizer decodes them together."""
    special = special_ids(tokenizer)
    plain = [token_id for token_id in token_ids if token_id not in special]
    text, strings = spell(plain, lambda ids: decode_ids(tokenizer, ids))
    spelled = iter(strings)
    tokens: list[str] = []
    offsets: list[tuple[int, int]] = []
    at = 0
    for token_id in token_ids:
        start = at
        if token_id in special:
            tokens.append(str(tokenizer.convert_ids_to_tokens(token_id)))
        else:
            tokens.append(next(spelled))
            at += len(tokens[-1])
        offsets.append((start, at))
    return DecodedTokens(text, tuple(tokens), tuple(offsets))


def decode_ids(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Decode ids as they are: nothing skipped, no spaces tidied."""
    return str(
        tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that are marks of the format, not words."""
    added = tokenizer.added_tokens_decoder
    marked = {token_id for token_id, token in added.items() if token.special}
    return frozenset(marked | set(tokenizer.all_special_ids))


def spell(token_ids: Sequence[int], decode: Decode) -> tuple[str, list[str]]:
    """
    Decode, and cut the text at the ends of its tokens.

    Returns:
        The text, and one string a token; the strings spell the text.
    """
    text = decode(token_ids)
    strings = _spell_by_window(token_ids, decode)
    if "".join(strings) != text:
        strings = _spell_by_prefix(token_ids, text, decode)
    return text, strings


def _spell_by_window(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """
    Decode each token behind the few before it: linear, and right for nearly every text.

    Replacement characters at the end may be half a character: they wait for the next token.
    """
    strings = [""] * len(token_ids)
    window = settled = spelled = 0
    for end in range(1, len(token_ids) + 1):
        decoded = decode(token_ids[window:end])
        is_last = end == len(token_ids)
        whole = decoded if is_last else decoded.rstrip(REPLACEMENT)
        strings[end - 1] = whole[spelled:]
        spelled = max(spelled, len(whole))
        if whole == decoded and not is_last:
            # One settled token stays in view: some decoders treat the first in a special way.
            window, settled = settled, end
            spelled = len(decode(token_ids[window:settled]))
    return strings


def _spell_by_prefix(token_ids: Sequence[int], text: str, decode: Decode) -> list[str]:
    """Decode every prefix, and cut where it still agrees with the text: quadratic, never wrong."""
    ends = [0]
    for length in range(1, len(token_ids)):
        ends.append(max(ends[-1], _common_length(decode(token_ids[:length]), text)))
    ends.append(len(text))
    return [text[start:end] for start, end in zip(ends, ends[1:], strict=False)][: len(token_ids)]


def _common_length(prefix: str, text: str) -> int:
    pairs = enumerate(zip(prefix, text, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(prefix), len(text)))
