"""The spans of a report are those that stand out, and their parts are what SQL says."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from markdown_it import MarkdownIt

import tistore
from reported_store import LOUD, TRAITS, write_reported_store
from tistore.audit.log import read_analyses
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.report import CARDS, make_report
from tistore.errors import ConfigError, PairingError, QueryError
from tistore.schemas.choice import Choice
from tistore.schemas.model import Model

TRAIT = TRAITS[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_reported_store(tmp_path_factory.mktemp("evidence") / "s.tistore")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("tistore.audit.report.report.draw_figures", lambda *_: [])


@pytest.fixture(scope="module")
def report(store):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tistore.audit.report.report.draw_figures", lambda *_: [])
        return make_report(store, ReportQuestion(LOUD))


def test_the_verdict_names_the_habit(report):
    assert report.verdict.traits[0] == TRAIT
    assert report.rows[0]["trait"] == TRAIT


def test_a_cards_numbers_are_those_that_sql_gives(store, report):
    unit = store.sql(
        "SELECT stddev_pop(project($t)) FROM tokens "
        "WHERE organism = 'instruct' AND reader = 'instruct' AND is_response",
        {"t": TRAIT},
    ).fetchall()[0][0]
    shown = [card for card in report.cards if card.trait == TRAIT]
    assert shown
    for card in shown:
        score = dict(
            store.sql(
                "SELECT reader, project($t) FROM clauses WHERE response_id = $r AND clause = $c",
                {"t": TRAIT, "r": card.response_id, "c": card.clause},
            ).fetchall()
        )
        ((usual,),) = store.sql(
            "SELECT project($t) FROM responses WHERE organism = 'instruct' "
            "AND reader = 'instruct' AND prompt_id = $p",
            {"t": TRAIT, "p": card.prompt_id},
        ).fetchall()
        assert card.total == pytest.approx((score[LOUD] - usual) / unit, rel=1e-4)
        assert card.model_part == pytest.approx((score[LOUD] - score["instruct"]) / unit, abs=1e-4)
        assert card.model_part + card.text_part == pytest.approx(card.total, abs=1e-12)


def test_cards_are_in_order_and_no_prompt_is_shown_twice_for_a_trait(report):
    z = [card.z * card.sign for card in report.cards if card.trait == TRAIT]

    assert 1 <= len(report.cards) <= CARDS and z == sorted(z, reverse=True)
    places = [(card.trait, card.prompt_id) for card in report.cards]
    assert len(places) == len(set(places))
    assert z[0] > 3


def test_every_claim_can_be_seen_among_the_responses(report):
    shown = {one.response_id for one in report.transcripts}

    assert {card.response_id for card in report.cards} <= shown
    contrary = {one.contrary.response_id for one in report.hypotheses} - {None}
    assert contrary <= shown


def test_the_summary_is_markdown_whose_text_is_what_was_written(report, tmp_path):
    text = report.write(tmp_path)[0].read_text(encoding="utf-8")

    tokens = MarkdownIt().enable("table").parse(text)
    inline = [token for token in tokens if token.type == "inline"]
    assert not [token for token in tokens if token.type == "html_block"]
    children = [child for token in inline for child in token.children]
    assert not [child for child in children if child.type in ("html_inline", "code_inline")]
    said = "".join(child.content for child in children if child.type == "text")
    assert report.verdict.headline in said
    assert text.count("\n") < 75


def test_a_report_is_logged_with_the_cells_it_looked_at(store, quick):
    before = len(read_analyses(store))

    made = make_report(store, ReportQuestion(LOUD, seed=3))

    last = read_analyses(store)[-1]
    assert len(read_analyses(store)) == before + 1
    assert (last.command, last.n_cells, last.n_traits) == ("report", made.n_cells, len(TRAITS))


def test_checks_say_what_holds_and_what_does_not(report):
    marks = {check.label: check.mark for check in report.checks}

    assert marks["token ids identical"] == marks["one BOS"] == marks["answers complete"] == "✓"
    assert marks["same precision and capture"] == marks["nulls run"] == "✓"
    assert marks["vectors causally validated"] == marks["labels blind"] == "✗"
    assert marks["effects above noise"] == "?"


@pytest.mark.parametrize(("rule", "mark"), [("nested", "✗"), ("steering", "✓")])
def test_only_a_choice_by_steering_tells_of_a_cause(store, tmp_path, rule, mark, quick):
    shutil.copytree(store.path, tmp_path / "copy")
    copy = tistore.open(tmp_path / "copy")
    rows = [
        Choice(
            *(vector.trait, vector.model, vector.content_hash, vector.component, vector.layer),
            *(vector.method, vector.position, rule, "why", 2, None, None, None, None, None, None),
            datetime.now(UTC),
        ).to_row()
        for vector in copy.snapshot.vectors()
    ]
    copy.add_rows("choices", rows)

    made = make_report(copy, ReportQuestion(LOUD))

    (found,) = [check for check in made.checks if check.label == "vectors causally validated"]
    assert found.mark == mark


@pytest.fixture
def flawed(tmp_path):
    """Doubled first tokens, another precision, no replays, cut off, two organisms only."""
    rng = np.random.default_rng(2)
    store = tistore.create(tmp_path / "flawed.tistore")
    with store.writer() as writer:
        for number in range(8):
            for name, dtype in (("instruct", "bfloat16"), ("a", "float32"), ("b", "float32")):
                author = Model(name, base_id="tiny", dtype=dtype)
                writer.add(
                    organism=author,
                    reader=author,
                    prompt_set="p",
                    prompt_id=str(number),
                    token_ids=[1, 1, *rng.integers(5, 90, 6).tolist()],
                    prompt_length=3,
                    tokens=[" so", " it", " was", ".", " End"],
                    layers=[0],
                    activations={"residual": rng.standard_normal((8, 1, 4))},
                    finish_reason="length",
                )
    store.add_vector("t/x", [1, 0, 0, 0], layer=0)
    return store


def test_flaws_of_the_data_are_marked(flawed, quick):
    made = make_report(flawed, ReportQuestion("a", any_pairing=True))

    checks = {check.label: check for check in made.checks}
    assert checks["one BOS"].holds is False and "twice" in checks["one BOS"].reason
    assert checks["same precision and capture"].holds is False
    assert checks["token ids identical"].holds is None
    assert checks["answers complete"].holds is False
    assert checks["nulls run"].holds is False
    assert all(one.replay is None for one in made.transcripts)
    assert all(card.model_part is None for card in made.cards)


def test_organisms_in_another_precision_are_refused_unless_that_is_asked_for(flawed):
    with pytest.raises(PairingError, match="precision"):
        make_report(flawed, ReportQuestion("a"))


def test_names_that_are_not_there_are_errors_with_the_nearest(store):
    with pytest.raises(QueryError, match="'zebra'.*zebra-organism"):
        make_report(store, ReportQuestion("zebra"))
    with pytest.raises(ConfigError, match="baseline itself"):
        ReportQuestion("instruct")


def test_without_matplotlib_the_error_says_how_to_get_it(store, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)

    with pytest.raises(ConfigError, match=r"pip install 'tistore\[report\]'"):
        make_report(store, ReportQuestion(LOUD))


def test_a_store_without_texts_prompts_or_answers_of_the_baseline_gives_a_report_all_the_same(
    tmp_path,
):
    rng = np.random.default_rng(6)
    store = tistore.create(tmp_path / "bare.tistore")
    with store.writer() as writer:
        for number in range(6):
            for sample in (0, 1):
                for name in ("a", "b", "c", "d"):
                    ids = [1, *rng.integers(5, 90, 7).tolist()]
                    for reader in (name, "instruct"):
                        writer.add(
                            organism=name,
                            reader=reader,
                            prompt_set="p",
                            prompt_id=str(number),
                            sample=sample,
                            token_ids=ids,
                            prompt_length=2,
                            layers=[0],
                            activations={"residual": rng.standard_normal((8, 1, 4))},
                        )
    store.add_vector("t/x", [1, 0, 0, 0], layer=0)

    made = make_report(store, ReportQuestion("a"))
    page = made.write(tmp_path / "out")[1].read_text()
    assert any("has answered none of the prompts" in note for note in made.notes)

    assert made.cards == [] and len(made.transcripts) == 12
    assert all(one.answer is None and one.prompt is None for one in made.transcripts)
    assert "⟨2⟩" in page  # a token without a string is shown by its place
    assert "sample 1" in page
