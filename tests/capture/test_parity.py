"""A row that is not what reading its sequence alone gives is found, and named for what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tistore.capture.proof.parity import (
    TOLERANCES,
    Tolerance,
    check_parity,
    find_tolerance,
    measure_deviation,
    pick_canary,
    run_canary,
)
from tistore.capture.reading.prefill import BatchUnderway, Prefill, TokenSequence, prefill
from tistore.capture.run import ingest
from tistore.errors import ParityError
from tistore.schemas.model import Model
from tistore.schemas.response import CaptureSettings
from tistore.store.base import BaseStore

SETTINGS = CaptureSettings((0, 1, 2), ("mlp_out", "residual"), "all")
EXACT = TOLERANCES["float32"]
SEQUENCES = [
    TokenSequence((1, 17, 31, 90, 5), 2),
    TokenSequence((1, 18, 32, 91, 6, 120, 44, 45, 46), 3),
    TokenSequence((1, 9, 33, 70, 8), 2),
]


def read(model) -> list[Prefill]:
    return prefill(model, SEQUENCES, SETTINGS)


def prove(model, readings, index=0, *, tolerance=EXACT):
    return run_canary(
        model, SEQUENCES, readings, index, SETTINGS, tolerance=tolerance, label="x read by y"
    )


def edit(reading: Prefill, change) -> Prefill:
    """Change every component of a reading."""
    states = {name: change(values.clone()) for name, values in reading.activations.items()}
    return replace(reading, activations=states)


def plant(readings: list[Prefill], index: int, change) -> list[Prefill]:
    return [*readings[:index], edit(readings[index], change), *readings[index + 1 :]]


def test_a_padded_batch_reads_as_each_sequence_alone(family, build_model):
    """Within 1e-3 relative, row by row, at every site: and in fact a hundred times closer."""
    model = build_model(family)
    settings = CaptureSettings((0, 1, 2), ("attn_out", "mlp_out", "residual"), "all")
    readings = prefill(model, SEQUENCES, settings, padding=2)

    for index in range(len(SEQUENCES)):
        deviations = run_canary(
            model, SEQUENCES, readings, index, settings, tolerance=EXACT, label=family, padding=2
        )

        assert [deviation.site for deviation in deviations] == list(settings.sites)
        assert max(deviation.largest for deviation in deviations) < 1e-5
        assert max(deviation.logprob_largest for deviation in deviations) < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_coarse_rounding_is_no_fault(build_model, dtype):
    """In sequences long enough for a batch to add up in another order."""
    model = build_model("llama").to(getattr(torch, dtype))
    sequences = [TokenSequence(tuple(range(5, 5 + length)), 4) for length in (13, 97, 120, 61)]
    readings = prefill(model, sequences, SETTINGS)

    found = [
        run_canary(
            model, sequences, readings, index, SETTINGS, tolerance=TOLERANCES[dtype], label="x"
        )
        for index in range(len(sequences))
    ]

    largest = max(deviation.largest for deviations in found for deviation in deviations)
    assert EXACT.relative / 10 < largest < TOLERANCES[dtype].relative / 4


def test_own_and_replay_of_the_same_weights_are_the_same_bits(loaded):
    """With an adapter of zeros on; a deviation of 0 means that no bit differs."""
    with loaded.reading_as("zero") as model:
        own = read(model)
    with loaded.reading_as("instruct") as model:
        replay = read(model)

    for one, other in zip(own, replay, strict=True):
        assert {d.largest for d in measure_deviation(one, other, SETTINGS)} == {0.0}
        for component in SETTINGS.components:
            assert torch.equal(one.activations[component], other.activations[component])
        assert one.logprobs == other.logprobs


def test_deviations_are_numpys(tiny_llama):
    rng = np.random.default_rng(0)
    right = read(tiny_llama)[1]
    noisy = edit(right, lambda v: v + torch.tensor(rng.normal(0, 0.01, v.shape), dtype=v.dtype))

    for deviation in measure_deviation(noisy, right, SETTINGS):
        a, b = (
            r.activations[deviation.component][:, deviation.layer].double().numpy()
            for r in (noisy, right)
        )
        expected = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
        row = int(expected.argmax())
        beside = [n for n in (row - 1, row + 1) if 0 <= n < len(b)]
        neighbours = [np.linalg.norm(a[row] - b[n]) / np.linalg.norm(b[n]) for n in beside]
        assert (deviation.row, deviation.n_rows) == (row, 9)
        np.testing.assert_allclose(deviation.largest, expected.max(), rtol=1e-4)
        np.testing.assert_allclose(deviation.mean, expected.mean(), rtol=1e-4)
        np.testing.assert_allclose(deviation.neighbour, min(neighbours), rtol=1e-4)


def swap_rows(values: torch.Tensor) -> torch.Tensor:
    values[[1, 4]] = values[[4, 1]]
    return values


def shift_rows(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values[:1], values[:-1]])


def raise_layers(values: torch.Tensor) -> torch.Tensor:
    return values[:, [1, 2, 2]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (swap_rows, r"mlp_out@0: row \d .* what row [14] should be: rows are shuffled"),
        (shift_rows, r"mlp_out@0: row (\d) .* what row \d should be: rows are shifted by one"),
        (raise_layers, r"mlp_out@0: .* it is what layer 1 should be"),
        (lambda values: values * 1.01, "longest of the batch, which has no padding, is right"),
        (lambda values: values[1:], r"its shape is \(4, 32\), and should be \(5, 32\)"),
        (lambda values: values * float("nan"), "row 0 lies inf off"),
    ],
)
def test_a_planted_row_is_found_and_named(tiny_llama, change, expected):
    readings = plant(read(tiny_llama), 0, change)

    with pytest.raises(ParityError, match=f"^x read by y, .*{expected}"):
        prove(tiny_llama, readings)


def test_swapped_sequences_are_named(tiny_llama):
    """Of the same length, or of another."""
    first, second, third = read(tiny_llama)

    with pytest.raises(ParityError, match="response 2 of the batch has what response 0 should"):
        prove(tiny_llama, [third, second, first])
    with pytest.raises(ParityError, match="response 1 of the batch has what response 0 should"):
        prove(tiny_llama, [second, first, third])


def test_log_probabilities_of_other_tokens_are_named(tiny_llama):
    readings = read(tiny_llama)
    first, *rest = readings[0].logprobs
    readings[0] = replace(readings[0], logprobs=(first, *rest[1:], rest[0]))

    with pytest.raises(ParityError, match="nats off .* states are right"):
        prove(tiny_llama, readings)


@torch.inference_mode()
def test_padding_on_the_left_without_position_ids_is_named(build_model):
    """GPT-2 counts positions from the padding; a mask alone does not tell it otherwise."""
    model = build_model("gpt2")
    width = max(len(s.token_ids) for s in SEQUENCES)
    readings = []
    for sequence in SEQUENCES:
        short = width - len(sequence.token_ids)
        states = model(
            input_ids=torch.tensor([[0] * short + list(sequence.token_ids)]),
            attention_mask=torch.tensor([[0] * short + [1] * len(sequence.token_ids)]),
            position_ids=torch.arange(width)[None],
            output_hidden_states=True,
        ).hidden_states
        # The norm stands between the last block and the last of these.
        layers = torch.stack([states[1][0], states[2][0]], dim=1)[short:]
        readings.append(Prefill({"residual": layers}, (None,) * len(sequence.token_ids)))
    settings = CaptureSettings((0, 1), ("residual",), "all")

    for index in (0, 2):
        with pytest.raises(ParityError, match="longest of the batch, which has no padding, is ri"):
            run_canary(model, SEQUENCES, readings, index, settings, tolerance=EXACT, label="x")
    run_canary(model, SEQUENCES, readings, 1, settings, tolerance=EXACT, label="x")


def test_another_adapter_is_named(loaded):
    with loaded.reading_as("loud") as model:
        readings = read(model)

    with (
        loaded.reading_as("instruct") as model,
        pytest.raises(ParityError, match="padding is not to blame: as when another adapter"),
    ):
        prove(model, readings)


def test_an_expert_that_rounding_chose_is_no_fault_but_a_shuffled_row_is(tiny_llama):
    """One row of an MLP may be another altogether, as long as it is not another row's."""
    lenient = Tolerance(0.3, 1.0, allows_outliers=True)

    def reroute(values: torch.Tensor) -> torch.Tensor:
        values[3, 1] *= -0.1
        return values

    deviations = prove(tiny_llama, plant(read(tiny_llama), 1, reroute), 1, tolerance=lenient)

    assert max(deviation.largest for deviation in deviations) > 1
    with pytest.raises(ParityError, match="rows are shuffled"):
        prove(tiny_llama, plant(read(tiny_llama), 1, swap_rows), 1, tolerance=lenient)


