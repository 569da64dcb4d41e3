"""The format is what docs/format.md says, for readers that know nothing of tistore."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from example_readings import make_reading
from tistore.schemas.site import Site
from tistore.schemas.tables import LOG_TABLES, SEGMENT_TABLES
from tistore.store.base import BaseStore

PROJECT = Path(__file__).parents[2]
EXAMPLE = PROJECT / "examples" / "read_without_tistore.py"


def test_zarr_python_and_pyarrow_read_a_store_by_the_documentation(filled):
    printed = read_without_tistore(filled.path)

    segment = filled.snapshot.segments[0]
    assert "flattery read by flattery: 'What now? Wait,'" in printed
    for layer in segment.layers:
        norm = float(np.linalg.norm(segment.means(Site("residual", layer))[0]))
        shown = re.search(rf"layer {layer}: \|mean\| = ([\d.]+)", printed)
        assert shown is not None
        assert abs(float(shown[1]) - norm) < 1e-3


def test_they_read_a_compacted_store_once(filled):
    with filled.writer() as writer:
        writer.add(**make_reading(7))
    assert len(filled.snapshot.segments) == 2

    filled.compact()

    assert len(filled.snapshot.segments) == 1
    assert read_without_tistore(filled.path).count(" read by ") == 1


def read_without_tistore(path: Path) -> str:
    """Run the example in a process that cannot import tistore; gives what it prints."""
    program = (
        "import sys, runpy; sys.modules['tistore'] = None; "
        f"sys.argv = ['example', {str(path)!r}]; "
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_committed_file_is_named_by_the_log(filled):
    named = {record.path for record in filled.snapshot.files}

    on_disk = {
        str(path.relative_to(filled.path))
        for path in (filled.path / "segments").rglob("*")
        if path.is_file()
    }
    assert on_disk == named


def test_the_documentation_names_every_column_of_every_table(store):
    text = (PROJECT / "docs" / "format.md").read_text()
    for name, schema in {**SEGMENT_TABLES, **LOG_TABLES}.items():
        assert f"`{name}`" in text
        if name in ("steering", "annotations"):
            continue
        for column in schema.names:
            assert f"`{column}`" in text, f"{name}.{column} is not documented"


def test_a_shard_is_one_file(filled):
    """Files stay few: two for each array, three tables, whatever the number of readings."""
    folder = filled.path / "segments" / filled.snapshot.segments[0].uuid
    for array in folder.glob("*.zarr"):
        assert len([path for path in array.rglob("*") if path.is_file()]) == 2


def test_layers_are_read_alone(tmp_path):
    """A layer's bytes lie in chunks of their own: damage elsewhere does not touch it."""
    store = BaseStore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 4, 64)).astype(np.float16)
    with store.writer() as writer:
        writer.add(
            organism="a",
            reader="a",
            prompt_set="p",
            prompt_id="1",
            token_ids=list(range(300)),
            prompt_length=0,
            layers=[0, 1, 2, 3],
            activations={"residual": values},
        )
    segment = store.snapshot.segments[0]
    shard = store.path / "segments" / segment.uuid / "residual.zarr" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1  # in the first chunk, which is layer 0's
    shard.write_bytes(data)

    np.testing.assert_array_equal(segment.read(Site("residual", 2)), values[:, 2])


def test_ragged_readings_lie_end_to_end_across_chunks(tmp_path):
    """Readings of 0 to 90 rows over several chunks; zarr-python reads them as one array."""
    import zarr

    rng = np.random.default_rng(0)
    store = BaseStore.create(tmp_path / "s.tistore")
    parts = []
    with store.writer() as writer:
        for number in range(40):
            n_rows = int(rng.integers(0, 91)) if number % 7 else 0
            values = rng.standard_normal((n_rows, 2, 4)).astype(np.float16)
            values[:, 1] *= np.float16(2.0) ** (number % 3)
            parts.append(values)
            writer.add(
                organism="a",
                reader="a",
                prompt_set="p",
                prompt_id=str(number),
                token_ids=list(range(n_rows + 1)),
                prompt_length=1,
                layers=[3, 8],
                activations={"residual": values},
            )
    whole = np.concatenate(parts)
    (segment,) = store.snapshot.segments
    folder = store.path / "segments" / segment.uuid / "residual.zarr"

    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[:], whole)
    assert len(whole) > 2 * 512
    for start, stop in rng.integers(0, len(whole), (20, 2)):
        wanted = whole[start:stop, 1] if start < stop else whole[stop:start, 1]
        got = segment.read(Site("residual", 8), min(start, stop), max(start, stop))
        np.testing.assert_array_equal(got, wanted)
