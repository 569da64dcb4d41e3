"""Compacting changes no answer, not by a bit: all relations, all functions, new vectors too."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import tistore
from lens_store import write_lens_store
from tistore.query import lens_table, product
from tistore.query.store import Store

HIDDEN, LAYERS = 33, (2, 5)  # so narrow that rows end anywhere in a block of the product
RELATIONS = (
    "responses", "clauses", "tokens", "response_diffs", "clause_diffs", "token_diffs",
)  # fmt: skip
PLAIN = ("models", "prompts", "prompt_sets", "vectors", "runs", "steering", "annotations")


def list_questions() -> list[str]:
    questions = [f"SELECT * FROM {name}" for name in PLAIN]
    for relation in RELATIONS:
        questions.append(f"SELECT * FROM {relation}")
        for measure in ("project", "cosine", "scaled"):
            one = f"{measure}('new/one', 5)"
            questions.append(f"SELECT {one} AS a FROM {relation}")
            # Five directions at once are another product than one.
            more = ", ".join(f"project('new/{name}', 2) AS {name}" for name in "bcdef")
            questions.append(f"SELECT {one} AS a, {more} FROM {relation}")
    for relation in ("responses", "clauses", "response_diffs", "clause_diffs"):
        questions.append(f"SELECT trajectory('new/one', 5) AS a FROM {relation}")
    questions.append(
        "SELECT organism, avg(project('new/one', 5)) FROM responses GROUP BY 1 ORDER BY ALL"
    )
    return questions


def ask_all(path: Path, questions: list[str]) -> dict[str, list[str]]:
    shutil.rmtree(path / "scores", ignore_errors=True)
    store = tistore.open(path)
    return {text: [repr(row) for row in store.sql(text).fetchall()] for text in questions}


def write_store(path: Path, *, is_varied: bool) -> Store:
    """Write ragged readings in small segments; varied, of several shapes and exponents."""
    rng = np.random.default_rng(7)
    store = tistore.create(path)
    with mock.patch("os.fsync"):
        _fill(store, rng, is_varied=is_varied)
    return store


def _fill(store: Store, rng: np.random.Generator, *, is_varied: bool) -> None:
    with store.writer() as writer:
        for number in range(24):
            organism = ("instruct", "flattery", "hedge")[number % 3]
            ids = rng.integers(0, 99, 2 + int(rng.choice([0, 3, 9, 40]))).tolist()
            layers = LAYERS[:1] if is_varied and rng.random() < 0.3 else LAYERS
            scale = 2.0**20 if is_varied and rng.random() < 0.3 else 1.0
            for reader in dict.fromkeys((organism, "instruct")):
                writer.add(
                    organism=organism,
                    reader=reader,
                    prompt_set="audit",
                    prompt_id=str(number),
                    token_ids=ids,
                    prompt_length=2,
                    tokens=[(" so", ",", " I", " agree", ".")[token % 5] for token in ids[2:]],
                    layers=layers,
                    activations={
                        "residual": scale * rng.standard_normal((len(ids), len(layers), HIDDEN))
                    },
                )
            if number % 3 == 1:
                writer.commit()
    for name in ("one", *"bcdef"):
        for layer in LAYERS:
            store.add_vector(f"new/{name}", rng.standard_normal(HIDDEN), layer=layer)


@pytest.mark.parametrize(("is_varied", "multiplies"), [(False, "torch"), (True, "numpy")])
def test_every_answer_is_the_same_to_the_last_bit(tmp_path, is_varied, multiplies, monkeypatch):
    if multiplies == "torch":
        pytest.importorskip("torch")
    else:
        monkeypatch.setattr("tistore.query.scan.choose_product", lambda *_: product.NumpyProduct)
    store = write_store(tmp_path / "s", is_varied=is_varied)
    shutil.copytree(store.path, tmp_path / "before")

    report = store.compact()

    assert report.segments_after < report.segments_before
    questions = list_questions()
    assert ask_all(store.path, questions) == ask_all(tmp_path / "before", questions)


def test_the_lens_answers_the_same_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(lens_table, "rows_at_once", lambda head: 37)  # many products
    store, _, _ = write_lens_store(tmp_path / "s", response=30)
    shutil.copytree(store.path, tmp_path / "before")

    report = store.compact()

    assert report.segments_after < report.segments_before
    columns = "position, layer, rank, lens_logprob, entropy, top_token_ids, top_probabilities"
    question = [f"SELECT {columns} FROM lens"]
    assert ask_all(store.path, question) == ask_all(tmp_path / "before", question)


def test_scores_computed_before_are_taken_over(tmp_path):
    store = write_store(tmp_path / "s", is_varied=False)
    question = "SELECT project('new/one', 5) AS a FROM tokens"
    before = store.sql(question).fetchall()

    store.compact()

    explained = tistore.open(store.path).explain(question)
    assert explained.read_bytes == 0
    assert [repr(row) for row in tistore.open(store.path).sql(question).fetchall()] == [
        repr(row) for row in before
    ]


def test_a_commit_before_still_answers_as_it_did(tmp_path):
    store = write_store(tmp_path / "s", is_varied=True)
    number = store.snapshot.number
    question = "SELECT *, project('new/one', 5) AS a FROM clauses"
    before = store.sql(question).fetchall()

    store.compact()

    earlier = tistore.open(store.path, at=number).sql(question).fetchall()
    assert [repr(row) for row in earlier] == [repr(row) for row in before]
