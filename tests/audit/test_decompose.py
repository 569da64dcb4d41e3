"""A difference is split into what the model makes and what its words make, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_cells import make_cells
from tistore.audit.decompose import decompose, decompose_notes
from tistore.audit.ranking.simulated import Scale, simulate_audit
from tistore.errors import QueryError

FEW = {"resamples": 200}
ORDERS = ["reader first", "text first", "average"]
SIDES = st.lists(
    st.tuples(*[st.floats(-1e6, 1e6, allow_subnormal=False)] * 4), min_size=2, max_size=12
)


@given(SIDES)
@settings(max_examples=150, deadline=None)
def test_parts_add_up_to_the_total_bit_by_bit_in_every_order(sides):
    own, replay, base, swapped = np.array(sides).T

    rows = decompose(make_cells(own, replay, base, swapped), resamples=2)

    first, last, average = rows
    assert [row["order"] for row in rows] == ORDERS
    for row in rows:
        assert row["model_part"] + row["text_part"] == row["total"] == first["total"]
        assert row["interaction"] == first["interaction"]
    assert first["model_part"] - last["model_part"] == first["interaction"]
    assert last["text_part"] - first["text_part"] == first["interaction"]
    assert 2 * average["model_part"] == first["model_part"] + last["model_part"]
    size = np.abs(sides).max() * 1e-12
    assert first["total"] == pytest.approx((own - base).mean(), abs=size)
    assert first["model_part"] == pytest.approx((own - replay).mean(), abs=size)
    assert last["model_part"] == pytest.approx((swapped - base).mean(), abs=size)
    assert first["text_part"] == pytest.approx((replay - base).mean(), abs=size)


def test_a_habit_of_words_only_has_a_model_part_within_noise():
    """The other organisms show what the shared persona makes of both parts."""
    audit = simulate_audit(7, Scale(families=8, variants=1, traits=8, prompts=150))
    plant = next(one for one in audit.plants if one.way == "text")
    place = audit.cells.traits.index(plant.trait)
    rows = [row for row in decompose(audit.cells, **FEW) if row["trait"] == plant.trait]
    own = {r["order"]: r for r in rows if r["organism"] == f"{plant.family}-0"}

    for order in ORDERS:
        others = [r for r in rows if r["order"] == order and r is not own[order]]
        for part, is_planted in (("model_part", False), ("text_part", True)):
            usual = np.median([row[part] for row in others])
            inside = own[order][f"{part}_low"] <= usual <= own[order][f"{part}_high"]
            assert inside != is_planted, (order, part, place)


def test_words_alone_and_models_alone_are_told_apart():
    rng = np.random.default_rng(5)
    base = rng.normal(0, 2, (200, 1))
    noise = rng.normal(0, 0.3, (4, 200, 1))
    words = make_cells(base + 1 + noise[0], base + 1 + noise[1], base, base + noise[2])
    model = make_cells(base + 1 + noise[0], base + noise[1], base, base + 1 + noise[2])

    for row in decompose(words, **FEW):
        assert row["model_part_low"] < 0 < row["model_part_high"]
        assert row["text_part_low"] < 1 < row["text_part_high"] and row["text_part_low"] > 0.9
    for row in decompose(model, **FEW):
        assert row["text_part_low"] < 0 < row["text_part_high"]
        assert row["model_part_low"] > 0.9


def test_prompts_are_the_unit_and_samples_only_average():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(3, 40))
    once = make_cells(*values)
    twice = make_cells(
        *np.repeat(values, 2, axis=1),
        prompts=[str(at) for at in range(40) for _ in (0, 1)],
        samples=[0, 1] * 40,
    )

    (one,), (other,) = decompose(once, **FEW), decompose(twice, **FEW)

    assert one["n_prompts"] == other["n_prompts"] == 40
    assert {key: one[key] for key in one} == pytest.approx(other)


def test_prompts_of_one_cluster_widen_the_interval():
    rng = np.random.default_rng(3)
    shared = np.repeat(rng.normal(size=10), 10)
    own = shared + rng.normal(0, 0.1, 100)
    zeros = np.zeros(100)
    alone = make_cells(own, zeros, zeros)
    together = make_cells(own, zeros, zeros, clusters=[f"t{at // 10}" for at in range(100)])

    widths = [
        row["total_high"] - row["total_low"]
        for cells in (alone, together)
        for row in decompose(cells, **FEW)
    ]

    assert widths[1] > 2 * widths[0]


def test_each_order_rests_on_the_responses_that_it_has_all_readings_of():
    rng = np.random.default_rng(4)
    own, replay, base, swapped = rng.normal(size=(4, 12))
    replay[0] = swapped[1] = np.nan

    cells = make_cells(own, replay, base, swapped)
    rows = {row["order"]: row for row in decompose(cells, **FEW)}

    assert [rows[order]["n_prompts"] for order in ORDERS] == [11, 10, 10]
    assert rows["reader first"]["interaction"] is None
    assert rows["reader first"]["total"] == pytest.approx((own - base)[1:].mean())
    assert rows["average"]["total"] == pytest.approx((own - base)[2:].mean())
    assert any("1 of 12 responses lack" in note for note in decompose_notes(cells))


def test_without_the_other_order_it_is_told_how_to_capture_it():
    cells = make_cells([1.0, 2.0, 3.0], [1.0, 1.0, 2.0], [0.0, 0.0, 1.0])

    (row,) = decompose(cells, **FEW)

    assert row["order"] == "reader first" and row["interaction"] is None
    assert 'readers = ["self", "organisms"]' in decompose_notes(cells)[0]


def test_a_difference_that_cannot_be_split_is_an_error_that_says_why():
    with pytest.raises(QueryError, match="has read none of the texts of 'loud'"):
        decompose(make_cells([1.0, 2.0], None, [0.0, 1.0]))
    with pytest.raises(QueryError, match="has answered no prompt"):
        decompose(make_cells([1.0, 2.0], [1.0, 2.0], None))


def test_a_trait_that_nobody_read_is_named():
    own = np.array([[1.0, np.nan], [2.0, np.nan]])
    cells = make_cells(own, own, own)

    assert [row["trait"] for row in decompose(cells, **FEW)] == ["tone/trait0"]
    assert "tone/trait1" in decompose_notes(cells)[0]
