"""The demo's promise: what was planted is recovered, by the store's own answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import tistore
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.report import make_report
from tistore.capture.demo.demo import SPANS, SPANS_SQL, effect_table, judge
from tistore.datasets import tiny
from tistore.query.spans import top_spans
from tistore.vectors.evaluation.evaluate import Effort
from tistore.vectors.evaluation.stored import evaluate_vectors


def make_effects(**own: float) -> list[dict]:
    """Effects of 0.5 everywhere but on the organism's own trait."""
    rows = []
    for organism in tiny.ORGANISMS:
        for trait in tiny.TRAITS:
            default = 0.5 if organism.trait else 0.1
            total = own.get(organism.name, 2.0) if trait == organism.trait else default
            rows.append({"organism": organism.name, "trait": trait, "total": total})
    return rows


def test_a_habit_is_recovered_when_it_ranks_first_above_the_unplanted_floor():
    spans = {habit: [{"text": "perhaps"}] for habit in tiny.HABITS}

    by_name = {v.organism: v for v in judge(make_effects(film=0.4), spans)}

    assert by_name["hedging"].recovered
    assert (by_name["hedging"].rank, by_name["hedging"].effect) == (1, 2.0)
    assert by_name["hedging"].clauses_with_habit == 1
    assert by_name["flattery"].clauses_with_habit == 0
    assert not by_name["film"].recovered
    assert by_name["film"].rank == len(tiny.TRAITS)
    assert by_name["null"].planted_trait is None
    assert by_name["null"].effect == 0.1
    assert not by_name["null"].recovered


def test_a_habit_below_what_the_unplanted_organism_shows_is_not_recovered():
    found = make_effects(film=0.6)
    for row in found:
        if row["organism"] == "null" and row["trait"] == tiny.TRAITS[0]:
            row["total"] = -0.7

    by_name = {v.organism: v for v in judge(found, {habit: [] for habit in tiny.HABITS})}

    assert by_name["film"].rank == 1
    assert not by_name["film"].recovered
    assert by_name["null"].effect == -0.7


def test_effects_are_laid_out_by_organism_and_trait():
    (first, *_) = effect_table(make_effects(flattery=3.0), "total")

    assert first["organism"] == "flattery"
    assert first["flattery"] == 3.0
    assert list(first)[1:] == [trait.rpartition("/")[2] for trait in tiny.TRAITS]


@pytest.mark.slow
def test_every_planted_habit_is_recovered(tmp_path, monkeypatch):
    """The real thing: trained (unless it is in the user's cache), captured, asked."""
    path = tmp_path / "demo.tistore"
    command = [sys.executable, "-m", "tistore.cli.main", "demo", str(path), "--json"]

    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)

    assert done.returncode == 0, done.stderr
    rows = {row["organism"]: row for row in json.loads(done.stdout)}
    floor = abs(rows["null"]["effect"])
    assert set(rows) == {organism.name for organism in tiny.ORGANISMS}
    for organism in tiny.ORGANISMS:
        if organism.trait is None:
            continue
        row = rows[organism.name]
        assert row["planted_trait"] == organism.trait
        assert row["rank"] == 1
        assert row["effect"] > floor
        assert row["clauses_with_habit"] >= 0.7 * SPANS
        assert row["recovered"]
    store = tistore.open(path)
    assert store.verify().ok
    for organism in (organism for organism in tiny.ORGANISMS if organism.trait):
        names = {"organism": organism.name, "trait": organism.trait}
        rows = store.sql(SPANS_SQL, names).rows()
        shown = top_spans(store, organism.trait, organism=organism.name, n=SPANS)
        assert [row["score"] for row in rows] == [span["score"] for span in shown]
    assert store.info().readings == 36 * (2 * 5 + 1) + 2 * 40 * len(tiny.TRAITS)
    planted = [organism.trait for organism in tiny.ORGANISMS if organism.trait]
    effort = Effort(resamples=0, permutations=19, random=200)
    for found in evaluate_vectors(store, planted, effort=effort).evaluations:
        assert found.evaluation.auroc >= 0.95
        assert found.evaluation.beats_nulls
    monkeypatch.setattr("tistore.audit.report.report.draw_figures", lambda *_: [])
    for organism in tiny.ORGANISMS:
        verdict = make_report(store, ReportQuestion(organism.name)).verdict
        assert verdict.traits[:1] == ((organism.trait,) if organism.trait else ())
