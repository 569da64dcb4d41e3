"""What is read of a trait's scenarios: which tokens, by whom they are written, under what name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from tistore.capture.reading.prefill import TokenSequence
from tistore.capture.texts.answer import Answer
from tistore.capture.texts.stretches import assign_answer_roles
from tistore.capture.tokenize import EncodedPrompt, encode_conversation, encode_text
from tistore.datasets.scenarios import SIDES, Scenario, Side, TraitScenarios
from tistore.errors import CaptureError, DatasetError
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot
from tistore.schemas.role import UNKNOWN_ROLE
from tistore.vectors.scenario_readings import SCENARIO_AUTHOR, scenario_set

Manner = Literal["auto", "completion", "chat", "none"]

NEW_TOKENS = 16
"""Of a continuation, where nobody asks for another number."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """
    How scenarios without a response go on.

    Attributes:
        manner: As plain text that a base goes on with ("completion"); as a question through the
            chat template ("chat"); as the one that has a system prompt or not requires ("auto");
            or not at all: the text itself is read ("none").
        max_new_tokens: At most so many; None for 16, or what is needed where that is more.
        needed: Tokens that a position looks at.
    """

    manner: Manner = "auto"
    max_new_tokens: int | None = None
    needed: int = 0

    @property
    def limit(self) -> int:
        """Tokens that a model writes at most."""
        return self.max_new_tokens or max(NEW_TOKENS, self.needed)


@dataclass(frozen=True, slots=True)
class ScenarioTask:
    """
    One scenario to be read.

    Attributes:
        slot: Who writes its response, and which scenario it is.
        side: Whether it shows the trait.
        scenario: As the trait folder has it.
        begun: What comes before the response, as the model gets it.
        response: The response's tokens; None where the model is to write them.
    """

    slot: ResponseSlot
    side: Side
    scenario: Scenario
    begun: EncodedPrompt
    response: tuple[int, ...] | None

    @property
    def prompt(self) -> Prompt:
        """What was asked, as the store keeps it: nothing where a text is read as it stands."""
        is_asked = self.response is None or self.scenario.response is not None
        return Prompt(
            prompt_set=self.slot.prompt_set,
            prompt_id=self.slot.prompt_id,
            text=self.scenario.prompt if is_asked else "",
            system_prompt=self.scenario.system_prompt,
            note=self.side,
        )

    def count_tokens(self, max_new_tokens: int) -> int:
        """Count the tokens the sequence has, or may come to have."""
        written = max_new_tokens if self.response is None else len(self.response)
        return len(self.begun.token_ids) + written

    def answer(
        self,
        tokenizer: PreTrainedTokenizerBase,
        response: Sequence[int],
        finish_reason: str | None,
        prompt: Prompt | None,
    ) -> Answer:
        """Say of a response's tokens what is known of them."""
        begun = self.begun
        return Answer(
            slot=self.slot,
            sequence=TokenSequence((*begun.token_ids, *response), len(begun.token_ids)),
            roles=begun.roles + assign_answer_roles(tokenizer, response, begun.opening),
            turns=begun.turns + (begun.answer_turn,) * len(response),
            finish_reason=finish_reason,
            prompt=prompt,
        )


def list_tasks(
    traits: Sequence[TraitScenarios],
    tokenizer: PreTrainedTokenizerBase,
    reader: str,
    manner: Manner,
) -> list[ScenarioTask]:
    """
    List every scenario of some traits.

    Args:
        traits: Of different names.
        tokenizer: The reader's.
        reader: Who reads, and writes what is missing.
        manner: How scenarios without a response go on.

    Raises:
        DatasetError: A scenario cannot be read in that manner, or has no tokens.
    """
    return [task for trait in traits for task in _list_of(trait, tokenizer, reader, manner)]


def _list_of(
    trait: TraitScenarios, tokenizer: PreTrainedTokenizerBase, reader: str, manner: Manner
) -> Iterator[ScenarioTask]:
    for side, scenarios in zip(SIDES, (trait.positive, trait.negative), strict=True):
        for number, scenario in enumerate(scenarios, start=1):
            label = f"{side} scenario {number} of {trait.trait}"
            try:
                begun, response = _encode(tokenizer, scenario, manner)
            except CaptureError as error:
                raise DatasetError(f"{label}: {error.message}", mend=error.mend) from error
            except DatasetError as error:
                raise DatasetError(f"{label} {error.message}", mend=error.mend) from error
            author = reader if response is None else SCENARIO_AUTHOR
            slot = ResponseSlot(author, scenario_set(trait.trait, side), str(number))
            yield ScenarioTask(slot, side, scenario, begun, response)


def _encode(
    tokenizer: PreTrainedTokenizerBase, scenario: Scenario, manner: Manner
) -> tuple[EncodedPrompt, tuple[int, ...] | None]:
    """Encode what comes before the response, and the response where it is there."""
    conversation = [{"role": "user", "content": scenario.prompt}]
    if scenario.response is not None:
        asked = encode_conversation(tokenizer, conversation, scenario.system_prompt)
        _require_system_prompt(scenario, asked)
        answered = tokenizer(scenario.response, add_special_tokens=False)["input_ids"]
        return asked, _require_tokens(answered)
    if manner == "chat" or (manner == "auto" and scenario.system_prompt is not None):
        asked = encode_conversation(tokenizer, conversation, scenario.system_prompt)
        _require_system_prompt(scenario, asked)
        return asked, None
    if scenario.system_prompt is not None:
        raise DatasetError(
            "has a system prompt, which only a chat template has a place for",
            mend="extract with --generate auto or chat",
        )
    token_ids = encode_text(tokenizer, scenario.prompt)
    if manner == "completion" or manner == "auto":
        return _plain(token_ids), None
    n_before = int(token_ids[:1] == (tokenizer.bos_token_id,))
    return _plain(token_ids[:n_before]), _require_tokens(token_ids[n_before:])


def _plain(token_ids: tuple[int, ...]) -> EncodedPrompt:
    """Describe a beginning that no template has touched."""
    return EncodedPrompt("", token_ids, (UNKNOWN_ROLE,) * len(token_ids), (0,) * len(token_ids))


def _require_tokens(token_ids: Sequence[int]) -> tuple[int, ...]:
    if not token_ids:
        raise DatasetError("has no text to read", mend="write its response, or leave it out")
    return tuple(token_ids)


def _require_system_prompt(scenario: Scenario, asked: EncodedPrompt) -> None:
    """Refuse a template that drops what may be all that tells the sides apart."""
    if asked.system_prompt_refused:
        raise DatasetError(
            "has a system prompt, which this model's chat template does not take",
            mend="say it in the prompt instead, or use another model",
        )
