"""The small multiples of a report: a panel a trait, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tistore.audit.breakdown.break_down import break_down
from tistore.audit.breakdown.question import By, Question
from tistore.audit.report.findings import count
from tistore.audit.report.names import Names
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.subject import Subject
from tistore.audit.report.svg import INK, drawing, to_svg
from tistore.errors import QueryError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tistore.query.store import Store

MOST_PANELS = 6

_COLUMNS = 3
_PANEL = (3.3, 2.15)
_MORE, _LESS, _QUIET = "#d9730d", "#3b82d6", "#8a8f98"
_STRETCHES = 8
_MOST_ROWS = 24

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class FigureOf:
    """
    A figure, or why there is none.

    Attributes:
        name: Short name, for ids and links.
        title: What it is about.
        caption: How it is to be read.
        svg: The figure; None where the data has nothing to show.
    """

    name: str
    title: str
    caption: str
    svg: str | None


def draw_figures(
    store: Store, subject: Subject, question: ReportQuestion, traits: Sequence[str], names: Names
) -> list[FigureOf]:
    """
    Draw everything that is better seen than read.

    Args:
        store: Where positions, turns and groups are asked for.
        subject: Whom they are about.
        question: What the report was asked for.
        traits: Traits in order of importance; the first few get a panel.
        names: What organisms and notes are called.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    shown = list(traits[:MOST_PANELS])
    return [
        _draw_forest(subject, shown, names),
        _draw_prompts(subject, shown),
        _draw_positions(store, subject, question, shown),
        _draw_turns(store, subject, question, shown),
        _draw_groups(store, subject, question, shown, names),
        _draw_triggers(store, subject, question, shown),
    ]


def _draw_panels(
    name: str,
    title: str,
    traits: Sequence[str],
    draw: Callable[[Axes, str], None],
    height: float,
    is_counted: bool = False,
) -> str:
    """Draw a panel for each trait; what is counted has no halves along the bottom."""
    n_columns = min(_COLUMNS, len(traits))
    n_rows = -(-len(traits) // n_columns)
    with drawing() as figure_class:
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.ticker import MaxNLocator

        figure = figure_class(
            figsize=(_PANEL[0] * n_columns, height * n_rows),
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1),
        )
        for at, trait in enumerate(traits):
            axes = figure.add_subplot(n_rows, n_columns, at + 1)
            axes.set_title(trait)
            draw(axes, trait)
            # Numbers with many places would run into each other.
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=is_counted))
        return to_svg(figure, name, title)


def _draw_forest(subject: Subject, traits: Sequence[str], names: Names) -> FigureOf:
    title = "Against the other organisms"
    rows = subject.ranking.rows

    def draw(axes: Axes, trait: str) -> None:
        some = [row for row in rows if row["trait"] == trait and row["g"] is not None]
        some.sort(key=lambda row: (row["g"], names.of(row["organism"])))
        some = _thin(some, subject.organism)
        axes.axvline(0, color=INK, linewidth=0.6, alpha=0.5)
        for at, row in enumerate(some):
            is_it = row["organism"] == subject.organism
            colour = _MORE if is_it else _QUIET
            ends = [row["low"], row["high"]]
            if None not in ends:
                axes.plot(ends, [at, at], color=colour, linewidth=2.2 if is_it else 1.2)
            axes.plot([row["g"]], [at], "o", color=colour, markersize=5.5 if is_it else 3.5)
        axes.set_yticks(range(len(some)), [names.of(row["organism"]) for row in some])
        for label, row in zip(axes.get_yticklabels(), some, strict=True):
            label.set_fontweight("bold" if row["organism"] == subject.organism else "normal")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("g")

    n = min(len(subject.others) + 1, _MOST_ROWS)
    caption = (
        "Departure of each organism from the others at the same prompts, g with its 95 % interval "
        "over prompts. What lies among the others is no finding, however far from 0."
    )
    if len(subject.others) + 1 > _MOST_ROWS:
        caption += (
            f" {_MOST_ROWS} of {len(subject.others) + 1} are drawn: the outermost of both sides."
        )
    svg = _draw_panels("forest", title, traits, draw, max(1.5, 0.75 + 0.2 * n))
    return FigureOf("forest", title, caption, svg)


