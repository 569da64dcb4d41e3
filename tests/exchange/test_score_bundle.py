"""A bundle of scores answers what its store answers, without the activations."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import tistore
from audited_store import HIDDEN, write_audited_store
from tistore.errors import (
    FormatVersionError,
    IntegrityError,
    NotStoredError,
    QueryError,
    StoreExistsError,
    UnknownVectorError,
    VectorMismatchError,
)
from tistore.exchange.selection import Selection
from tistore.exchange.stores.score_bundle import export_scores
from tistore.exchange.stores.sub_store import export_store
from tistore.exchange.torch_data import ActivationDataset
from tistore.query.spans import top_spans

QUESTIONS = [
    "SELECT response_id, reader, position, token, project('flattery') AS s FROM tokens",
    "SELECT response_id, reader, clause, text, project('flattery') AS s FROM clauses",
    "SELECT response_id, reader, project('flattery') AS s FROM responses",
    "SELECT response_id, reader, position, cosine('flattery') AS s FROM tokens",
    "SELECT response_id, reader, scaled('early') AS s, cosine('early') AS t FROM responses",
    "SELECT response_id, reader, baseline, position, project('flattery') AS s FROM token_diffs",
    "SELECT response_id, reader, baseline, project('flattery') AS s FROM response_diffs",
    "SELECT response_id, reader, clause, project('early') AS s, cosine('flattery') AS t "
    "FROM clause_diffs",
    "SELECT response_id, reader, peak_velocity(trajectory('flattery')) AS s FROM responses",
    "SELECT vector, response_id, reader, position, score FROM scores "
    "WHERE vector IN ('flattery', 'early') AND position < 20",
    "SELECT response_id, reader, position, project('flattery - 2*hedging') AS s FROM tokens",
    "SELECT name, base_id FROM models",
    "SELECT prompt_set, prompt_id, text FROM prompts",
    "SELECT response_id, label FROM annotations",
]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "s.tistore"
    return write_audited_store(path, scale=2.0**18)


@pytest.fixture(scope="module")
def bundle(audited, tmp_path_factory):
    """Opened in a place of its own, with all the store's vectors but nothing of the store."""
    store, _ = audited
    path = tmp_path_factory.mktemp("bundled") / "b.tistore"
    export_scores(store, path)
    return tistore.open(path)


@pytest.fixture(scope="module")
def of_one(audited, tmp_path_factory):
    """A bundle of one vector's scores; not to be written to."""
    store, _ = audited
    path = tmp_path_factory.mktemp("of_one") / "b.tistore"
    export_scores(store, path, ["flattery"])
    return tistore.open(path)


def ask(store, question):
    frame = store.sql(f"{question} ORDER BY ALL").to_pandas()
    keys = [name for name in frame.columns if name not in ("s", "t", "score")]
    return frame.sort_values(keys).reset_index(drop=True) if keys else frame


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_bundle_answers_as_its_store_does(audited, bundle, question):
    store, _ = audited

    mine, theirs = ask(bundle, question), ask(store, question)

    assert list(mine.columns) == list(theirs.columns)
    assert len(mine) == len(theirs) > 0
    for name in mine.columns:
        if mine[name].dtype.kind == "f":
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-5, atol=1e-3)
        else:
            assert mine[name].tolist() == theirs[name].tolist()


def test_top_spans_are_the_same(audited, bundle):
    store, _ = audited
    for settings in (
        {"by": "clause"},
        {"by": "window:5", "baseline": "instruct"},
        {"by": "response", "rank_by": "top3"},
    ):
        mine, theirs = top_spans(bundle, "early", **settings), top_spans(store, "early", **settings)
        same = [name for name in mine[0] if name != "score"]
        assert [[row[name] for name in same] for row in mine] == [
            [row[name] for name in same] for row in theirs
        ]


