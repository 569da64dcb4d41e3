"""Chunks read one by one are what a Zarr reader reads; damage is found before it is believed."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

import tistore
from example_readings import make_reading
from tistore.errors import IntegrityError, NotStoredError
from tistore.schemas.site import Site
from tistore.store.chunks import ShardLayout

SITE = Site("residual", 5)


@pytest.fixture
def store(tmp_path):
    """Two readings of 900 rows in all: several chunks of 512 rows, the last one not full."""
    rng = np.random.default_rng(3)
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        for number, n_rows in enumerate((700, 200)):
            writer.add(
                organism="a", reader="a", prompt_set="p", prompt_id=str(number),
                token_ids=range(n_rows), prompt_length=1, layers=[2, 5],
                activations={"residual": rng.standard_normal((n_rows, 2, 6)).astype(np.float16)},
            )  # fmt: skip
    return store


def shard_of(store, array="residual") -> Path:
    (path,) = (store.path / "segments").glob(f"*/{array}.zarr/c/0/0/0")
    return path


def read_all(segment):
    stream, buffers = segment.stream(SITE), {}
    blocks = stream.blocks()
    return blocks, np.concatenate([stream.read(block, buffers).copy() for block in blocks])


def test_chunks_hold_what_zarr_reads(store):
    (segment,) = store.snapshot.segments

    blocks, values = read_all(segment)

    (folder,) = (store.path / "segments").glob("*/residual.zarr")
    assert len(blocks) > 1
    np.testing.assert_array_equal(values, zarr.open_array(folder, mode="r")[:, 1])


def test_means_and_norms_are_read_whole(store):
    (segment,) = store.snapshot.segments

    for name, found in (("mean", segment.means(SITE)), ("norm", segment.norms(SITE))):
        (folder,) = (store.path / "segments").glob(f"*/residual_{name}.zarr")
        np.testing.assert_array_equal(found, zarr.open_array(folder, mode="r")[:, 1])


def test_an_array_laid_out_otherwise_is_read_by_tensorstore(store, monkeypatch):
    expected = read_all(store.snapshot.segments[0])[1]
    monkeypatch.setattr(ShardLayout, "read", classmethod(lambda cls, metadata: None))
    (segment,) = tistore.open(store.path).snapshot.segments

    np.testing.assert_array_equal(read_all(segment)[1], expected)


@pytest.mark.parametrize(
    "change",
    [
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
        {"shape": [0, 2, 6]},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [512, 2, 6]}}},
    ],
)
def test_only_the_one_known_layout_is_taken(store, change):
    (path,) = (store.path / "segments").glob("*/residual.zarr/zarr.json")
    content = json.loads(path.read_text())

    assert ShardLayout.read(json.dumps(content).encode()) is not None
    assert ShardLayout.read(json.dumps(content | change).encode()) is None


@pytest.mark.parametrize("place", [30, 2000, -1, -20, -50])
def test_a_flipped_byte_is_found(store, place):
    path = shard_of(store)
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    (segment,) = tistore.open(store.path).snapshot.segments

    with pytest.raises(IntegrityError, match="is damaged"):
        for site in (Site("residual", 2), SITE):
            for block in (stream := segment.stream(site)).blocks():
                stream.read(block, {})


def read_checksums(store, array="residual"):
    (path,) = (store.path / "segments").glob(f"*/{array}.zarr/zarr.json")
    return json.loads(path.read_text())["attributes"]["chunk_crc32c"]


@pytest.mark.parametrize("array", ["residual", "residual_mean"])
def test_the_metadata_tells_the_checksum_of_every_chunk_by_its_place(store, array):
    """Worked out from the shard's index as Zarr lays it down: row by row, layer by layer."""
    data = shard_of(store, array).read_bytes()
    checksums = read_checksums(store, array)
    index = data[-16 * len(checksums) - 4 : -4]

    places = list(struct.iter_unpack("<QQ", index))
    found = [google_crc32c.value(data[start : start + size - 4]) for start, size in places]
    assert found == checksums
    assert len(checksums) == (4 if array == "residual" else 2)


