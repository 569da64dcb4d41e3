"""The scan: every token's score, whatever multiplies, and what is left when it is broken off."""

from __future__ import annotations

import sys
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tistore
from tistore.errors import IntegrityError
from tistore.query.product import (
    GpuProduct,
    NumpyProduct,
    TorchProduct,
    choose_product,
    one_thread_each,
    widen,
)
from tistore.query.progress import Progress, metered
from tistore.query.scan import Scan, run_scans
from tistore.schemas.site import Site

SITE = Site("residual", 7)
HIDDEN = 96


def build(path, lengths, per_commit=3, scale=1.0, seed=0):
    """A store of one layer, and its rows in order, segment by segment, in float64."""
    rng = np.random.default_rng(seed)
    store = tistore.create(path)
    rows = []
    with store.writer() as writer:
        for number, length in enumerate(lengths):
            values = (rng.standard_normal((length, 1, HIDDEN)) * scale).astype(np.float16)
            rows.append(values[:, 0].astype(np.float64))
            writer.add(
                organism="a", reader="a", prompt_set="p", prompt_id=str(number),
                token_ids=range(length), prompt_length=0, layers=[7],
                activations={"residual": values},
            )  # fmt: skip
            if number % per_commit == per_commit - 1:
                writer.commit()
    return store, np.concatenate(rows)


def unit_rows(n, seed=1):
    units = np.random.default_rng(seed).standard_normal((n, HIDDEN))
    return (units / np.linalg.norm(units, axis=1, keepdims=True)).astype(np.float32)


def score(store, units, **kwargs):
    found = {}
    scans = [Scan(segment, SITE, units) for segment in store.snapshot.segments]
    run_scans(scans, lambda scan, scores: found.update({scan.segment.uuid: scores}), **kwargs)
    return np.concatenate([found[scan.segment.uuid] for scan in scans], axis=1)


@pytest.mark.parametrize("n_directions", [1, 3, 40])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_scores_are_those_of_float64(tmp_path, n_directions, n_threads):
    store, rows = build(tmp_path / "s", [1, 300, 7, 1500, 2, 40, 1])
    units = unit_rows(n_directions)

    scores = score(store, units, n_threads=n_threads)

    exact = units.astype(np.float64) @ rows.T
    assert scores.dtype == np.float32
    assert scores.flags.c_contiguous
    np.testing.assert_allclose(scores, exact, atol=2e-6 * np.abs(rows).max() * HIDDEN**0.5)


def test_progress_counts_every_byte_of_the_layer(tmp_path):
    store, rows = build(tmp_path / "s", [10, 200, 3])
    counted = []

    score(store, unit_rows(2), progress=counted.append)

    assert sum(counted) == 2 * rows.size


def all_finite_halves():
    bits = np.arange(65536, dtype=np.uint16).view(np.float16)
    return bits[np.isfinite(bits)].reshape(1, -1)


def test_the_cast_of_bits_is_exact_for_every_float16():
    """Subnormals and both zeros included; the factor is 2**-112."""
    halves = all_finite_halves()
    out = np.empty(halves.shape, dtype=np.float32)

    widen(halves, out)

    exact = halves.astype(np.float64) * 2.0**-112
    np.testing.assert_array_equal(out.astype(np.float64), exact)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(halves))


@given(
    n_rows=st.integers(1, 70),
    hidden=st.sampled_from([1, 3, 64, 700]),
    n_directions=st.integers(1, 9),
    exponent=st.integers(-14, 14),
)
@settings(deadline=None)  # the first example imports torch
def test_numpy_and_torch_give_the_same_product(n_rows, hidden, n_directions, exponent):
    """Within float32's rounding of the sum: 1e-6 of the row's length, per root of its width."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(n_rows * hidden)
    rows = (rng.uniform(-1, 1, (n_rows, hidden)) * 2.0**exponent).astype(np.float16)
    units = rng.standard_normal((n_directions, hidden)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)

    exact = units.astype(np.float64) @ rows.astype(np.float64).T
    tolerance = 1e-6 * np.linalg.norm(rows.astype(np.float64), axis=1).max()
    for product in (NumpyProduct(units), TorchProduct(units, torch)):
        scores = np.empty((n_directions, n_rows), dtype=np.float32)
        product(rows, scores)
        np.testing.assert_allclose(scores, exact, atol=tolerance, rtol=0)


def test_without_torch_the_scan_multiplies_with_numpy(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    product = choose_product(1, 10**9)(unit_rows(1))

    assert isinstance(product, NumpyProduct)
    assert "torch" not in sys.modules


def test_a_scan_leaves_torch_s_threads_as_they_were(tmp_path):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()

    with one_thread_each():
        assert torch.get_num_threads() == 1

    assert torch.get_num_threads() == before


@pytest.mark.gpu
def test_a_gpu_gives_the_same_scores():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rows = np.random.default_rng(0).standard_normal((500, HIDDEN)).astype(np.float16)
    units = unit_rows(40)
    scores = np.empty((40, 500), dtype=np.float32)

    GpuProduct(units, torch)(rows, scores)

    exact = units.astype(np.float64) @ rows.astype(np.float64).T
    np.testing.assert_allclose(scores, exact, atol=1e-5)


def damage_the_last_segment(store):
    segment = store.snapshot.segments[-1]
    path = store.path / "segments" / segment.uuid / "residual.zarr" / "c" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def test_a_damaged_chunk_stops_the_scan_and_what_was_finished_is_kept(tmp_path):
    store, _ = build(tmp_path / "s", [50] * 9)
    damage_the_last_segment(store)
    finished = []
    scans = [Scan(segment, SITE, unit_rows(1)) for segment in store.snapshot.segments]

    with pytest.raises(IntegrityError, match="damaged"):
        run_scans(scans, lambda scan, scores: finished.append(scan), n_threads=1)

    assert finished == scans[:-1]


def test_an_interrupted_query_leaves_finished_segments_cached(tmp_path, monkeypatch):
    """Ctrl-C in the middle: no thread is left at work, and the next time there is less to do."""
    store, rows = build(tmp_path / "s", [50] * 12)
    store.add_vector("a/v", unit_rows(1)[0], layer=7)
    reached = Event()

    def interrupt(progress: Progress) -> None:
        if progress.done_bytes > rows.nbytes // 4 // 2:
            reached.set()
            raise KeyboardInterrupt

    monkeypatch.setattr("tistore.query.progress.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("tistore.query.progress._EVERY_SECONDS", 0.0)
    store.on_progress = interrupt

    with pytest.raises(KeyboardInterrupt):
        store.sql("SELECT avg(project('v')) FROM tokens")

    plan = tistore.open(store.path).explain("SELECT avg(project('v')) FROM tokens")
    whole = sum(segment.site_bytes(SITE) for segment in store.snapshot.segments)
    assert reached.is_set()
    assert plan.cached_bytes > 0
    assert 0 < plan.read_bytes < whole


def test_progress_is_silent_for_the_first_two_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tistore.query.progress.time.monotonic", lambda: now[0])
    said: list[str] = []
    add = metered(1000, lambda progress: said.append(str(progress)))

    for second in (0.5, 1.0, 1.9):
        now[0] = 100 + second
        add(100)
    assert said == []

    now[0] = 103.0
    add(300)
    assert said == ["scanning:  60% of 0.0 GB, 0.0 GB/s, 2 s left"]
