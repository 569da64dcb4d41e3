"""Token strings made anew from ids, where a source's own are missing or corrupt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tistore.datasets.clauses import Offset
from tistore.errors import ConfigError, InvalidRecordError

if TYPE_CHECKING:
    from tistore.capture.texts.tokenizer_files import Tokenizer


@dataclass(frozen=True, slots=True)
class SpelledTokens:
    """
    A sequence's tokens as text, ready for `Writer.add`.

    Attributes:
        tokens: One string a token, prompt and response; a special token's is its name. A
            character spread over several tokens is the last one's; the others are empty.
        text: What the response's ids decode to, special tokens left out: exactly the strings of
            its other tokens, joined.
        offsets: For each response token, its first character in `text` and the one after its
            last; equal for special tokens.
    """

    tokens: tuple[str, ...]
    text: str
    offsets: tuple[Offset, ...]


class TokenStrings:
    """
    A tokenizer, to spell ids with.

    Args:
        tokenizer: The one that wrote the ids; another's would spell other words.
        name: What to call it in errors.
    """

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        self._tokenizer = tokenizer
        # Ids may have gaps, so a count would not tell which there are.
        self._known = {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder}
        self.name = name

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        Open a tokenizer offline.

        Args:
            path: Its folder, or its `tokenizer.json`.

        Raises:
            ConfigError: Nothing lies there, or transformers is not installed.
            ModelLoadError: The files are malformed.
        """
        try:
            # Only here: everything else of an import works without transformers.
            from tistore.capture.texts.tokenizer_files import open_tokenizer
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"a tokenizer needs {error.name}, which is not installed",
                mend="pip install 'tistore[capture]'",
            ) from error
        return cls(open_tokenizer(Path(path)), str(path))

    def spell(self, token_ids: Sequence[int], prompt_length: int) -> SpelledTokens:
        """
        Spell a sequence; prompt and response are decoded each on its own, as they were written.

        Args:
            token_ids: Ids of prompt and response, in order.
            prompt_length: How many of them are the prompt's.

        Raises:
            InvalidRecordError: The tokenizer has no such id: it is not the one that wrote them.
        """
        from tistore.capture.texts.decode import decode_tokens

        ids = [int(token_id) for token_id in token_ids]
        self._require_known(ids)
        if not 0 <= prompt_length <= len(ids):
            raise InvalidRecordError(f"a prompt of {prompt_length} among {len(ids)} token ids")
        prompt = decode_tokens(self._tokenizer, ids[:prompt_length])
        response = decode_tokens(self._tokenizer, ids[prompt_length:])
        return SpelledTokens(prompt.tokens + response.tokens, response.text, response.offsets)

    def _require_known(self, ids: Sequence[int]) -> None:
        strange = [token_id for token_id in ids if token_id not in self._known]
        if strange:
            raise InvalidRecordError(
                f"token id {strange[0]} is none of the {len(self._known)} of {self.name}",
                mend="give the tokenizer of the model that wrote the response",
            )
