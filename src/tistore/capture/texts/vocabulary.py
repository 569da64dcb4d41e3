"""Every token of a tokenizer, spelled as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tistore.capture.texts.decode import REPLACEMENT, decode_ids, find_special
from tistore.errors import HeadError


def spell_vocabulary(tokenizer: PreTrainedTokenizerBase, n_vocabulary: int) -> list[str | None]:
    """
    Spell every token as it reads inside a text: with the space it begins with.

    Bytes that are no character by themselves keep the tokenizer's own name for them. Rows beyond
    the tokenizer's last token, which round a vocabulary up, are None.
    """
    n_known = min(len(tokenizer), n_vocabulary)
    pieces = tokenizer.convert_ids_to_tokens(list(range(n_known)))
    special = find_special(tokenizer, [*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder])
    anchor, before = _find_anchor(tokenizer, pieces, special)
    pairs = [[anchor, token_id] for token_id in range(n_known)]
    decoded = tokenizer.batch_decode(
        pairs, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    spelled: list[str | None] = []
    for token_id, (piece, text) in enumerate(zip(pieces, decoded, strict=True)):
        is_whole = token_id not in special and text.startswith(before) and REPLACEMENT not in text
        spelled.append(text[len(before) :] if is_whole else piece)
    return spelled + [None] * (n_vocabulary - n_known)


def _find_anchor(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str], special: set[int]
) -> tuple[int, str]:
    """Find a token to decode others behind: decoders strip the first one's space."""
    for token_id, piece in enumerate(pieces):
        if token_id not in special and piece and piece.isascii() and piece.isalnum():
            return token_id, decode_ids(tokenizer, [token_id])
    raise HeadError(
        "cannot spell the vocabulary: the tokenizer has no token of plain letters",
        mend="check that the tokenizer is the model's own",
    )
