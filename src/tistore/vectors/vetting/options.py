"""How scenarios are vetted, where they are: what travels from a command to the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tistore.errors import ConfigError
from tistore.schemas.model import BASE_READER
from tistore.store.base import BaseStore
from tistore.vectors.vetting.endpoint import JudgeEndpoint
from tistore.vectors.vetting.kept import KeepRule, Vetted, apply_rule
from tistore.vectors.vetting.rubric import DEFAULT_WORDS, read_rubric
from tistore.vectors.vetting.vet import OnJudged, Vetting, vet


@dataclass(frozen=True, slots=True)
class VettingOptions:
    """
    Who judges, what of each response, and what stays.

    Attributes:
        endpoint: The judge.
        words: Words of a response it sees, from its start; all when None.
        rule: What makes a scenario stay.
    """

    endpoint: JudgeEndpoint
    words: int | None = DEFAULT_WORDS
    rule: KeepRule = field(default_factory=KeepRule)


def vet_trait(
    store: BaseStore,
    folder: Path,
    options: VettingOptions,
    *,
    reader: str = BASE_READER,
    author: str | None = None,
    on_judged: OnJudged | None = None,
) -> tuple[Vetting, Vetted]:
    """
    Judge a trait folder's scenarios that are in a store, and apply the rule.

    Args:
        store: Where the scenarios have been read.
        folder: The trait's folder, which says what the trait is.
        options: How.
        reader: Who read the scenarios.
        author: Who wrote the responses; see `find_scenarios`.
        on_judged: Follows the work.

    Returns:
        What was done, and what became of each scenario; `Vetted.require_enough` refuses too few.

    Raises:
        DatasetError: The folder does not say what the trait is.
        TistoreError: As `vet` does.
    """
    rubric = read_rubric(folder, words=options.words)
    done = vet(store, rubric, options.endpoint, reader=reader, author=author, on_judged=on_judged)
    vetted = apply_rule(
        store.snapshot,
        rubric.trait,
        rule=options.rule,
        reader=reader,
        author=author,
        judge=done.judge,
        rubric_hash=done.rubric_hash,
    )
    return done, vetted


def read_threshold(text: str) -> tuple[float, float]:
    """
    Read what a user writes as thresholds: "60/40".

    Raises:
        ConfigError: It is not two numbers.
    """
    try:
        positive, negative = (float(part) for part in text.split("/"))
    except ValueError:
        raise ConfigError(
            f"{text!r} is no pair of thresholds", mend="write positive/negative: 60/40"
        ) from None
    return positive, negative
