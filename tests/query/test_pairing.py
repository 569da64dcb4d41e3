"""Readings of unlike models are not taken off each other, unless they are asked for by name."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import tistore
from tistore.cli.main import app
from tistore.errors import PairingError
from tistore.query.effects import effects, find_effects
from tistore.query.limits import Limits
from tistore.query.span_question import SpanQuestion
from tistore.query.spans import FoundSpans, find_spans, top_spans
from tistore.schemas.model import Model, compare_models

BASE = Model(
    "instruct", base_id="b", dtype="bfloat16", tokenizer_hash="t" * 8, chat_template_hash="c" * 8
)
ALIKE = replace(BASE, name="alike", adapter_id="a")
COARSE = replace(BASE, name="coarse", adapter_id="a", quantization="4bit")
SPEAKER = replace(COARSE, name="speaker", chat_template_hash="d" * 8, tokenizer_hash="u" * 8)
UNKNOWN = Model("unknown")
PAIRING = {"alike": "same", "coarse": "precision", "unknown": "same"} | {
    "speaker": "precision, template, tokenizer"
}
"""What sets each organism apart from the base."""

DIFFS = ("clause_diffs", "response_diffs", "token_diffs")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Each organism's own reading of a response, and the base's; and the base's own response."""
    made = tistore.create(tmp_path_factory.mktemp("pairing") / "s")
    rng = np.random.default_rng(5)
    with made.writer() as writer:
        for author in (BASE, ALIKE, COARSE, SPEAKER, UNKNOWN):
            for prompt, reader in product("12", dict.fromkeys((author, BASE))):
                writer.add(
                    organism=author, reader=reader, prompt_set="p", prompt_id=prompt,
                    token_ids=[int(prompt), 2, 3, 4], prompt_length=1, tokens=["Go", " on", "."],
                    layers=[2], activations={"residual": rng.standard_normal((4, 1, 3))},
                )  # fmt: skip
            writer.commit()
    made.add_vector("tone/warm", [1, 0, 0], layer=2)
    return made


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("relation", DIFFS)
def test_the_column_names_what_differs(store, relation):
    rows = store.sql(
        f"SELECT DISTINCT organism, pairing FROM {relation} "
        "WHERE reader = organism AND baseline = 'instruct'"
    )

    assert dict(rows.fetchall()) == PAIRING


@pytest.mark.parametrize("relation", DIFFS)
def test_a_difference_of_unlike_readings_is_refused_naming_both_and_what_differs(store, relation):
    sql = (
        f"SELECT project('warm') FROM {relation} WHERE reader = organism AND baseline = 'instruct'"
    )

    with pytest.raises(PairingError) as refused:
        store.sql(sql)

    assert relation in refused.value.message
    assert "'coarse' and 'instruct' in precision (4bit bfloat16 against bfloat16)" in str(
        refused.value
    )
    assert "'speaker' and 'instruct' in precision, template, tokenizer" in str(refused.value)
    assert "pairing = 'same'" in str(refused.value.mend)
    with pytest.raises(PairingError):
        store.explain(sql)
    with pytest.raises(PairingError):
        store.warm(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT *, project('warm') FROM response_diffs",
        "SELECT * EXCLUDE (pairing), project('warm') FROM response_diffs",
        "SELECT project('warm') AS s, reader AS kind FROM token_diffs ORDER BY s",
        "SELECT * FROM (SELECT *, project('warm') AS s FROM clause_diffs)",
        "SELECT organism FROM responses WHERE response_id IN "
        "(SELECT response_id FROM response_diffs WHERE cosine('warm') > 0)",
        "SELECT a.organism FROM response_diffs a JOIN responses b USING (response_id) "
        "WHERE a.project('warm') > b.project('warm')",
        "SELECT trajectory('warm') FROM response_diffs",
    ],
)
def test_however_a_difference_is_used_it_is_refused(store, sql):
    """A star shows the column, and is no way of asking for it."""
    with pytest.raises(PairingError):
        store.sql(sql)


def test_a_star_shows_the_column(store):
    result = store.sql("SELECT * FROM response_diffs")

    assert result.columns[:5] == ["response_id", "organism", "reader", "baseline", "pairing"]
    assert not result.notes


@pytest.mark.parametrize(
    "condition",
    [
        "organism = 'alike'",
        "organism IN ('alike', 'unknown')",
        "pairing = 'same'",
        "pairing NOT LIKE '%precision%'",
    ],
)
def test_a_query_narrowed_to_like_readings_is_answered(store, condition):
    result = store.sql(
        "SELECT organism, project('warm') FROM response_diffs "
        f"WHERE reader = organism AND {condition}"
    )

    assert {row[0] for row in result.fetchall()} <= {"alike", "unknown"}
    assert len(result) and not result.notes


