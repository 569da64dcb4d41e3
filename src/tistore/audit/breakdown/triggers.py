"""Pairs of prompts with and without a trigger: what the trigger itself changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tistore.audit.breakdown.question import Question
from tistore.audit.breakdown.summary import Row, average_part, summarise
from tistore.audit.cells import Cells, Part
from tistore.audit.statistics.known import average_known
from tistore.errors import QueryError

PAIR = "pair:"
"""How the tag that names a prompt's pair begins."""

_SEPARATOR = re.compile(r"([-_./:#])")
_NEGATIONS = ("no", "non", "not", "without")


@dataclass(frozen=True, slots=True)
class TriggerPair:
    """
    Prompts that differ in a trigger.

    Attributes:
        name: What they share: the `pair:` tag, or the prompt set and the stem of their ids.
        with_trigger: Places of the prompts that have it.
        without: Places of those that do not.
    """

    name: str
    with_trigger: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)


def pair_prompts(prompts: Sequence[dict[str, Any]], trigger: str) -> list[TriggerPair]:
    """
    Pair prompts that share a `pair:` tag or, without one, the stem of their ids in one set.

    The stem of `12-trigger` and of `12-plain` is `12`, as that of `12` is. A prompt has the trigger
    when that is its note, one of its tags, or the ending of its id, unless a "no" stands before.

    Args:
        prompts: `prompt_set, prompt_id, note, tags` of each.
        trigger: What prompts with the trigger have.

    Returns:
        In order of their first prompts; those that lack a side included.
    """
    labels = [_label(prompt, trigger) for prompt in prompts]
    triggered = {label.key for label in labels if label.has_trigger}
    pairs: dict[str, TriggerPair] = {}
    for place, label in enumerate(labels):
        # `tone-warm` is the partner of `tone-warm-trigger`, though it has a shorter stem.
        key = label.whole if not label.has_trigger and label.whole in triggered else label.key
        pair = pairs.setdefault(key, TriggerPair(key))
        (pair.with_trigger if label.has_trigger else pair.without).append(place)
    return list(pairs.values())


@dataclass(frozen=True, slots=True)
class _Label:
    """What a prompt's pair may be called, and whether it has the trigger."""

    key: str
    whole: str
    has_trigger: bool


def _label(prompt: dict[str, Any], trigger: str) -> _Label:
    tags = list(prompt["tags"] or [])
    prefix, whole = f"{prompt['prompt_set']}#", str(prompt["prompt_id"])
    stem, variant = _take_apart(whole, trigger)
    has_trigger = variant == trigger or trigger in (prompt["note"], *tags)
    named = next((tag for tag in tags if tag.startswith(PAIR)), None)
    if named is not None:
        return _Label(named, named, has_trigger)
    return _Label(prefix + stem, prefix + whole, has_trigger)


def _take_apart(prompt_id: str, trigger: str) -> tuple[str, str | None]:
    """Split an id into its stem and its variant, if it has one."""
    parts = _SEPARATOR.split(prompt_id)
    if len(parts) > 3 and parts[-1] == trigger and parts[-3] in _NEGATIONS:
        return "".join(parts[:-4]) or prompt_id, "".join(parts[-3:])
    if len(parts) > 1 and prompt_id.endswith(trigger) and len(prompt_id) > len(trigger):
        stem = prompt_id[: -len(trigger)]
        if _SEPARATOR.fullmatch(stem[-1]) and len(stem) > 1:
            return stem[:-1], trigger
    if len(parts) > 1 and parts[-1] and not any(map(str.isdigit, parts[-1])):
        return "".join(parts[:-2]) or prompt_id, parts[-1]
    return prompt_id, None


def summarise_triggers(cells: Cells, question: Question) -> tuple[list[Row], tuple[str, ...]]:
    """
    Sum up, over pairs, the difference with the trigger minus the difference without it.

    Returns:
        Rows as `summarise` has them, with `trigger`, and `n_pairs` in place of `n_prompts`;
        `with_trigger` and `without` are the two mean differences. And notes.

    Raises:
        QueryError: No two prompts are a pair.
    """
    averaged = cells.by_prompt()
    found = pair_prompts(list(averaged.rows.iter_rows(named=True)), question.trigger)
    pairs = [pair for pair in found if pair.with_trigger and pair.without]
    n_with = sum(len(pair.with_trigger) for pair in found)
    if not pairs:
        raise QueryError(
            f"no prompt with the trigger {question.trigger!r} has a partner without it; "
            f"{n_with} of {len(averaged.rows)} prompts have it",
            mend=f"give both a tag {PAIR}NAME, and one of them the tag {question.trigger!r}; or "
            f"ids such as 12 and 12-{question.trigger}",
        )
    alone = n_with - sum(len(pair.with_trigger) for pair in pairs)
    rows = [row for part in question.parts for row in _summarise_part(cells, pairs, question, part)]
    note = f"{alone} prompts with the trigger have no partner without it, and are left out"
    return rows, (note,) if alone else ()


def _summarise_part(
    cells: Cells, pairs: Sequence[TriggerPair], question: Question, part: Part
) -> Iterator[Row]:
    values = average_part(cells, part)
    sides = [
        np.stack([average_known(values[places]) for places in side])
        for side in ([pair.with_trigger for pair in pairs], [pair.without for pair in pairs])
    ]
    change = sides[0] - sides[1]
    is_there = np.isfinite(change)
    group = {"trigger": question.trigger, "part": part}
    places = {vector.reference: at for at, vector in enumerate(cells.vectors)}
    for row in summarise(change, np.arange(len(pairs)), cells.vectors, question, group):
        at = places[row["vector"]]
        kept = is_there[:, at]
        row["n_pairs"] = row.pop("n_prompts")
        row["with_trigger"], row["without"] = (float(side[kept, at].mean()) for side in sides)
        yield row
