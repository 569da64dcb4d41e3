"""What is wrong with a trait folder or a prompt set, or would spoil what is fitted on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tistore.datasets.giveaways import (
    TellingWord,
    find_telling_endings,
    find_telling_length,
    find_telling_words,
)
from tistore.datasets.inventory import Dataset
from tistore.datasets.likeness import find_alike, fold
from tistore.datasets.prompt_sets import read_prompt_set
from tistore.datasets.scenarios import SIDES, Scenario, Side, read_definition, read_side
from tistore.datasets.steering import read_steering
from tistore.errors import DatasetError
from tistore.schemas.prompt import Prompt

FEWEST_SCENARIOS = 10
"""A side; with fewer, a held-out part says next to nothing."""

Level = Literal["error", "warning"]
Sides = dict[Side, tuple[Scenario, ...]]


@dataclass(frozen=True, slots=True)
class Problem:
    """
    Something that is wrong with a data set.

    Attributes:
        level: An "error" is certainly a mistake; a "warning" may be meant.
        dataset: The data set's name.
        check: What was looked for.
        where: `positive#3` is the third scenario of that side, `#7` the prompt with id 7; None for
            the whole.
        message: What was found.
    """

    level: Level
    dataset: str
    check: str
    where: str | None
    message: str


Finding = tuple[Level, str, str | None, str]
"""A problem's level, check, place and message, before anyone says whose it is."""


def check_dataset(dataset: Dataset) -> list[Problem]:
    """
    Read all of a data set, and list what is wrong with it.

    Nothing is raised: what cannot be read is a problem like others, and the rest is still looked
    at.
    """
    look = _check_trait if dataset.kind == "trait" else _check_prompt_set
    return [
        Problem(level, dataset.name, check, where, message)
        for level, check, where, message in look(dataset)
    ]


def _check_trait(dataset: Dataset) -> Iterator[Finding]:
    sides: Sides = {}
    for side in SIDES:
        try:
            sides[side] = read_side(dataset.path, side)
        except DatasetError as error:
            yield "error", "unreadable", side, error.message
    for side, scenarios in sides.items():
        yield from _check_side(side, scenarios)
    if len(sides) == len(SIDES):
        yield from _check_pairs(sides)
        yield from _check_giveaways(sides)
    yield from _check_definition(dataset)
    yield from _check_steering(dataset)


def _check_side(side: Side, scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    if len(scenarios) < FEWEST_SCENARIOS:
        yield (
            "warning", "few scenarios", side,
            f"{len(scenarios)}; at least {FEWEST_SCENARIOS} let a part be held out",
        )  # fmt: skip
    places = [f"{side}#{number}" for number in range(1, len(scenarios) + 1)]
    yield from _find_repeats([one.text for one in scenarios], "error", places)


def _find_repeats(texts: Sequence[str], level: Level, places: Sequence[str]) -> Iterator[Finding]:
    """Find texts that say again what an earlier one said, in the same words or nearly."""
    for like in find_alike(texts):
        earlier = places[like.earlier]
        if fold(texts[like.index]) == fold(texts[like.earlier]):
            yield level, "duplicate", places[like.index], f"says the same as {earlier}"
        else:
            share = f"{like.resemblance:.0%} of their word triples agree"
            yield "warning", "near duplicate", places[like.index], f"is like {earlier}: {share}"


def _check_pairs(sides: Sides) -> Iterator[Finding]:
    positive, negative = ([fold(one.text) for one in sides[side]] for side in SIDES)
    if len(positive) != len(negative):
        yield (
            "warning", "uneven sides", None,
            f"{len(positive)} positive and {len(negative)} negative: the lines past the shorter "
            "side have no partner",
        )  # fmt: skip
    first = {text: number for number, text in reversed(list(enumerate(negative, start=1)))}
    for number, text in enumerate(positive, start=1):
        if number <= len(negative) and negative[number - 1] == text:
            yield "error", "identical pair", f"positive#{number}", "both sides say the same"
        elif text in first:
            yield (
                "error", "in both sides", f"positive#{number}",
                f"says the same as negative#{first[text]}",
            )  # fmt: skip


def _check_giveaways(sides: Sides) -> Iterator[Finding]:
    positive, negative = ([one.text for one in sides[side]] for side in SIDES)
    anywhere = find_telling_words(positive, negative)
    for word in anywhere:
        yield "warning", "telling word", None, f"{word.word!r} is in {_share(word)}"
    for word in find_telling_endings(positive, negative):
        yield "warning", "telling ending", None, f"{word.word!r} ends {_share(word)}"
    auroc = find_telling_length(positive, negative)
    if auroc is not None:
        longer = SIDES[0] if auroc > 0.5 else SIDES[1]
        yield (
            "warning", "telling length", None,
            f"the {longer} side is longer: AUROC of the number of words is {auroc:.2f}",
        )  # fmt: skip


def _share(word: TellingWord) -> str:
    return (
        f"{word.positive_share:.0%} of the positive and {word.negative_share:.0%} of the "
        "negative scenarios"
    )


def _check_definition(dataset: Dataset) -> Iterator[Finding]:
    try:
        if read_definition(dataset.path) is None:
            yield "warning", "no definition", None, "definition.txt is missing or empty"
    except DatasetError as error:
        yield "error", "unreadable", "definition", error.message


def _check_steering(dataset: Dataset) -> Iterator[Finding]:
    try:
        steering = read_steering(dataset.path)
    except DatasetError as error:
        yield "error", "unreadable", "steering", error.message
        return
    if steering is None:
        yield "warning", "no questions", None, "steering.json is missing"
        return
    places = [f"question#{number}" for number in range(1, len(steering.questions) + 1)]
    prefix = steering.adversarial_prefix or ""  # what all may begin with makes none alike
    asked = [question.removeprefix(prefix) for question in steering.questions]
    yield from _find_repeats(asked, "warning", places)


def _check_prompt_set(dataset: Dataset) -> Iterator[Finding]:
    try:
        read = read_prompt_set(dataset.path, dataset.name, unique_ids=False)
    except DatasetError as error:
        yield "error", "unreadable", None, error.message
        return
    yield from _check_ids(read.prompts)
    places = [f"#{prompt.prompt_id}" for prompt in read.prompts]
    yield from _find_repeats([_spell_prompt(one) for one in read.prompts], "warning", places)


def _check_ids(prompts: Iterable[Prompt]) -> Iterator[Finding]:
    seen: set[str] = set()
    for number, prompt in enumerate(prompts, start=1):
        if prompt.prompt_id in seen:
            yield (
                "error", "repeated id", f"#{prompt.prompt_id}",
                f"prompt number {number} has the id of an earlier one",
            )  # fmt: skip
        seen.add(prompt.prompt_id)


def _spell_prompt(prompt: Prompt) -> str:
    """Join the conversation; a system prompt that a whole set shares makes nothing alike."""
    return "\n".join(str(turn["content"]) for turn in prompt.conversation)
