"""What a run has to do: whose responses, in which batches, read by whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tistore.capture.config import RunConfig
from tistore.capture.planning.preflight import CheckedRun
from tistore.capture.reading.in_flight import cut_batches
from tistore.capture.running.workload import Selection, Task, list_tasks
from tistore.capture.texts.given import GivenPlace, GivenResponses
from tistore.schemas.response import CaptureSettings, ResponseSlot, identify_reading
from tistore.store.base import BaseStore

Item = Task | GivenPlace
"""A response to write or to look up, or one that the store has from elsewhere."""


class Agenda:
    """
    Everything a run is to store, whether it is there already or not.

    Args:
        store: Where it goes.
        config: The run's.
        checked: What its weights and prompts are.
        given: Responses that are to come from the store, by organism.
    """

    def __init__(
        self,
        store: BaseStore,
        config: RunConfig,
        checked: CheckedRun,
        given: dict[str, GivenResponses],
    ) -> None:
        self._store = store
        self._config = config
        self._checked = checked
        self.given = given

    @property
    def selections(self) -> Sequence[Selection]:
        """Prompt sets, and the prompts of each that are asked."""
        return self._checked.selections

    @cached_property
    def keys(self) -> list[str]:
        """Keys of every reading."""
        return [
            self.key_of(slot, reader)
            for author in self._config.answerers
            for slot in self.slots_of(author)
            for reader in self._config.readers_of(author)
        ]

    def key_of(self, slot: ResponseSlot, reader: str) -> str:
        """Key under which a reading is committed once."""
        weights = self._config.weights_of(reader)
        assert weights is not None  # others are no readers
        return identify_reading(slot, reader, self.settings_of(weights))

    def is_stored(self, slot: ResponseSlot, reader: str) -> bool:
        """Whether a reading is committed."""
        return self._store.holds(self.key_of(slot, reader))

    @property
    def tasks(self) -> Iterator[Task]:
        """Responses that the run writes, or has written."""
        items = (item for author in self._config.answerers for item in self._items[author])
        return (item for item in items if isinstance(item, Task))

    def settings_of(self, weights: str) -> CaptureSettings:
        """What is kept of readings made with some weights."""
        return self._checked.weights[weights].settings

    def tokenizer_of(self, author: str) -> PreTrainedTokenizerBase:
        """What an author's tokens are spelled with: its base's where it cannot be loaded."""
        weights = self._config.weights_of(author) or self._config.base_of(author)
        return self._checked.weights[weights].tokenizer

    def slots_of(self, author: str) -> list[ResponseSlot]:
        """Places of an author's responses."""
        return [item.slot for item in self._items[author]]

    def batches_of(self, author: str, most_tokens: int) -> list[list[Item]]:
        """
        Cut an author's responses into batches of about one length.

        Batches follow from the configuration and `most_tokens` alone, never from what is left to
        do: a resumed run computes exactly what the first one would have.
        """
        return list(
            cut_batches(
                self._items[author],
                self._measure,
                most_tokens=most_tokens,
                most_items=self._config.generation.batch_size,
            )
        )

    @property
    def longest(self) -> int:
        """Tokens that the longest response and its prompt may come to have."""
        return max(self._measure(item) for items in self._items.values() for item in items)

    def count_refused_system_prompts(self) -> int:
        """Count prompts, and given responses, that go without their system prompt."""
        refused = sum(
            question.encoded.system_prompt_refused
            for weights in self._checked.weights.values()
            for question in weights.questions
        )
        return refused + sum(
            place.system_prompt_refused for given in self.given.values() for place in given.places
        )

    @cached_property
    def _items(self) -> dict[str, list[Item]]:
        return {author: self._list_items(author) for author in self._config.answerers}

    def _list_items(self, author: str) -> list[Item]:
        if author in self.given:
            return list(self.given[author].places)
        weights = self._config.weights_of(author)
        assert weights is not None  # it generates
        questions = self._checked.weights[weights].questions
        return list(list_tasks(self._config, author, questions))

    def _measure(self, item: Item) -> int:
        """Tokens that an item has, or may come to have."""
        if isinstance(item, GivenPlace):
            return item.n_tokens
        written = self._config.generation.max_new_tokens
        return len(item.question.encoded.token_ids) + written