def test_tolerances_follow_what_the_weights_are_held_in():
    model = Model("x", dtype="bfloat16", family="llama")

    assert find_tolerance(Model("x")) == TOLERANCES["float32"]
    assert find_tolerance(model) == TOLERANCES["bfloat16"]
    assert find_tolerance(replace(model, quantization="8bit")) == TOLERANCES["8bit"]
    assert find_tolerance(replace(model, family="mixtral")).allows_outliers
    assert not find_tolerance(Model("x", dtype="float32", family="mixtral")).allows_outliers


def test_only_the_failing_proof_reads_another_sequence(tiny_llama):
    readings, read_again = read(tiny_llama), []

    def read_alone(index: int) -> Prefill:
        read_again.append(index)
        return prefill(tiny_llama, [SEQUENCES[index]], SETTINGS)[0]

    check_parity(readings, 0, SETTINGS, tolerance=EXACT, label="x", read_alone=read_alone)

    assert read_again == [0]


def test_a_run_whose_rows_are_shifted_stores_no_reading(configure, tmp_path, monkeypatch):
    """From end to end: a batch gives each row the state of the one before."""
    store = BaseStore.create(tmp_path / "run.tistore")
    real = BatchUnderway.prefills.func

    def shift(batch: BatchUnderway) -> tuple[Prefill, ...]:
        is_batch = len(batch.sequences) > 1
        return tuple(edit(one, shift_rows) if is_batch else one for one in real(batch))

    monkeypatch.setattr(BatchUnderway, "prefills", property(shift))

    with pytest.raises(ParityError, match=r"sample 0, read by \w+, .* rows are shifted by one"):
        ingest(store, configure())

    store.refresh()
    assert store.snapshot.segments == ()


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    every=st.integers(1, 5),
    batch=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_a_canary_is_a_shortest_sequence_of_the_first_and_every_nth_batch(
    lengths, every, batch, seed
):
    picked = pick_canary(batch, lengths, every=every, seed=seed)

    assert (picked is None) == (batch % every != 0)
    assert picked is None or lengths[picked] == min(lengths)
    assert picked == pick_canary(batch, lengths, every=every, seed=seed)
    assert pick_canary(batch, lengths, every=0) is None
