"""Reading contrast scenarios into a store, so that vectors can be fitted on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tistore.capture.config import RunConfig
from tistore.capture.models.load import LoadedBase, load_architecture, load_base
from tistore.capture.planning.settings import resolve_settings
from tistore.capture.reading.generate import choose_padding
from tistore.capture.reading.in_flight import count_tokens_in_flight, cut_batches
from tistore.capture.reading.memory import work_in_parts
from tistore.capture.reading.prefill import Prefill, TokenSequence, prefill
from tistore.capture.texts.decode import decode_tokens
from tistore.capture.tokenize import encode_conversation, encode_text
from tistore.datasets.scenarios import Scenario, TraitScenarios
from tistore.errors import DatasetError
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import CaptureSettings, ResponseSlot, identify_reading
from tistore.store.base import BaseStore
from tistore.store.writer import Writer
from tistore.vectors.extract import scenario_set

AUTHOR = Model("scenarios")
"""Nobody generated these texts: people wrote them."""


@dataclass(frozen=True, slots=True)
class _Task:
    slot: ResponseSlot
    prompt: Prompt
    sequence: TokenSequence


def read_scenarios(store: BaseStore, config: RunConfig, traits: Sequence[TraitScenarios]) -> int:
    """
    Read both sides of every trait with the clean base, and commit the readings.

    A scenario with a response is read as a chat; one that is only a text is read as it stands.
    What is stored already is skipped.

    Args:
        store: Where the readings go.
        config: Names the base, and what of each reading is kept.
        traits: What to read.

    Returns:
        How many readings were added.

    Raises:
        DatasetError: A scenario has no tokens.
        ModelLoadError: The base cannot be loaded.
        KeyConflictError: The store holds other scenarios of that trait.
    """
    settings = resolve_settings(config, load_architecture(config.base))
    store.refresh()
    wanted = [prompt for trait in traits for prompt in _list_prompts(trait)]
    if all(_is_stored(store, prompt, config.base.name, settings) for prompt, _ in wanted):
        return 0
    loaded = load_base(config)
    tasks = [_encode(loaded, prompt, scenario) for prompt, scenario in wanted]
    # Batches follow from the scenarios alone, as those of a run do from its configuration.
    tasks.sort(key=lambda task: (len(task.sequence.token_ids), task.slot))
    longest = len(tasks[-1].sequence.token_ids)
    with loaded.reading_as(loaded.name) as model:
        most_tokens = count_tokens_in_flight(
            config.generation, config.base.device, model, settings, longest
        )
    batches = cut_batches(
        tasks,
        lambda task: len(task.sequence.token_ids),
        most_tokens=most_tokens,
        most_items=config.generation.batch_size,
    )
    with store.writer() as writer:
        for batch in batches:
            _read_batch(writer, loaded, batch, settings)
    return writer.committed_readings


def _list_prompts(trait: TraitScenarios) -> Iterator[tuple[Prompt, Scenario]]:
    for side, scenarios in (("positive", trait.positive), ("negative", trait.negative)):
        for number, scenario in enumerate(scenarios, start=1):
            prompt = Prompt(
                prompt_set=scenario_set(trait.trait, side),
                prompt_id=str(number),
                text=scenario.prompt if scenario.response is not None else "",
                system_prompt=scenario.system_prompt,
                note=side,
            )
            yield prompt, scenario


def _slot(prompt: Prompt) -> ResponseSlot:
    return ResponseSlot(AUTHOR.name, prompt.prompt_set, prompt.prompt_id)


def _is_stored(store: BaseStore, prompt: Prompt, reader: str, settings: CaptureSettings) -> bool:
    return store.holds(identify_reading(_slot(prompt), reader, settings))


def _encode(loaded: LoadedBase, prompt: Prompt, scenario: Scenario) -> _Task:
    if scenario.response is None:
        token_ids = encode_text(loaded.tokenizer, scenario.prompt)
        has_bos = token_ids[:1] == (loaded.tokenizer.bos_token_id,)
        sequence = TokenSequence(token_ids, int(has_bos))
    else:
        asked = encode_conversation(loaded.tokenizer, prompt.conversation, prompt.system_prompt)
        answered = loaded.tokenizer(scenario.response, add_special_tokens=False)["input_ids"]
        sequence = TokenSequence((*asked.token_ids, *answered), len(asked.token_ids))
    if len(sequence.token_ids) == sequence.prompt_length:
        raise DatasetError(f"{prompt.prompt_set}#{prompt.prompt_id} has no text to read")
    return _Task(_slot(prompt), prompt, sequence)


def _read_batch(
    writer: Writer, loaded: LoadedBase, tasks: Sequence[_Task], settings: CaptureSettings
) -> None:
    def read(part: Sequence[TokenSequence]) -> list[Prefill]:
        with loaded.reading_as(loaded.name) as model:
            padding = choose_padding(loaded.tokenizer)
            return prefill(model, part, settings, padding=padding, logprobs=False)

    readings = work_in_parts([task.sequence for task in tasks], read)
    for task, reading in zip(tasks, readings, strict=True):
        sequence = task.sequence
        response = sequence.token_ids[sequence.prompt_length :]
        decoded = decode_tokens(loaded.tokenizer, response)
        writer.add(
            organism=AUTHOR,
            reader=loaded.describe(loaded.name),
            prompt_set=task.slot.prompt_set,
            prompt_id=task.slot.prompt_id,
            token_ids=sequence.token_ids,
            prompt_length=sequence.prompt_length,
            layers=settings.layers,
            activations=reading.activations,
            text=decoded.text,
            tokens=decoded.tokens,
            offsets=decoded.offsets,
            prompt=task.prompt,
        )