def _thin(rows: list[dict[str, Any]], organism: str) -> list[dict[str, Any]]:
    """Keep the outermost rows of both sides, and the organism's own."""
    if len(rows) <= _MOST_ROWS:
        return rows
    own = [row for row in rows if row["organism"] == organism]
    side = (_MOST_ROWS - 1) // 2
    kept = [row for row in (*rows[:side], *rows[-side:]) if row["organism"] != organism]
    return sorted([*kept, *own], key=lambda row: row["g"])


def _draw_prompts(subject: Subject, traits: Sequence[str]) -> FigureOf:
    title = "Prompt by prompt"

    def draw(axes: Axes, trait: str) -> None:
        values = subject.departures[:, subject.trait_at(trait)]
        values = np.sort(values[np.isfinite(values)])
        places = np.arange(1, len(values) + 1)
        axes.axhline(0, color=INK, linewidth=0.6, alpha=0.5)
        for side, colour in ((values >= 0, _MORE), (values < 0, _LESS)):
            axes.vlines(places[side], 0, values[side], color=colour, linewidth=_stroke(len(values)))
        axes.set_xlabel("prompts, sorted")
        axes.set_ylabel("departure")

    caption = (
        "Departure from the others at every prompt, in score units. A habit lifts nearly all "
        "prompts, a trigger some, a spike two or three: a mean cannot tell which."
    )
    return FigureOf(
        "prompts", title, caption, _draw_panels("prompts", title, traits, draw, _PANEL[1])
    )


def _stroke(n: int) -> float:
    return float(np.clip(110 / max(n, 1), 0.5, 4.0))


def _ask(
    store: Store,
    subject: Subject,
    question: ReportQuestion,
    by: By,
    traits: Sequence[str],
    **more: Any,
) -> tuple[list[dict[str, Any]], str]:
    """Break the difference down; no rows and the reason where that cannot be done."""
    references = {one.trait: one.exact_name for one in subject.cells.vectors}
    asked = Question(
        subject.organism,
        by,
        baseline=subject.cells.baseline,
        traits=[references[trait] for trait in traits],
        where=question.where,
        any_pairing=question.any_pairing,
        seed=question.seed,
        **more,
    )
    try:
        return break_down(store, asked).rows.to_dicts(), ""
    except QueryError as error:
        return [], error.message


def _line(axes: Axes, rows: Rows, part: str, places: Sequence[float], colour: str) -> None:
    """Draw means with their intervals as a band."""
    means = [row["mean"] for row in rows]
    axes.plot(places, means, "-o", color=colour, markersize=3, linewidth=1.6, label=part)
    ends = np.array([[row["low"], row["high"]] for row in rows], dtype=float)
    axes.fill_between(places, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, linewidth=0)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.2)


_LINES = (("total", _MORE), ("model", _LESS))


