"""Many files, and files larger than what they hold: order, memory and size."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

import tistore
from tistore.exchange.trait_interp.pipeline import read_ahead
from tistore.exchange.trait_interp.run import import_experiment

HIDDEN, LAYERS = 256, (0, 1)


def save(path, seed, *, batch=1, names=("residual",)):
    """Write a capture whose tensors are views into a batch."""
    generator = torch.Generator().manual_seed(seed)
    content = {}
    for half, n_tokens in (("prompt", 4), ("response", 28)):
        sites = {}
        for layer in LAYERS:
            states = torch.randn(batch, n_tokens, HIDDEN, generator=generator).to(torch.bfloat16)
            sites[layer] = dict.fromkeys(names, states[batch // 2])
        content[half] = {
            "text": "x" * n_tokens, "tokens": ["x"] * n_tokens, "token_ids": [seed] * n_tokens,
            "activations": sites,
        }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def test_files_that_hold_their_whole_batch_import_to_the_size_of_their_values(tmp_path):
    raw = tmp_path / "experiment" / "inference" / "org" / "raw" / "residual" / "set"
    for seed in range(6):
        save(raw / f"{seed}.pt", seed, batch=16)
    in_files = sum(path.stat().st_size for path in raw.iterdir())
    store = tistore.create(tmp_path / "s")

    report = import_experiment(store, tmp_path / "experiment")

    values = 6 * 32 * len(LAYERS) * HIDDEN * 2
    in_store = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert report.value_bytes == values
    assert in_files > 15 * values
    assert in_store < 1.5 * values


def test_readings_of_one_shape_share_segments(tmp_path):
    """Own captures and replays mostly differ in components: sorted, they do not split commits."""
    folder = tmp_path / "experiment" / "inference"
    for seed in range(12):
        names = [("residual",), ("residual", "attn_contribution")][seed % 2]
        save(folder / "a" / "raw" / "residual" / "set" / f"{seed}.pt", seed, names=names)
    store = tistore.create(tmp_path / "s")

    import_experiment(store, tmp_path / "experiment")

    assert [len(s.table("responses")) for s in store.snapshot.segments] == [6, 6]


def test_items_come_in_order_and_no_more_wait_than_allowed():
    lock = threading.Lock()
    in_memory, most = 0, 0

    def read(item):
        nonlocal in_memory, most
        with lock:
            in_memory += item
            most = max(most, in_memory)
        time.sleep(0.001 * (item % 3))
        return item * 10

    sizes = [*np.random.default_rng(0).integers(1, 40, 60).tolist(), 500, 3]
    seen = []
    for item, result in read_ahead(
        sizes, read, measure=lambda item: item, in_flight_bytes=100, workers=4
    ):
        seen.append((item, result))
        with lock:
            in_memory -= item

    assert seen == [(item, item * 10) for item in sizes]
    assert most <= 500  # the one that is larger than what may wait is read alone


def test_an_error_comes_at_its_turn_and_nothing_more_is_read():
    begun = []

    def read(item):
        begun.append(item)
        if item == 5:
            raise ValueError(item)
        return item

    seen = []
    with pytest.raises(ValueError, match="5"):
        for item, _ in read_ahead(range(1000), read, workers=2):
            seen.append(item)

    assert seen == [0, 1, 2, 3, 4]
    assert len(begun) < 1000
