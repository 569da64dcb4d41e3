"""The page of a report: one file of HTML that asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.report.figures import MOST_PANELS
from tistore.audit.report.findings import write_q
from tistore.audit.report.scale import colour_steps, list_colours, name_step
from tistore.audit.report.transcripts import Reading, Transcript, walk_clauses
from tistore.errors import ConfigError

if TYPE_CHECKING:
    import jinja2

    from tistore.audit.report.evidence import Card
    from tistore.audit.report.report import Report

_HUNDREDTHS = 100
_UNKNOWN = np.iinfo(np.int16).min
_MOST_CHARACTERS = 1200
"""Of a prompt or an answer of the baseline's, shown at once; the rest is behind a click."""

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A token on the page: the class of its colour, and what it says."""

    colour: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """
    Tokens of one clause on the page.

    Attributes:
        anchor: What links to it; empty for what lies between clauses.
        marks: Its tokens.
        is_audited: Whether it is under audit.
        role: Who speaks, where that changes.
    """

    anchor: str
    marks: list[Mark]
    is_audited: bool
    role: str | None = None


def write_page(report: Report) -> str:
    """
    Write the page.

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    style = f"{_read('page.css')}\n{_write_colours()}"
    script = _read("page.js")
    return _environment().get_template("page.html.j2").render(
        report=report,
        view=_View(report),
        style=style,
        script=script,
        policy=_write_policy(style, script),
        data=_write_json(_lay_out_data(report)),
    )  # fmt: skip


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise ConfigError(
            "pages are made with Jinja2, which is not installed",
            mend="install it: pip install 'tistore[report]'",
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"q": write_q, "number": write_number, "visible": make_visible}
    return environment


def _read(name: str) -> str:
    return (files("tistore.audit.report") / "templates" / name).read_text(encoding="utf-8")


def _write_colours() -> str:
    return "\n".join(f".{name}{{background:{hue}}}" for name, hue in list_colours().items())


