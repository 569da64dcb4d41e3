"""Comparisons of vectors with each other, with words and with finetunings equal NumPy's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import KernelCenterer

from audited_store import HIDDEN, write_audited_store
from lens_store import write_lens_store
from tistore.errors import (
    InvalidRecordError,
    NotStoredError,
    QueryError,
    VectorMismatchError,
)
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector
from tistore.vectors.comparing.directions import align_components, compare_vectors, select_vectors
from tistore.vectors.comparing.kernel_alignment import linear_cka
from tistore.vectors.comparing.shift import agree, measure_shift
from tistore.vectors.comparing.vocabulary import find_head, nearest_tokens


@pytest.fixture
def rng():
    return np.random.default_rng(17)


def make_vector(rng: np.random.Generator, trait: str = "a/one", **names) -> Vector:
    names = {"layer": 2, "method": "mean_diff", "position": "response[:]", **names}
    values = rng.standard_normal(names.pop("width", HIDDEN))
    return Vector(trait, values, **names)


def angle(first: Vector, second: Vector) -> float:
    one, other = first.values.astype(np.float64), second.values.astype(np.float64)
    return one @ other / np.sqrt((one @ one) * (other @ other))


def test_vectors_are_paired_when_they_differ_in_one_thing_alone(rng):
    vectors = [
        make_vector(rng),
        make_vector(rng, method="probe"),
        make_vector(rng, method="probe", layer=5),
        make_vector(rng, position="prompt[-1]"),
        make_vector(rng, trait="a/two", layer=5),
    ]

    methods = compare_vectors(vectors, "methods")
    layers = compare_vectors(vectors, "layers")
    positions = compare_vectors(vectors, "positions")

    assert [(p.first, p.second) for p in methods] == [(vectors[0], vectors[1])]
    assert methods[0].cosine == pytest.approx(angle(vectors[0], vectors[1]), abs=1e-12)
    assert [(p.first.layer, p.second.layer) for p in layers] == [(2, 5)]
    assert [(p.first, p.second) for p in positions] == [(vectors[0], vectors[3])]


def test_traits_are_compared_whatever_their_layer(rng):
    vectors = [make_vector(rng, trait=f"a/{name}", layer=at) for at, name in enumerate("xyz")]

    pairs = compare_vectors(vectors, "traits")

    assert [(p.first.trait, p.second.trait) for p in pairs] == [
        ("a/x", "a/y"),
        ("a/x", "a/z"),
        ("a/y", "a/z"),
    ]
    for pair in pairs:
        assert pair.cosine == pytest.approx(angle(pair.first, pair.second), abs=1e-12)


def test_vectors_of_different_width_have_no_cosine(rng):
    pairs = compare_vectors(
        [make_vector(rng, model="small"), make_vector(rng, model="large", width=12)], "models"
    )

    assert [pair.cosine for pair in pairs] == [None]


def test_a_drop_is_where_neighbours_agree_clearly_less_than_those_before():
    ways = [(1.0, 0.0), (1.0, 0.1), (1.0, 0.2), (0.2, 1.0), (0.15, 1.0)]
    vectors = [
        Vector("a/one", np.array(way), layer=layer)
        for layer, way in zip((1, 2, 4, 5, 6), ways, strict=True)
    ]

    pairs = compare_vectors(list(reversed(vectors)), "layers")

    told = {(p.first.layer, p.second.layer): p.is_drop for p in pairs if p.is_drop is not None}
    assert told == {(1, 2): False, (2, 4): False, (4, 5): True, (5, 6): False}


def test_nothing_to_compare_is_an_error_that_says_so(rng):
    with pytest.raises(QueryError, match="differ in method, and in nothing else"):
        compare_vectors([make_vector(rng), make_vector(rng, layer=3)], "methods")
    with pytest.raises(NotStoredError, match="a/one"):
        select_vectors([make_vector(rng)], ["onne"])


def test_a_components_vector_is_held_against_the_stream_at_its_block_and_the_two_before(rng):
    stream = [make_vector(rng, layer=layer) for layer in range(5)]
    part = make_vector(rng, layer=3, component="attn_out")

    pairs = align_components([*stream, part])

    assert [(p.first, p.second.layer) for p in pairs] == [(part, 3), (part, 2), (part, 1)]
    assert pairs[1].cosine == pytest.approx(angle(part, stream[2]), abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(3, 20), width=st.integers(1, 12))
def test_cka_is_that_of_centered_kernels_and_blind_to_rotation_scale_and_shift(seed, rows, width):
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((rows, width)), rng.standard_normal((rows, 7))
    centered = [KernelCenterer().fit_transform(side @ side.T) for side in (first, second)]
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]

    found = linear_cka(first, second)

    expected = np.sum(centered[0] * centered[1])
    expected /= np.linalg.norm(centered[0]) * np.linalg.norm(centered[1])
    assert found == pytest.approx(expected, abs=1e-9)
    assert linear_cka(3 * first @ turn + 5, second) == pytest.approx(found, abs=1e-7)
    assert linear_cka(first, first @ turn) == pytest.approx(1, abs=1e-9)


def test_cka_of_nothing_that_varies_is_an_error():
    with pytest.raises(InvalidRecordError, match="same"):
        linear_cka(np.ones((5, 3)), np.arange(15).reshape(5, 3))
    with pytest.raises(InvalidRecordError, match="same rows"):
        linear_cka(np.ones((5, 3)), np.ones((4, 3)))


def test_a_shift_is_the_mean_of_the_differences_and_projects_as_sql_does(tmp_path, rng):
    store, written = write_audited_store(tmp_path / "s")
    vector = make_vector(rng, layer=2)
    store.add_vector("a/one", vector.values, layer=2)

    (found,) = agree(store.snapshot, [vector], "flattery", "instruct")

    ((mean, n),) = store.sql(
        "SELECT avg(project('one')), count(*) FROM response_diffs "
        "WHERE organism = 'flattery' AND reader = organism AND baseline = 'instruct'"
    ).fetchall()
    assert found.shift.n_responses == n
    assert found.projection == pytest.approx(mean, rel=1e-5)
    means = {}
    for one in written:
        if one.organism == "flattery":
            positions = one.first_position + np.arange(len(one.values))
            is_audited = (positions >= 5) & (positions % 10 != 0)
            rows = one.values[is_audited, one.layers.index(2)]
            means[one.response_id, one.reader] = rows.mean(axis=0, dtype=np.float64)
    changes = [
        mean - means[response, "instruct"]
        for (response, reader), mean in means.items()
        if reader == "flattery"
    ]
    assert found.shift.values == pytest.approx(np.mean(changes, axis=0), abs=1e-6)


def test_random_directions_pass_the_random_limit_one_time_in_twenty(tmp_path, rng):
    store, _ = write_audited_store(tmp_path / "s")
    vectors = [make_vector(rng, trait=f"a/{i}") for i in range(2000)]

    found = agree(store.snapshot, vectors, "flattery", "instruct")

    share = np.mean([abs(one.cosine) > one.random_95 for one in found])
    assert 0.03 < share < 0.07


def test_a_shift_between_readers_who_share_no_response_is_an_error(tmp_path):
    store, _ = write_audited_store(tmp_path / "s")

    with pytest.raises(NotStoredError, match="instruct"):
        measure_shift(store.snapshot, Site("residual", 2), "flattery", "instrukt")
    with pytest.raises(NotStoredError, match="alike at residual@9"):
        measure_shift(store.snapshot, Site("residual", 9), "flattery", "instruct")


@pytest.mark.parametrize("reader", ["hedge", "instruct"])
def test_the_nearest_tokens_are_those_of_the_unembedding_behind_the_norm(tmp_path, rng, reader):
    store, _, heads = write_lens_store(tmp_path / "s")
    head, values, _ = heads[reader]
    vector = make_vector(rng, model=reader)
    wide = vector.values.astype(np.float64)
    if head.norm == "layer":
        wide = wide - wide.mean()
    wide = wide / np.sqrt((wide**2).mean()) * (head.norm_weight.astype(float) + head.weight_offset)
    logits = values.astype(np.float64) @ wide

    found = nearest_tokens(store.snapshot, vector, find_head(store.snapshot, vector), k=4)

    raised = [one for one in found if one.is_promoted]
    assert [one.token_id for one in raised] == list(np.argsort(-logits)[:4])
    assert [one.token_id for one in found if not one.is_promoted] == list(np.argsort(logits)[:4])
    assert [one.rank for one in found] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert [one.logit for one in raised] == pytest.approx(sorted(logits)[:-5:-1], rel=1e-9)
    row = values[raised[0].token_id].astype(float)
    assert raised[0].cosine == pytest.approx(
        row @ wide / np.linalg.norm(row) / np.linalg.norm(wide), rel=1e-9
    )


def test_only_common_tokens_are_named_where_that_is_asked_for(tmp_path, rng):
    store, _, _ = write_lens_store(tmp_path / "s")
    vector = make_vector(rng, model="instruct")

    found = nearest_tokens(
        store.snapshot, vector, find_head(store.snapshot, vector), k=5, common=30
    )

    assert {one.token_id for one in found} <= set(range(30)) and len(found) == 10


def test_a_vector_is_put_to_no_head_but_its_models(tmp_path, rng):
    store, _, _ = write_lens_store(tmp_path / "s")
    vector = make_vector(rng, model="instruct")

    with pytest.raises(VectorMismatchError, match="q_proj"):
        find_head(store.snapshot, replace(vector, component="q_proj"))
    with pytest.raises(VectorMismatchError, match="12 wide"):
        find_head(store.snapshot, make_vector(rng, width=12))
    with pytest.raises(NotStoredError, match="instruct"):
        find_head(store.snapshot, vector, "instrukt")