def test_a_bundle_holds_no_activations(audited, bundle):
    store, written = audited
    site = tistore.schemas.site.Site("residual", 2)

    assert not list(bundle.path.rglob("residual.zarr"))
    info = bundle.info()
    assert info.raw_bytes == 0 < store.info().raw_bytes
    assert info.segments_without_activations == info.segments > 0
    assert bundle.verify().ok
    first = written[0]
    with pytest.raises(NotStoredError, match="not in this bundle"):
        bundle.activations(first.response_id, reader=first.reader, layer=2)
    with pytest.raises(NotStoredError, match="not in this bundle"):
        bundle.snapshot.segments[0].stream(site)
    with pytest.raises(NotStoredError, match="not in this bundle"):
        ActivationDataset(bundle, layer=2)
    assert bundle.explain(QUESTIONS[0]).read_bytes == 0


def test_a_bundle_of_some_vectors_says_which_it_has(of_one):
    query = "SELECT avg(project('hedging')) FROM tokens"

    for ask_it in (of_one.sql, of_one.explain, of_one.warm):
        with pytest.raises(
            NotStoredError, match="(?s)tone/hedging.* was not bundled.*It has tone/flattery:mean_d"
        ):
            ask_it(query)

    assert of_one.sql("SELECT count(project('flattery')) FROM tokens").fetchall()[0][0] > 0


def test_a_new_vector_still_ranks_responses(audited, of_one, tmp_path):
    """Means are in the bundle: the mean of projections is the projection of the mean."""
    store, _ = audited
    shutil.copytree(of_one.path, tmp_path / "b")
    bundle = tistore.open(tmp_path / "b")
    values = np.random.default_rng(8).standard_normal(HIDDEN)
    for one in (bundle, tistore.open(store.path)):
        one.add_vector("made/new", values, layer=2, midpoint=0.25)
    query = (
        "SELECT response_id, reader, project('made/new') AS s, scaled('hedging') AS t, "
        "centered('made/new') AS score FROM responses"
    )

    mine, theirs = ask(bundle, query), ask(tistore.open(store.path), query)

    for name in ("s", "t", "score"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-6)
    with pytest.raises(NotStoredError, match="made/new.* was not bundled"):
        bundle.sql("SELECT project('made/new') FROM tokens")
    assert bundle.verify().ok


def test_combinations_of_bundled_vectors_are_worked_out(audited, tmp_path):
    store, _ = audited
    export_scores(store, tmp_path / "b", ["flattery", "hedging"])
    bundle = tistore.open(tmp_path / "b")
    question = QUESTIONS[10]

    mine, theirs = ask(bundle, question), ask(store, question)

    np.testing.assert_allclose(mine["s"], theirs["s"], rtol=1e-4, atol=1.0)


def test_expressions_and_other_layers_can_be_bundled(audited, tmp_path):
    store, _ = audited
    export_scores(store, tmp_path / "b", ["flattery without 1, 3", "early"], layer=5)
    bundle = tistore.open(tmp_path / "b")

    for call in ("project('flattery without 1, 3', 5)", "project('early', 5)"):
        query = f"SELECT avg({call}) FROM tokens"
        assert bundle.sql(query).fetchall()[0][0] == pytest.approx(
            store.sql(query).fetchall()[0][0], rel=1e-4
        )


def test_selected_readings_only(audited, tmp_path):
    store, written = audited
    where = "organism = 'hedge' AND reader = organism"

    report = export_scores(store, tmp_path / "b", ["early"], where=where)

    bundle = tistore.open(tmp_path / "b")
    mine = [one for one in written if one.organism == one.reader == "hedge"]
    assert report.readings == len(mine)
    assert report.tokens == sum(len(one.values) for one in mine)
    query = (
        "SELECT response_id, position, token, project('early') AS s, cosine('early') FROM tokens"
    )
    left, right = ask(bundle, query), ask(store, f"{query} WHERE {where}")
    np.testing.assert_allclose(left["s"], right["s"], rtol=1e-5, atol=1e-5)
    assert left["token"].tolist() == right["token"].tolist()
    assert {name for (name,) in bundle.sql("SELECT name FROM models").fetchall()} == {
        "hedge",
        "instruct",  # the vectors' model
    }