def exchange_chunks(data: bytes, one: int, other: int, n_chunks: int) -> bytes:
    """Let two places of a shard point to each other's chunks; every checksum in it is right."""
    start = len(data) - 16 * n_chunks - 4
    entries = [data[start + 16 * at :][:16] for at in range(n_chunks)]
    entries[one], entries[other] = entries[other], entries[one]
    index = b"".join(entries)
    return data[:start] + index + struct.pack("<I", google_crc32c.value(index))


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda segment: segment.read(SITE), id="whole"),
        pytest.param(lambda segment: segment.read(SITE, 100, 120), id="a stretch"),
        pytest.param(lambda segment: read_all(segment), id="a scan"),
    ],
)
def test_a_sound_chunk_in_another_ones_place_is_refused(store, read):
    """Zarr takes it: nothing in the shard says where a chunk belongs."""
    path = shard_of(store)
    path.write_bytes(exchange_chunks(path.read_bytes(), 0, 1, 4))  # of the first rows, both layers
    (segment,) = tistore.open(store.path).snapshot.segments

    with pytest.raises(IntegrityError, match="is another one's"):
        read(segment)


def test_the_shard_of_another_segment_is_refused_though_it_is_as_large(tmp_path):
    """Means are alike in shape from segment to segment, and hardly compress: equal sizes happen."""
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        for seed in range(2):
            writer.add(**make_reading(seed))
            writer.commit()
    one, other = sorted((store.path / "segments").glob("*/residual_mean.zarr/c/0/0/0"))
    here, there = one.read_bytes(), other.read_bytes()
    assert len(here) == len(there)
    one.write_bytes(there)
    other.write_bytes(here)

    for segment in tistore.open(store.path).snapshot.segments:
        with pytest.raises(IntegrityError, match="is another one's"):
            segment.means(SITE)


def without_checksums(metadata: bytes) -> ShardLayout | None:
    content = json.loads(metadata)
    del content["attributes"]["chunk_crc32c"]
    return READ(json.dumps(content).encode())


READ = ShardLayout.read


def test_arrays_written_before_chunks_were_listed_are_read_as_ever(store, monkeypatch):
    expected = read_all(store.snapshot.segments[0])[1]
    monkeypatch.setattr(ShardLayout, "read", without_checksums)
    (segment,) = tistore.open(store.path).snapshot.segments

    np.testing.assert_array_equal(read_all(segment)[1], expected)
    np.testing.assert_array_equal(segment.read(SITE, 300, 700), expected[300:700])


def test_any_stretch_of_rows_is_what_zarr_reads(store):
    """Within a chunk, across chunks, up to the last row, and none at all."""
    (segment,) = store.snapshot.segments
    (folder,) = (store.path / "segments").glob("*/residual.zarr")
    whole = zarr.open_array(folder, mode="r")[:, 1]

    for start, stop in [(0, 900), (0, 512), (512, 900), (3, 9), (500, 520), (899, 900), (7, 7)]:
        found = segment.read(SITE, start, stop)
        np.testing.assert_array_equal(found, whole[start:stop])
        assert found.flags.c_contiguous


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 10**6), (9, 3)])
def test_rows_that_are_not_there_are_refused(store, start, stop):
    """Memory that was never written must not be taken for activations."""
    with pytest.raises(NotStoredError, match="has no rows"):
        store.snapshot.segments[0].read(SITE, start, stop)


def test_a_shard_of_fewer_chunks_than_its_metadata_lists_is_refused(store, monkeypatch):
    checksums = read_checksums(store)
    (path,) = (store.path / "segments").glob("*/residual.zarr/zarr.json")
    layout = READ(path.read_bytes())
    fewer = dataclasses.replace(layout, checksums=tuple(checksums[:-1]))
    monkeypatch.setattr(ShardLayout, "read", classmethod(lambda cls, metadata: fewer))

    with pytest.raises(IntegrityError, match="other chunks than its metadata says"):
        tistore.open(store.path).snapshot.segments[0].stream(SITE)


def test_a_chunk_that_claims_another_size_is_refused_before_it_is_decoded(store, monkeypatch):
    """Eight bytes of header could claim gigabytes; the checksum is made to fit."""
    path = shard_of(store)
    data = bytearray(path.read_bytes())
    monkeypatch.setattr(ShardLayout, "read", without_checksums)  # else it is found before
    (segment,) = tistore.open(store.path).snapshot.segments
    block = segment.stream(SITE).blocks()[0]
    chunk = data[block.offset : block.offset + block.size_bytes - 4]
    chunk[4:8] = struct.pack("<I", 1 << 31)
    data[block.offset : block.offset + len(chunk)] = chunk
    checksum = struct.pack("<I", google_crc32c.value(bytes(chunk)))
    data[block.offset + len(chunk) : block.offset + len(chunk) + 4] = checksum
    path.write_bytes(data)

    with pytest.raises(IntegrityError, match="of another size"):
        segment.stream(SITE).read(block, {})
