"""Opening and creating: what is refused, and how it is said."""

from __future__ import annotations

import json

import pytest

from example_readings import HIDDEN
from tistore.errors import (
    ConfigError,
    FormatVersionError,
    IntegrityError,
    NotAStoreError,
    NotStoredError,
    StoreExistsError,
    StoreNotFoundError,
)
from tistore.schemas.site import Site
from tistore.store.base import BaseStore


def test_a_path_that_is_a_file_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")

    with pytest.raises(NotAStoreError, match="is a file"):
        BaseStore.create(path)
    with pytest.raises(NotAStoreError, match="is a file"):
        BaseStore.open(path)

    assert path.read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")

    with pytest.raises(NotAStoreError, match="not empty"):
        BaseStore.create(tmp_path)
    with pytest.raises(NotAStoreError, match="without a tistore.json"):
        BaseStore.open(tmp_path)


def test_a_store_is_made_once(store):
    with pytest.raises(StoreExistsError):
        BaseStore.create(store.path)


def test_a_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreNotFoundError, match="tistore ingest"):
        BaseStore.open(tmp_path / "none")


def test_paths_and_file_urls_mean_the_same_store(store):
    for path in (str(store.path), store.path, store.path.as_uri()):
        assert BaseStore.open(path).header.uuid == store.header.uuid


def test_other_urls_are_refused():
    with pytest.raises(ConfigError, match="s3://"):
        BaseStore.open("s3://bucket/store")


def test_a_store_from_the_future_is_refused(store):
    header = store.path / "tistore.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format_version": 3}))

    with pytest.raises(FormatVersionError, match="(?s)format version 3.*install a newer"):
        BaseStore.open(store.path)


def test_a_commit_number_beyond_the_log_is_refused(filled):
    with pytest.raises(NotStoredError, match="no commit 9"):
        BaseStore.open(filled.path, at=9)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete_first", "delete_header_uuid"])
def test_a_damaged_log_is_refused(filled, damage):
    first, second = sorted((filled.path / "commits").iterdir())
    if damage == "flip":
        data = bytearray(first.read_bytes())
        data[100] ^= 1
        first.write_bytes(data)
    elif damage == "truncate":
        second.write_bytes(second.read_bytes()[:-40])
    elif damage == "delete_first":
        first.unlink()
    else:
        header = filled.path / "tistore.json"
        header.write_text(header.read_text().replace("at-token", "predicting"))

    with pytest.raises(IntegrityError):
        BaseStore.open(filled.path)


def test_activations_that_are_not_there_are_named(filled):
    response_id = filled.snapshot.segments[0].table("responses")["response_id"][0].as_py()

    with pytest.raises(NotStoredError, match="no response 'x'"):
        filled.activations("x", reader="instruct", layer=2)
    with pytest.raises(NotStoredError, match="did you mean 'instruct'"):
        filled.activations(response_id, reader="instrct", layer=2)
    with pytest.raises(NotStoredError, match="its layers are 2, 5"):
        filled.activations(response_id, reader="instruct", layer=3)


def test_a_path_that_leads_up_and_down_again_opens_arrays_too(filled, tmp_path, monkeypatch):
    """TensorStore takes no path with ".." in it."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    store = BaseStore.open(f"../{filled.path.name}")

    (segment,) = store.snapshot.segments

    assert segment.read(Site("residual", 5), 0, 2).shape == (2, HIDDEN)
