"""Responses that a run takes from the store's `generations`, rather than writing them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tistore.capture.config import RunConfig
from tistore.capture.models.architecture import load_architecture, load_tokenizer
from tistore.capture.reading.prefill import TokenSequence
from tistore.capture.texts.answer import Answer, spell_answer
from tistore.capture.texts.answered import EncodedAnswers, encode_answers
from tistore.capture.texts.decode import decode_ids
from tistore.capture.texts.stretches import assign_answer_roles
from tistore.capture.tokenize import EncodedPrompt, Style, encode_conversation, find_last_word
from tistore.errors import CaptureError, ConfigError, nearest
from tistore.schemas.generation import Generation
from tistore.schemas.prompt import Message
from tistore.schemas.response import ResponseSlot
from tistore.schemas.role import ASSISTANT_ROLE, UNKNOWN_ROLE
from tistore.store.base import BaseStore


@dataclass(frozen=True, slots=True)
class StoredQuestion:
    """
    A stored prompt, by what a template needs.

    Attributes:
        conversation: All turns but the system prompt.
        system_prompt: Instruction given before them, if any.
        tools: Descriptions of the tools the model may call.
    """

    conversation: Sequence[Message]
    system_prompt: str | None
    tools: Sequence[Mapping[str, Any]]


Asked = Mapping[tuple[str, str], StoredQuestion]

_OPENING = 8  # tokens: no mark that a template may end with has more


@dataclass(frozen=True, slots=True)
class GivenPlace:
    """
    A stored response, by what a run plans with.

    Attributes:
        row: Which of the organism's rows it is.
        slot: Who answered what.
        n_tokens: Of prompt and response.
        prompt_length: How many of them are the prompt's.
        system_prompt_refused: Whether the template takes no system prompt.
    """

    row: int
    slot: ResponseSlot
    n_tokens: int
    prompt_length: int
    system_prompt_refused: bool


class GivenResponses:
    """
    The stored responses of one organism, encoded when they are needed.

    Attributes:
        places: One a response, the shortest first: batches follow from them.
    """

    def __init__(
        self,
        table: pa.Table,
        asked: Asked,
        tokenizer: PreTrainedTokenizerBase,
        architecture: PreTrainedConfig,
        *,
        thinking: bool = False,
    ) -> None:
        self._table = table.combine_chunks()
        self._thinking = thinking
        self._asked = asked
        self._tokenizer = tokenizer
        self._n_vocabulary = int(architecture.vocab_size)
        self._n_context = getattr(architecture, "max_position_embeddings", None)
        places = [self._measure(row) for row in range(len(table))]
        self.places = tuple(sorted(places, key=lambda place: (place.n_tokens, place.slot)))

    def encode(self, row: int) -> Answer:
        """
        Encode a response.

        Raises:
            CaptureError: It does not fit the tokenizer, its template or the model; it is named.
        """
        generation = Generation.from_row(self._table.slice(row, 1).to_pylist()[0])
        try:
            if generation.token_ids is not None:
                answer = self._take_ids(generation, generation.token_ids)
            else:
                answer = self._encode_text(generation)
            self._check_fit(answer)
        except CaptureError as error:
            raise CaptureError(f"{generation.slot}: {error.message}", mend=error.mend) from error
        return answer

    def _measure(self, row: int) -> GivenPlace:
        answer = self.encode(row)
        sequence = answer.sequence
        return GivenPlace(
            row,
            answer.slot,
            len(sequence.token_ids),
            sequence.prompt_length,
            answer.system_prompt_refused,
        )

    def _encode_text(self, generation: Generation) -> Answer:
        encoded = self._encode_words(generation)
        if encoded is None:
            raise CaptureError(
                "the store knows neither its prompt nor its token ids",
                mend="import it with its prompt, or with token ids",
            )
        return Answer(
            slot=generation.slot,
            sequence=TokenSequence(encoded.token_ids, encoded.prompt_length),
            roles=encoded.roles,
            turns=encoded.turns,
            is_response=encoded.is_response,
            finish_reason=generation.finish_reason,
            system_prompt_refused=encoded.system_prompt_refused,
        )

    def _encode_words(self, generation: Generation) -> EncodedAnswers | None:
        """Encode a response's texts; None where there are none, or nobody knows the prompt."""
        slot = generation.slot
        asked = self._asked.get((slot.prompt_set, slot.prompt_id))
        if generation.messages is not None:
            turns = [m for m in generation.messages if m["role"] != "system"]
            system = next(
                (m["content"] for m in generation.messages if m["role"] == "system"), None
            )
            n_asked = [turn["role"] for turn in turns].index(ASSISTANT_ROLE)
        elif generation.text is not None and asked is not None:
            turns = [*asked.conversation, {"role": ASSISTANT_ROLE, "content": generation.text}]
            n_asked = len(asked.conversation)
            system = asked.system_prompt
        else:
            return None
        return encode_answers(
            self._tokenizer,
            turns,
            n_asked,
            system,
            self._choose_style(asked),
            finish_reason=generation.finish_reason,
        )

    def _choose_style(self, asked: StoredQuestion | None) -> Style:
        return Style(asked.tools if asked else (), self._thinking)

    def _take_ids(self, generation: Generation, token_ids: tuple[int, ...]) -> Answer:
        """Use ids as they are; roles are known where the template makes the same ids."""
        length = generation.prompt_length or 0
        if not 1 <= length < len(token_ids):
            raise CaptureError(
                f"{generation.prompt_length} of its {len(token_ids)} token ids are the prompt's, "
                "which leaves no prompt or no answer",
                mend="import it with where its prompt ends, or leave it out with prompt_sets in "
                "its [[organisms]] table",
            )
        answer = Answer(
            slot=generation.slot,
            sequence=TokenSequence(token_ids, length),
            roles=(UNKNOWN_ROLE,) * length + (ASSISTANT_ROLE,) * (len(token_ids) - length),
            turns=(0,) * length + (1,) * (len(token_ids) - length),
            finish_reason=generation.finish_reason,
        )
        self._check_vocabulary(answer)
        opening = find_last_word(decode_ids(self._tokenizer, token_ids[:length][-_OPENING:]))
        told = self._tell_roles(token_ids[length:], opening)
        answer = replace(answer, roles=(UNKNOWN_ROLE,) * length + told)
        if generation.text is not None and generation.messages is None:
            self._refuse_other_words(answer, generation.text)
        return self._know_roles(answer, generation)

    def _know_roles(self, answer: Answer, generation: Generation) -> Answer:
        ids, length = answer.sequence.token_ids, answer.sequence.prompt_length
        try:
            encoded = self._encode_words(generation) if generation.messages else None
            asked = self._encode_asked(generation.slot)
        except CaptureError:
            # The template cannot have made these ids, so it cannot tell their roles either.
            return answer
        if encoded and (encoded.token_ids, encoded.prompt_length) == (ids, length):
            return replace(
                answer, roles=encoded.roles, turns=encoded.turns, is_response=encoded.is_response
            )
        if asked and asked.token_ids == ids[:length]:
            n_response = len(ids) - length
            return replace(
                answer,
                roles=asked.roles + self._tell_roles(ids[length:], asked.opening),
                turns=asked.turns + (asked.answer_turn,) * n_response,
            )
        return answer

    def _tell_roles(self, token_ids: Sequence[int], opening: str) -> tuple[str, ...]:
        return assign_answer_roles(self._tokenizer, token_ids, opening)

    def _encode_asked(self, slot: ResponseSlot) -> EncodedPrompt | None:
        known = self._asked.get((slot.prompt_set, slot.prompt_id))
        if known is None:
            return None
        return encode_conversation(
            self._tokenizer, known.conversation, known.system_prompt, self._choose_style(known)
        )

    def _refuse_other_words(self, answer: Answer, text: str) -> None:
        """Refuse ids that spell something else than the text beside them: of another tokenizer."""
        spelled = spell_answer(self._tokenizer, answer)
        given = "".join(text.split())
        if given not in ("".join(spelled.text.split()), "".join("".join(spelled.tokens).split())):
            raise CaptureError(
                f"its token ids spell {_shorten(spelled.text)} with this base's tokenizer, and "
                f"its text is {_shorten(text)}",
                mend="use the base whose tokenizer made the ids, or import the text without them",
            )

    def _check_vocabulary(self, answer: Answer) -> None:
        largest = max(answer.sequence.token_ids)
        if largest >= self._n_vocabulary:
            raise CaptureError(
                f"token id {largest} is not in the base's vocabulary of {self._n_vocabulary}",
                mend="use the base whose tokenizer made the ids, or import the text without them",
            )

    def _check_fit(self, answer: Answer) -> None:
        self._check_vocabulary(answer)
        length = len(answer.sequence.token_ids)
        if self._n_context is not None and length > self._n_context:
            raise CaptureError(
                f"it has {length} tokens, and the base reads {self._n_context} at most",
                mend="leave it out with prompt_sets in its [[organisms]] table, or use a base of "
                "a longer context",
            )


