"""Heads go along with the readings they are put to."""

from __future__ import annotations

import pytest

import tistore
from lens_store import write_lens_store
from tistore.exchange.selection import Selection
from tistore.exchange.stores.score_bundle import export_scores
from tistore.exchange.stores.sub_store import export_store

SEEN = "SELECT * EXCLUDE (entropy) FROM lens WHERE {} ORDER BY response_id, reader, position, layer"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made, _, _ = write_lens_store(tmp_path_factory.mktemp("heads") / "s", response=30)
    return made


def test_a_copied_store_shows_the_same_through_the_lens(store, tmp_path):
    for _ in range(2):  # the second finds all of it there
        export_store(store, tmp_path / "copy", Selection())

    copy = tistore.open(tmp_path / "copy")
    query = SEEN.format("prompt_id = '1'")
    assert copy.sql(query).to_arrow().equals(store.sql(query).to_arrow())
    assert len(list((tmp_path / "copy").rglob("unembedding.parquet"))) == 2
    assert copy.verify().ok


def test_only_heads_of_selected_readers_go_along(store, tmp_path):
    export_store(store, tmp_path / "copy", Selection.parse("reader = 'hedge'"))

    copy = tistore.open(tmp_path / "copy")
    assert list(copy.snapshot.heads) == ["other"]
    assert copy.snapshot.reader_heads == {"hedge": "other"}
    query = SEEN.format("reader = 'hedge' AND layer = 2")
    assert copy.sql(query).fetchall() == store.sql(query).fetchall()


def test_a_bundle_of_scores_has_no_states_to_put_to_heads(store, tmp_path):
    export_scores(store, tmp_path / "bundle")

    bundle = tistore.open(tmp_path / "bundle")
    assert bundle.snapshot.heads == {}
    assert bundle.snapshot.reader_heads == {}
    with pytest.raises(tistore.TistoreError, match="has residual activations"):
        bundle.sql("SELECT rank FROM lens")
