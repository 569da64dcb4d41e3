"""Spans as people read them: one column for the text, between marks, in its context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEFORE, AFTER = 40, 30
"""Characters of context shown; `--json` has all of it."""


def show_in_context(span: Mapping[str, Any]) -> str:
    """Write a span between » and «, with a little of what stands around it."""
    before, after = span["context_before"], span["context_after"]
    before = before if len(before) <= BEFORE else f"…{before[1 - BEFORE :]}"
    after = after if len(after) <= AFTER else f"{after[: AFTER - 1]}…"
    return f"{before}»{span['text'] or ''}«{after}".replace("\n", "↵")


def shorten(span: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a table has room for."""
    return {
        "score": span["score"],
        "organism": span["organism"],
        "reader": span["reader"],
        "baseline": span["baseline"],
        **({"pairing": span["pairing"]} if "pairing" in span else {}),
        "prompt": f"{span['prompt_set']}#{span['prompt_id']}",
        "tokens": f"{span['token_start']}–{span['token_end']}",
        "text": show_in_context(span),
    }
