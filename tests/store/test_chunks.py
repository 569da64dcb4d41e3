"""Chunks read one by one are what a Zarr reader reads; damage is found before it is believed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

import tistore
from tistore.errors import IntegrityError
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


def test_a_chunk_that_claims_another_size_is_refused_before_it_is_decoded(store):
    """Eight bytes of header could claim gigabytes; the checksum is made to fit."""
    path = shard_of(store)
    data = bytearray(path.read_bytes())
    (segment,) = store.snapshot.segments
    block = segment.stream(SITE).blocks()[0]
    chunk = data[block.offset : block.offset + block.size_bytes - 4]
    chunk[4:8] = struct.pack("<I", 1 << 31)
    data[block.offset : block.offset + len(chunk)] = chunk
    checksum = struct.pack("<I", google_crc32c.value(bytes(chunk)))
    data[block.offset + len(chunk) : block.offset + len(chunk) + 4] = checksum
    path.write_bytes(data)

    with pytest.raises(IntegrityError, match="of another size"):
        segment.stream(SITE).read(block, {})