def test_unlike_readings_are_kept_when_asked_for_and_marked(store):
    """The oracle takes the two readings' own scores off each other."""
    own = {
        row[:2]: row[2]
        for row in store.sql(
            "SELECT response_id, reader, project('warm') FROM responses"
        ).fetchall()
    }

    result = store.sql(
        "SELECT response_id, reader, baseline, organism, pairing, project('warm') AS s "
        "FROM response_diffs WHERE reader = organism"
    )

    rows = result.fetchall()
    assert len(rows) == 8
    for response_id, reader, baseline, organism, pairing, score in rows:
        assert pairing == PAIRING[organism]
        assert score == pytest.approx(own[response_id, reader] - own[response_id, baseline])
    (note,) = result.notes
    assert "4 of 8 pairs of readings in response_diffs" in note
    assert "'coarse' and 'instruct' in precision" in note


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT project('warm') AS s FROM response_diffs ORDER BY pairing, s",
        "SELECT pairing, avg(project('warm')) FROM clause_diffs GROUP BY pairing",
        "SELECT avg(s) FROM (SELECT d.pairing AS kind, project('warm') AS s FROM token_diffs d)",
        "SELECT project('warm') FROM response_diffs WHERE PAIRING <> 'same'",
    ],
)
def test_naming_the_column_anywhere_is_asking(store, sql):
    assert len(store.sql(sql)) > 0


def test_pairs_that_no_score_is_taken_of_are_not_refused(store):
    """Nothing is compared: this is how one finds out what there is."""
    assert store.sql("SELECT count(*) FROM response_diffs").fetchall() == [(16,)]


def test_spans_over_a_baseline_are_refused_and_say_the_option(store):
    with pytest.raises(PairingError, match="--any-pairing"):
        top_spans(store, "warm", baseline="instruct")

    found = find_shifts(store, any_pairing=True)

    assert {row["organism"]: row["pairing"] for row in found.rows} == PAIRING
    assert any("'coarse' and 'instruct' in precision" in note for note in found.notes)
    narrowed = find_shifts(store, where="pairing = 'same'")
    assert {row["organism"] for row in narrowed.rows} == {"alike", "unknown"}
    assert not narrowed.notes


def find_shifts(store, **options) -> FoundSpans:
    return find_spans(store, SpanQuestion("warm", by="response", baseline="instruct", **options))


@pytest.mark.parametrize(
    ("by", "width"), [("clause", 3), ("response", 3), ("token", 1), ("turn", 3), ("window:2", 2)]
)
def test_any_pairing_works_whatever_a_span_is(store, by, width):
    """The oracle is NumPy, on the activations of the three tokens under audit."""
    found = top_spans(
        store, "warm", by=by, organism="coarse", baseline="instruct", any_pairing=True
    )

    means = []
    for response_id in {row["response_id"] for row in found}:
        own, base = (
            store.activations(response_id, reader=reader, layer=2)[1:, 0].astype(float)
            for reader in ("coarse", "instruct")
        )
        means += np.convolve(own - base, np.ones(width) / width, "valid").tolist()
    assert found[0]["score"] == pytest.approx(max(means), rel=1e-5)
    assert {row["pairing"] for row in found} == {"precision"}


def test_effects_are_refused_and_say_the_option_but_not_for_others_sake(store):
    with pytest.raises(PairingError, match="--any-pairing"):
        effects(store)

    (alike,) = effects(store, organisms=["alike"])
    found = find_effects(store, any_pairing=True)

    by_name = {row["organism"]: row for row in found.rows}
    assert {name: row.pop("pairing") for name, row in by_name.items()} == PAIRING
    assert by_name["alike"] == alike
    assert by_name["coarse"]["n_replayed"] == 2
    assert any("'coarse' and 'instruct'" in note for note in found.notes)


def test_the_commands_refuse_with_status_1_and_note_what_they_keep(store):
    for arguments in (
        ("top", store.path, "--trait", "warm", "--baseline", "instruct"),
        ("diff", store.path, "coarse"),
        ("sql", store.path, "SELECT project('warm') FROM response_diffs"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 1
        assert "precision" in str(refused.exception) + refused.stderr

    for arguments in (
        ("top", store.path, "--trait", "warm", "--baseline", "instruct", "--any-pairing"),
        ("diff", store.path, "coarse", "--any-pairing"),
    ):
        done = run(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        assert "note: " in done.stderr and "'coarse' and 'instruct' in precision" in done.stderr
        assert "precision" in {row["pairing"] for row in json.loads(done.stdout)}
        assert "pairing" in run(*arguments).stdout


def test_pairs_are_marked_where_rows_are_handed_over_piece_by_piece(store, monkeypatch):
    sql = "SELECT organism, position, pairing, project('warm') FROM token_diffs ORDER BY ALL"
    wanted = store.sql(sql).fetchall()
    is_large = {"tables": 400, "database": 10**9}
    monkeypatch.setattr(Limits, "memory_for", lambda self, use: is_large.get(use, 2000))

    assert tistore.open(store.path).sql(sql).fetchall() == wanted


names = st.sampled_from([None, "x", "y"])
models = st.builds(
    Model,
    name=st.just("m"),
    quantization=names,
    dtype=names,
    tokenizer_hash=names,
    chat_template_hash=names,
)


@given(models, models)
def test_models_are_compared_by_what_is_known_of_both(one, other):
    """The oracle is the rule as the documentation puts it."""

    def differ(field):
        return {getattr(one, field), getattr(other, field)} == {"x", "y"}

    is_known = all(model.quantization or model.dtype for model in (one, other))
    wanted = {
        "precision": is_known and (differ("dtype") or one.quantization != other.quantization),
        "template": differ("chat_template_hash"),
        "tokenizer": differ("tokenizer_hash"),
    }

    found = [difference.aspect for difference in compare_models(one, other)]

    assert found == [aspect for aspect, is_wanted in wanted.items() if is_wanted]
    assert found == [difference.aspect for difference in compare_models(other, one)]
    assert compare_models(one, one) == ()
