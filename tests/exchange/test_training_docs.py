"""What docs/training.md and its example show runs, and learns something."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import tistore
from tistore.exchange import torch_data

PROJECT = Path(__file__).parents[2]
HIDDEN = 16


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """Activations made of a few directions; the organism's lie a little to one side."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the matrices are too small for more
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6, HIDDEN))
    store = tistore.create("audit.tistore")
    with store.writer() as writer:
        for number in range(8):
            ids = rng.integers(0, 99, 60).tolist()
            for reader in ("flattery", "instruct"):
                weights = rng.random((60, 6)) * (rng.random((60, 6)) < 0.3)
                values = weights @ features + (reader == "flattery") * 0.7
                writer.add(
                    organism="flattery",
                    reader=reader,
                    prompt_set="audit",
                    prompt_id=str(number),
                    token_ids=ids,
                    prompt_length=4,
                    layers=[26],
                    activations={"residual": values[:, None].astype(np.float32)},
                )
    return store


def test_the_blocks_of_the_documentation_run(audit):
    text = (PROJECT / "docs" / "training.md").read_text()
    names: dict[str, object] = {}

    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)

    direction = names["direction"]
    assert isinstance(direction, torch.Tensor)
    audit.add_vector("probes/flattery", direction, layer=26)
    ((difference,),) = audit.sql(
        "SELECT avg(project('probes/flattery')) FROM token_diffs "
        "WHERE reader = organism AND baseline = 'instruct'"
    ).fetchall()
    assert difference > 1


def test_every_argument_is_documented():
    text = (PROJECT / "docs" / "training.md").read_text()
    for name in torch_data.ActivationDataset.__init__.__annotations__.keys() - {"return", "store"}:
        assert f"`{name}`" in text


def test_the_example_learns(audit, capsys):
    example = runpy.run_path(str(PROJECT / "examples" / "train_sparse_autoencoder.py"))

    _, explained = example["train"]("audit.tistore", 26, n_features=64, epochs=12, batch_tokens=32)

    first = re.search(r"epoch 0: (-?[\d.]+)%", capsys.readouterr().out)
    assert first is not None
    assert explained > 0.8 > float(first[1]) / 100