def read_given(store: BaseStore, config: RunConfig) -> dict[str, GivenResponses]:
    """
    Read the stored responses that a run is to read, by organism.

    Raises:
        ConfigError: An organism has none, or none to prompts of a set that is named.
        CaptureError: A response does not fit the base; it is named.
        ModelLoadError: The base has no tokenizer or no config.
    """
    names = [name for name in config.answerers if config.is_given(name)]
    if not names:
        return {}
    asked = _read_asked(store)
    table = store.snapshot.table("generations")
    # Who has no weights was imported for its base to read.
    bases = {name: config.weights_of(name) or config.base_of(name) for name in names}
    known = {
        weights: (load_tokenizer(base), load_architecture(base))
        for weights, base in config.weights.items()
        if weights in bases.values()
    }
    return {
        name: GivenResponses(
            _select(table, config, name),
            asked,
            *known[bases[name]],
            thinking=config.generation.thinking,
        )
        for name in names
    }


def _select(table: pa.Table, config: RunConfig, organism: str) -> pa.Table:
    """Select an organism's rows, refusing names that select none."""
    authors = pc.unique(table["organism"]).to_pylist()
    if organism not in authors:
        raise ConfigError(
            f"the store has no responses of {organism!r} to read; {nearest(organism, authors)}",
            mend="import them with `tistore import responses`, or mend the organism's name",
        )
    rows = table.filter(pc.equal(table["organism"], organism))
    wanted = config.given_sets(organism)
    if wanted is None:
        return rows
    known = pc.unique(rows["prompt_set"]).to_pylist()
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"the store has no responses of {organism!r} to prompts of {name!r}",
                mend=nearest(name, known),
            )
    return rows.filter(pc.is_in(rows["prompt_set"], pa.array(wanted, pa.string())))


def _read_asked(store: BaseStore) -> dict[tuple[str, str], StoredQuestion]:
    columns = ["prompt_set", "prompt_id", "messages", "system_prompt", "tools"]
    rows: list[dict[str, Any]] = store.snapshot.table("prompts").select(columns).to_pylist()
    return {
        (row["prompt_set"], row["prompt_id"]): StoredQuestion(
            json.loads(row["messages"]),
            row["system_prompt"],
            json.loads(row["tools"] or "[]"),
        )
        for row in rows
    }


def _shorten(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")
