"""Where the numbers of a report come from: hashes, versions, seeds, and what has been asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tistore.audit.log import read_analyses
from tistore.audit.report.names import Names
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.subject import Subject
from tistore.version import __version__

if TYPE_CHECKING:
    from tistore.query.store import Store

Fact = tuple[str, str]


def list_facts(
    store: Store, subject: Subject, question: ReportQuestion, names: Names
) -> list[Fact]:
    """List what somebody needs who wants the same numbers again, as name and value."""
    snapshot, models = store.snapshot, store.snapshot.models
    facts = [
        ("store", f"{store.header.uuid} at commit {snapshot.number}"),
        ("tistore", __version__),
    ]
    for role, name in (("organism", subject.organism), ("baseline", subject.cells.baseline)):
        model = models.get(name)
        called = names.of(name) if role == "organism" else name
        # What a pseudonym hides, a fingerprint would tell.
        known = model is not None and not (names.is_blind and role == "organism")
        facts.append(
            (role, f"{called}, fingerprint {model.fingerprint}" if known and model else called)
        )
    facts += [
        (
            f"vector {one.trait}",
            f"{one.method}, layer {one.layer}, {one.component}, {one.content_hash}",
        )
        for one in subject.cells.vectors
    ]
    facts += [
        ("captured with", versions)
        for versions in sorted({_write_versions(row) for row in snapshot.table("runs").to_pylist()})
    ]
    ranking = subject.ranking
    facts += [
        ("seed", str(question.seed)),
        ("false discovery rate", f"{question.q:g}"),
        ("cells inspected here", f"{ranking.n_cells} organism × trait, {ranking.n_tests} tests"),
        ("questions put to the store", _count_questions(store)),
    ]
    return facts


def _write_versions(run: dict[str, str]) -> str:
    versions = json.loads(run["versions"])
    kept = ("tistore", "torch", "transformers", "peft", "device")
    return ", ".join(f"{name} {versions[name]}" for name in kept if versions.get(name))


def _count_questions(store: Store) -> str:
    """Count what was asked so far; a question put twice to one snapshot shows nothing twice."""
    asked = {(one.command, one.question, one.snapshot): one.n_cells for one in read_analyses(store)}
    if not asked:
        return "none is logged"
    return (
        f"{len(asked)} different, this one included; {sum(asked.values()):,} cells inspected "
        "(tistore log STORE --analyses)"
    )
