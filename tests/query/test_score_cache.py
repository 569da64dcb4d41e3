"""The score cache is never truth."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import tistore
from tistore.store.score_files import read_scores, score_path, write_scores

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
    monkeypatch.setattr("tistore.store.files.PosixFiles.is_writable", lambda self: False)

    found = tistore.open(store.path).sql(SQL).fetchall()

    assert found == answer
    assert list((tmp_path / "cache").rglob("*.parquet"))
    assert not (store.path / "scores").exists()


def test_score_files_give_back_every_bit(tmp_path):
    values = np.array([0.1, -0.0, np.inf, 3e-45, 1e38], dtype=np.float32)

    assert write_scores(tmp_path, "d", "s", values)
    found = read_scores(tmp_path, "d", "s", len(values))

    assert found is not None
    assert found.tobytes() == values.tobytes()
    assert score_path(tmp_path, "d", "s").is_file()
    assert read_scores(tmp_path, "d", "s", 4) is None
    assert read_scores(tmp_path, "other", "s", 5) is None