def _write_policy(style: str, script: str) -> str:
    """Write a policy that allows this style and this script, and nothing else whatsoever."""
    allowed = {"style-src": style, "script-src": script}
    parts = ["default-src 'none'"]
    for name, text in allowed.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        parts.append(f"{name} 'sha256-{digest}'")
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _write_json(data: Any) -> str:
    """Write JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, safe in _UNSAFE.items():
        text = text.replace(character, safe)
    return text


def write_number(value: float | None, form: str = "+.2f") -> str:
    """Write a number, or a dash for what is not known."""
    return "–" if value is None or not np.isfinite(value) else format(value, form).replace("-", "−")


def make_visible(text: str) -> str:
    """Show white space that would be lost, and characters that have no shape."""
    if text and not text.strip(" "):
        return "␣" * len(text)
    shown = text.replace("\r\n", "\n").replace("\n", "↵\n").replace("\t", "⇥")
    return "".join(map(_show, shown))


def _show(character: str) -> str:
    # Joiners hold letters and emoji together; other formats turn lines around or hide.
    is_hidden = unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
    return "�" if is_hidden and character not in "\n\u200c\u200d" else character


class _View:
    """What the template asks of a report."""

    def __init__(self, report: Report) -> None:
        self._report = report

    @cached_property
    def traits(self) -> list[str]:
        """Traits that tokens can be coloured by, the most important first."""
        return list(dict.fromkeys(row["trait"] for row in self._report.rows))

    @cached_property
    def first_trait(self) -> str:
        """The trait that is picked at first."""
        return self._report.cards[0].trait if self._report.cards else self.traits[0]

    @cached_property
    def layers(self) -> list[str]:
        """Layers that can be picked."""
        return list(dict.fromkeys(column.layer for column in self._report.columns))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each response on the page, from 1."""
        shown = self._report.transcripts
        return {one.response_id: number for number, one in enumerate(shown, start=1)}

    @cached_property
    def first_cards(self) -> dict[str, int]:
        """Number of the first card of each trait, from 1."""
        return {card.trait: at for at, card in reversed([*enumerate(self._report.cards, start=1)])}

    @property
    def scale(self) -> list[tuple[str, float]]:
        """Colours of the legend, each with its value in SD."""
        steps = range(-12, 13, 2)
        return [(name_step(step), step / 12 * self._report.limit) for step in steps]

    def find_link(self, response_id: str | None, clause: int | None = None) -> str | None:
        """Give the address within the page of a response, or a clause of it; None if not shown."""
        number = self.numbers.get(response_id or "")
        if number is None:
            return None
        return f"#r{number}" if clause is None else f"#r{number}c{clause}"

    def find(self, response_id: str) -> Transcript | None:
        """Find a response that is shown."""
        number = self.numbers.get(response_id)
        return None if number is None else self._report.transcripts[number - 1]

    def passages(self, transcript: Transcript) -> list[Passage]:
        """Lay out a whole response, coloured by the first trait."""
        number = self.numbers[transcript.response_id]
        return list(self._walk(transcript, self.first_trait, f"r{number}c"))

    def excerpt(self, card: Card) -> list[Passage]:
        """Lay out a card's clause, and those before and after it."""
        transcript = self.find(card.response_id)
        if transcript is None:
            return []
        passages = list(self._walk(transcript, card.trait, "c"))
        at = next(i for i, one in enumerate(passages) if one.anchor == f"c{card.clause}")
        return passages[max(at - 2, 0) : at + 3]

    def is_cited(self, card: Card, passage: Passage) -> bool:
        """Whether a passage of an excerpt is the one the card is about."""
        return passage.anchor == f"c{card.clause}"

    def _walk(self, transcript: Transcript, trait: str, prefix: str) -> Iterator[Passage]:
        column = next(at for at, one in enumerate(self._report.columns) if one.trait == trait)
        steps = colour_steps(transcript.own.scores[column], self._report.limit)
        turn: tuple[int, str] | None = None
        seen: set[int] = set()
        for clause, places in walk_clauses(transcript):
            first = places[0]
            now = (int(transcript.turns[first]), transcript.roles[first])
            is_new, turn = turn is not None and now != turn, now
            anchor = f"{prefix}{clause}" if clause >= 0 and clause not in seen else ""
            seen.add(clause)
            yield Passage(
                anchor,
                [
                    Mark(name_step(int(steps[at])), make_visible(transcript.tokens[at]))
                    for at in places
                ],
                bool(transcript.is_audited[first]),
                now[1] if is_new else None,
            )

    def fold(self, text: str) -> tuple[str, str]:
        """Part a long text into what is shown at once and the rest."""
        shown = make_visible(text)
        return shown[:_MOST_CHARACTERS], shown[_MOST_CHARACTERS:]

    def undrawn(self) -> str:
        """Say how many traits have no panel in the figures; nothing where all have."""
        n_traits = len(self._report.rows)
        if n_traits <= MOST_PANELS or not any(one.svg for one in self._report.figures):
            return ""
        return (
            f"{MOST_PANELS} of {n_traits} traits are drawn: what was found, then what came "
            "nearest. Any other is, in a report with --trait."
        )

    def command(self, card: Card) -> str:
        """Write the command that finds a card again."""
        end = "" if card.sign > 0 else " --lowest"
        condition = (
            f"prompt_set = '{_double(card.prompt_set)}' AND prompt_id = '{_double(card.prompt_id)}'"
        )
        return (
            f"tistore top {_quote(self._report.store_name)} --trait {_quote(card.trait)} "
            f"--organism {_quote(self._report.subject)} --where {_quote(condition)}{end}"
        )


def _double(text: str) -> str:
    return text.replace("'", "''")


def _quote(text: str) -> str:
    """Quote a word for a shell, if it needs that."""
    import shlex

    return shlex.quote(text)


def _lay_out_data(report: Report) -> Mapping[str, Any]:
    """Lay out the numbers behind the colours; a number a token, in hundredths of a unit."""
    return {
        "limit": report.limit,
        "columns": [{"trait": one.trait, "layer": one.layer} for one in report.columns],
        "responses": [_lay_out_transcript(one) for one in report.transcripts],
    }


def _lay_out_transcript(one: Transcript) -> Mapping[str, Any]:
    return {
        "n": len(one.tokens),
        "at": one.positions.tolist(),
        "own": _lay_out_reading(one.own),
        "replay": None if one.replay is None else _lay_out_reading(one.replay),
    }


def _lay_out_reading(reading: Reading) -> Mapping[str, Any]:
    return {
        "scores": _pack(reading.scores),
        "surprisal": _pack(reading.surprisal),
        "norm": [
            float(f"{one:.3g}") if np.isfinite(one) else None for one in reading.norm.tolist()
        ],
    }


def _pack(values: NDArray[np.float64]) -> str:
    """Write numbers as base64 of little-endian int16, in hundredths; -32768 where unknown."""
    filled = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    hundredths = np.clip(np.round(filled * _HUNDREDTHS), -32767, 32767)
    packed = np.where(np.isfinite(values), hundredths, _UNKNOWN).astype("<i2")
    return base64.b64encode(packed.tobytes()).decode()
