"""If a byte is ever wrong, the store says which."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tistore.errors import IntegrityError
from tistore.schemas.site import Site
from tistore.store.base import BaseStore


def committed_files(store: BaseStore) -> list[str]:
    return [record.path for record in store.snapshot.files]


def test_verify_reads_a_sound_store_whole(filled):
    report = filled.verify()

    on_disk = {p for p in (filled.path / "segments").rglob("*") if p.is_file()}
    assert report.ok
    assert report.files == len(on_disk)
    assert report.size_bytes == sum(path.stat().st_size for path in on_disk)


@pytest.mark.parametrize("seed", range(3))
def test_verify_names_every_altered_file(filled, seed):
    """Flips, truncations, appended bytes and deletions, over every kind of file."""
    rng = np.random.default_rng(seed)
    for path in committed_files(filled):
        target = filled.path / path
        sound = target.read_bytes()
        flipped = bytearray(sound)
        flipped[rng.integers(len(sound))] ^= 1 << int(rng.integers(8))
        cut = sound[: int(rng.integers(len(sound)))]
        for altered in (bytes(flipped), cut, sound + b"x", None):
            target.unlink() if altered is None else target.write_bytes(altered)

            report = filled.verify(strict=False)

            assert [problem.path for problem in report.problems] == [path]
            with pytest.raises(IntegrityError, match=path):
                filled.verify()
            target.write_bytes(sound)
    assert filled.verify().ok


@pytest.mark.parametrize("seed", range(3))
def test_no_altered_byte_gives_a_wrong_answer_on_the_read_path(filled, seed):
    """Reading either raises or returns the committed values."""
    rng = np.random.default_rng(seed)
    site = Site("residual", 5)

    def read(store: BaseStore) -> list[np.ndarray]:
        segment = store.snapshot.segments[0]
        tables = [segment.table(name) for name in ("tokens", "responses", "clauses")]
        arrays = [segment.read(site), segment.means(site), segment.norms(site)]
        vectors = [vector.values for vector in store.snapshot.vectors()]
        return [np.array(table.to_pandas().to_json()) for table in tables] + arrays + vectors

    sound_answer = read(BaseStore.open(filled.path))
    detected = 0
    for path in committed_files(filled):
        target = filled.path / path
        sound = target.read_bytes()
        for _ in range(12):
            flipped = bytearray(sound)
            flipped[rng.integers(len(sound))] ^= 1 << int(rng.integers(8))
            target.write_bytes(flipped)
            try:
                answer = read(BaseStore.open(filled.path))
            except IntegrityError:
                detected += 1
            else:
                for got, wanted in zip(answer, sound_answer, strict=True):
                    np.testing.assert_array_equal(got, wanted)
        target.write_bytes(sound)
    assert detected > 50


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
