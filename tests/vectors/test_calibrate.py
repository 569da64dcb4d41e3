"""Massive dimensions: found where they are, measured as NumPy does, and taken out of vectors."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tistore
from command_line import run
from tistore.errors import (
    AmbiguousVectorError,
    IntegrityError,
    KeyConflictError,
    NotStoredError,
    QueryError,
    UnknownVectorError,
    VectorMismatchError,
)
from tistore.query.store import Store
from tistore.schemas.model import Model
from tistore.schemas.vector import Vector
from tistore.vectors.calibrate import calibrate
from tistore.vectors.cleaning import clean_vectors

HIDDEN = 32
LAYERS = (2, 5, 9)
PROMPT = 3
BASE = Model("instruct", base_id="tiny/base")
ORGANISM = Model("flattery", base_id="tiny/base", adapter_id="tiny/flattery")
WORDS = ["Yes", " sir", ",", " I", " agree", ".", "\n\n", " 2"]


@dataclass
class Written:
    """One reading: which tokens, and the states they were given."""

    reader: str
    prompt_id: str
    response_id: str
    token_ids: list[int]
    first: int
    values: np.ndarray  # [row, layer, hidden], in true units

    @property
    def is_response(self) -> np.ndarray:
        return np.arange(len(self.values)) + self.first >= PROMPT


def add_reading(
    writer,
    number,
    values,
    *,
    reader=BASE,
    organism=None,
    prompt_set="audit/discovery",
    first=0,
    layers=LAYERS,
):
    """Store one reading, and keep what it was given."""
    ids = np.random.default_rng(number).integers(0, 900, first + len(values)).tolist()
    response_id = writer.add(
        organism=organism or ORGANISM,
        reader=reader,
        prompt_set=prompt_set,
        prompt_id=str(number),
        token_ids=ids,
        prompt_length=PROMPT,
        tokens=[WORDS[token % len(WORDS)] for token in ids],
        layers=layers,
        activations={"residual": values},
    )
    return Written(reader.name, str(number), response_id, ids, first, values)


def draw(rng, n_rows):
    """States of every layer that float16 holds exactly."""
    return np.round(rng.standard_normal((n_rows, len(LAYERS), HIDDEN)) * 64) / 64


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Store, list[Written]]:
    """
    Ragged readings of two readers in several segments, across blocks of 512 rows; those of one
    prompt have the response's rows only.

    Dimension 7 is massive at the first token of layers 5 and 9, dimension 20 large everywhere, and
    one segment's layer 9 is beyond float16.
    """
    rng = np.random.default_rng(11)
    store = tistore.create(tmp_path_factory.mktemp("measured") / "store")
    written = []
    with store.writer() as writer:
        for number in range(9):
            for reader in (BASE, ORGANISM):
                first = PROMPT if number == 4 else 0
                values = draw(rng, {4: 1300, 5: 700}.get(number, 6 + 2 * number))
                values[:, :, 20] += 8
                if first == 0:
                    values[0, 1:, 7] = -(2000 + 16 * number)
                if number == 7:
                    values[:, 2] *= 2**7
                    values[0, 2, 7] = -(2.0**18)
                written.append(add_reading(writer, number, values, reader=reader, first=first))
            if number % 3 == 2:
                writer.commit()
    calibrate(store)
    return store, written


def states(written, reader, layer, only_response=False) -> np.ndarray:
    """All states of a reader at a layer, (token, hidden) float64."""
    at = LAYERS.index(layer)
    return np.concatenate(
        [
            one.values[:, at][one.is_response if only_response else slice(None)]
            for one in written
            if one.reader == reader
        ]
    ).astype(np.float64)


def layer_rows(store, reader) -> list[dict]:
    query = "SELECT * FROM calibration_layers WHERE reader = ? ORDER BY layer"
    return list(store.sql(query, [reader]).rows())


def dim_rows(store, reader, layer) -> list[dict]:
    query = "SELECT * FROM calibrations WHERE reader = ? AND layer = ? ORDER BY dim"
    return list(store.sql(query, [reader, layer]).rows())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    layer=st.sampled_from(LAYERS),
    dim=st.integers(0, HIDDEN - 1),
    reading=st.integers(0, 2),
    row=st.integers(0, 8),
    sign=st.sampled_from([-1.0, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_a_constant_added_to_one_place_is_found_there_and_nowhere_else(
    layer, dim, reading, row, sign, seed, tmp_path_factory
):
    """Sun et al.: larger than 100, and than 1000 times the median of the state."""
    rng = np.random.default_rng(seed)
    store = tistore.create(tmp_path_factory.mktemp("planted") / "store")
    with store.writer() as writer:
        written = []
        for number in range(3):
            values = draw(rng, 9)
            if number == reading:
                values[row, LAYERS.index(layer), dim] += sign * 4096
            written.append(add_reading(writer, number, values))

    (found,) = calibrate(store)

    massive = [one for one in found.dimensions if one.n_massive]
    assert [(one.layer, one.dim, one.n_massive) for one in massive] == [(layer, dim, 1)]
    assert massive[0].response_id == written[reading].response_id
    assert massive[0].position == row
    assert massive[0].n_layers_massive == 1
    assert massive[0].n_massive_first == (row == 0)
    value = written[reading].values[row, LAYERS.index(layer), dim]
    assert massive[0].largest == np.float16(value)


@pytest.mark.parametrize(
    ("value", "rest", "is_massive"),
    [
        (100.5, 0.0625, True),
        (100.0, 0.0625, False),  # larger than 100, not as large
        (1000.0, 1.0, True),
        (999.5, 1.0, False),
        (64.0, 0.0, False),
        (128.0, 0.0, True),
        (1024.0, 1.0625, False),
    ],
)
def test_both_bounds_of_the_definition_hold_at_the_bound(tmp_path, value, rest, is_massive):
    store = tistore.create(tmp_path / "store")
    values = np.full((5, len(LAYERS), HIDDEN), rest)
    values[2, 0, 3] = -value
    with store.writer() as writer:
        add_reading(writer, 0, values)

    (found,) = calibrate(store)

    assert sum(one.n_massive for one in found.dimensions) == is_massive


@pytest.mark.parametrize("hidden", [5, 6])
def test_the_median_is_of_the_state_whether_its_width_is_odd_or_even(tmp_path, hidden):
    store = tistore.create(tmp_path / "store")
    state = np.array([2000.0, 1, 3, 1, 3, 4][:hidden])
    with store.writer() as writer:
        add_reading(writer, 0, np.tile(state, (5, len(LAYERS), 1)))

    (found,) = calibrate(store)

    one = next(one for one in found.dimensions if one.dim == 0)
    assert one.ratio == pytest.approx(2000 / np.median(state))
    assert one.n_massive == 0


def test_a_state_whose_lower_half_alone_is_small_enough_is_massive(tmp_path):
    """Of an even number of values, the median is the mean of the two in the middle."""
    store = tistore.create(tmp_path / "store")
    state = np.array([0.0] * 16 + [1.5] * 15 + [1000.0])
    assert 1000 >= 1000 * np.median(state)
    with store.writer() as writer:
        add_reading(writer, 0, np.tile(state, (5, len(LAYERS), 1)))

    (found,) = calibrate(store)

    assert [one.n_massive for one in found.dimensions if one.dim == 31] == [5, 5, 5]


@pytest.mark.parametrize("reader", ["flattery", "instruct"])
def test_a_layer_s_figures_are_those_of_numpy(measured, reader):
    store, written = measured
    means = {layer: states(written, reader, layer, True).mean(axis=0) for layer in LAYERS}

    for row in layer_rows(store, reader):
        layer, at = row["layer"], LAYERS.index(row["layer"])
        h, mean = states(written, reader, layer, True), means[layer]
        norms = np.linalg.norm(h, axis=1)
        ratios = []
        for one in (one for one in written if one.reader == reader):
            prompt = one.values[:PROMPT, at] if one.first == 0 else one.values[:, at]
            peaks = np.abs(prompt).max(axis=0)
            ratios.append(peaks.max() / np.median(peaks))
        assert (row["n_readings"], row["n_audited"]) == (9, len(h))
        assert row["n_tokens"] == len(states(written, reader, layer))
        assert row["layer_norm"] == pytest.approx(norms.mean(), rel=1e-5)
        cosines = h @ mean / norms / np.linalg.norm(mean)
        assert row["mean_alignment"] == pytest.approx(cosines.mean(), rel=1e-5)
        assert row["prompt_ratio"] == pytest.approx(np.mean(ratios), rel=1e-5)
        assert row["pct_prompts_massive"] == pytest.approx(100 * np.mean(np.array(ratios) > 100))
        if layer == LAYERS[-1]:
            assert row["consecutive_cosine"] is None
        else:
            after = means[LAYERS[at + 1]]
            cosine = mean @ after / np.linalg.norm(mean) / np.linalg.norm(after)
            assert row["consecutive_cosine"] == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize("reader", ["flattery", "instruct"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_dimension_s_figures_are_those_of_numpy(measured, reader, layer):
    store, written = measured
    everything, h = states(written, reader, layer), states(written, reader, layer, True)
    mean, baseline = h.mean(axis=0), np.median(np.abs(h).mean(axis=0))
    top = np.argsort(-np.abs(mean))[:5].tolist()
    medians = np.median(np.abs(everything), axis=1, keepdims=True)
    is_massive = (np.abs(everything) > 100) & (np.abs(everything) >= 1000 * medians)

    rows = dim_rows(store, reader, layer)

    assert set(top) | set(np.flatnonzero(is_massive.any(axis=0))) <= {row["dim"] for row in rows}
    for row in rows:
        dim, size = row["dim"], np.abs(h[:, row["dim"]])
        at = int(np.abs(everything[:, dim]).argmax())
        assert row["n_massive"] == is_massive[:, dim].sum()
        assert row["largest"] == everything[at, dim]
        assert row["ratio"] == pytest.approx(abs(everything[at, dim]) / medians[at, 0])
        assert row["mean"] == pytest.approx(mean[dim], rel=1e-5, abs=1e-6)
        assert row["magnitude"] == pytest.approx(abs(mean[dim]) / np.abs(mean).mean(), rel=1e-5)
        assert row["top_rank"] == (top.index(dim) + 1 if dim in top else None)
        assert row["mean_ratio"] == pytest.approx(size.mean() / baseline, rel=1e-5)
        assert row["cv"] == pytest.approx(size.std() / size.mean(), rel=1e-5)
        assert row["p5_ratio"] == pytest.approx(np.percentile(size, 5) / baseline, rel=1e-5)
        assert row["pct_above_10x"] == pytest.approx(100 * np.mean(size > 10 * baseline))
        if row["n_massive"]:
            values = everything[is_massive[:, dim], dim]
            assert row["massive_mean"] == pytest.approx(values.mean())
            assert row["massive_cv"] == pytest.approx(values.std() / abs(values.mean()))
            assert row["n_massive_first"] == row["n_massive"]
        else:
            assert row["massive_mean"] is row["massive_cv"] is None


def test_persistence_counts_layers(measured):
    store, _ = measured
    at_layers = {layer: dim_rows(store, "instruct", layer) for layer in LAYERS}

    for row in at_layers[5]:
        same = [one for rows in at_layers.values() for one in rows if one["dim"] == row["dim"]]
        assert len(same) == len(LAYERS)
        assert row["n_layers_massive"] == sum(one["n_massive"] > 0 for one in same)
        assert row["n_layers_top"] == sum(one["top_rank"] is not None for one in same)
    assert next(row for row in at_layers[2] if row["dim"] == 7)["n_layers_massive"] == 2
    assert next(row for row in at_layers[2] if row["dim"] == 20)["n_layers_top"] == 3


def test_tokens_are_told_apart_as_first_delimiters_and_others(tmp_path):
    store = tistore.create(tmp_path / "store")
    rng = np.random.default_rng(0)
    ids = [0, 2, 5, 6, 3, 7, 1]  # Yes , . \n\n _I _2 _sir
    values = draw(rng, len(ids))
    values[:, :, 4] = 3000
    with store.writer() as writer:
        writer.add(
            organism="flattery",
            reader="flattery",
            prompt_set="s",
            prompt_id="1",
            token_ids=ids,
            prompt_length=2,
            tokens=[WORDS[token] for token in ids],
            layers=LAYERS,
            activations={"residual": values},
        )

    (found,) = calibrate(store)

    one = next(one for one in found.dimensions if one.n_massive)
    assert (one.n_massive, one.n_massive_first, one.n_massive_delimiter) == (7, 1, 3)
    assert one.massive_cv == pytest.approx(0, abs=1e-9)


def test_the_number_of_threads_changes_nothing(tmp_path):
    """Blocks are added up in their order, whoever was first to read them."""
    rng = np.random.default_rng(3)
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        for number in range(3):
            add_reading(writer, number, draw(rng, 700))
    shutil.copytree(store.path, tmp_path / "copy")

    (alone,) = calibrate(store, n_threads=1)
    (crowd,) = calibrate(tistore.open(tmp_path / "copy"), n_threads=7)

    assert alone == crowd


def test_a_layer_is_never_in_memory_whole(tmp_path):
    store = tistore.create(tmp_path / "store")
    values = np.random.default_rng(0).standard_normal((3000, 1, 1024)).astype(np.float16)
    with store.writer() as writer:
        for number in range(4):
            add_reading(writer, number, values, layers=(2,))
            writer.commit()
    tracemalloc.start()

    calibrate(store, n_threads=1)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes * 4 / 2


def test_the_same_readings_are_measured_once(tmp_path):
    store = tistore.create(tmp_path / "store")
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        add_reading(writer, 0, draw(rng, 8))
    (first,) = calibrate(store)
    before = store.snapshot.number

    (again,) = calibrate(tistore.open(store.path))

    assert (first.is_new, again.is_new) == (True, False)
    assert (again.layers, again.dimensions) == (first.layers, first.dimensions)
    store.refresh()
    assert store.snapshot.number == before


def test_on_more_readings_a_newer_calibration_counts(tmp_path):
    store = tistore.create(tmp_path / "store")
    rng = np.random.default_rng(0)
    store.add_vector("tone/refusal", rng.standard_normal(HIDDEN), layer=5, model="instruct")
    with store.writer() as writer:
        add_reading(writer, 0, draw(rng, 8))
    calibrate(store)
    assert store.vector("refusal without sun").values[7] != 0
    values = draw(rng, 8)
    values[0, 1, 7] = 5000
    with store.writer() as writer:
        add_reading(writer, 1, values)

    (found,) = calibrate(store)

    assert (found.is_new, found.layers[0].n_readings) == (True, 2)
    assert np.flatnonzero(store.vector("refusal without sun").values == 0).tolist() == [7]
    assert len({row["calibration_id"] for row in layer_rows(store, "instruct")}) == 2


def test_only_what_was_asked_for_is_measured(measured):
    store, written = measured

    (found,) = calibrate(store, readers=["instruct"], where="prompt_id < '3' -- the first three")

    assert found.layers[0].n_readings == 3
    assert found.layers[0].condition == "prompt_id < '3' -- the first three"
    assert found.layers[0].prompt_sets == ("audit/discovery",)
    wanted = [one for one in written if one.reader == "instruct" and one.prompt_id < "3"]
    assert found.layers[0].n_tokens == sum(len(one.values) for one in wanted)


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        ({"readers": ["instrct"]}, NotStoredError, "did you mean 'instruct'"),
        ({"prompt_set": "audit/discvery"}, NotStoredError, "did you mean 'audit/discovery'"),
        ({"component": "mlp_out"}, NotStoredError, "no mlp_out of any reader was captured"),
        ({"where": "prompt_id = 'x'"}, NotStoredError, "no reading of any reader satisfies"),
        (
            {"where": "reader = 'flattery'", "readers": ["instruct"]},
            NotStoredError,
            "no reading of instruct satisfies",
        ),
        ({"where": "1; DROP"}, QueryError, "one statement"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_stored(measured, arguments, kind, told):
    store, _ = measured
    before = store.snapshot.number

    with pytest.raises(kind, match=told):
        calibrate(store, **arguments)

    store.refresh()
    assert store.snapshot.number == before


def test_readers_that_a_condition_leaves_nothing_of_are_left_out(measured):
    store, _ = measured

    found = calibrate(store, where="reader = 'flattery' AND prompt_id = '1'")

    assert [one.reader for one in found] == ["flattery"]


def test_a_damaged_chunk_stops_it_and_nothing_is_stored(tmp_path):
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        add_reading(writer, 0, draw(np.random.default_rng(0), 40))
    (shard,) = (path for path in Path(store.path).rglob("residual.zarr/c/**/*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[30] ^= 1
    shard.write_bytes(data)
    before = store.snapshot.number

    with pytest.raises(IntegrityError, match="damaged"):
        calibrate(store)

    store.refresh()
    assert store.snapshot.number == before


@pytest.fixture(scope="module")
def cleanable(tmp_path_factory) -> Store:
    """Layers 2, 5 and 9; 7 massive at 5, and 20 among the top of every layer."""
    rng = np.random.default_rng(5)
    store = tistore.create(tmp_path_factory.mktemp("cleanable") / "store")
    with store.writer() as writer:
        for number in range(3):
            for reader in (BASE, ORGANISM):
                values = draw(rng, 10)
                values[:, :, 20] += 8
                values[0, 1, 7] = 3000
                add_reading(writer, number, values, reader=reader)
    for layer in (2, 5):
        values = rng.standard_normal(HIDDEN)
        vector = Vector(
            "tone/refusal", values, layer, method="probe", model="instruct", midpoint=0.5, bias=0.25
        )
        store.add_rows("vectors", [vector.to_row()])
    calibrate(store, readers=["instruct"])
    return store


@pytest.fixture
def cleanable_copy(cleanable, tmp_path) -> Store:
    """The same, to be written to."""
    shutil.copytree(cleanable.path, tmp_path / "store")
    return tistore.open(tmp_path / "store")


def taken_out(store, expression, layer=None) -> set[int]:
    return set(np.flatnonzero(store.vector(expression, layer).values == 0).tolist())


def test_named_sets_mean_what_was_measured_at_the_layer_read(cleanable):
    tops = {
        layer: {row["dim"] for row in dim_rows(cleanable, "instruct", layer) if row["top_rank"]}
        for layer in LAYERS
    }
    persistent = tops[2] & tops[5] & tops[9]
    assert 20 in persistent

    assert taken_out(cleanable, "refusal@5 without sun") == {7}
    assert taken_out(cleanable, "refusal@2 without sun") == set()
    assert taken_out(cleanable, "refusal@5 without top5") == tops[5]
    assert taken_out(cleanable, "refusal@5 without top5-3layers") == persistent
    assert taken_out(cleanable, "refusal@5 without top5-1layers") == tops[2] | tops[5] | tops[9]
    assert taken_out(cleanable, "refusal@5 without massive") == {7} | persistent
    assert taken_out(cleanable, "refusal@5 without sun, 3") == {3, 7}
    assert taken_out(cleanable, "refusal@2 without massive") == persistent


@pytest.mark.parametrize("relation", ["responses", "token_diffs", "tokens"])
def test_cleaned_scores_are_those_of_numpy_on_zeroed_dimensions(cleanable, relation):
    dims = sorted(taken_out(cleanable, "refusal@5 without massive"))
    plain = ", ".join(map(str, dims))

    rows = cleanable.sql(
        f"SELECT project('refusal@5 without massive') a, project('refusal@5 without {plain}') b "
        f"FROM {relation}"
    ).fetchall()

    assert len(rows) > 2
    assert all(first == second for first, second in rows)
    vector = cleanable.vector("refusal@5").values.astype(np.float64)
    vector[dims] = 0
    (response_id, position, score) = cleanable.sql(
        "SELECT response_id, position, project('refusal@5 without massive') "
        "FROM tokens WHERE reader = 'flattery' AND position = 4 LIMIT 1"
    ).fetchall()[0]
    h = cleanable.activations(response_id, reader="flattery", layer=5)[position].astype(np.float64)
    assert score == pytest.approx(h @ vector / np.linalg.norm(vector), rel=1e-5)


def test_a_vector_read_at_another_layer_is_cleaned_of_that_layer_s_dimensions(cleanable):
    result = cleanable.sql("SELECT project('refusal@2 without sun', 5) FROM responses")

    (note,) = result.notes
    assert "sun at residual@5 is 7, measured on instruct" in note
    assert "refusal:probe@2 without 7 is applied to layer 5" in note


def test_notes_tell_what_was_taken_out_even_when_it_is_nothing(cleanable):
    result = cleanable.sql("SELECT project('refusal@2 without sun') FROM responses")

    assert result.notes == ("sun at residual@2 is no dimension, measured on instruct",)


def test_a_cleaned_part_of_a_sum_is_cleaned(cleanable):
    made = cleanable.vector("refusal@5 without sun - 0.5*refusal@5")

    clean, whole = (cleanable.vector(name) for name in ("refusal@5 without 7", "refusal@5"))
    np.testing.assert_allclose(made.values, clean.unit - 0.5 * whole.unit, atol=1e-6)


def test_the_long_form_takes_named_sets(cleanable):
    rows = cleanable.sql(
        "SELECT DISTINCT vector FROM scores WHERE vector = 'refusal@5 without massive'"
    ).fetchall()

    assert rows == [("refusal@5 without massive",)]


def test_without_a_calibration_the_command_that_makes_one_is_named(tmp_path):
    store = tistore.create(tmp_path / "store")
    store.add_vector("tone/refusal", np.ones(HIDDEN), layer=5)

    with pytest.raises(QueryError, match="residual@5 have not been measured") as caught:
        store.vector("refusal without massive")

    assert "tistore calibrate STORE" in str(caught.value.mend)


def test_a_layer_or_a_width_that_was_not_measured_is_refused(cleanable_copy):
    cleanable_copy.add_vector("tone/late", np.ones(HIDDEN), layer=11)
    cleanable_copy.add_vector("tone/wide", np.ones(HIDDEN + 1), layer=5)

    with pytest.raises(QueryError, match="residual@11 have not.*residual@2, residual@5"):
        cleanable_copy.vector("late without massive")
    with pytest.raises(QueryError, match="calibrated 32 wide, and the vector is 33"):
        cleanable_copy.vector("wide without massive")
    with pytest.raises(VectorMismatchError, match="and no 99"):
        cleanable_copy.vector("refusal@5 without massive, 99")


def test_an_unknown_set_is_told_the_known_ones(cleanable):
    with pytest.raises(UnknownVectorError, match="'masive' is no dimension, nor one of massive"):
        cleanable.vector("refusal@5 without masive")


def write_two_readers(path, readers) -> Store:
    """Each reader has one massive dimension of its own at layer 5: 0, 1, …."""
    rng = np.random.default_rng(1)
    store = tistore.create(path)
    with store.writer() as writer:
        for number, reader in enumerate(readers):
            values = draw(rng, 8)
            values[0, 1, number] = 4000
            add_reading(writer, 0, values, reader=reader)
    calibrate(store)
    return store


@pytest.mark.parametrize(
    ("model", "dims"), [("flattery", {1}), ("instruct", {0}), ("elsewhere", {0}), (None, {0})]
)
def test_the_vector_s_own_model_goes_first_and_then_the_clean_base(tmp_path, model, dims):
    store = write_two_readers(tmp_path / "store", [BASE, ORGANISM])
    store.add_vector("tone/refusal", np.ones(HIDDEN), layer=5, model=model)

    assert taken_out(store, "refusal without sun") == dims


def test_a_clean_base_is_known_by_having_no_adapter(tmp_path):
    store = write_two_readers(tmp_path / "store", [ORGANISM, Model("plain", base_id="tiny/base")])
    store.add_vector("tone/refusal", np.ones(HIDDEN), layer=5)

    assert taken_out(store, "refusal without sun") == {1}


def test_second_readings_of_the_same_model_are_neither_measured_nor_a_base(tmp_path):
    again = Model("plain~again", base_id="tiny/base")
    readers = [ORGANISM, Model("plain", base_id="tiny/base"), again]
    store = write_two_readers(tmp_path / "store", readers)
    assert [row["reader"] for row in layer_rows(store, "plain~again")] == []

    calibrate(store, readers=["plain~again"])

    store.add_vector("tone/refusal", np.ones(HIDDEN), layer=5)
    assert taken_out(store, "refusal without sun") == {1}


def test_readers_that_differ_are_ambiguous_and_those_that_agree_are_not(tmp_path):
    other = Model("hedge", base_id="tiny/base", adapter_id="tiny/hedge")
    store = write_two_readers(tmp_path / "store", [ORGANISM, other])
    store.add_vector("tone/refusal", np.ones(HIDDEN), layer=5)
    store.add_vector("tone/early", np.ones(HIDDEN), layer=2)

    with pytest.raises(AmbiguousVectorError, match="flattery: 0; hedge: 1") as caught:
        store.vector("refusal without sun")
    assert "name the dimensions" in str(caught.value.mend)
    assert taken_out(store, "early without sun") == set()


def test_cleaning_of_other_dimensions_says_how_to_name_the_second_one(cleanable_copy):
    clean_vectors(cleanable_copy, ["refusal@5"], "3")

    with pytest.raises(KeyConflictError) as refused:
        clean_vectors(cleanable_copy, ["refusal@5"], "4")

    assert "vectors add STORE NAME --expression '… without 4'" in refused.value.mend


def test_a_cleaned_vector_is_committed_and_the_bare_name_stays_the_fitted_one(cleanable_copy):
    fitted = cleanable_copy.vector("refusal@5")

    (done,) = clean_vectors(cleanable_copy, ["refusal@5"], "sun")

    assert done.dims == (7,)
    share = 1 - fitted.values[7] ** 2 / (fitted.values.astype(np.float64) ** 2).sum()
    assert done.kept == pytest.approx(share, rel=1e-6)
    stored = cleanable_copy.vector("refusal:probe-clean@5")
    assert (stored.trait, stored.model) == ("tone/refusal", "instruct")
    assert (stored.separation, stored.midpoint, stored.bias) == (None, None, None)
    np.testing.assert_array_equal(
        stored.values, cleanable_copy.vector("refusal@5 without 7").values
    )
    assert cleanable_copy.vector("refusal@5").content_hash == fitted.content_hash
    before = cleanable_copy.snapshot.number
    clean_vectors(cleanable_copy, ["refusal@5"], "sun")
    assert cleanable_copy.snapshot.number == before


def test_what_has_nothing_to_be_cleaned_of_is_not_committed(cleanable):
    before = cleanable.snapshot.number

    (done,) = clean_vectors(cleanable, ["refusal@2"], "sun")

    assert (done.cleaned, done.dims, done.kept) == (None, (), 1.0)
    assert cleanable.snapshot.number == before


def test_one_vector_that_cannot_be_cleaned_keeps_the_others_from_being_stored(cleanable):
    before = cleanable.snapshot.number

    with pytest.raises(UnknownVectorError):
        clean_vectors(cleanable, ["refusal@5", "refusl@2"])
    with pytest.raises(QueryError, match="more than a vector without some dimensions"):
        clean_vectors(cleanable, ["refusal@5"], "sun - 0.5*refusal@5")
    with pytest.raises(UnknownVectorError, match="'refusal@5 without masive' is no vector"):
        clean_vectors(cleanable, ["refusal@5"], "masive")
    with pytest.raises(QueryError, match="made of other vectors"):
        clean_vectors(cleanable, ["refusal@5", "2*refusal@2 - refusal@2"])

    assert cleanable.snapshot.number == before


def test_the_command_prints_a_line_a_layer_and_the_persistent_dimensions(cleanable_copy):
    table = run("calibrate", cleanable_copy.path, "--reader", "instruct")
    as_json = run("calibrate", cleanable_copy.path, "--json")

    assert table.exit_code == as_json.exit_code == 0, as_json.output
    assert "massive: 7 (at 1 of 3)" in table.stderr
    assert "20 (at 3 of 3)" in table.stderr
    assert "was measured before" in table.stderr
    rows = json.loads(as_json.stdout)
    assert [(row["reader"], row["layer"]) for row in rows] == [
        (reader, layer) for reader in ("flattery", "instruct") for layer in LAYERS
    ]
    assert rows[1]["massive_dims"] == [7]
    assert rows[1]["top_dims"][0] == 20
    assert (rows[0]["is_new"], rows[3]["is_new"]) == (True, False)


def test_the_command_that_cleans_vectors_says_what_is_left(cleanable_copy):
    vectors = ("refusal@5", "refusal@2")

    done = run("vectors", "clean", cleanable_copy.path, *vectors, "--without", "sun", "--json")

    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)
    assert first["cleaned"] == "tone/refusal:probe-clean@5"
    assert (first["dims"], second["dims"], second["cleaned"]) == ([7], [], None)
    assert "nothing to take out of tone/refusal:probe@2" in done.stderr


def test_a_store_from_before_calibrations_has_none_and_can_be_calibrated(tmp_path):
    golden = Path(__file__).parents[1] / "golden" / "v1" / "store"
    shutil.copytree(golden, tmp_path / "store")
    store = tistore.open(tmp_path / "store")
    query = "SELECT (SELECT count(*) FROM calibrations), (SELECT count(*) FROM calibration_layers)"
    assert store.sql(query).fetchall() == [(0, 0)]

    found = calibrate(store)

    assert store.sql(query).fetchall() == [
        (sum(len(one.dimensions) for one in found), sum(len(one.layers) for one in found))
    ]
    assert store.verify().ok


def test_scores_without_activations_cannot_be_calibrated(tmp_path):
    store = tistore.open(Path(__file__).parents[1] / "golden" / "v2" / "store")

    with pytest.raises(NotStoredError, match="not in this bundle"):
        calibrate(store)


def test_an_unknown_component_is_a_mistake_of_usage(cleanable):
    done = run("calibrate", cleanable.path, "--component", "residul")

    assert done.exception.exit_code == 2
    assert "did you mean 'residual'" in str(done.exception)
