"""The score cache is never truth."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import tistore
from tistore.query.cached import clear_cached, list_cached
from tistore.query.warm import warm_vectors
from tistore.store.score_files import ScoreFolder

from .conftest import build_truth

SQL = "SELECT response_id, reader, position, project('refusal') FROM tokens ORDER BY ALL"


@pytest.fixture
def cached(tmp_path):
    """A store, its answer, and the files that answer left behind."""
    store = build_truth(tmp_path / "store", seed=5, n_prompts=2).store
    answer = store.sql(SQL).fetchall()
    files = store.score_folder.rglob("*.parquet")
    return store, answer, sorted(files, key=lambda file: -file.stat().st_size)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    values = pq.read_table(path)["score"].to_numpy().tobytes()
    data[data.index(values) + 1] ^= 0x40  # a score; schema and footer stay whole
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def swap_with_another(path):
    other = next(file for file in path.parent.glob("*.parquet") if file != path)
    shutil.copy(other, path)


def drop_a_row(path):
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, empty, swap_with_another, drop_a_row])
def test_a_damaged_file_is_computed_again_and_mended(cached, damage):
    store, answer, files = cached
    whole = files[0].read_bytes()
    damage(files[0])

    found = tistore.open(store.path).sql(SQL).fetchall()

    assert len(files) > 1
    assert found == answer
    assert files[0].read_bytes() == whole


def test_a_folder_in_a_file_s_place_costs_only_time(cached):
    store, answer, files = cached
    files[0].unlink()
    files[0].mkdir()

    result = tistore.open(store.path).sql(SQL)

    assert result.fetchall() == answer
    assert any("could not be written" in note for note in result.notes)


def test_writing_leaves_no_temporary_files(cached):
    _, _, files = cached

    assert {file.suffix for file in files[0].parent.iterdir()} == {".parquet"}


def test_another_layer_s_scores_are_other_files(cached):
    store, _, files = cached

    store.sql("SELECT avg(project('refusal', 2)) FROM tokens")

    now = set(store.score_folder.rglob("*.parquet"))
    assert len({file.parent for file in now}) == 2
    assert len(now) > len(files)


def test_a_read_only_store_caches_in_the_user_s_folder(cached, monkeypatch, tmp_path):
    store, answer, _ = cached
    shutil.rmtree(store.score_folder)
    monkeypatch.setenv("TISTORE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tistore.store.posix.PosixFiles.is_writable", lambda self: False)

    found = tistore.open(store.path).sql(SQL).fetchall()

    assert found == answer
    assert list((tmp_path / "cache").rglob("*.parquet"))
    assert not (store.path / "scores").exists()


def test_score_files_give_back_every_bit(tmp_path):
    values = np.array([0.1, -0.0, np.inf, 3e-45, 1e38], dtype=np.float32)

    folder = ScoreFolder(tmp_path)

    assert folder.write("d", "s", values)
    found = folder.read("d", "s", len(values))

    assert found is not None
    assert found.tobytes() == values.tobytes()
    assert folder.file("d", "s") == tmp_path / "d" / "s.parquet"
    assert folder.has("d", "s")
    assert folder.read("d", "s", 4) is None
    assert folder.read("other", "s", 5) is None


def fill(folder, n_files, n_rows=1000):
    for number in range(n_files):
        folder.write(f"d{number}", "s", np.full(n_rows, number, dtype=np.float32))
        file = folder.file(f"d{number}", "s")
        os.utime(file, (number, number))  # each used a second after the one before


def test_a_full_cache_gives_up_what_was_used_least_recently(tmp_path):
    folder = ScoreFolder(tmp_path)
    fill(folder, 10)
    size = folder.file("d0", "s").stat().st_size
    os.utime(folder.file("d0", "s"), (99, 99))

    full = ScoreFolder(tmp_path, limit_bytes=10 * size)
    full.write("new", "s", np.zeros(1000, dtype=np.float32))

    left = {file.direction for file in full.list()}
    assert {"new", "d0", "d9"} <= left
    assert not {"d1", "d2"} & left
    assert sum(file.size_bytes for file in full.list()) <= 10 * size


def test_reading_counts_as_use(tmp_path):
    folder = ScoreFolder(tmp_path)
    fill(folder, 3)

    folder.read("d0", "s", 1000)

    assert folder.list()[0].direction == "d0"


def test_what_a_killed_writer_left_is_swept_up_when_it_is_old(tmp_path):
    fill(ScoreFolder(tmp_path), 1)
    old, young = tmp_path / "d0" / "s.parquet.1.tmp", tmp_path / "d0" / "s.parquet.2.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))

    ScoreFolder(tmp_path, limit_bytes=10**9).write("d1", "s", np.zeros(5, dtype=np.float32))

    assert not old.exists()
    assert young.exists()


def test_a_query_keeps_to_the_cache_s_limit_and_still_answers(cached):
    store, answer, files = cached
    limit = 3 * max(file.stat().st_size for file in files)
    shutil.rmtree(store.score_folder)
    small = tistore.open(store.path)
    small.cache_bytes = limit

    assert small.sql(SQL).fetchall() == answer
    assert sum(file.size_bytes for file in small.score_files.list()) <= limit


def test_project_warms_every_vector_and_the_query_then_reads_nothing(cached):
    store, answer, _ = cached
    shutil.rmtree(store.score_folder)

    done = {row["vector"]: row for row in warm_vectors(tistore.open(store.path))}
    again = warm_vectors(tistore.open(store.path))

    opened = tistore.open(store.path)
    assert set(done) == {vector.reference for vector in store.snapshot.vectors()}
    assert all(row["computed"] == row["segments"] > 0 for row in done.values())
    assert all(row["computed"] == 0 and row["read_bytes"] == 0 for row in again)
    assert opened.explain(SQL).read_bytes == 0
    assert opened.sql(SQL).fetchall() == answer


def test_project_on_some_readings_warms_their_segments_only(cached):
    store, _, _ = cached
    shutil.rmtree(store.score_folder)

    (done,) = warm_vectors(store, ["refusal"], where="organism = 'hedge'")

    assert 0 < done["segments"] < len(store.snapshot.segments)


def test_the_cache_is_listed_by_vector_and_cleared_by_vector(cached):
    store, _, files = cached
    store.sql("SELECT avg(project('refusal', 2)), avg(project('sycophancy')) FROM tokens")

    listed = {row["vector"]: row for row in list_cached(store)}
    removed, freed = clear_cached(store, "refusal")

    assert {name.partition(":")[0] for name in listed} == {
        "behavioral/refusal",
        "behavioral/sycophancy",
    }
    assert len(listed) == 3
    assert removed == len(files) + listed["behavioral/refusal:mean_diff@5 on layer 2"]["segments"]
    assert freed > 0
    assert {row["vector"] for row in list_cached(store)} == {"behavioral/sycophancy:mean_diff@2"}
    assert clear_cached(store, used_before=0) == (0, 0)
    assert clear_cached(store)[0] > 0
    assert list_cached(store) == []


def test_a_combination_of_cached_vectors_reads_no_activations(cached):
    """Its scores are the combination of theirs, whether it is written out or has a name."""
    store, _, _ = cached
    readings = (
        "SELECT response_id, reader, position, project('{}', 5) AS s FROM tokens ORDER BY ALL"
    )
    parts = [
        np.array([row[3] for row in store.sql(readings.format(name)).fetchall()], dtype=float)
        for name in ("refusal", "sycophancy")
    ]
    store.add_vector("made/blend", store.vector("refusal - 0.5*sycophancy", 5).values, layer=5)

    for name in ("refusal - 0.5*sycophancy", "made/blend"):
        plan = store.explain(readings.format(name))
        found = [row[3] for row in store.sql(readings.format(name)).fetchall()]

        units = [store.vector(part).unit for part in ("refusal", "sycophancy")]
        length = np.linalg.norm(units[0] - 0.5 * units[1])
        assert plan.read_bytes == 0
        expected = (parts[0] - 0.5 * parts[1]) / length
        np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=1e-4)


def test_a_combination_with_an_uncached_part_is_scanned_for(cached):
    store, _, _ = cached
    shutil.rmtree(store.score_folder)
    fresh = tistore.open(store.path)
    fresh.sql("SELECT avg(project('refusal')) FROM tokens")

    plan = fresh.explain("SELECT avg(project('refusal + sycophancy', 5)) FROM tokens")

    assert plan.read_bytes > 0


def test_a_vector_outside_the_span_is_scanned_for(cached):
    store, _, _ = cached
    values = store.vector("refusal").values.copy()
    values[0] += 1e-3 * np.linalg.norm(values)
    store.add_vector("made/near", values, layer=5)

    assert store.explain("SELECT avg(project('near')) FROM tokens").read_bytes > 0


def test_derived_scores_are_no_ground_for_others(cached):
    """
    Each direction is the little in which two others differ, which multiplies their rounding by 28.

    Were derived scores derived from in turn, the last would be off by 28³ roundings of a float32.
    """
    store, _, _ = cached
    axes = np.eye(store.vector("refusal").hidden, dtype=np.float32)[:4]
    for place, axis in enumerate(axes):
        store.add_vector(f"chain/axis{place}", axis, layer=2)
    for place, (axis, following) in enumerate(zip(axes, axes[1:], strict=False)):
        store.add_vector(f"chain/near{place}", axis + following / 14, layer=2)
    question = (
        "SELECT response_id, reader, position, project('{}', 2) AS s FROM tokens ORDER BY 1, 2, 3"
    )
    held = np.concatenate(
        [
            store.activations(response_id, reader=reader, layer=2)
            for response_id, reader in store.sql(
                "SELECT response_id, reader FROM responses ORDER BY 1, 2"
            ).fetchall()
        ]
    ).astype(np.float64)

    store.sql(question.format("axis0"))
    for place in range(3):
        store.sql(question.format(f"near{place}"))
        found = [row[3] for row in store.sql(question.format(f"axis{place + 1}")).fetchall()]

        expected = held[:, place + 1]
        assert np.abs(np.array(found) - expected).max() < 3e-5 * np.abs(held).max()
