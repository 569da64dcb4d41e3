"""Batches are bounded by their tokens, padding included."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from tistore.capture.config import GenerationConfig
from tistore.capture.models.machine import find_memory
from tistore.capture.reading.in_flight import (
    MOST_ON_DEVICE,
    bound_tokens,
    count_tokens_in_flight,
    cut_batches,
    measure_token,
)
from tistore.schemas.response import CaptureSettings

SETTINGS = CaptureSettings((0, 1), ("residual",), "response")


@given(
    lengths=st.lists(st.integers(1, 200), max_size=60),
    most_tokens=st.integers(1, 500),
    most_items=st.none() | st.integers(1, 9),
)
def test_every_item_is_in_one_batch_and_no_batch_is_too_large(lengths, most_tokens, most_items):
    batches = list(
        cut_batches(lengths, lambda length: length, most_tokens=most_tokens, most_items=most_items)
    )

    assert [length for batch in batches for length in batch] == lengths
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(batch) <= most_tokens
        assert most_items is None or len(batch) <= most_items


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_batches_are_as_large_as_they_may_be(lengths):
    batches = list(cut_batches(lengths, lambda length: length, most_tokens=200))

    for batch, following in zip(batches, batches[1:], strict=False):
        assert (len(batch) + 1) * max(*batch, following[0]) > 200


def test_a_token_takes_its_keys_and_values_its_states_and_what_a_block_works_with():
    """Llama 3 8B: 32 layers of 8 keys and values of 128 each; 4096 wide, 14336 in the MLP."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )

    size = measure_token(config, SETTINGS, 2, longest=400)

    keys_and_values = 2 * 32 * 8 * 128
    assert size == 2 * (keys_and_values + 2 * 4096 + 8 * 4096 + 3 * 14336)


def test_tokens_are_counted_from_the_memory_there_is_or_as_configured(tiny_llama, monkeypatch):
    per_token = measure_token(tiny_llama.config, SETTINGS, 4, 10)
    monkeypatch.setattr("os.sysconf", lambda name: per_token if "SIZE" in name else 8 * 1234)

    assert count_tokens_in_flight(GenerationConfig(), "cpu", tiny_llama, SETTINGS, 10) == 1234
    given = GenerationConfig(tokens_in_flight=77)
    assert count_tokens_in_flight(given, "cpu", tiny_llama, SETTINGS, 10) == 77


def test_a_model_on_one_of_several_gpus_has_the_memory_of_that_one(monkeypatch):
    gpus = [SimpleNamespace(total_memory=size * 10**9) for size in (80, 24)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", gpus.__getitem__)

    def count(device: str) -> int:
        memory = find_memory(device)
        return bound_tokens(GenerationConfig(), memory, weights=16 * 10**9, per_token=10**6)

    assert count("cuda:1") == 0.8 * (24 - 16) * 1000
    assert count("cuda") == count("cuda:0") == 0.8 * (80 - 16) * 1000
    assert count("auto") == MOST_ON_DEVICE


def test_patterns_take_a_number_for_every_head_and_key():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2)
    plain = measure_token(config, SETTINGS, 2, longest=100)
    settings = CaptureSettings((0, 1), ("attention", "residual"), "response")

    size = measure_token(config, settings, 2, longest=100)

    assert size - plain == 2 * (2 * 4 * 128 + 2 * 4 * 100)
