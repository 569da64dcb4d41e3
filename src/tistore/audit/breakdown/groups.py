"""Groups of prompts: by note, by tag, by topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tistore.audit.breakdown.question import Question
from tistore.audit.breakdown.summary import Row, summarise_prompts
from tistore.audit.cells import Cells
from tistore.audit.prompt_clusters import TOPIC
from tistore.errors import QueryError

_NAMES_OF: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "note": lambda prompt: [prompt["note"]] if prompt["note"] else [],
    "tag": lambda prompt: list(prompt["tags"] or []),
    "topic": lambda prompt: [
        tag.removeprefix(TOPIC) for tag in prompt["tags"] or [] if tag.startswith(TOPIC)
    ],
}


def summarise_groups(cells: Cells, question: Question) -> Iterator[Row]:
    """
    Sum up the prompts of each note, tag or topic; those that have none are a group called None.

    A prompt with several tags counts in each.

    Raises:
        QueryError: No prompt has any.
    """
    found = [_NAMES_OF[question.by](row) for row in cells.rows.iter_rows(named=True)]
    names = sorted({name for listed in found for name in listed})
    if not names:
        wanted = f"tag that begins with {TOPIC!r}" if question.by == "topic" else question.by
        raise QueryError(f"no prompt has a {wanted}", mend=f"give prompts a {wanted} in their set")
    for name in [*names, None]:
        mask = np.array([name in listed if name else not listed for listed in found])
        if mask.any():
            yield from summarise_prompts(cells.take(mask), question, {question.by: name})
