"""A raw file may hold keys and values, which are narrower than the stream."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tistore
from tistore.exchange.trait_interp.run import import_experiment

WIDTHS = {"residual": 16, "k_proj": 4, "v_proj": 6}


def save(path, widths_of_layer):
    """Write a capture of two prompt tokens and three of a response; gives its values."""
    values = {
        (layer, name): torch.randn(5, width, dtype=torch.bfloat16)
        for layer, widths in widths_of_layer.items()
        for name, width in widths.items()
    }
    halves = {"prompt": ([1, 2], slice(0, 2)), "response": ([3, 4, 5], slice(2, 5))}
    content = {
        half: {
            "text": "x" * len(ids),
            "tokens": ["x"] * len(ids),
            "token_ids": ids,
            "activations": {
                layer: {name: values[layer, name][rows].clone() for name in widths}
                for layer, widths in widths_of_layer.items()
            },
        }
        for half, (ids, rows) in halves.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return values


@pytest.fixture
def folder(tmp_path):
    variants = {"flattery": {"model": "m", "lora": "l"}, "instruct": {"model": "m"}}
    config = {"defaults": {"application": "flattery"}, "model_variants": variants}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "config.json").write_text(json.dumps(config))
    return tmp_path / "experiment"


def test_keys_and_values_come_in_as_wide_as_they_are(folder, tmp_path):
    torch.manual_seed(0)
    path = folder / "inference/flattery/raw/residual/set/1.pt"
    values = save(path, {2: WIDTHS, 5: WIDTHS})
    store = tistore.create(tmp_path / "s.tistore")

    import_experiment(store, folder)

    assert store.info().widths == {"k_proj": (4,), "residual": (16,), "v_proj": (6,)}
    ((response_id,),) = store.sql("SELECT response_id FROM responses").fetchall()
    for (layer, name), rows in values.items():
        found = store.activations(response_id, reader="flattery", layer=layer, component=name)
        np.testing.assert_array_equal(found.astype(np.float32), rows.float().numpy())


def test_a_component_of_two_widths_is_refused(folder, tmp_path):
    path = folder / "inference/flattery/raw/residual/set/1.pt"
    save(path, {2: WIDTHS, 5: WIDTHS | {"k_proj": 8}})
    store = tistore.create(tmp_path / "s.tistore")

    report = import_experiment(store, folder)

    (refused,) = [file for file in report.files if file.path.endswith("1.pt")]
    assert refused.outcome == "refused"
    assert "its tensors of k_proj are 4, 8 wide: not one width" in refused.reason
