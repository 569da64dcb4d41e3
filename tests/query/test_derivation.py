"""A direction in the span of others: found when it is there, and its scores as good as a scan's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tistore.query.derivation import MAX_CANDIDATES, derive
from tistore.query.references import resolve
from tistore.schemas.vector import Vector

# What is promised, not what the code says: it may be stricter.
TOLERANCE = 1e-6
MAX_WEIGHT = 32.0

seeds = st.integers(0, 2**32 - 1)


def as_unit(values):
    wide = np.asarray(values, dtype=np.float64)
    return (wide / np.linalg.norm(wide)).astype(np.float32)


def random_units(rng, n, hidden):
    return [as_unit(rng.standard_normal(hidden)) for _ in range(n)]


def distance_from_span(wanted, candidates):
    """How far a vector lies from a span, in float64, by the singular vectors of the span."""
    left, sizes, _ = np.linalg.svd(np.stack(candidates, axis=1).astype(np.float64), False)
    basis = left[:, sizes > 1e-7]
    wide = wanted.astype(np.float64)
    return np.linalg.norm(wide - basis @ (basis.T @ wide))


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 12), st.sampled_from([16, 64, 512]), st.data())
def test_what_lies_in_the_span_is_derived_from_it(seed, n, hidden, data):
    rng = np.random.default_rng(seed)
    candidates = random_units(rng, n, hidden)
    weights = data.draw(
        st.lists(st.floats(-2, 2).filter(lambda w: abs(w) > 0.01), min_size=1, max_size=n)
    )
    used = rng.permutation(n)[: len(weights)]
    wide = [candidates[at].astype(np.float64) for at in used]
    total = np.sum([w * part for w, part in zip(weights, wide, strict=True)], axis=0)
    norm = np.linalg.norm(total)
    preferred = sorted(used.tolist()) if data.draw(st.booleans()) else ()

    found = derive(as_unit(total), candidates, preferred)

    if sum(map(abs, weights)) / norm > 8:  # well within what is accepted, the search must succeed
        return
    assert found is not None
    assert list(found.places) == sorted(set(found.places))
    assert len(found.places) <= (len(weights) if preferred else n)
    assert sum(map(abs, found.weights)) <= MAX_WEIGHT
    rebuilt = np.sum(
        [w * candidates[at].astype(np.float64)
         for w, at in zip(found.weights, found.places, strict=True)],
        axis=0,
    )  # fmt: skip
    assert np.linalg.norm(rebuilt - total / norm) <= TOLERANCE + 2e-7


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 12), st.floats(-8, 0))
def test_what_lies_outside_the_span_is_not_derived(seed, n, exponent):
    """How far outside is drawn from 1e-8 to 1; the oracle is the distance in float64."""
    rng = np.random.default_rng(seed)
    candidates = random_units(rng, n, 64)
    inside = np.sum([rng.standard_normal() * part for part in candidates], axis=0)
    wanted = as_unit(as_unit(inside) + 10**exponent * rng.standard_normal(64) / 8)
    distance = distance_from_span(wanted, candidates)

    found = derive(wanted, candidates)

    if distance > 1.01 * TOLERANCE:
        assert found is None
    if found is not None:
        rebuilt = np.sum(
            [w * candidates[at].astype(np.float64)
             for w, at in zip(found.weights, found.places, strict=True)],
            axis=0,
        )  # fmt: skip
        assert np.linalg.norm(rebuilt - wanted) <= TOLERANCE


@settings(deadline=None, max_examples=60)
@given(
    seeds,
    st.integers(1, 6),
    st.sampled_from([0.0, 10.0, 100.0]),
    st.sampled_from([64, 1024]),
)
def test_derived_scores_are_those_of_a_scan(seed, n, offset, hidden):
    """
    Activations share an offset many times their spread, as residual streams do, and differ in size
    by a factor of 100; truth is the product in float64.
    """
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((300, hidden)) * np.exp(rng.uniform(-2.3, 2.3, hidden))
    rows += offset * as_unit(rng.standard_normal(hidden))
    rows = rows.astype(np.float16).astype(np.float32)
    candidates = random_units(rng, n, hidden)
    total = np.sum([rng.standard_normal() * part.astype(np.float64) for part in candidates], axis=0)
    wanted = as_unit(total)

    found = derive(wanted, candidates)

    assert found is not None
    derived = found.apply([rows @ candidates[at] for at in found.places])
    truth = rows.astype(np.float64) @ (total / np.linalg.norm(total))
    spread = truth.std()
    assert derived.dtype == np.float32
    assert np.abs(derived - truth).max() < 1e-4 * spread
    assert np.abs(derived - rows @ wanted).max() < 1e-4 * spread
    bound = (TOLERANCE + sum(map(abs, found.weights)) * 2e-7) * np.linalg.norm(rows, axis=1)
    assert (np.abs(derived - truth) <= bound).all()


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(1.0, 100.0))
def test_weights_that_would_multiply_rounding_are_refused_or_harmless(seed, sharpness):
    """The difference of two vectors that nearly agree; weights grow as they come together."""
    rng = np.random.default_rng(seed)
    first = as_unit(rng.standard_normal(1024))
    second = as_unit(first + as_unit(rng.standard_normal(1024)) / np.float32(sharpness))
    wide = first.astype(np.float64) - second.astype(np.float64)

    found = derive(as_unit(wide), [first, second])

    assert (found is not None) == (2 / np.linalg.norm(wide) <= MAX_WEIGHT)
    if found is not None:
        rows = rng.standard_normal((200, 1024)).astype(np.float32)
        truth = rows.astype(np.float64) @ (wide / np.linalg.norm(wide))
        derived = found.apply([rows @ first, rows @ second])
        assert np.abs(derived - truth).max() < 2e-4 * truth.std()


def test_few_vectors_are_preferred_to_many():
    rng = np.random.default_rng(0)
    candidates = random_units(rng, 40, 256)
    blend = as_unit(candidates[7].astype(np.float64) - 0.5 * candidates[31])

    assert derive(blend, candidates).places == (7, 31)
    assert derive(-candidates[12], candidates).places == (12,)
    assert derive(-candidates[12], candidates).weights == pytest.approx((-1.0,))


def test_a_candidate_that_looks_nearest_but_is_not_needed_is_left_out():
    rng = np.random.default_rng(6)
    first, second, other = random_units(rng, 3, 256)
    wanted = as_unit(first.astype(np.float64) + second)
    decoy = as_unit(wanted.astype(np.float64) + 0.3 * other)

    assert derive(wanted, [decoy, first, second]).places == (1, 2)


def test_candidates_that_depend_on_each_other_do_no_harm():
    rng = np.random.default_rng(1)
    first, second, third = random_units(rng, 3, 256)
    blend = as_unit(first.astype(np.float64) + second)
    wanted = as_unit(first.astype(np.float64) - second + third)

    found = derive(wanted, [first, first, second, blend, as_unit(2.0 * blend), third])

    assert found is not None
    assert len(found.places) == 3
    assert sum(map(abs, found.weights)) < 4


def test_preferred_ones_that_are_not_enough_are_only_a_hint():
    rng = np.random.default_rng(2)
    candidates = random_units(rng, 5, 128)
    wanted = as_unit(candidates[0].astype(np.float64) + candidates[4])

    assert derive(wanted, candidates, preferred=[0, 1]).places == (0, 4)


def test_among_many_candidates_the_nearest_and_the_preferred_are_found():
    rng = np.random.default_rng(3)
    candidates = random_units(rng, 3 * MAX_CANDIDATES, 512)
    wide = np.stack(candidates[-5:]).astype(np.float64)

    assert derive(as_unit(wide.sum(axis=0)), candidates).places == tuple(
        range(len(candidates) - 5, len(candidates))
    )
    whole = as_unit(np.stack(candidates[:90]).astype(np.float64).sum(axis=0))
    assert derive(whole, candidates, preferred=range(90)).places == tuple(range(90))


def test_nothing_is_derived_from_nothing():
    assert derive(as_unit(np.ones(4)), []) is None
    assert derive(as_unit([1, 0, 0]), [as_unit([0, 1, 0])]) is None


def test_the_same_arguments_give_the_same_derivation():
    rng = np.random.default_rng(4)
    candidates = random_units(rng, 30, 256)
    wanted = as_unit(np.stack(candidates[3:9]).astype(np.float64).sum(axis=0))

    assert len({derive(wanted, candidates) for _ in range(5)}) == 1


def test_an_expression_is_derived_from_its_own_parts():
    rng = np.random.default_rng(5)
    stored = [Vector(f"a/{name}", rng.standard_normal(64), 3) for name in "pqr"]
    direction = resolve("p - 0.5*q without 3", None, stored)

    found = derive(direction.vector.unit, [part.vector.unit for _, part in direction.parts], [0, 1])

    length = np.linalg.norm(direction.vector.values.astype(np.float64))
    assert found.weights == pytest.approx([1.0 / length, -0.5 / length], abs=1e-6)