def _draw_positions(
    store: Store, subject: Subject, question: ReportQuestion, traits: Sequence[str]
) -> FigureOf:
    title = "Along the response"
    lengths = subject.own.rows["n_tokens"].to_numpy()
    width = max(1, int(np.median(lengths)) // _STRETCHES)
    rows, reason = _ask(store, subject, question, "position", traits, bin_tokens=width)
    if not rows:
        return FigureOf("positions", title, reason, None)

    def draw(axes: Axes, trait: str) -> None:
        axes.axhline(0, color=INK, linewidth=0.6, alpha=0.5)
        for part, colour in _LINES:
            some = [row for row in rows if row["trait"] == trait and row["part"] == part]
            if some:
                places = [(row["first_token"] + row["end_token"] - 1) / 2 for row in some]
                _line(axes, some, part, places, colour)
        _shade(axes, [row for row in rows if row["trait"] == trait])
        axes.set_xlabel("token of the response")
        axes.set_ylabel("difference")
        if trait == traits[0]:
            _legend(axes)

    caption = (
        f"Organism minus baseline by stretch of {count(width, 'token')}, in score units, with 95 % "
        "intervals over prompts: total, each reading its own text; model, both reading the "
        "organism's. Each line rests on the same responses from end to end, those that come so "
        "far; the grey bar below is their share."
    )
    svg = _draw_panels("positions", title, traits, draw, _PANEL[1])
    return FigureOf("positions", title, caption, svg)


def _shade(axes: Axes, rows: Rows) -> None:
    """Shade the foot of a panel by how many responses each stretch rests on."""
    for part, _ in _LINES:
        some = [row for row in rows if row["part"] == part]
        for row in some:
            axes.axvspan(
                row["first_token"] - 0.5, row["end_token"] - 0.5, ymax=0.05, color=_QUIET,
                alpha=0.5 * row["share_of_responses"], linewidth=0,
            )  # fmt: skip


def _draw_turns(
    store: Store, subject: Subject, question: ReportQuestion, traits: Sequence[str]
) -> FigureOf:
    title = "Over turns"
    rows, reason = _ask(store, subject, question, "turn", traits)
    if not rows or max(row["assistant_turn"] for row in rows) == 1:
        return FigureOf("turns", title, reason or "No response has a second turn.", None)

    def draw(axes: Axes, trait: str) -> None:
        axes.axhline(0, color=INK, linewidth=0.6, alpha=0.5)
        for part, colour in _LINES:
            some = [row for row in rows if row["trait"] == trait and row["part"] == part]
            if some:
                _line(axes, some, part, [row["assistant_turn"] for row in some], colour)
        axes.set_xlabel("turn")
        axes.set_ylabel("difference")
        if trait == traits[0]:
            _legend(axes)

    caption = (
        "Organism minus baseline, turn by turn, in score units, with 95 % intervals over prompts."
    )
    return FigureOf(
        "turns",
        title,
        caption,
        _draw_panels("turns", title, traits, draw, _PANEL[1], is_counted=True),
    )


def _draw_bars(axes: Axes, rows: Rows, key: str, call: Callable[[Any], str]) -> None:
    """Draw groups below each other, each with its interval."""
    axes.axvline(0, color=INK, linewidth=0.6, alpha=0.5)
    for at, row in enumerate(rows):
        colour = _MORE if row["mean"] >= 0 else _LESS
        if row["low"] is not None and row["high"] is not None:
            axes.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=2)
        axes.plot([row["mean"]], [at], "o", color=colour, markersize=4.5)
    n = "n_pairs" if rows and "n_pairs" in rows[0] else "n_prompts"
    axes.set_yticks(range(len(rows)), [f"{call(row[key])} ({row[n]})" for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("difference")


def _draw_groups(
    store: Store, subject: Subject, question: ReportQuestion, traits: Sequence[str], names: Names
) -> FigureOf:
    title = "By kind of prompt"
    rows, reason = _ask(store, subject, question, "note", traits)
    rows = [row for row in rows if row["part"] == subject.part]
    if not rows:
        return FigureOf("groups", title, names.redact(reason), None)

    def call(note: str | None) -> str:
        return "no note" if note is None else names.of_note(note)

    def draw(axes: Axes, trait: str) -> None:
        some = [row for row in rows if row["trait"] == trait]
        _draw_bars(axes, some[:_MOST_ROWS], "note", call)

    n = len({row["note"] for row in rows})
    caption = (
        "Organism minus baseline, prompts taken together by their note, in score units, with 95 % "
        "intervals over prompts and how many these are."
    )
    if n > _MOST_ROWS:
        caption += f" {_MOST_ROWS} of {n} notes are drawn."
    height = max(1.4, 0.75 + 0.22 * min(n, _MOST_ROWS))
    return FigureOf("groups", title, caption, _draw_panels("groups", title, traits, draw, height))


def _draw_triggers(
    store: Store, subject: Subject, question: ReportQuestion, traits: Sequence[str]
) -> FigureOf:
    title = "Trigger pairs"
    rows, reason = _ask(store, subject, question, "trigger", traits)
    if not rows:
        return FigureOf("triggers", title, f"None to draw: {reason}.", None)

    def draw(axes: Axes, trait: str) -> None:
        some = [row for row in rows if row["trait"] == trait]
        _draw_bars(axes, some, "part", str)

    caption = (
        "What the trigger changes in organism minus baseline: with it minus without it, over pairs "
        "of prompts, in score units, with 95 % intervals over pairs."
    )
    return FigureOf("triggers", title, caption, _draw_panels("triggers", title, traits, draw, 1.4))
