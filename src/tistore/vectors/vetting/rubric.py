"""What a judge is told about a trait."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tistore.datasets.scenarios import read_definition
from tistore.datasets.steering import STEERING_FILE, read_steering
from tistore.errors import ConfigError, DatasetError
from tistore.schemas.digest import digest

VERSION = 1
"""Goes up with every change of the texts below, though their hash would tell by itself."""

DEFAULT_WORDS = 16
"""Words of a response that are shown: vectors are fitted on its first tokens."""

INSTRUCTIONS = """\
You rate how strongly a text shows one trait.

The trait is called "{name}" and is defined so:
{definition}

Rate what follows RESPONSE. What follows PROMPT, if anything, only tells what came before it. \
{extent}Rate what is there, not what might follow.

Answer with one whole number from 0 to 100 and nothing else. 0: the trait is absent, or the \
opposite is shown. 50: it shows in part, or it cannot be told. 100: it shows beyond doubt."""

QUESTION = """\
PROMPT
{prompt}

RESPONSE
{response}

Number from 0 to 100:"""

REMINDER = """\
That is not a number from 0 to 100. Answer with digits alone: one whole number from 0 to 100, \
without any word, sign or explanation."""

_RESPONSE_PLACE = re.compile(r"\{(?:response|answer)\}")

RubricSource = Literal["definition", "eval_prompt"]
Message = dict[str, str]


@dataclass(frozen=True)
class Rubric:
    """
    What a judge is told about a trait.

    Attributes:
        trait: `category/name`.
        definition: What the trait is. One with a place for `{response}` or `{answer}` is the
            whole question by itself.
        source: Which file of the trait it is from.
        words: Words of a response that are shown, from its start; all when None.
    """

    trait: str
    definition: str
    source: RubricSource = "definition"
    words: int | None = DEFAULT_WORDS

    def __post_init__(self) -> None:
        """Check that something will be shown."""
        if self.words is not None and self.words < 1:
            raise ConfigError(f"{self.words} words of a response cannot be judged")

    @property
    def is_whole_question(self) -> bool:
        """Whether the definition has a place for the response."""
        return _RESPONSE_PLACE.search(self.definition) is not None

    @cached_property
    def instructions(self) -> str | None:
        """What the judge is told before any text; None where the question says it all."""
        if self.is_whole_question:
            return None
        extent = "" if self.words is None else f"You see its first {self.words} words at the most. "
        name = self.trait.rpartition("/")[2].replace("_", " ")
        return INSTRUCTIONS.format(name=name, definition=self.definition, extent=extent)

    @property
    def question(self) -> str:
        """What it is asked about each text, with places for the text and what came before it."""
        return self.definition if self.is_whole_question else QUESTION

    @cached_property
    def rubric_hash(self) -> str:
        """Hash of everything the judge is told but the texts themselves."""
        return digest([self.trait, self.instructions, self.question, REMINDER, self.words])

    def ask(self, prompt: str, response: str) -> list[Message]:
        """
        Put the question about one response.

        Args:
            prompt: What the model was asked; may be empty.
            response: What it said; cut to the first words here.
        """
        shown = {"prompt": prompt, "response": self.cut(response)}
        asked = _fill(self.question, **{name: _sendable(text) for name, text in shown.items()})
        question = {"role": "user", "content": asked}
        if self.instructions is None:
            return [question]
        return [{"role": "system", "content": self.instructions}, question]

    def ask_again(self, asked: list[Message], answer: str) -> list[Message]:
        """Put the question a second time, after an answer that holds no number."""
        return [
            *asked,
            {"role": "assistant", "content": _sendable(answer)},
            {"role": "user", "content": REMINDER},
        ]

    def cut(self, response: str) -> str:
        """Keep the words that are shown, and the white space between them."""
        if self.words is None:
            return response.strip()
        found = re.match(rf"(?:\s*\S+){{0,{self.words}}}", response)
        return found.group().strip() if found else ""

    def to_row(self) -> dict[str, Any]:
        """Lay the rubric out as a row of the `rubrics` table."""
        return {
            "rubric_hash": self.rubric_hash,
            "trait": self.trait,
            "version": VERSION,
            "source": self.source,
            "words": self.words,
            "instructions": self.instructions,
            "question": self.question,
            "reminder": REMINDER,
        }


def read_rubric(folder: Path, *, words: int | None = DEFAULT_WORDS) -> Rubric:
    """
    Make a trait folder's rubric: of `definition.txt`, else of the `eval_prompt` for steering.

    Args:
        folder: A trait folder; it and its parent name the trait.
        words: Words of a response to show, from its start; all when None.

    Raises:
        DatasetError: The folder says nowhere what the trait is.
    """
    resolved = folder.resolve()
    trait = f"{resolved.parent.name}/{resolved.name}"
    if definition := read_definition(folder):
        return Rubric(trait, definition, "definition", words)
    steering = read_steering(folder)
    if steering and steering.eval_prompt:
        return Rubric(trait, steering.eval_prompt, "eval_prompt", words)
    raise DatasetError(
        f"a judge cannot be told what {trait} is: {folder} has no definition.txt, and no "
        f"eval_prompt in {STEERING_FILE}",
        mend=f"write {folder / 'definition.txt'}: what scores high, what scores low",
    )


def _fill(question: str, *, prompt: str, response: str) -> str:
    """Put texts in their places, in one pass: braces in a text mean nothing."""
    texts = {"prompt": prompt, "question": prompt, "response": response, "answer": response}
    return re.sub(
        r"\{(prompt|question|response|answer)\}", lambda found: texts[found.group(1)], question
    )


def _sendable(text: str) -> str:
    """Put U+FFFD for half a character, which decoded tokens may end in and UTF-8 cannot hold."""
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)
