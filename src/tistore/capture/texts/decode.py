"""From token ids back to text, with each token's characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile

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
    special = find_special(tokenizer, token_ids)
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


def find_special(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> set[int]:
    """Find the ids that are marks of the format, not words: those that decoding can leave out."""
    present, added = set(token_ids), tokenizer.added_tokens_decoder
    marked = {token_id for token_id in present & added.keys() if added[token_id].special}
    marked |= present & set(tokenizer.all_special_ids)
    # A token converted from tiktoken's ranks may be called a word and be left out all the same.
    unmarked = (present & added.keys()) - marked
    return marked | {token_id for token_id in unmarked if _is_left_out(tokenizer, token_id)}


def _is_left_out(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    without = tokenizer.decode(
        [token_id], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return not without and bool(decode_ids(tokenizer, [token_id]))


def spell(token_ids: Sequence[int], decode: Decode) -> tuple[str, list[str]]:
    """
    Decode, and cut the text at the ends of its tokens.

    Returns:
        The text, and one string a token; the strings spell the text.
    """
    text = decode(token_ids)
    strings = _spell_by_window(token_ids, decode)
    if "".join(strings) != text:
        strings = _spell_by_prefix(token_ids, text, strings, decode)
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


def _spell_by_prefix(
    token_ids: Sequence[int], text: str, strings: Sequence[str], decode: Decode
) -> list[str]:
    """
    Decode every prefix, and cut where it still agrees with the text: quadratic, never wrong.

    Strings that agree with the text up to a place stand: most often only the last few tokens of a
    text that ends inside a character are left.
    """
    agreed = _common_length("".join(strings), text)
    ends = [0, *takewhile(lambda end: end <= agreed, accumulate(map(len, strings)))]
    for length in range(len(ends), len(token_ids)):
        ends.append(max(ends[-1], _common_length(decode(token_ids[:length]), text)))
    ends = [*ends[: len(token_ids)], len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def _common_length(prefix: str, text: str) -> int:
    pairs = enumerate(zip(prefix, text, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(prefix), len(text)))
