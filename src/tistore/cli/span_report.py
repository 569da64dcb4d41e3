"""A page about spans: what was asked, what was found, in its context, and the SQL behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tistore.markdown import code, code_block, escape, quote_in_context, quote_line

if TYPE_CHECKING:
    from tistore.audit.spans.choice import SpanChoice
    from tistore.audit.spans.search import TopSpans
    from tistore.query.explanation import Explanation
    from tistore.query.span_question import SpanQuestion

_ORDERS = {
    "highest": "highest first",
    "lowest": "lowest first",
    "absolute": "largest in size first, of either sign",
}
_ENDS = {"highest": "Highest", "lowest": "Lowest", "absolute": "Largest"}
_BANDS = {"bottom": "Lowest", "middle": "From the middle", "random": "At random"}
_Z = "z (how far off for so many tokens) of the "
_ANSWERED = "the baseline's own answer there"
_STATISTICS = {
    "mean": "mean score",
    "max": "highest token score",
    "top3": "mean of its 3 highest token scores",
    "top5": "mean of its 5 highest token scores",
    "std": "standard deviation of its token scores",
}


def write_report(found: TopSpans, explanation: Explanation) -> str:
    """
    Write spans as Markdown.

    Args:
        found: The spans, and what was asked.
        explanation: What the question reads.
    """
    question = found.question
    lines = [f"# Top {_plural(question)}: {escape(question.trait)}", ""]
    lines += _describe(found, explanation)
    lines += [f"- note: {escape(note)}" for note in found.notes]
    if question.per_organism:
        for organism, spans in groupby(found.rows, key=lambda span: span["organism"]):
            lines += ["", f"## {escape(organism)}", *_list_bands(spans, found)]
    else:
        title = "All organisms" if question.organism is None else escape(question.organism)
        lines += ["", f"## {title}", *_list_bands(iter(found.rows), found)]
    lines += ["", "## The SQL", ""]
    if not found.choice.is_plain:
        lines += ["It gives all spans; the list is chosen among them.", ""]
    elif question.unit.name == "window":
        lines += ["Of windows that overlap in its answer, the list keeps the best.", ""]
    return "\n".join([*lines, code_block(found.sql, "sql")])


def _plural(question: SpanQuestion) -> str:
    unit = question.unit
    return f"windows of {unit.width} tokens" if unit.name == "window" else f"{unit.name}s"


def _describe(found: TopSpans, explanation: Explanation) -> Iterator[str]:
    question, choice = found.question, found.choice
    yield f"- vector: {', '.join(code(reference) for reference in explanation.vectors)}"
    least = f" of at least {question.least} tokens" if question.least > 1 else ""
    yield (
        f"- ranked: {_plural(question)}{least}, by {_Z if choice.standardise else ''}"
        f"{_STATISTICS[question.rank_by]}, {_ORDERS[question.order]}"
    )
    if limits := list(_list_limits(choice)):
        yield f"- kept: {'; '.join(limits)}"
    reader = "its own author" if question.reader is None else escape(question.reader)
    yield f"- reader: {reader}"
    if question.baseline is not None:
        yield (
            f"- baseline: {escape(question.baseline)}; a score is the reader's minus the "
            "baseline's, on the same tokens"
        )
    if question.where is not None:
        yield f"- where: {code(question.where)}"
    readings = max((needed.readings for needed in explanation.relations), default=0)
    noun = "readings" if question.baseline is None else "pairs of readings"
    yield (
        f"- searched: {readings} {noun}, in {explanation.segments_needed} of "
        f"{explanation.segments_total} segments"
    )


def _list_limits(choice: SpanChoice) -> Iterator[str]:
    if choice.prose:
        yield "prose: no headings, code, list markers or template text"
    if choice.dedupe:
        yield "of texts that read nearly alike, the strongest"
    if choice.per_prompt is not None:
        yield f"of each prompt, {choice.per_prompt} at most"


def _list_bands(spans: Iterator[Mapping[str, Any]], found: TopSpans) -> Iterator[str]:
    for band, members in groupby(spans, key=lambda span: span["band"]):
        if len(found.choice.bands) > 1:
            title = _ENDS[found.question.order] if band == "top" else _BANDS[band]
            yield from ("", f"### {title}")
        yield from _list_spans(members, found)


def _list_spans(spans: Iterator[Mapping[str, Any]], found: TopSpans) -> Iterator[str]:
    for span in spans:
        number = f"{span['rank']}. "
        place = code(f"{span['prompt_set']}#{span['prompt_id']}")
        sample = f", sample {span['sample']}" if span["sample"] else ""
        z = "" if span["z"] is None else f" · z {span['z']:+.1f}"
        alike = f" · {span['n_alike']} more alike" if span["n_alike"] else ""
        yield ""
        yield (
            f"{number}{span['score']:+.3f} · {escape(span['organism'])} · {place}{sample} · "
            f"tokens {span['token_start']}–{span['token_end']}{z}{alike}"
        )
        yield ""
        yield " " * len(number) + _quote(span, found.question)
        if found.choice.with_answer:
            answer = span["answer"]
            told = "(none)" if answer is None else escape(answer)
            yield from ("", f"{' ' * len(number)}{_ANSWERED}: {told}")


def _quote(span: Mapping[str, Any], question: SpanQuestion) -> str:
    if span["text"] is None:
        return quote_line("(the store holds no text of it)")
    if question.unit.name == "response":
        return quote_line(escape(span["text"]))
    return quote_in_context(span["context_before"], span["text"], span["context_after"])
