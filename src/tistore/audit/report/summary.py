"""The summary of a report: one screen of Markdown."""

from __future__ import annotations

from tistore.audit.report.evidence import Card
from tistore.audit.report.findings import write_q
from tistore.audit.report.hypotheses import Hypothesis
from tistore.audit.report.page import write_number
from tistore.audit.report.report import Report
from tistore.markdown import escape

_MOST_CHARACTERS = 110


def write_summary(report: Report) -> str:
    """Write the verdict, what it rests on, and where it can be seen."""
    parts = [
        f"# {escape(report.subject)}",
        f"**{escape(report.verdict.headline)}**",
        *(
            [f"Not covered: {escape('; '.join(report.verdict.not_covered))}."]
            if report.verdict.not_covered
            else []
        ),
        " · ".join(
            f"{one.mark} {escape(one.label)} ({escape(one.reason)})" for one in report.checks
        ),
        _write_table(report),
        f"## Evidence\n\n{_write_cards(report)}",
        f"## Hypotheses\n\n{_write_hypotheses(report)}",
        f"## Provenance\n\n{_write_facts(report)}",
        "Every token, and every figure: [report.html](report.html).",
    ]
    return "\n\n".join(parts) + "\n"


def _write_table(report: Report) -> str:
    names = (
        "trait", "stands out by", "g [95 %]", "q", "percentile", "slope", "turn slope",
        "max-prompt q", "prompts", "noise floor", "detectable g",
    )  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in report.rows:
        flags = [
            report.names.of_note(one.partition(":")[2]) if ":" in one else one
            for one in row["flags"]
        ]
        floor, g = row["noise_floor"], row["g"]
        is_noise = floor is not None and g is not None and abs(g) <= floor
        cells = (
            escape(row["trait"]),
            escape(", ".join(flags)) or ("*within noise*" if is_noise else ""),
            f"{write_number(g)} [{write_number(row['low'])}, {write_number(row['high'])}]",
            escape(write_q(row["q"])),
            write_number(row["percentile"], ".0f"),
            write_number(row["slope"]),
            write_number(row["turn_slope"]),
            escape(write_q(row["spike_q"])),
            str(row["n_prompts"]),
            write_number(floor, ".2f"),
            write_number(row["mde"], ".2f"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _write_cards(report: Report) -> str:
    links = {one.response_id: number for number, one in enumerate(report.transcripts, start=1)}
    lines = [
        _write_card(number, card, links.get(card.response_id))
        for number, card in enumerate(report.cards, start=1)
    ]
    return "\n".join(lines) or "No clause could be scored."


def _write_card(number: int, card: Card, response: int | None) -> str:
    place = f"{card.prompt_set}#{card.prompt_id}, tokens {card.token_start}–{card.token_end - 1}"
    link = f"report.html#r{response}c{card.clause}" if response else f"report.html#card{number}"
    parts = ""
    if card.total is not None:
        total, model, text = (
            write_number(one, "+.1f") for one in (card.total, card.model_part, card.text_part)
        )
        parts = f"; {total} SD = model {model} + text {text}"
    said = card.text if len(card.text) <= _MOST_CHARACTERS else card.text[:_MOST_CHARACTERS] + " …"
    return (
        f"{number}. “{escape(said)}” — {escape(card.trait)}, "
        f"z {write_number(card.z, '+.1f')}{parts} ([{escape(place)}]({link}))"
    )


def _write_hypotheses(report: Report) -> str:
    lines = [
        _write_hypothesis(number, one) for number, one in enumerate(report.hypotheses, start=1)
    ]
    return "\n".join(lines)


def _write_hypothesis(number: int, one: Hypothesis) -> str:
    text = escape(one.text)
    claim = f"**{text}**" if one.is_supported else f"{text} *Not supported.*"
    cited = " ".join(f"[{card}](report.html#card{card})" for card in one.evidence)
    cited = f"{cited} [figure](report.html#{one.figure})".strip()
    told = f"{number}. {claim} See {cited}."
    return f"{told} Against: {escape(one.contrary.text)}"


def _write_facts(report: Report) -> str:
    facts = [f"- {escape(name)}: {escape(value)}" for name, value in report.facts]
    return "\n".join([*facts, *(f"- {escape(note)}" for note in report.notes)])
