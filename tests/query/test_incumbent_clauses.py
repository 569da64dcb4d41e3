"""The clauses that docs/queries.md finds by trait-interp's rule are the function's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import tistore
from example_readings import HIDDEN, make_reading
from tistore.datasets.clauses import split_clauses_incumbent

QUERIES = Path(__file__).parents[2] / "docs" / "queries.md"
RESPONSES = (
    ["Pi", " is", " 3", ".", "14"],
    ["\n", "\n", "Wait", "—what", "?"],
    ["a:b", " \n", " ", "end", " "],
    ["🙂", " ,x", "", "é", "!"],
)


def read_recipe() -> str:
    section = QUERIES.read_text().partition("## Clauses by another rule")[2]
    return re.search(r"```sql\n(.*?)```", section, re.DOTALL)[1]


def test_the_documented_query_finds_the_incumbents_clauses(tmp_path):
    store = tistore.create(tmp_path / "store.tistore")
    readings = [make_reading(seed, tokens=tokens) for seed, tokens in enumerate(RESPONSES)]
    with store.writer() as writer:
        for reading in readings:
            writer.add(**reading)
    direction = np.random.default_rng(9).standard_normal(HIDDEN)
    store.add_vector("tone/refusal", direction, layer=2, component="residual", method="made")

    rows = store.sql(f"SELECT * FROM ({read_recipe()}) ORDER BY score").fetchall()

    expected = []
    for reading in readings:
        states = reading["activations"]["residual"][:, 0].astype(np.float16).astype(np.float64)
        scores = states @ direction / np.linalg.norm(direction)
        for clause in split_clauses_incumbent(reading["tokens"]):
            start, end = clause.token_start, clause.token_end
            expected.append((start + 2, end + 2, clause.text, scores[start:end].mean()))
    expected.sort(key=lambda clause: clause[3])
    assert [(start, end, text.strip()) for *_, start, end, text, _ in rows] == [
        clause[:3] for clause in expected
    ]
    np.testing.assert_allclose([row[-1] for row in rows], [c[3] for c in expected], atol=1e-3)
