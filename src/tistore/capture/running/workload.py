"""What a run has to do: who answers which prompts, in which batches, and who reads the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from tistore.capture.config import PromptSetConfig, RunConfig
from tistore.capture.tokenize import EncodedPrompt, encode_prompt
from tistore.datasets.prompt_sets import PromptSet, name_prompt_set, read_prompt_set
from tistore.datasets.shipped import shipped_name
from tistore.errors import CaptureError, ConfigError, DatasetError, nearest
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the prompt as the model gets it."""

    prompt: Prompt
    encoded: EncodedPrompt


@dataclass(frozen=True, slots=True)
class Task:
    """One response to make or to look up, and to read."""

    slot: ResponseSlot
    question: Question


@dataclass(frozen=True, slots=True)
class Selection:
    """
    The prompts of a set that a run asks.

    Attributes:
        prompt_set: The whole set, as the store names it.
        prompts: Those asked, in file order.
        thinking: Whether models that can think aloud are to do so.
    """

    prompt_set: PromptSet
    prompts: tuple[Prompt, ...]
    thinking: bool = False


def read_selections(config: RunConfig) -> list[Selection]:
    """
    Read the prompt sets of a run, and pick the prompts it asks.

    Raises:
        ConfigError: Two sets share a name, or a prompt is asked for that its set does not have.
        DatasetError: A set cannot be read.
    """
    thinking = config.generation.thinking
    selections = [replace(_select(entry), thinking=thinking) for entry in config.prompt_sets]
    names = [selection.prompt_set.name for selection in selections]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"several prompt sets are called {', '.join(repeated)}",
            mend="give one of them another name in its [[prompt_sets]] table",
        )
    return selections


def encode_questions(
    tokenizer: PreTrainedTokenizerBase, selections: Iterable[Selection]
) -> list[Question]:
    """
    Encode every prompt that a run asks.

    Raises:
        CaptureError: The chat template refuses one; it is named.
    """
    return [
        Question(prompt, _encode(tokenizer, prompt, selection.thinking))
        for selection in selections
        for prompt in selection.prompts
    ]


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, thinking: bool) -> EncodedPrompt:
    try:
        return encode_prompt(tokenizer, prompt, thinking=thinking)
    except CaptureError as error:
        where = f"prompt {prompt.prompt_set}#{prompt.prompt_id}"
        raise CaptureError(f"{where}: {error.message}", mend=error.mend) from error


def list_slots(config: RunConfig, organism: str, prompts: Iterable[Prompt]) -> list[ResponseSlot]:
    """List an organism's responses."""
    samples = range(config.generation.samples)
    return [
        ResponseSlot(organism, prompt.prompt_set, prompt.prompt_id, sample)
        for prompt in prompts
        for sample in samples
    ]


def list_tasks(config: RunConfig, organism: str, questions: Sequence[Question]) -> list[Task]:
    """List an organism's responses with what is asked, the shortest prompts first."""
    by_key = {(q.prompt.prompt_set, q.prompt.prompt_id): q for q in questions}
    slots = list_slots(config, organism, (question.prompt for question in questions))
    tasks = [Task(slot, by_key[slot.prompt_set, slot.prompt_id]) for slot in slots]
    return sorted(tasks, key=lambda task: (len(task.question.encoded.token_ids), task.slot))


def _select(entry: PromptSetConfig) -> Selection:
    if not entry.path.is_local:
        raise DatasetError(
            f"no prompt set at {entry.path.path}",
            mend="check its path; it is relative to the config file",
        )
    name = entry.name or shipped_name(entry.path.given) or name_prompt_set(entry.path.path)
    read = read_prompt_set(entry.path.path, name)
    known = {prompt.prompt_id: prompt for prompt in read.prompts}
    prompts = read.prompts
    if entry.prompt_ids is not None:
        wanted = [str(prompt_id) for prompt_id in entry.prompt_ids]
        _refuse_unknown(read.name, wanted, known)
        prompts = tuple(prompt for prompt in prompts if prompt.prompt_id in set(wanted))
    if entry.tags is not None:
        prompts = _select_tagged(read, prompts, entry.tags)
    if entry.prefill is not None:
        prompts = tuple(prompt.prefill(entry.prefill) for prompt in prompts)
    # As given: a store made elsewhere from the same files is to hold the same rows.
    return Selection(replace(read, source=entry.path.given), prompts[: entry.limit])


def _select_tagged(
    read: PromptSet, prompts: Sequence[Prompt], tags: Sequence[str]
) -> tuple[Prompt, ...]:
    known = {tag for prompt in read.prompts for tag in prompt.tags}
    for tag in tags:
        if tag not in known:
            raise ConfigError(
                f"prompt set {read.name} has no prompt tagged {tag!r}", mend=nearest(tag, known)
            )
    selected = tuple(prompt for prompt in prompts if set(tags) & set(prompt.tags))
    if not selected:
        raise ConfigError(
            f"none of the prompts chosen by prompt_ids from {read.name} is tagged "
            f"{' or '.join(tags)}",
            mend="remove tags or prompt_ids from its [[prompt_sets]] table",
        )
    return selected


def _refuse_unknown(name: str, wanted: Iterable[str], known: Mapping[str, Prompt]) -> None:
    for prompt_id in wanted:
        if prompt_id not in known:
            raise ConfigError(
                f"prompt set {name} has no prompt {prompt_id!r}", mend=nearest(prompt_id, known)
            )
