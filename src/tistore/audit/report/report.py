"""A report: everything it says, before it is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tistore.audit.log import log_analysis
from tistore.audit.report.evidence import Card, choose_cards, read_clauses
from tistore.audit.report.figures import FigureOf, draw_figures
from tistore.audit.report.findings import Finding, Verdict, judge, list_findings
from tistore.audit.report.hypotheses import Hypothesis, write_hypotheses
from tistore.audit.report.names import Names, name_blind, name_openly
from tistore.audit.report.provenance import Fact, list_facts
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.scale import find_limit, measure_units
from tistore.audit.report.subject import Subject, read_subject
from tistore.audit.report.transcripts import Column, Transcript, list_columns, read_transcripts
from tistore.audit.report.validity import Check, check_validity
from tistore.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from tistore.query.store import Store

COMMAND = "report"
"""What a report is in the log of analyses."""

CARDS = 10
"""Spans shown as evidence."""

SHOWN = 24
"""Responses shown in full at most."""

PAGE_BYTES = 5_000_000
"""No page is larger."""

_TRANSCRIPT_BYTES = 3_200_000
"""What the responses of a page may take; the rest is for figures and everything else."""

MOST_LAYERS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """
    A report on one organism.

    Attributes:
        question: What was asked for.
        names: What organisms and notes are called.
        store_name: What commands call the store.
        verdict: What it says first.
        checks: Whether its numbers can be believed.
        rows: Its traits, what stands out first; see `tistore.audit.rank.rank`.
        cards: Spans that show it.
        hypotheses: What may explain it, each with the strongest evidence against it.
        figures: Small multiples.
        columns: Vectors the tokens are coloured by; the chosen ones first.
        transcripts: Responses shown in full: with evidence, with contrary evidence, at random.
        limit: Where the colours end, in SD of the baseline's tokens.
        left_out: Which responses are not shown.
        facts: Where the numbers come from.
        notes: What else a reader should know.
        n_cells: Numbers looked at to choose what is shown.
    """

    question: ReportQuestion
    names: Names
    store_name: str
    verdict: Verdict
    checks: list[Check]
    rows: list[dict[str, Any]]
    cards: list[Card]
    hypotheses: list[Hypothesis]
    figures: list[FigureOf]
    columns: list[Column]
    transcripts: list[Transcript]
    limit: float
    left_out: str
    facts: list[Fact]
    notes: tuple[str, ...]
    n_cells: int

    @property
    def subject(self) -> str:
        """What the organism is called."""
        return self.names.of(self.question.organism)

    def write(self, folder: Path) -> list[Path]:
        """
        Write `summary.md` and `report.html` into a folder, in the place of those that are there.

        Raises:
            StoreError: The folder cannot be written.
        """
        from tistore.audit.report.page import write_page
        from tistore.audit.report.summary import write_summary

        written = {"summary.md": write_summary(self), "report.html": write_page(self)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in written.items():
                (folder / name).write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise StoreError(
                f"the report cannot be written to {folder}: {error.strerror}",
                mend="name a folder that can be written",
            ) from error
        return [folder / name for name in written]


def check_folder(store: Store, folder: Path) -> None:
    """
    Check where a report is to go, before anything is made.

    Raises:
        ConfigError: It is inside of the store, where only what is committed belongs.
    """
    if folder.resolve().is_relative_to(store.path.resolve()):
        raise ConfigError(
            f"{folder} is inside of the store, which holds what was committed and nothing else",
            mend="name another folder",
        )


def make_report(store: Store, question: ReportQuestion) -> Report:
    """
    Make a report on one organism.

    It reads the scores of all organisms, and the tokens of this one. The same store and the same
    question give the same report.

    Raises:
        QueryError: There is no such organism, nobody to hold it against, or no vector.
        PairingError: An organism and the baseline differ in more than their weights.
        ConfigError: matplotlib is not installed, or the families cannot be read.
    """
    subject = read_subject(store, question)
    names = _choose_names(store, subject, question.blind)
    findings = list_findings(subject)
    vectors = list(subject.cells.vectors)
    columns = _list_columns(store, subject, question)
    units = [column.unit for column in columns[: len(vectors)]]
    clauses = read_clauses(store, subject, units, question.where)
    leads = _list_leads(subject, findings)
    cards = choose_cards(subject, clauses, units, leads, CARDS)
    hypotheses = write_hypotheses(subject, findings, cards, names)
    transcripts, left_out = _read_shown(store, subject, question, columns, cards, hypotheses)
    n_cells = subject.ranking.n_cells + len(clauses) * len(vectors)
    # It is in the log before the log is read: made again, the report says the same of it.
    logged = log_analysis(
        store,
        COMMAND,
        question.to_log(),
        n_cells=n_cells,
        n_rows=len(subject.rows),
        vectors=[one.reference for one in vectors],
        n_organisms=len(subject.cells.organisms),
        n_traits=len(vectors),
    )
    told = (*subject.ranking.notes, *_tell_part(subject), *logged)
    notes = dict.fromkeys(names.redact(one) for one in told)
    return Report(
        question=question,
        names=names,
        store_name="STORE" if question.blind else store.path.name,
        verdict=judge(subject, findings, names, question.q),
        checks=check_validity(store, subject, findings, question.blind),
        rows=subject.rows,
        cards=cards,
        hypotheses=hypotheses,
        figures=draw_figures(store, subject, question, _order_traits(subject, findings), names),
        columns=columns,
        transcripts=transcripts,
        limit=_find_limit(transcripts),
        left_out=left_out,
        facts=list_facts(store, subject, question, names),
        notes=tuple(notes),
        n_cells=n_cells,
    )


def _tell_part(subject: Subject) -> tuple[str, ...]:
    if subject.part == "total":
        return ()
    baseline = subject.cells.baseline
    return (
        f"{baseline} has answered none of the prompts: what is compared is how organism and "
        f"{baseline} read the organism's texts, and not what they write",
    )


def _choose_names(store: Store, subject: Subject, is_blind: bool) -> Names:
    rows = subject.cells.rows
    notes = {note for note in rows["note"].to_list() if note}
    notes |= {tag for tags in rows["tags"].to_list() for tag in tags or ()}
    if is_blind:
        return name_blind(subject.cells.organisms, notes, store.header.uuid)
    return name_openly(subject.cells.organisms, notes)


def _list_columns(store: Store, subject: Subject, question: ReportQuestion) -> list[Column]:
    known = list_columns(subject.cells.vectors, store.snapshot.vectors(), MOST_LAYERS)
    distinct = {vector.content_hash: vector for _, _, vector in known}
    units = measure_units(
        store, list(distinct.values()), subject.cells.baseline, subject.cells.organisms,
        question.where,
    )  # fmt: skip
    of = dict(zip(distinct, units, strict=True))
    return [Column(trait, layer, one, of[one.content_hash]) for trait, layer, one in known]


def _order_traits(subject: Subject, findings: Sequence[Finding]) -> list[str]:
    """Order traits by importance: found ones, then those that came nearest."""
    return list(dict.fromkeys(
        [*(one.trait for one in findings), *(row["trait"] for row in subject.rows)]
    ))  # fmt: skip


def _list_leads(subject: Subject, findings: Sequence[Finding]) -> list[tuple[str, int]]:
    """List what evidence is wanted of: what was found; else what came nearest."""
    # What rises or falls is seen along a response, in a figure; spans show how much there is.
    found = [one for one in findings if one.is_shift] or findings
    if found:
        return list(dict.fromkeys((one.trait, one.lead) for one in found))
    nearest = [(row["trait"], 1 if row["g"] >= 0 else -1) for row in subject.rows if row["g"]]
    return nearest[:5]


def _read_shown(
    store: Store,
    subject: Subject,
    question: ReportQuestion,
    columns: Sequence[Column],
    cards: Sequence[Card],
    hypotheses: Sequence[Hypothesis],
) -> tuple[list[Transcript], str]:
    """Read the responses that are shown: those that something points at, and others at random."""
    cited = [card.response_id for card in cards]
    contrary = [one.contrary.response_id for one in hypotheses if one.contrary.response_id]
    pointed = list(dict.fromkeys([*cited, *contrary]))
    everything = subject.own.rows["response_id"].to_list()
    rest = sorted(set(everything) - set(pointed))
    drawn = np.random.default_rng(question.seed).permutation(len(rest))
    wanted = [*pointed, *(rest[at] for at in drawn)][: max(SHOWN, len(pointed))]
    read = read_transcripts(store, subject.organism, subject.cells.baseline, wanted, columns)
    shown: list[Transcript] = []
    size = 0
    for one in read:
        if size + one.size_bytes <= _TRANSCRIPT_BYTES:
            size += one.size_bytes
            shown.append(one)
    n_random = sum(one.response_id not in pointed for one in shown)
    told = (
        f"{len(shown)} of {len(everything)} responses are shown in full: {len(shown) - n_random} "
        f"that something above points at, {n_random} drawn at random (seed {question.seed})."
    )
    if lost := len(read) - len(shown):
        told += f" {lost} more would have made the page larger than 5 MB."
    return shown, told


def _find_limit(transcripts: Sequence[Transcript]) -> float:
    """Find one limit for all views, traits, layers and responses."""
    values = [np.empty(0)]
    for one in transcripts:
        views = [one.own.scores, one.difference]
        views += [None if one.replay is None else one.replay.scores]
        values += [view[:, one.is_audited].ravel() for view in views if view is not None]
    return find_limit(np.concatenate(values))