def test_a_bundle_of_a_bundle(audited, bundle, tmp_path):
    export_scores(bundle, tmp_path / "b", ["early"], where="organism = 'hedge'")
    smaller = tistore.open(tmp_path / "b")
    query = "SELECT avg(project('early')) FROM tokens WHERE organism = 'hedge'"

    assert smaller.sql(query).fetchall()[0] == pytest.approx(bundle.sql(query).fetchall()[0])
    with pytest.raises(NotStoredError, match="was not bundled"):
        export_scores(smaller, tmp_path / "c", ["flattery"])
    with pytest.raises(NotStoredError, match="not in this bundle"):
        export_store(smaller, tmp_path / "c", Selection())
    assert not (tmp_path / "c").exists()


def test_scores_of_a_bundle_are_truth_and_not_a_cache(bundle, audited, tmp_path):
    """A cache that is damaged is made anew; here that would hide the damage."""
    shutil.copytree(bundle.path, tmp_path / "b")
    copy = tistore.open(tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "scores", ignore_errors=True)
    assert copy.sql("SELECT count(project('early')) FROM tokens").fetchall()[0][0] > 0
    for path in (tmp_path / "b").glob("segments/*/scores/*.parquet"):
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
    fresh = tistore.open(tmp_path / "b")

    with pytest.raises(IntegrityError, match="scores/.*damaged"):
        fresh.sql("SELECT project('early') FROM tokens")
    assert not fresh.verify(strict=False).ok


def test_an_older_reader_refuses_a_bundle_and_a_store_is_as_it_was(audited, bundle):
    """The first version reads `format_version` alone, and refuses what is beyond 1."""
    store, _ = audited
    header = json.loads((bundle.path / "tistore.json").read_text())
    plain = json.loads((store.path / "tistore.json").read_text())

    assert header["format_version"] == 2
    assert header["features"] == ["bundled-scores"]
    assert plain["format_version"] == 1
    assert "features" not in plain


def test_an_unknown_feature_is_refused(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "b")
    path = tmp_path / "b" / "tistore.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": ["time-travel"]}))

    with pytest.raises(FormatVersionError, match="needs time-travel"):
        tistore.open(tmp_path / "b")


def test_a_bundle_appears_whole_or_not_at_all(audited, tmp_path, monkeypatch):
    store, _ = audited
    stop = lambda n: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        export_scores(store, tmp_path / "b", ["early"], progress=stop)
    assert list(tmp_path.iterdir()) == []
    tistore.create(tmp_path / ".b.partial")  # left behind by one that was killed

    export_scores(store, tmp_path / "b", ["early"])

    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    with pytest.raises(StoreExistsError, match="there already"):
        export_scores(store, tmp_path / "b", ["early"])


def test_a_mistaken_question_leaves_nothing_behind(audited, tmp_path):
    store, _ = audited
    other = tistore.create(tmp_path / "none")
    store_with_odd = tistore.open(store.path)
    store_with_odd.add_vector("odd/layer", np.ones(HIDDEN), layer=9)
    for references, where, error in (
        (["flatery"], None, UnknownVectorError),
        (["odd/layer"], None, VectorMismatchError),
        (["early"], "organism = 'nobody'", NotStoredError),
        (["early"], "organism =", QueryError),
    ):
        with pytest.raises(error):
            export_scores(store_with_odd, tmp_path / "b", references, where=where)
    with pytest.raises(NotStoredError, match="no readings"):
        export_scores(other, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none"]


def test_the_lens_sends_one_to_the_store_a_bundle_came_from(bundle):
    """The bundle has no activations; it does not help to capture them."""
    with pytest.raises(QueryError) as refused:
        bundle.sql("SELECT rank FROM lens")

    assert "exported from" in refused.value.mend
