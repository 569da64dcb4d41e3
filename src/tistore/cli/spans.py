"""Spans as people read them: one column for the text, between marks, in its context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tistore.audit.spans.choice import SpanChoice

BEFORE, AFTER = 40, 30
"""Characters of context shown; `--json` has all of it."""

_ANSWER = 70
"""Characters of an answer, or a prompt, shown."""


def show_in_context(span: Mapping[str, Any]) -> str:
    """Write a span between » and «, with a little of what stands around it."""
    before, after = span["context_before"], span["context_after"]
    before = before if len(before) <= BEFORE else f"…{before[1 - BEFORE :]}"
    after = after if len(after) <= AFTER else f"{after[: AFTER - 1]}…"
    return f"{before}»{span['text'] or ''}«{after}".replace("\n", "↵")


def shorten(span: Mapping[str, Any], choice: SpanChoice) -> dict[str, Any]:
    """Pick what a table has room for, of what the choice makes of interest."""
    return {
        **({"band": span["band"]} if len(choice.bands) > 1 else {}),
        "score": span["score"],
        "z": span["z"],
        **_place(span),
        **_extra(span, choice),
        "text": show_in_context(span),
    }


def shorten_cofiring(span: Mapping[str, Any], choice: SpanChoice) -> dict[str, Any]:
    """Pick what a table has room for, of a span at which several traits fire."""
    return {
        "score": span["score"],
        "traits": span["traits"],
        **_place(span),
        **_extra(span, choice),
        "alike": span["n_alike"],
        "text": show_in_context(span),
    }


def shorten_prompt(row: Mapping[str, Any], with_answer: bool) -> dict[str, Any]:
    """Pick what a table has room for, of an odd prompt."""
    texts = ("prompt", "text", "answer") if with_answer else ("prompt",)
    return {
        "distance": row["distance"],
        "percentile": row["percentile"],
        "organism": row["organism"],
        "prompt": f"{row['prompt_set']}#{row['prompt_id']}",
        "traits": row["traits"],
        **{"asked" if name == "prompt" else name: _cut(row[name]) for name in texts},
    }


def _place(span: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "organism": span["organism"],
        "reader": span["reader"],
        "baseline": span["baseline"],
        **({"pairing": span["pairing"]} if "pairing" in span else {}),
        "prompt": f"{span['prompt_set']}#{span['prompt_id']}",
        "tokens": f"{span['token_start']}–{span['token_end']}",
    }


def _extra(span: Mapping[str, Any], choice: SpanChoice) -> dict[str, Any]:
    return {
        **({"alike": span["n_alike"]} if choice.dedupe else {}),
        **({"answer": _cut(span["answer"])} if choice.with_answer else {}),
    }


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    return (text if len(text) <= _ANSWER else f"{text[: _ANSWER - 1]}…").replace("\n", "↵")
