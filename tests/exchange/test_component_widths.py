"""Components of several widths go out one by one, or all together, with their exact values."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

import tistore
from example_readings import LAYERS, make_reading
from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.foreign.numpy_samples import read_numpy_samples
from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples
from tistore.errors import ConfigError, VectorMismatchError
from tistore.exchange.files.export import export_files
from tistore.exchange.samples.importing import import_samples
from tistore.exchange.samples.places import Supplied
from tistore.exchange.selection import Selection
from tistore.exchange.stores.score_bundle import export_scores
from tistore.exchange.stores.sub_store import export_store
from tistore.exchange.torch_data import ActivationDataset

WIDTHS = {"residual": 8, "heads": 16, "k_proj": 4}
READERS = {
    "npy": read_numpy_samples,
    "safetensors": read_safetensors_samples,
}


@pytest.fixture
def store(tmp_path):
    """Four readings of four components; patterns are of two widths."""
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for seed in range(4):
            rng = np.random.default_rng(seed)
            states = {
                name: rng.standard_normal((5, len(LAYERS), width)).astype(np.float16)
                for name, width in (WIDTHS | {"attention": 64 * (1 + seed % 2)}).items()
            }
            writer.add(**make_reading(seed, activations=states))
    for name, width in WIDTHS.items():
        store.add_vector(f"of/{name}", np.arange(1, width + 1), layer=5, component=name)
    return store


def read_all(store, component):
    """Every reading's states at both layers, by prompt."""
    rows = [row for one in store.snapshot.segments for row in one.table("responses").to_pylist()]
    return {
        row["prompt_id"]: [
            store.activations(
                row["response_id"], reader=row["reader"], layer=layer, component=component
            )
            for layer in LAYERS
        ]
        for row in rows
    }


@pytest.mark.parametrize("component", sorted([*WIDTHS, "attention"]))
@pytest.mark.parametrize("format", sorted(READERS))
def test_one_component_goes_out_and_comes_back(store, tmp_path, format, component):
    folder = tmp_path / "out"
    export_files(store, folder, format, Selection(component=component))
    again = tistore.create(tmp_path / "again.tistore")
    told = Supplied(SampleIdentity(), "at-token")
    import_samples(again, READERS[format](folder), told, source_format=format)

    assert again.snapshot.segments[0].components == (component,)
    found, wanted = read_all(again, component), read_all(store, component)
    assert found.keys() == wanted.keys() and len(found) == 4
    for prompt_id, values in wanted.items():
        np.testing.assert_array_equal(found[prompt_id], values)


def test_a_store_of_some_readings_keeps_all_components(store, tmp_path):
    export_store(store, tmp_path / "sub.tistore", Selection(where="prompt_id <> '0'"))

    sub = tistore.open(tmp_path / "sub.tistore")
    assert sub.verify().ok
    assert sub.info().widths == store.info().widths
    for component in (*WIDTHS, "attention"):
        wanted = read_all(store, component)
        del wanted["0"]
        found = read_all(sub, component)
        assert found.keys() == wanted.keys()
        for prompt_id, values in wanted.items():
            np.testing.assert_array_equal(found[prompt_id], values)


def test_a_store_of_one_component_holds_nothing_of_the_others(store, tmp_path):
    """A reading that loses components is named as if it had been captured without them."""
    export_store(store, tmp_path / "sub.tistore", Selection(component="heads", layers="5"))

    sub = tistore.open(tmp_path / "sub.tistore")
    assert sub.info().widths == {"heads": (16,)}
    alone = tistore.create(tmp_path / "alone.tistore")
    with alone.writer() as writer:
        for prompt_id, (_, values) in read_all(store, "heads").items():
            states = {"heads": values[:, None]}
            writer.add(**make_reading(int(prompt_id), layers=[5], activations=states))
    assert sub.snapshot.keys["readings"] == alone.snapshot.keys["readings"]


def test_a_bundle_has_scores_of_components_of_all_widths(store, tmp_path):
    questions = [f"SELECT position, project('{name}') FROM tokens ORDER BY ALL" for name in WIDTHS]
    export_scores(store, tmp_path / "b.tistore")

    bundle = tistore.open(tmp_path / "b.tistore")
    for question in questions:
        assert bundle.sql(question).fetchall() == store.sql(question).fetchall()
    assert bundle.info().widths == store.info().widths
    assert bundle.info().raw_bytes == 0


def test_tables_take_a_component_of_one_width_and_refuse_patterns_of_several(store, tmp_path):
    report = export_files(store, tmp_path / "heads", "parquet", Selection(component="heads"))

    assert report.readings == 4
    with pytest.raises(ConfigError, match="64 and 128 wide") as caught:
        export_files(store, tmp_path / "p", "parquet", Selection(component="attention"))
    assert "export npy or safetensors" in str(caught.value.mend)


def test_training_goes_through_rows_as_wide_as_their_component(store):
    dataset = ActivationDataset(store, layer=5, component="heads", batch_tokens=20)

    (batch,) = list(DataLoader(dataset, batch_size=None))

    assert batch.shape == (20, 16)
    with pytest.raises(VectorMismatchError, match=r"selected at attention@5 are 64 and 128 wide"):
        ActivationDataset(store, layer=5, component="attention")
