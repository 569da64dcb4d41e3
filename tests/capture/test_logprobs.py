"""Log probabilities are the model's own, though most of its logits are never made."""

from __future__ import annotations

import pytest
import torch

from tistore.capture.reading import logprobs
from tistore.capture.reading.prefill import TokenSequence, prefill
from tistore.schemas.response import CaptureSettings

SEQUENCES = [
    TokenSequence(tuple(range(5, 25)), 4),
    TokenSequence(tuple(range(40, 47)), 6),
    TokenSequence(tuple(range(90, 120)), 1),
]


@pytest.mark.parametrize("rows", ["all", "response"])
def test_log_probabilities_are_those_of_the_models_logits(family, build_model, rows):
    model = build_model(family)
    settings = CaptureSettings((0,), ("residual",), rows)

    readings = prefill(model, SEQUENCES, settings)

    for sequence, reading in zip(SEQUENCES, readings, strict=True):
        ids = torch.tensor([sequence.token_ids])
        with torch.inference_mode():
            own = model(ids).logits[0].double().log_softmax(dim=-1)
        first = 1 if rows == "all" else sequence.prompt_length
        expected = [float(own[at - 1, ids[0, at]]) for at in range(first, ids.shape[1])]
        assert reading.logprobs[:first] == (None,) * first
        assert reading.logprobs[first:] == pytest.approx(expected, abs=2e-5)


def test_chunks_of_logits_change_nothing(tiny_llama, monkeypatch):
    settings = CaptureSettings((0,), ("residual",), "all")
    (whole, *_) = prefill(tiny_llama, SEQUENCES, settings)
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 4 * 400 * 3)

    (parts, *_) = prefill(tiny_llama, SEQUENCES, settings)

    assert parts.logprobs[1:] == pytest.approx(whole.logprobs[1:], abs=1e-6)


def test_the_head_runs_over_one_position_of_each_sequence(tiny_llama):
    seen = []
    head = tiny_llama.get_output_embeddings()
    watch = head.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[:-1])))
    settings = CaptureSettings((0,), ("residual",), "response")

    prefill(tiny_llama, SEQUENCES, settings, logprobs=False)
    watch.remove()

    assert seen == [(3, 1)]
    assert not head._forward_pre_hooks


def test_the_head_is_whole_again_when_the_forward_pass_fails(tiny_llama):
    with pytest.raises(ZeroDivisionError), logprobs.shorten_head(tiny_llama, None):
        raise ZeroDivisionError

    assert not tiny_llama.get_output_embeddings()._forward_pre_hooks


def test_a_family_whose_head_is_not_known_makes_its_own_logits(build_model, monkeypatch):
    """As some scale them; softcapping stands for what nobody here has heard of."""
    model = build_model("gemma2", final_logit_softcapping=0.5)
    settings = CaptureSettings((0,), ("residual",), "response")
    expected = prefill(model, SEQUENCES, settings)
    monkeypatch.setattr(logprobs, "FAMILIES", {})

    found = prefill(model, SEQUENCES, settings)

    for known, unknown, sequence in zip(expected, found, SEQUENCES, strict=True):
        start = sequence.prompt_length
        assert unknown.logprobs[start:] == pytest.approx(known.logprobs[start:], abs=1e-5)
