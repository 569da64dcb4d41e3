"""What is committed is checked; what is not is no part of the store. Damage: `tests/durability`."""

from __future__ import annotations

import shutil

import pytest

from tistore.errors import IntegrityError
from tistore.schemas.site import Site
from tistore.store.base import BaseStore


def test_verify_reads_a_sound_store_whole(filled):
    report = filled.verify()

    on_disk = {p for p in (filled.path / "segments").rglob("*") if p.is_file()}
    assert report.ok
    assert report.files == len(on_disk)
    assert report.size_bytes == sum(path.stat().st_size for path in on_disk)


def test_a_missing_chunk_is_not_read_as_fill_values(filled):
    """Zarr's own rule would hand out NaN, or zeros, for a chunk that is gone."""
    segment = filled.snapshot.segments[0]
    shutil.rmtree(filled.path / "segments" / segment.uuid / "residual.zarr" / "c")

    with pytest.raises(IntegrityError):
        segment.read(Site("residual", 5))


def test_what_no_commit_names_is_not_part_of_the_store(filled):
    stray = filled.path / "segments" / "0123"
    stray.mkdir()
    (stray / "tokens.parquet").write_bytes(b"half a file")
    (filled.path / "commits" / ".tmp-0123").write_bytes(b"half a commit")

    reopened = BaseStore.open(filled.path)

    assert reopened.verify().uncommitted_segments == ("0123",)
    assert reopened.info() == filled.info()
