"""Reading in batches gives each sequence what reading it alone gives."""

from __future__ import annotations

import numpy as np
import torch

from tistore.capture.reading.prefill import TokenSequence, prefill
from tistore.schemas.response import CaptureSettings

SEQUENCES = [
    TokenSequence((1, 5, 9, 20, 21, 22), 3),
    TokenSequence((1, 5, 9, 20, 21, 22, 23, 24, 25), 2),
    TokenSequence((1, 7), 1),
]
ALL = CaptureSettings((0, 1), ("residual",), "all")
RESPONSE = CaptureSettings((0, 1), ("residual",), "response")


def read_alone(model, sequence: TokenSequence):
    """The oracle: the model's own hidden states and logits, one sequence, no padding."""
    with torch.no_grad():
        output = model(torch.tensor([sequence.token_ids]), output_hidden_states=True)
    states = torch.stack([output.hidden_states[layer + 1][0] for layer in (0, 1)], dim=1)
    logprobs = output.logits[0].float().log_softmax(-1)
    targets = torch.tensor(sequence.token_ids[1:])
    return states, logprobs[:-1].gather(1, targets[:, None])[:, 0].numpy()


def test_padding_on_the_right_does_not_change_rows(family, build_model):
    model = build_model(family)

    batched = prefill(model, SEQUENCES, ALL, padding=2)

    for sequence, reading in zip(SEQUENCES, batched, strict=True):
        states, logprobs = read_alone(model, sequence)
        assert reading.activations["residual"].shape == (len(sequence.token_ids), 2, 32)
        torch.testing.assert_close(reading.activations["residual"], states, rtol=1e-4, atol=1e-4)
        assert reading.logprobs[0] is None
        np.testing.assert_allclose(reading.logprobs[1:], logprobs, rtol=1e-4, atol=1e-4)


def test_response_rows_are_the_last_rows_of_all(tiny_llama):
    everything = prefill(tiny_llama, SEQUENCES, ALL)
    responses = prefill(tiny_llama, SEQUENCES, RESPONSE)

    for sequence, whole, part in zip(SEQUENCES, everything, responses, strict=True):
        start = sequence.prompt_length
        assert torch.equal(part.activations["residual"], whole.activations["residual"][start:])
        assert part.logprobs[:start] == (None,) * start
        np.testing.assert_allclose(part.logprobs[start:], whole.logprobs[start:], rtol=1e-6)


def test_leaving_log_probabilities_out_changes_no_row(tiny_llama):
    asked = prefill(tiny_llama, SEQUENCES, ALL)
    unasked = prefill(tiny_llama, SEQUENCES, ALL, logprobs=False)

    for one, other in zip(asked, unasked, strict=True):
        assert torch.equal(one.activations["residual"], other.activations["residual"])
        assert set(other.logprobs) == {None}


def test_rows_keep_the_models_dtype(tiny_llama):
    reading = prefill(tiny_llama.bfloat16(), SEQUENCES, ALL)[0]

    assert reading.activations["residual"].dtype == torch.bfloat16


def test_an_adapter_of_zeros_reads_bit_for_bit_as_the_base(loaded):
    with loaded.reading_as("zero") as model:
        own = prefill(model, SEQUENCES, ALL)
    with loaded.reading_as("instruct") as model:
        replay = prefill(model, SEQUENCES, ALL)
    with loaded.reading_as("loud") as model:
        other = prefill(model, SEQUENCES, ALL)

    for one, two, three in zip(own, replay, other, strict=True):
        assert torch.equal(one.activations["residual"], two.activations["residual"])
        assert one.logprobs == two.logprobs
        assert not torch.allclose(one.activations["residual"], three.activations["residual"])
