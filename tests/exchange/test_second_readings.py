"""What a model read twice, to tell its noise, goes out once, unless it is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tistore
from example_readings import HIDDEN, LAYERS, make_reading
from tistore.errors import NotStoredError
from tistore.exchange.files.export import export_files
from tistore.exchange.selection import Selection, select
from tistore.exchange.stores.score_bundle import export_scores
from tistore.exchange.stores.sub_store import export_store
from tistore.exchange.torch_data import ActivationDataset, PairedActivationDataset
from tistore.exchange.trait_interp_export.export import export_trait_interp
from tistore.query.noise import name_again

READERS = ("flattery", "instruct")
AGAIN = tuple(map(name_again, READERS))
BY_NAME = f"reader IN ('flattery', '{AGAIN[0]}')"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three responses, two readers; the first two responses were read again by both."""
    made = tistore.create(tmp_path_factory.mktemp("again") / "s.tistore")
    with made.writer() as writer:
        for seed in range(3):
            for place, reader in enumerate((*READERS, *(AGAIN if seed < 2 else ()))):
                states = {"residual": np.full((5, len(LAYERS), HIDDEN), float(place))}
                writer.add(**make_reading(seed) | {"reader": reader, "activations": states})
            writer.commit()
    made.add_vector("tone/warm", np.ones(HIDDEN), layer=LAYERS[0])
    return made


def read_readers(store) -> list[str]:
    return [
        reader for (reader,) in store.sql("SELECT reader FROM responses ORDER BY ALL").fetchall()
    ]


@pytest.mark.parametrize("where", [None, "organism = 'flattery'"])
def test_files_hold_first_readings(store, tmp_path, where):
    report = export_files(store, tmp_path / "out", "npy", Selection(where))

    told = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*_*.json")]
    assert sorted(one["reader"] for one in told) == sorted(READERS * 3)
    assert (report.readings, report.second_readings) == (6, 4)


def test_readings_that_are_named_go_out(store, tmp_path):
    report = export_files(store, tmp_path / "out", "npy", Selection(BY_NAME))

    assert (report.readings, report.second_readings) == (5, 0)


def test_an_experiment_has_no_variant_of_second_readings(store, tmp_path):
    report = export_trait_interp(store, tmp_path / "out")

    config = json.loads((tmp_path / "out/config.json").read_text())
    assert set(config["model_variants"]) == set(READERS)
    assert "4 second readings, of `tistore noise`, are left out" in report.notes


def test_a_training_run_sees_every_token_of_a_reader_once(store):
    own = ActivationDataset(store, layer=LAYERS[0], batch_tokens=100)
    named = ActivationDataset(store, BY_NAME, layer=LAYERS[0], batch_tokens=100)

    rows = next(iter(own))[:, 0].tolist()
    assert (sorted(set(rows)), len(rows)) == ([0, 1], 5 * 6)
    assert (own.plan.n_left_out, named.plan.n_left_out) == (4, 0)
    assert len(named) == 5 * 5


def test_pairs_take_second_readings_where_they_are_named(store):
    """The noise itself: a reader beside its own second reading."""
    plain = PairedActivationDataset(store, layer=LAYERS[0])
    noise = PairedActivationDataset(
        store, layer=LAYERS[0], reader=AGAIN[1], baseline=READERS[1], batch_tokens=100
    )

    assert len(plain) == 5 * 3
    second, first = next(iter(noise))
    assert (len(second), second.unique().tolist(), first.unique().tolist()) == (10, [3], [1])


def test_a_condition_that_picks_nothing_else_says_how_to_name_them(store):
    with pytest.raises(NotStoredError, match="4 readings selected are second readings") as refused:
        select(store, Selection("reader LIKE '%again'"))

    assert "reader = 'NAME~again'" in refused.value.mend


def test_a_copy_of_a_store_holds_all_that_the_store_holds(store, tmp_path):
    """What is asked of the copy has the same answer, noise floor included."""
    export_store(store, tmp_path / "copy", Selection())
    export_scores(store, tmp_path / "scores", ["warm"])

    for made in ("copy", "scores"):
        assert read_readers(tistore.open(tmp_path / made)) == read_readers(store)
