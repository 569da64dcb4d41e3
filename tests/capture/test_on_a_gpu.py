"""What only a GPU shows: states that arrive behind the model, and its memory."""

from __future__ import annotations

import pytest
import torch

from tistore.capture.reading.prefill import TokenSequence, prefill, start_prefill
from tistore.capture.run import ingest
from tistore.schemas.response import CaptureSettings
from tistore.store.base import BaseStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SETTINGS = CaptureSettings((0, 1, 2), ("mlp_out", "residual"), "response")
SEQUENCES = [TokenSequence(tuple(range(5, 5 + n)), 3) for n in (30, 12, 25)]


def test_states_arrive_as_the_model_has_them(build_model):
    model = build_model().cuda()

    readings = prefill(model, SEQUENCES, SETTINGS)

    for sequence, reading in zip(SEQUENCES, readings, strict=True):
        ids = torch.tensor([sequence.token_ids], device="cuda")
        with torch.inference_mode():
            own = model(ids, output_hidden_states=True).hidden_states[2][0, 3:].cpu()
        torch.testing.assert_close(reading.activations["residual"][:, 1], own, rtol=1e-3, atol=1e-3)


def test_batches_in_flight_do_not_disturb_each_other(build_model):
    """Many are started before the first is waited for."""
    model = build_model().cuda()
    alone = [prefill(model, [sequence], SETTINGS)[0] for sequence in SEQUENCES]

    batches = [start_prefill(model, [sequence], SETTINGS) for sequence in SEQUENCES * 20]

    for place, batch in enumerate(batches):
        expected, (found,) = alone[place % len(SEQUENCES)], batch.prefills
        assert all(
            torch.equal(found.activations[component], expected.activations[component])
            for component in SETTINGS.components
        )
        assert found.logprobs == expected.logprobs
        assert found.activations["residual"].device.type == "cpu"


def test_a_run_on_a_gpu_stores_what_one_on_the_processor_does(configure, tmp_path):
    given = {"path": "base", "device": "cuda"}
    store = BaseStore.create(tmp_path / "gpu.tistore")

    report = ingest(store, configure(base=given))

    assert report.readings == 25
    assert report.largest_deviation is not None
    assert report.largest_deviation < 1e-3
    assert store.verify().ok
